"""Out-of-distribution detectors beside their baselines, on real data, over seeds.

    python benchmarks/ood.py --setting A --cache FOLDER [--seeds 3] [--json ood.json]

A  ImageNet pictures through EfficientNet-Lite0 and MobileNetV2, against textures, CIFAR-10, KMNIST, pictures
   whose patches were shuffled, and smooth noise.
B  CIFAR-10 through EfficientNet-Lite0 and ResNet-20 and -44, against the same and Fashion-MNIST.
C  CLINC150, queries in scope against its *real* out-of-scope queries and Banking77, through two MiniLMs.
D  An MNIST auto-encoder against Fashion-MNIST, KMNIST, inverted, rotated and blurred digits.
E  Near: held-out classes of A, B and C.

A seed draws which samples are fitted on, calibrated on and scored; they are disjoint, and nothing is chosen
by a foreign set. The table has the mean over seeds, the mean ends of the 95 % bootstrap intervals over test
samples, and the spread over seeds. All pictures of a setting go through one JPEG coder; a control that sees
only the file's statistics stands in every table. Needs the extra ``bench``; data is found by
``REPDYN_DATA``. Traces and every finished run are kept in the cache, so an interrupted benchmark continues.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ood_baselines import baselines
from ood_settings import Drawn, settings
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from repdyn.fields.surrogate import SurrogateAutoencoder, SurrogateWarning
from repdyn.ood import PathDetector, TrajectoryDetector, UnionDetector, evaluate, recommend
from repdyn.ood.detector import Detector
from repdyn.ood.evaluation import MEAN
from repdyn.paths import RepresentationPaths

DIRECTION = "direction"
"""The last point scaled to unit length, as a point of its own."""


def run(drawn: Drawn, seed: int) -> dict[str, Any]:
    """One model and seed: the table of all detectors, and each of ours against all baselines."""
    if drawn.head is None and drawn.fit.labels is not None and drawn.fit.logits is None:
        drawn = _with_probe(drawn)
    rivals: dict[str, Any] = dict(baselines(drawn.fit, drawn.head))
    ours, drawn = _ours(drawn, seed)
    named = set(map(id, ours.values()))
    for detector in ours.values():
        parts = getattr(detector, "controls_", {})
        # What is ours in its own right, or exists only inside the union, is no baseline of the union.
        rivals.update({n: d for n, d in parts.items() if id(d) not in named and n != "guided energy"})
    result: dict[str, Any] = {"table": {}, "verdict": {}, "difference": {}, "false_positive_rate": {}}
    for name, detector in ours.items():
        detector.calibrate(drawn.calibration)
        found = evaluate(
            detector, drawn.test, drawn.foreign, controls=rivals, statistics=drawn.statistics, seed=seed
        ).to_dict()
        result["table"].update(found["table"])
        for part in ("verdict", "difference"):
            result[part][name] = found[part]
        flagged = detector.score_samples(drawn.test) < found["threshold"]
        result["false_positive_rate"][name] = float(np.mean(flagged))
    advice = recommend(drawn.fit, seed=seed)
    result["recommended"] = {"path": "PathDetector", "union": "UnionDetector"}.get(advice.best, advice.best)
    return result


def _ours(drawn: Drawn, seed: int) -> tuple[dict[str, Detector], Drawn]:
    """Our detectors, the one that stands for them first, and the samples with what they read."""
    if drawn.autoencoder is not None:
        pixels, *layers = drawn.fit.points
        orbit = TrajectoryDetector(*drawn.autoencoder, point=pixels, seed=seed)
        members = {"path": PathDetector(tuple(layers), seed=seed), "trajectory": orbit}
        union = UnionDetector(members).fit(drawn.fit)
        path, orbit = union.members_["path"], union.members_["trajectory"]
    else:
        union = UnionDetector().fit(drawn.fit)
        path = union.members_["path"]
        # An auto-encoder of features works on directions; its reconstruction error needs them as input.
        drawn = _each(drawn, _with_direction)
        surrogate = SurrogateAutoencoder(seed=seed).fit(drawn.fit, DIRECTION)
        orbit = TrajectoryDetector(surrogate.encode, surrogate.decode, point=DIRECTION, seed=seed)
        orbit.fit(drawn.fit)
    return {"UnionDetector": union, "PathDetector": path, "TrajectoryDetector": orbit}, drawn


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
    """Lines of the table: mean over seeds [mean interval over samples] ± spread over seeds."""
    sets = list(next(iter(runs[0]["table"].values())))
    shown = [MEAN] if MEAN in sets else sets
    lines = []
    for where in [*shown, *(name for name in sets if name not in shown)]:
        lines.append(f"{where}: AUROC | FPR@95, in-distribution positive")
        order = sorted(runs[0]["table"], key=lambda name: -_figures(runs, name, where, "auroc")[0])
        for name in order:
            cells = []
            for metric in ("auroc", "fpr95"):
                value, low, high, spread = _figures(runs, name, where, metric)
                cells.append(f"{value:.3f} [{low:.3f}, {high:.3f}] ±{spread:.3f}")
            lines.append(f"    {name:<44}{' | '.join(cells)}")
    for name, verdict in runs[0]["verdict"].items():
        told = "; ".join(
            f"{where}: {', '.join(r['verdict'][name][where] for r in runs)}" for where in verdict
        )
        rate = np.mean([r["false_positive_rate"][name] for r in runs])
        lines.append(f"{name} against every baseline: {told}; test samples flagged at 5 %: {rate:.3f}")
    lines.append(f"recommended from the fitted samples alone: {', '.join(r['recommended'] for r in runs)}")
    return lines


def _figures(runs: list[dict[str, Any]], name: str, where: str, metric: str) -> tuple[float, ...]:
    rows = [r["table"][name][where][metric] for r in runs]
    means = [float(np.mean([row[key] for row in rows])) for key in ("value", "low", "high")]
    return (*means, float(np.std([row["value"] for row in rows])))


def main() -> None:
    """Run what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--setting", choices=list("ABCDE"), required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--foreign", type=int, default=500, help="samples of each foreign set of pictures")
    parser.add_argument("--test", type=int, default=1000, help="test samples, settings B and D")
    parser.add_argument("--fit", type=int, default=10_000, help="fitted samples, setting D")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    data = Path(os.environ.get("REPDYN_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    options.cache.mkdir(parents=True, exist_ok=True)
    # What a surrogate warns of (it expands, it has one attractor) is a finding of the field, not of these.
    warnings.simplefilter("ignore", SurrogateWarning)
    warnings.simplefilter("ignore", ConvergenceWarning)
    results = {}
    sizes = {"foreign": options.foreign, "test": options.test, "fit": options.fit}
    for setting in settings(options.setting, data, options.cache, sizes):
        runs = []
        for seed in range(options.seeds):
            told = (setting.name, options.foreign, options.test, options.fit, seed)
            name = "-".join(map(str, told)).replace(" ", "-").replace(",", "")
            file = options.cache / f"{name}.json"
            if not file.is_file():
                scratch = file.with_suffix(".part")
                scratch.write_text(json.dumps(run(setting.draw(seed), seed), indent=1))
                scratch.rename(file)
            runs.append(json.loads(file.read_text()))
        results[setting.name] = runs
        print(f"\n{setting.name}, {options.seeds} seeds", *summary(runs), sep="\n", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
