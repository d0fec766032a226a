"""Two claims on the topology of Koopman autoencoders, each tested beside its controls and answered.

    python benchmarks/koopman_topology.py --cache FOLDER [--data yin-yang] [--seeds 5]

1. *Isometry preserves topology.* Vietoris-Rips persistence (components H0, loops H1) of the network's true
   layers and of their observables, with the isometry loss (weight 1) and without it (weight 0): bottleneck
   distance between the two diagrams, and area between their Betti curves. Beside it stand the floor (two
   disjoint halves of the same layer), a random Gaussian map to as many dimensions, and the encoder before
   training, which starts as principal components and so preserves distances whatever is claimed.
2. *The autoencoder simplifies topology step by step.* Total persistence (the area under the Betti curve, in
   diameters: how much topology there is at all scales) of the propagated observables ``E(x_0) K^t``, along
   depth. Step by step means that no step adds. Controls: the network's own layers, and a random operator,
   the learned one in a random orthogonal basis, which has the same singular and eigenvalues.

All is free of scale: every cloud is divided by its diameter, so a cloud that only shrinks does not count as
simplified, and no fixed radius is chosen. Clouds are the same test inputs, through 200 farthest-point
landmarks. Intervals are 95 % over seeds (networks and autoencoders), by Student's t, of paired differences;
the answer is "yes" or "no" where an interval excludes zero and "inconclusive" where it does not. Networks and
autoencoders are those of koopman_paper.py and shared through the cache. About ten minutes on one idle core.

References
----------
Aswani and Jabari (2025), Koopman Autoencoders Learn Neural Representation Dynamics, arXiv 2505.12809.
Naitzat, Zhitnikov and Lim (2020), Topology of deep neural networks, JMLR 21.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from harness import once_json, over_seeds, parser_of
from koopman_networks import paths_of
from koopman_paper import STUDIES, Study, autoencoder_of, network_of
from numpy.typing import NDArray

from repdyn.intervals import Estimate
from repdyn.koopman import KoopmanAutoencoder
from repdyn.progress import track
from repdyn.topology.homology import betti_curve, bottleneck_distance, vietoris_rips

Diagrams = tuple[NDArray[np.float64], ...]

SOURCES = ("benchmarks/koopman_topology.py", "repdyn/koopman", "repdyn/topology")
SAMPLES = 2000
GRID = np.linspace(0.0, 1.0, 401)
HALF_STEPS = 2  # depths between two points at which iterates are looked at
DIMENSIONS = ("H0", "H1")


def diagrams(x: NDArray[Any]) -> Diagrams:
    """Persistence of a cloud in units of its diameter."""
    return vietoris_rips(np.asarray(x, dtype=np.float64), 1)[0]


def apart(one: Diagrams, other: Diagrams) -> dict[str, float]:
    """Bottleneck distance, and area between Betti curves, in each dimension."""
    found = {}
    for name, a, b in zip(DIMENSIONS, one, other):
        found[f"{name} bottleneck"] = bottleneck_distance(a, b)
        gap = np.abs(betti_curve(a, GRID) - betti_curve(b, GRID))
        found[f"{name} Betti area"] = float(np.trapezoid(gap, GRID))
    return found


def total(found: Diagrams) -> list[float]:
    """Total persistence in each dimension: the area under each Betti curve."""
    return [float((d[:, 1] - d[:, 0]).sum()) for d in found]


def figures_of(study: Study, seed: int, seeds: int, cache: Path) -> dict[str, Any]:
    """All figures of one seed, measured once."""
    return once_json(cache / f"topology-{seed}.json", lambda: measured(study, seed, seeds, cache), SOURCES)


def measured(study: Study, seed: int, seeds: int, cache: Path) -> dict[str, Any]:
    """All figures of one seed."""
    model, member = network_of(study, seed, seeds, cache)
    fitted, _, tested = study.splits(seed)
    fitted_on = paths_of(model, member, *fitted)
    test = paths_of(model, member, *tested).subset(np.arange(2 * SAMPLES))
    kae = autoencoder_of(study, fitted_on, seed, cache)
    (cache / "free").mkdir(exist_ok=True)
    free = autoencoder_of(
        replace(study, autoencoder={**study.autoencoder, "isometry": 0.0}), fitted_on, seed, cache / "free"
    )
    # A rate at which no weight moves: the encoder as training finds it.
    start = KoopmanAutoencoder(**study.autoencoder).fit(fitted_on, epochs=1, seed=seed, learning_rate=1e-12)
    draw = np.random.default_rng(seed)
    layers = {point: np.asarray(test[point]) for point in test.points}
    true = {point: diagrams(x[:SAMPLES]) for point, x in layers.items()}
    encoders = {
        "isometry 1": lambda x, point: kae.encode(x, point),
        "isometry 0": lambda x, point: free.encode(x, point),
        "untrained encoder": lambda x, point: start.encode(x, point),
        "random map": lambda x, point: x @ draw.standard_normal((x.shape[1], kae.latent_dim_)),
    }
    distances: dict[str, list[dict[str, float]]] = {"floor": []}
    for point, x in track(layers.items(), f"{study.title}, seed {seed}: distances", total=len(layers)):
        distances["floor"].append(apart(true[point], diagrams(x[SAMPLES:])))
        for who, encode in encoders.items():
            distances.setdefault(who, []).append(apart(true[point], diagrams(encode(x[:SAMPLES], point))))
    z = np.asarray(kae.encode(layers[test.points[0]][:SAMPLES], test.points[0]), dtype=np.float64)
    steps = len(test.points) - 1
    depths = np.linspace(0, steps, HALF_STEPS * steps + 1)
    basis = np.linalg.qr(draw.standard_normal((z.shape[1], z.shape[1])))[0]
    iterates = [kae.operator_.matrix(0, float(t)).detach().double().numpy() for t in depths]
    operators = {"iterates": iterates, "random operator": [basis.T @ matrix @ basis for matrix in iterates]}
    totals = {
        who: [total(diagrams(z @ matrix)) for matrix in track(each, f"{study.title}, seed {seed}: {who}")]
        for who, each in operators.items()
    }
    totals["layers"] = [total(found) for found in true.values()]
    return {"distances": distances, "totals": totals, "depths": depths.tolist()}


def answer(difference: Estimate) -> str:
    """Whether a difference over seeds lies above zero."""
    if difference.low > 0:
        return "yes"
    return "no" if difference.high < 0 else "inconclusive"


def first_claim(seeds: list[dict[str, Any]]) -> list[str]:
    """Distances between layers and their observables, and what isometry changes of them."""
    measures = list(seeds[0]["distances"]["floor"][0])

    def mean(who: str, measure: str) -> list[float]:
        return [float(np.mean([row[measure] for row in s["distances"][who]])) for s in seeds]

    lines = [
        "1. Isometry preserves topology: distance between layers and their observables, mean over depth",
        f"{'':20}" + "".join(f"{measure:>26}" for measure in measures),
    ]
    lines += [
        f"{who:20}" + "".join(f"{over_seeds(mean(who, measure))!r:>26}" for measure in measures)
        for who in seeds[0]["distances"]
    ]
    for question, other, sign in (
        ("nearer with isometry than without", "isometry 0", 1),
        ("nearer than a random map", "random map", 1),
        ("further than the floor, two halves of one layer", "floor", -1),
        ("nearer than the encoder before training", "untrained encoder", 1),
    ):
        cells = []
        for measure in measures:
            pairs = zip(mean("isometry 1", measure), mean(other, measure))
            found = over_seeds([sign * (b - a) for a, b in pairs])
            cells.append(f"{measure} {answer(found)} ({found!r})")
        lines += [f"  {question}:", *(f"    {cell}" for cell in cells)]
    return lines


def second_claim(seeds: list[dict[str, Any]]) -> list[str]:
    """Total persistence along depth, and whether it falls, and at every step."""
    depths = seeds[0]["depths"]
    lines = ["2. Simpler step by step: total persistence along depth, in diameters, mean over seeds"]
    for number, dimension in enumerate(DIMENSIONS):
        lines.append(f"  {dimension:18}" + "".join(f"{depth:7.1f}" for depth in depths))
        for who in ("iterates", "random operator", "layers"):
            rows = np.array([[row[number] for row in s["totals"][who]] for s in seeds])
            shown = rows.mean(axis=0)
            gap = " " * (7 * (HALF_STEPS - 1)) if who == "layers" else ""
            lines.append(f"    {who:16}" + gap.join(f"{value:7.3f}" for value in shown))
            falls = over_seeds(list(rows[:, 0] - rows[:, -1]))
            steps = [over_seeds(list(row)) for row in (rows[:, :-1] - rows[:, 1:]).T]
            rising = [k for k, step in enumerate(steps) if step.high < 0]
            falling = [k for k, step in enumerate(steps) if step.low > 0]
            lines.append(
                f"      simpler at the end than at the start: {answer(falls)} (by {falls!r}); of "
                f"{len(steps)} steps {len(falling)} simplify, {len(rising)} add, the rest are undecided"
            )
            if who == "iterates":
                every = answer(falls) == "yes" and not rising
                verdict = (
                    "yes" if every and len(falling) == len(steps) else "no" if not every else "inconclusive"
                )
                lines.append(f"      step by step: {verdict}")
        pairs = [
            [s["totals"][who][0][number] - s["totals"][who][-1][number] for s in seeds]
            for who in ("iterates", "random operator")
        ]
        beyond = over_seeds([a - b for a, b in zip(*pairs)])
        lines.append(f"    falls by more than with a random operator: {answer(beyond)} (by {beyond!r})")
    return lines


def main() -> None:
    """Run what has not been run, then answer."""
    parser = parser_of(__doc__, "cache", seeds=5)
    parser.add_argument("--data", choices=sorted(STUDIES), default="yin-yang")
    given = parser.parse_args()
    cache = given.cache / given.data
    cache.mkdir(parents=True, exist_ok=True)
    study = STUDIES[given.data](False)
    seeds = [figures_of(study, seed, given.seeds, cache) for seed in range(given.seeds)]
    print(f"{study.title}, {len(seeds)} seeds, {SAMPLES} test inputs\n")
    print("\n".join([*first_claim(seeds), "", *second_claim(seeds)]))


if __name__ == "__main__":
    main()
