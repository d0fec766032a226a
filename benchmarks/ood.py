"""Out-of-distribution detectors beside their baselines, on real data, over seeds.

    python benchmarks/ood.py --setting C --cache FOLDER [--seeds 3] [--train 15000] [--test 4500]

Setting C: CLINC150, queries in scope against its *real* out-of-scope queries and Banking77, through two
sentence encoders, all-MiniLM-L6-v2 and paraphrase-MiniLM-L3-v2. A seed draws which 80 % of the training
split the detectors are fitted on and the bootstrap; the validation split calibrates; the test split is
scored and nothing else. The table has the mean over seeds, the mean ends of the 95 % bootstrap intervals
over test samples, and the spread over seeds. A control that sees only the length of a query stands in it.

Data is found by ``REPDYN_DATA``. Traces and every finished run are kept in the cache, so an interrupted
benchmark continues where it was. On two idle cores about ten minutes in full.

References
----------
Larson, S. et al. (2019). An evaluation dataset for intent classification and out-of-scope prediction.
EMNLP. Casanueva, I. et al. (2020). Efficient intent detection with dual sentence encoders.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import repdyn
from repdyn.ood import TrajectoryDetector, UnionDetector, evaluate
from repdyn.ood.controls import IN_DISTRIBUTION
from repdyn.ood.detector import Detector
from repdyn.paths import RepresentationPaths

MODELS = ("all-MiniLM-L6-v2", "paraphrase-MiniLM-L3-v2")
FOREIGN = {"out of scope": "oos_test", "Banking77": "banking"}
Texts = dict[str, list[dict[str, str]]]


def read_texts(folder: Path, train: int, test: int) -> Texts:
    """Rows of every split; where there are more than asked for, the same random ones every time."""
    splits: Texts = {}
    for name, file in (("clinc", "clinc150.csv.gz"), ("banking", "banking77.csv.gz")):
        path = folder / "text" / file
        if not path.is_file():
            raise SystemExit(f"{path}: is not there; set REPDYN_DATA to the folder that holds text/")
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                if name == "clinc" or row["split"] == "test":
                    splits.setdefault(row["split"] if name == "clinc" else name, []).append(row)
    limits = {"train": train, "val": test, "test": test, "oos_test": test, "banking": test}
    generator = np.random.default_rng(0)
    chosen = {}
    for name, limit in limits.items():
        order = np.sort(generator.permutation(len(splits[name]))[:limit])
        chosen[name] = [splits[name][i] for i in order]
    return chosen


def traced(name: str, texts: Texts, cache: Path) -> dict[str, RepresentationPaths]:
    """Every split's paths: the embeddings and every block, mean over tokens, the last one of length 1."""
    model = repdyn.load(f"packaged:{name}")
    points = ["embeddings", *(point for point in model.default_points if point != model.final)]
    found = {}
    for split, rows in texts.items():
        sentences, labels = [row["text"] for row in rows], [row["label"] for row in rows]
        out = cache / f"{name}-{split}-{len(rows)}.paths"
        paths = repdyn.trace(model, sentences, points=points, labels=labels, out=out, batch_size=64)
        arrays = {point: np.asarray(paths[point]) for point in paths.points}
        # The auto-encoder works on directions; its reconstruction error needs them as input. All other
        # detectors normalise by themselves.
        arrays[points[-1]] = normalize_rows(arrays[points[-1]])
        found[split] = RepresentationPaths.from_arrays(arrays, labels=labels, meta=paths.meta)
    return found


def detectors(fit: RepresentationPaths, seed: int) -> dict[str, Detector]:
    """All detectors, fitted on the same paths; what is ours first."""
    from repdyn.fields.surrogate import SurrogateAutoencoder

    union = UnionDetector().fit(fit)  # its members are the path and the distances at the last point
    controls = {name: member for name, member in union.members_.items() if name != "path"}
    last = fit.points[-1]
    surrogate = SurrogateAutoencoder(seed=seed).fit(fit, last)
    orbit = TrajectoryDetector(surrogate.encode, surrogate.decode, point=last, seed=seed).fit(fit)
    ours = {"PathDetector": union.members_["path"], "UnionDetector": union, "TrajectoryDetector": orbit}
    return {**ours, **controls, **orbit.controls_}


