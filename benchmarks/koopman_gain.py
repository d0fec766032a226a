"""Gains of a perturbation at each depth: fitted linear dynamics, compared with Jacobians of the model.

    REPDYN_DATA=… python benchmarks/koopman_gain.py --cache FOLDER [--models minilm-l6 …] [--texts 1000]

Maps of single tokens are fitted to queries of CLINC150; Jacobians are of other queries. The rank correlation
is over depths. Beside it, the same for maps of pooled paths, from each point to the last and step by step.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from harness import parser_of
from koopman_models import SETTINGS, load
from numpy.typing import NDArray
from scipy.stats import spearmanr
from stored_texts import queries

import repdyn
from repdyn.koopman import gain
from repdyn.linalg import ridge
from repdyn.paths import RepresentationPaths

MODELS = ("minilm-l3", "minilm-l6", "smollm2")
Real = NDArray[np.float64]


def of_pooled(paths: RepresentationPaths) -> dict[str, Real]:
    """Gains of ridge maps of pooled paths, with the better of two penalties left to the caller."""
    states = []
    for point in paths.points:
        x = torch.from_numpy(np.asarray(paths[point], dtype=np.float64))
        states.append(x - x.mean(dim=0))

    def fitted(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return ridge(x, y, 1e-2 * float(x.square().sum()) / x.shape[1])

    direct = [fitted(x, states[-1]) for x in states[:-1]]
    chain, chained = torch.eye(states[-1].shape[1], dtype=torch.float64), []
    for x, y in reversed(list(pairwise(states))):
        chain = fitted(x, y) @ chain
        chained.insert(0, chain)
    return {
        name: np.array([float(own.square().sum() / len(own)) ** 0.5 for own in maps])
        for name, maps in (
            ("pooled paths, to the last point", direct),
            ("pooled paths, step by step", chained),
        )
    }


def main() -> None:
    """Trace what has not been traced, then print each model's gains."""
    parser = parser_of(__doc__, "cache")
    parser.add_argument("--models", nargs="*", choices=MODELS, default=MODELS)
    parser.add_argument("--texts", type=int, default=1000, help="queries that maps are fitted to")
    parser.add_argument("--samples", type=int, default=48, help="queries of the Jacobians")
    given = parser.parse_args()
    texts = queries("train", given.texts + given.samples)
    for name in given.models:
        model = load(SETTINGS[name])
        points = ["embeddings", *model.default_points[:-1]] if name != "smollm2" else None
        kept = {}
        for pool in ("none", "auto"):
            store = given.cache / f"gain-{name}-{pool}-{given.texts}.paths"
            kept[pool] = repdyn.trace(model, texts[: given.texts], points=points, pool=pool, out=store)
        found = gain(model, kept["none"], texts[given.texts :])
        print(f"\n{name}, {given.texts} queries\n{found}")
        assert found.true is not None
        true = np.array([own.value for own in found.true])
        for what, other in of_pooled(kept["auto"]).items():
            print(f"  {what}: rank correlation {spearmanr(other, true).statistic:.3f}", flush=True)


if __name__ == "__main__":
    main()
