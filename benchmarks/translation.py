"""Unpaired translation between two sentence encoders, beside its controls, its ceiling and its negatives.

    python benchmarks/translation.py --out translation.jsonl [--seeds 3] [--settings docs banking77 ...]

Model A (all-MiniLM-L6-v2) and model B (paraphrase-MiniLM-L3-v2) read *different* samples of one corpus; 1 000
more, read by both, serve the evaluation and nothing else. Negatives: B reads another corpus, B's features are
shuffled, or B is a Gaussian of equal covariance. Every run is a line of the output; a run that is there
already is not repeated, so an interrupted benchmark goes on where it was. Representations are traced once,
to ``--cache``. Without ``--settings`` all run.

The two models descend from one pretrained model, so their bases are not independent: the identity is the
control to beat, and what is said of unrelated models from these figures is said with care.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import repdyn
from repdyn.cli.corpus import documentation_corpus
from repdyn.paths import RepresentationPaths, open_paths
from repdyn.translation import evaluate_translation, translate

MODELS = {"a": "packaged:all-MiniLM-L6-v2", "b": "packaged:paraphrase-MiniLM-L3-v2"}
DATA = Path(os.environ.get("REPDYN_DATA", Path(__file__).parents[2] / "shared" / "data"))
HELD_OUT = 1000
FITTED = {"docs": 4000, "banking77": 5800, "clinc150": 8000}
POSITIVES = ("docs", "docs without embeddings", "docs last point", "banking77", "clinc150")
NEGATIVES = ("docs | banking77", "clinc150 | docs", "docs | shuffled", "docs | gaussian")


def main() -> None:
    """Run what has not been run, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("translation.jsonl"))
    parser.add_argument("--cache", type=Path, default=Path("translation-cache"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--settings", nargs="*", default=[*POSITIVES, *NEGATIVES])
    arguments = parser.parse_args()
    done = read(arguments.out)
    for seed in range(arguments.seeds):
        for setting in arguments.settings:
            if not any((row["setting"], row["seed"]) == (setting, seed) for row in done):
                row = run(setting, seed, arguments.candidates, arguments.cache)
                with arguments.out.open("a") as lines:
                    lines.write(json.dumps(row) + "\n")
    print(table(read(arguments.out)))


def run(setting: str, seed: int, candidates: int, cache: Path) -> dict[str, Any]:
    """One setting with one seed: everything is drawn anew."""
    corpus, _, other = (part.strip() for part in setting.partition("|"))
    name = corpus.split()[0]
    all_a, all_b = traced(name, "a", cache), traced(name, "b", cache)
    order = np.random.default_rng(seed).permutation(len(all_a))
    count = min(FITTED[name], (len(order) - HELD_OUT) // 2)
    held, of_a, of_b = np.split(order[: HELD_OUT + 2 * count], [HELD_OUT, HELD_OUT + count])
    a, b, paired = all_a.subset(of_a), all_b.subset(of_b), all_b.subset(of_a)
    if other in FITTED:
        foreign = traced(other, "b", cache)
        b = foreign.subset(np.random.default_rng(seed).permutation(len(foreign))[:count])
    elif other:
        b = destroyed(b, other, seed)
    if corpus.endswith("without embeddings"):
        a, b = (only(paths, paths.points[1:]) for paths in (a, b))
    elif corpus.endswith("last point"):
        a, b = (only(paths, paths.points[-1:]) for paths in (a, b))
    clock, processor = time.perf_counter(), time.process_time()
    t = translate(a, b, candidates=candidates, seed=seed)
    seconds = {"wall": time.perf_counter() - clock, "cpu": time.process_time() - processor}
    found = evaluate_translation(
        t, all_a.subset(held), all_b.subset(held), ceiling=(last(a), last(paired)), seed=seed
    )
    return {
        "setting": setting,
        "seed": seed,
        "candidates": candidates,
        **{name: value.value for name, value in found.top1.items()},
        "classes": found.class_agreement["translation"].value,
        "own space": found.class_agreement["own space"].value,
        "verdict": t.verdict,
        **t.evidence,
        **seconds,
    }


def traced(name: str, side: str, cache: Path) -> RepresentationPaths:
    """A model's paths of a whole corpus, embeddings first, traced once."""
    store = cache / f"{name}-{side}.paths"
    texts, labels = corpus_of(name)
    model = repdyn.load(MODELS[side])
    points = ["embeddings", *model.default_points]
    repdyn.trace(model, texts, points=points, labels=labels, out=store)  # resumes, or finds all there
    return open_paths(store)


def corpus_of(name: str) -> tuple[list[str], NDArray[np.str_]]:
    """Texts and labels: documentation strings of the installed packages, or a shared corpus."""
    if name == "docs":
        corpus = documentation_corpus(seed=0)
        return list(corpus.texts), corpus.labels
    with gzip.open(DATA / "text" / f"{name}.csv.gz", "rt", encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if "oos" not in row["split"]]
    return [row["text"] for row in rows], np.array([row["label"] for row in rows])


def destroyed(paths: RepresentationPaths, how: str, seed: int) -> RepresentationPaths:
    """The same covariance, or the same values of each feature, and nothing else of the data."""
    generator = np.random.default_rng(seed)
    made = {}
    for point in paths.points:
        x = np.asarray(paths[point])
        if how == "gaussian":
            factor = np.linalg.cholesky(np.cov(x.T) + 1e-6 * np.eye(x.shape[1]))
            made[point] = generator.normal(size=x.shape) @ factor.T + x.mean(0)
        else:
            made[point] = generator.permuted(x, axis=0)
    return RepresentationPaths.from_arrays(made)


def only(paths: RepresentationPaths, points: Sequence[str]) -> RepresentationPaths:
    """The same samples at some points only."""
    return RepresentationPaths.from_arrays({point: np.asarray(paths[point]) for point in points})


def last(paths: RepresentationPaths) -> NDArray[Any]:
    """The last point as an array."""
    return np.asarray(paths[paths.points[-1]])


def read(path: Path) -> list[dict[str, Any]]:
    """Finished runs; an interrupted last line is left out and run again."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """All runs, one a line."""
    columns = ("translation", "identity", "random", "paired", "paired ridge", "classes", "own space")
    lines = [
        "| setting | seed | " + " | ".join(columns) + " | halves | verdict | CPU s |",
        "|" + " --- |" * (len(columns) + 5),
    ]
    for row in sorted(rows, key=lambda row: (row["setting"], row["seed"])):
        figures = " | ".join(f"{row.get(name, float('nan')):.3f}" for name in columns)
        agreement = row.get("retrieval between halves", float("nan"))
        lines.append(
            f"| {row['setting']} | {row['seed']} | {figures} | {agreement:.3f} "
            f"| {row['verdict']} | {row['cpu']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