def normalize_rows(x: NDArray[Any]) -> NDArray[np.float32]:
    """Rows of length 1."""
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), dtype=np.float32)


def run(paths: Mapping[str, RepresentationPaths], texts: Texts, seed: int) -> dict[str, Any]:
    """One model and seed: the table of all detectors, and each of ours against all baselines."""
    fit, _ = paths["train"].split((0.8, 0.2), seed=seed)
    all_detectors = detectors(fit, seed)
    ours = list(all_detectors)[:3]
    baselines = {name: d for name, d in all_detectors.items() if name not in ours}
    foreign = {name: paths[split] for name, split in FOREIGN.items()}
    lengths = {
        name: np.array([[len(row["text"]), len(row["text"].split())] for row in texts[split]])
        for name, split in {IN_DISTRIBUTION: "test", **FOREIGN}.items()
    }
    result: dict[str, Any] = {"table": {}, "verdict": {}, "difference": {}, "false_positive_rate": {}}
    for name in ours:
        detector = all_detectors[name].calibrate(paths["val"])
        found = evaluate(
            detector, paths["test"], foreign, controls=baselines, statistics=lengths, seed=seed
        ).to_dict()
        result["table"].update(found["table"])
        for part in ("verdict", "difference"):
            result[part][name] = found[part]
        flagged = found["threshold"]
        result["false_positive_rate"][name] = float(np.mean(detector.score_samples(paths["test"]) < flagged))
    return result


def summary(runs: list[dict[str, Any]]) -> list[str]:
    """Lines of the table: mean over seeds [mean interval over samples] ± spread over seeds."""
    sets = list(next(iter(runs[0]["table"].values())))
    lines = [f"{'AUROC | FPR@95 (in-distribution positive)':<44}" + "".join(f"{name:<66}" for name in sets)]
    order = sorted(
        runs[0]["table"],
        key=lambda name: -np.mean([r["table"][name][sets[-1]]["auroc"]["value"] for r in runs]),
    )
    for name in order:
        cells = []
        for where in sets:
            parts = []
            for metric in ("auroc", "fpr95"):
                rows = [r["table"][name][where][metric] for r in runs]
                value, low, high = (np.mean([row[key] for row in rows]) for key in ("value", "low", "high"))
                spread = np.std([row["value"] for row in rows])
                parts.append(f"{value:.3f} [{low:.3f}, {high:.3f}] ±{spread:.3f}")
            cells.append(f"{' | '.join(parts):<66}")
        lines.append(f"{name:<44}" + "".join(cells))
    for name, verdict in runs[0]["verdict"].items():
        told = "; ".join(f"{where}: {[r['verdict'][name][where] for r in runs]}" for where in verdict)
        rate = np.mean([r["false_positive_rate"][name] for r in runs])
        lines.append(f"{name} against every baseline: {told}; test samples flagged at 5 %: {rate:.3f}")
    return lines


def main() -> None:
    """Run what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--setting", choices=["C"], default="C")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int, default=15_000)
    parser.add_argument("--test", type=int, default=4_500)
    arguments = parser.parse_args()
    data = Path(os.environ.get("REPDYN_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    texts = read_texts(data, arguments.train, arguments.test)
    arguments.cache.mkdir(parents=True, exist_ok=True)
    for model in MODELS:
        files = [
            arguments.cache / f"C-{model}-{arguments.train}-{arguments.test}-{seed}.json"
            for seed in range(arguments.seeds)
        ]
        missing = [seed for seed, file in enumerate(files) if not file.is_file()]
        paths = traced(model, texts, arguments.cache) if missing else {}
        for seed in missing:
            result = json.dumps(run(paths, texts, seed), indent=1)
            scratch = files[seed].with_suffix(".part")
            scratch.write_text(result)
            scratch.rename(files[seed])
        runs = [json.loads(file.read_text()) for file in files]
        print(f"\nSetting C, {model}, {arguments.seeds} seeds", *summary(runs), sep="\n", flush=True)


if __name__ == "__main__":
    main()
