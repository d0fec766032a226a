"""Detectors of vectors without labels: mixture, union, path, neighbors, Mahalanobis, at one point.

    python benchmarks/ood_unlabeled.py --cache FOLDER --out rows.jsonl [--seeds 2]

6 000 vectors of a corpus's last point are fitted without their labels (fewer where there are fewer), 1 000
are held out, and 1 000 are foreign: of another corpus under the same model, or of classes (three tenths of
them, drawn by the seed) of which none was fitted. A row has the AUROC of each detector, in-distribution
positive, and the share of held-out vectors that are flagged at 5 %. Paths are traced once and kept in FOLDER,
as those of ``energy_fields.py``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Rows, parser_of, table, timed
from sklearn.metrics import roc_auc_score
from translation_data import read

from repdyn.ood import UnionDetector
from repdyn.ood.evaluation import score_all
from repdyn.paths import RepresentationPaths

SOURCES = ("benchmarks/ood_unlabeled.py", "repdyn/ood", "repdyn/fields/mixture.py")
CLASSES = "held-out classes"
CELLS = (
    ("minilm-l3", "banking77", "clinc150"),
    ("minilm-l6", "banking77", "clinc150"),
    ("minilm-l3", "clinc150", "banking77"),
    ("minilm-l6", "clinc150", "banking77"),
    ("minilm-l6", "clinc150", CLASSES),
    ("minilm-l6", "banking77", CLASSES),
    ("smollm2", "clinc150", CLASSES),
    ("resnet20", "cifar10", CLASSES),
    ("efficientnet", "cifar10", CLASSES),
    ("autoencoder0", "mnist", CLASSES),
)
"""Model, corpus, and what is foreign."""
FITTED, JUDGED = 6000, 1000


def cell(cache: Path, model: str, corpus: str, foreign: str, seed: int) -> dict[str, Any]:
    paths = read(model, corpus, cache)
    point = paths.points[-1]
    x, labels = np.asarray(paths[point], dtype=np.float32), np.asarray(paths.labels)
    generator = np.random.default_rng(seed)
    if foreign == CLASSES:
        drawn = generator.permutation(np.unique(labels))
        known = np.isin(labels, drawn[: int(0.7 * len(drawn))])
        outside, x = x[~known], x[known]
    else:
        other = read(model, foreign, cache)
        outside = np.asarray(other[other.points[-1]], dtype=np.float32)
    order = generator.permutation(len(x))
    parts = {
        "fit": x[order[:-JUDGED][:FITTED]],
        "held out": x[order[-JUDGED:]],
        "foreign": outside[generator.permutation(len(outside))[:JUDGED]],
    }
    sets = {name: RepresentationPaths.from_arrays({point: own}) for name, own in parts.items()}
    with timed() as spent:
        union = UnionDetector(seed=seed).fit(sets.pop("fit"))
    detectors = {"union": union, **union.controls_}
    is_usual = np.repeat([1, 0], [len(parts["held out"]), len(parts["foreign"])])
    found: dict[str, Any] = {"fitted": len(parts["fit"]), "weights": dict(union.weights_)}
    for name, scores in score_all(detectors, sets).items():
        found[name] = float(roc_auc_score(is_usual, np.concatenate([scores["held out"], scores["foreign"]])))
        flagged = scores["held out"] < detectors[name].threshold_
        found[f"{name}, flagged"] = float(flagged.mean())
    return found | spent


def main() -> None:
    options = parser_of(__doc__, "cache", "out", seeds=2).parse_args()
    rows = Rows(options.out, ("model", "corpus", "foreign", "seed"), SOURCES)
    torch.set_num_threads(1)
    names = ("mixture", "union", "path", "nearest neighbors", "Mahalanobis")
    lines = []
    for model, corpus, foreign in CELLS:
        own = []
        for seed in range(options.seeds):
            make = partial(cell, options.cache, model, corpus, foreign, seed)
            own.append(rows.once(model, corpus, foreign, seed, make=make))
            print(own[-1], flush=True)
        figures = [", ".join(f"{row[name]:.3f}" for row in own) for name in names]
        flagged = ", ".join(f"{row['mixture, flagged']:.3f}" for row in own)
        lines.append([f"{model}, {corpus}", foreign, *figures, flagged])
    print(table(["fitted", "foreign", *names, "flagged"], lines))


if __name__ == "__main__":
    main()
