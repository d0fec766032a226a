"""Four operators, two ways to supervise, re-encoding and fractional depths, by held-out variance.

    REPDYN_DATA=… python benchmarks/koopman_operators.py --cache FOLDER [--seeds 3]
        [--paths minilm-l3=TRAIN.paths,TEST.paths …]

`FOLDER` is the cache of `koopman_paper.py`, whose networks are read (Yin-Yang, MNIST); `--paths` adds stored
paths, such as those that `koopman_models.py` traces. For each set: the fraction of variance unexplained
(FVU) at every later point on test paths, for each operator and for the endpoint alone as supervision;
the same predictions re-encoded at every point; the autonomy gap; and fractional depths: an autoencoder
that is fitted to every other point predicts those left out, beside the mean of its own predictions at
their neighbors. Every fit is kept in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from harness import once_json, over_seeds, parser_of
from koopman_networks import paths_of
from koopman_paper import STUDIES, network_of
from numpy.typing import NDArray

from repdyn.koopman import KoopmanAutoencoder, autonomy
from repdyn.paths import RepresentationPaths, open_paths

WAYS: dict[str, dict[str, Any]] = {
    "generator": {},
    "per_step": {"operator": "per_step"},
    "low_rank": {"operator": "low_rank"},
    "least_squares": {"operator": "least_squares"},
    "generator, last point only": {"supervise": "last"},
}
# Name of a set: observables, hidden widths, epochs, most training and test paths. Wide paths are few, so that
# all fits together take minutes: the comparison is of equals, not of what is reached at best.
SETTINGS: dict[str, tuple[int | None, tuple[int, ...], int, int, int]] = {
    "yin-yang": (20, (128,), 60, 5000, 5000),
    "mnist": (64, (128,), 20, 2000, 1000),
}
OTHERS = (64, (128,), 20, 2000, 1000)

Pair = tuple[RepresentationPaths, RepresentationPaths]


def sets(cache: Path, stored: list[str]) -> Iterator[tuple[str, Pair]]:
    """Training and test paths by name."""
    for name, files in (given.split("=") for given in stored):
        train, test = (open_paths(file) for file in files.split(","))
        yield name, (train, test)
    for name in SETTINGS:
        study = STUDIES[name](False)
        folder = cache / name
        if not any(folder.glob("network*.safetensors")):
            continue
        model, member = network_of(study, 0, 5, folder)
        fitted, _, tested = study.splits(0)
        most, few = SETTINGS[name][3:]
        yield (
            name,
            (
                paths_of(model, member, fitted[0][:most], fitted[1][:most]),
                paths_of(model, member, tested[0][:few], tested[1][:few]),
            ),
        )


def unexplained(found: NDArray[Any], true: NDArray[Any]) -> float:
    true = np.asarray(true, dtype=np.float64)
    return float(np.square(found - true).sum() / np.square(true - true.mean(axis=0)).sum())


def fitted(name: str, train: RepresentationPaths, seed: int, **way: Any) -> KoopmanAutoencoder:
    latent_dim, hidden, epochs, _, _ = SETTINGS.get(name, OTHERS)
    return KoopmanAutoencoder(latent_dim, hidden, **way).fit(train, epochs=epochs, seed=seed)


def of_way(name: str, pair: Pair, way: str, seed: int) -> dict[str, Any]:
    """FVU at every later point, plain and re-encoded at every point."""
    train, test = pair
    kae = fitted(name, train, seed, **WAYS[way])
    first, *later = test.points
    x = np.asarray(test[first])
    return {
        "fvu": [unexplained(kae.propagate(x, first, p), test[p]) for p in later],
        "re-encoded": [unexplained(kae.propagate(x, first, p, reencode_every=1), test[p]) for p in later],
    }


def of_fractions(name: str, pair: Pair, seed: int) -> dict[str, list[float]]:
    """FVU at the points that were left out, which lie half a step between those that were fitted."""
    train, test = pair
    every = test.points[::2]
    left_out = [p for p in test.points[1::2] if test.points.index(p) < test.points.index(every[-1])]
    kae = fitted(name, only(train, every), seed)
    x = np.asarray(test[every[0]])
    z = kae.encode(x, every[0])
    ways = ("half a step", "mean of neighbors", "mean of true neighbors")
    found: dict[str, list[float]] = {way: [] for way in ways}
    for point in left_out:
        number = test.points.index(point)
        before, after = test.points[number - 1], test.points[number + 1]
        there = every.index(before) + 0.5
        middle = z @ kae.operator_.matrix(0.0, there).detach().numpy()
        # A point that was left out has no frame: half way between those of its neighbors.
        half = (kae.decode(middle, before) + kae.decode(middle, after)) / 2
        mean = (kae.propagate(x, every[0], before) + kae.propagate(x, every[0], after)) / 2
        true = (np.asarray(test[before]) + np.asarray(test[after])) / 2
        for way, predicted in zip(found, (half, mean, true)):
            found[way].append(unexplained(predicted, test[point]))
    return found


def only(paths: RepresentationPaths, points: tuple[str, ...]) -> RepresentationPaths:
    return RepresentationPaths.from_arrays({p: np.asarray(paths[p]) for p in points}, labels=paths.labels)


def first_rows(paths: RepresentationPaths, rows: int) -> RepresentationPaths:
    return paths.subset(np.sort(np.random.default_rng(0).permutation(len(paths))[:rows]))


def row(label: str, values: list[list[float]]) -> str:
    """Mean over seeds by depth, and the mean over depths with its interval over seeds."""
    mean = over_seeds([float(np.mean(v)) for v in values])
    return f"  {label:28}{mean!s:24}" + "".join(f"{v:8.4f}" for v in np.mean(values, axis=0))


def report(name: str, pair: Pair, seeds: int, folder: Path) -> str:
    """All figures of one set as text; what is found once is kept."""

    def each(what: str, find: Callable[[int], Any]) -> list[Any]:
        return [
            once_json(folder / f"{name}-{what}-{seed}.json", lambda seed=seed: find(seed))
            for seed in range(seeds)
        ]

    lines = [
        f"{name}: {len(pair[0])} training paths, {len(pair[1])} test paths, {seeds} seeds",
        f"  FVU{'':25}{'mean [95 %]':24}by depth",
    ]
    for way in WAYS:
        found = each(way, lambda seed, way=way: of_way(name, pair, way, seed))
        lines.append(row(way, [f["fvu"] for f in found]))
        if way.startswith("generator"):
            lines.append(row("  re-encoded at every point", [f["re-encoded"] for f in found]))
    parts = each("fractions", lambda seed: of_fractions(name, pair, seed))
    lines.append("  points left out of a fit to every other one")
    lines += [row(f"  {way}", [p[way] for p in parts]) for way in parts[0]]
    gap = once_json(folder / f"{name}-autonomy.json", lambda: autonomy(pair[1], pair[0]).to_dict())
    return "\n".join(
        [
            *lines,
            "  autonomy gap (shared map's FVU over own map's, step by step): "
            + ", ".join(f"{value:.1f}" for value in gap["gap"]),
        ]
    )


def main() -> None:
    parser = parser_of(__doc__, "cache", "seeds")
    parser.add_argument("--paths", nargs="*", default=[], metavar="NAME=TRAIN,TEST")
    given = parser.parse_args()
    folder = given.cache / "operators"
    folder.mkdir(parents=True, exist_ok=True)
    for name, (train, test) in sets(given.cache, given.paths):
        most, few = SETTINGS.get(name, OTHERS)[3:]
        pair = first_rows(train, most), first_rows(test, few)
        print(report(name, pair, given.seeds, folder) + "\n", flush=True)


if __name__ == "__main__":
    main()
