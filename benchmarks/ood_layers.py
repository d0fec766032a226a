"""Why a sum of distances over all layers fails or not: each layer alone, and the sum in four forms.

    python benchmarks/ood_layers.py --cache FOLDER [--seeds 3] [--json layers.json]

EfficientNet-Lite0 on ImageNet (setting A of ``ood.py``, and E: animals against other classes, whose
out-of-distribution pictures come from the same source), where a sum fails, and the same network and ResNet-20
on CIFAR-10 (setting B), where it does not. A row is the AUROC of the Mahalanobis distance at one point, or of
the sum over points: as it is (MDSEns), of unit vectors, of distances that are standardized by held-out
samples, and of both, which is what the path detector does where there are no classes.
``docs/images/ood_layers.py`` draws the figures of ``--json``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import ood_pictures
from harness import keep, parser_of, table
from numpy.typing import NDArray
from ood_samples import Drawn
from ood_settings import animals, settings
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

Array = NDArray[Any]
MODEL = "efficientnet-lite0"
ON_CIFAR = (MODEL, "cifar-resnet20")
FOREIGN, TEST = 150, 600


def layers(drawn: Drawn) -> dict[str, dict[str, float]]:
    """AUROC by form or point, and by out-of-distribution set."""
    sets = {"test": drawn.test, **drawn.foreign}
    scores: dict[str, dict[str, Array]] = {}
    for form, unit in (("", False), (" of unit vectors", True)):
        for point in drawn.fit.points:
            x = _at(drawn.fit[point], unit)
            fitted = LedoitWolf().fit(x)
            held = np.sqrt(fitted.mahalanobis(_at(drawn.calibration[point], unit)))
            for name, paths in sets.items():
                far = np.sqrt(fitted.mahalanobis(_at(paths[point], unit)))
                if not unit:
                    scores.setdefault(point, {})[name] = far
                for kind, own in (("sum", far**2), ("standardized sum", (far - held.mean()) / held.std())):
                    row = scores.setdefault(f"{kind}{form}", {})
                    row[name] = row.get(name, 0) + own
    return {
        name: {where: _auroc(row["test"], row[where]) for where in drawn.foreign}
        for name, row in scores.items()
    }


def _at(rows: Any, unit: bool) -> Array:
    x = np.asarray(rows, dtype=np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True) if unit else x


def _auroc(usual: Array, foreign: Array) -> float:
    truth = np.r_[np.zeros(len(usual)), np.ones(len(foreign))]
    return float(roc_auc_score(truth, np.r_[usual, foreign]))


def main() -> None:
    """Print a table for each setting, of the mean over seeds."""
    parser = parser_of(__doc__, "cache", "json", "seeds")
    parser.add_argument("--foreign", type=int, default=FOREIGN)
    parser.add_argument("--test", type=int, default=TEST, help="test pictures of CIFAR-10")
    options = parser.parse_args()
    ood_pictures.MAPPED.clear()  # feature maps are not needed
    found = {}
    far = [s for s in settings("A", options.cache, vars(options)) if s.name.endswith(MODEL)]
    small = [s for s in settings("B", options.cache, vars(options)) if s.name.endswith(ON_CIFAR)]
    for setting in (*far, animals(options.cache, MODEL), *small):
        runs = [layers(setting.draw(seed)) for seed in range(options.seeds)]
        rows = {
            name: {where: float(np.mean([run[name][where] for run in runs])) for where in runs[0][name]}
            for name in runs[0]
        }
        found[setting.name] = rows
        head = ["", *next(iter(rows.values()))]
        print(
            f"\n{setting.name}", table(head, [[name, *row.values()] for name, row in rows.items()]), sep="\n"
        )
    keep(options.json, found)


if __name__ == "__main__":
    main()
