"""How often verdicts say "found" where there is nothing to find: unrelated data, 200 runs for each cell.

Run: python benchmarks/false_found.py --out false.jsonl [--repeats 200] [--verdicts drift,basins] [--seed 1]

One line per cell is appended to the file, and cells that it holds are not computed again. Data are plain
normal, with every row four times, with one coordinate 10⁴ times as wide, of one dimension that varies, or
rounded to one decimal.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable

import numpy as np
import torch
from harness import Rows, parser_of

from repdyn.disentangle.factors import Factors
from repdyn.disentangle.leakage import leakage
from repdyn.fields import LatentField, align_fields, memorization
from repdyn.koopman import KoopmanAutoencoder
from repdyn.koopman.readout import KOOPMAN
from repdyn.koopman.spectrum import decompose
from repdyn.ood import DriftMonitor, KNNDetector, MahalanobisDetector, PathDetector, evaluate, recommend
from repdyn.ood.path_chunks import Chunk
from repdyn.paths import RepresentationPaths
from repdyn.topology import LevelSetTree, persistence
from repdyn.translation import match_trees

Draw = Callable[[np.random.Generator, int], np.ndarray]
Verdict = Callable[[np.random.Generator, Draw], bool]
WIDTH = 6


def plain(g: np.random.Generator, count: int) -> np.ndarray:
    """Independent normal values."""
    return g.normal(size=(count, WIDTH)) + 1


def repeats(g: np.random.Generator, count: int) -> np.ndarray:
    """Every row four times."""
    return np.repeat(plain(g, -(-count // 4)), 4, axis=0)[:count]


def wide(g: np.random.Generator, count: int) -> np.ndarray:
    """One coordinate 10⁴ times as wide as the rest."""
    x = plain(g, count)
    x[:, 0] *= 1e4
    return x


def line(g: np.random.Generator, count: int) -> np.ndarray:
    """One effective dimension."""
    return g.normal(size=(count, 1)) * np.linspace(0.5, 1, WIDTH) + 1 + 1e-3 * g.normal(size=(count, WIDTH))


def rounded(g: np.random.Generator, count: int) -> np.ndarray:
    """Rounded to one decimal."""
    return plain(g, count).round(1)


def _paths(*arrays: np.ndarray) -> RepresentationPaths:
    return RepresentationPaths.from_arrays({f"{k}": x for k, x in enumerate(arrays)})


def drift(g: np.random.Generator, draw: Draw) -> bool:
    """Drift is found in a stream like the calibration's, or at one of its depths."""
    detector = PathDetector().fit(_paths(draw(g, 300))).calibrate(_paths(draw(g, 300)))
    monitor = DriftMonitor(detector, window=100)
    monitor.update(_paths(draw(g, 100)))
    return monitor.report().verdict == "drift found"


def evaluation(g: np.random.Generator, draw: Draw) -> bool:
    """A detector beats its controls on data that are no different."""
    fit = _paths(draw(g, 300))
    controls = {"knn": KNNDetector().fit(fit), "Mahalanobis": MahalanobisDetector().fit(fit)}
    found = evaluate(
        PathDetector().fit(fit), _paths(draw(g, 100)), {"same": _paths(draw(g, 100))}, controls=controls
    )
    return found.verdict["same"] == "found"


def basins(g: np.random.Generator, draw: Draw) -> bool:
    """Two fields with wells share basins, of unrelated codes."""
    a, b = draw(g, 120), draw(g, 120)

    def field(x: np.ndarray) -> LatentField:
        middle, size = torch.tensor(np.median(x, axis=0)), torch.tensor(x.std(axis=0))
        return LatentField(lambda z: middle + size * torch.tanh(3 * (z - middle) / size))

    found = align_fields(
        field(a), field(b), torch.tensor(a), torch.tensor(b), steps=(0, 1), max_steps=200, seed=0
    )
    return found.verdict == "found"


def memories(g: np.random.Generator, draw: Draw) -> bool:
    """An auto-encoder whose attractors were set without the training data remembers them."""
    train, test = draw(g, 80), draw(g, 80)
    wells = torch.tensor(draw(g, 80)[::8])
    size = torch.tensor(train.std(axis=0))

    def pull(z: torch.Tensor) -> torch.Tensor:
        near = wells[torch.cdist(z / size, wells / size).argmin(dim=1)]
        return near + 0.3 * (z - near)

    field = LatentField.from_autoencoder(lambda x: x, pull)
    return memorization(field, torch.tensor(train), torch.tensor(test), max_steps=100).verdict == "found"


def loops(g: np.random.Generator, draw: Draw) -> bool:
    """Points without a loop have one."""
    return persistence(draw(g, 150), landmarks=50, resamples=4, seed=0).verdicts[1] == "found"


def certified(g: np.random.Generator, draw: Draw) -> bool:
    """An eigenvalue of steps between unrelated states is certified, beside that of the mean."""
    z = np.stack([draw(g, 120) for _ in range(3)])
    found = decompose(z - z.mean(axis=(0, 1)), resamples=20)
    return bool(found.certified.any())


def information(g: np.random.Generator, draw: Draw) -> bool:
    """A part of sequences predicts a label that was drawn by itself (more than a tenth of its entropy)."""
    x = draw(g, 160)
    rows = np.unique(x, axis=0, return_inverse=True)[1].reshape(-1)
    labels = g.integers(2, size=rows.max() + 1)[rows]
    static = np.repeat(((x - x.mean(axis=0)) / x.std(axis=0))[:, None], 3, axis=1).astype(np.float32)
    parts = Factors(static, np.zeros_like(static), np.ones(static.shape[:2], dtype=bool))
    return bool(leakage(parts, {"static": "static"}, {"drawn": labels}).information.max() > 0.1)


def fidelity(g: np.random.Generator, draw: Draw) -> bool:
    """A Koopman autoencoder explains points that are unrelated, or beats all controls."""
    kae = KoopmanAutoencoder(hidden=(16,)).fit(_paths(*(draw(g, 240) for _ in range(3))), epochs=6)
    found = kae.fidelity(_paths(*(draw(g, 240) for _ in range(3))))
    last = {name: series[-1] for name, series in found.fvu.items()}
    own = last.pop(KOOPMAN)
    return own.high < 1 or own.high < min(control.low for control in last.values())


class _Arbitrary(KNNDetector):
    """A score that is equal for equal rows and depends on nothing else of them."""

    def score_chunk(self, batch: Chunk) -> np.ndarray:
        x = np.asarray(batch[self.points_[0]], dtype=np.float64)
        return np.sin(1e5 * (x @ np.random.default_rng(self.k).normal(size=x.shape[1])))


def recommendation(g: np.random.Generator, draw: Draw) -> bool:
    """Of four detectors whose scores say nothing, one is recommended as better than the others."""
    candidates = {str(k): _Arbitrary(k=k) for k in range(1, 5)}
    return recommend(_paths(draw(g, 400)), candidates, seed=int(g.integers(2**31))).verdict == "found"


def trees(g: np.random.Generator, draw: Draw) -> bool:
    """The trees of two sets of clusters, whose centers were drawn by themselves, are matched."""

    def clusters() -> np.ndarray:
        centers = draw(g, 8 * 8)[::8]
        spread = 0.15 * np.median(np.abs(centers - np.median(centers, axis=0)), axis=0)
        return centers[g.integers(8, size=400)] + spread * g.normal(size=(400, WIDTH))

    x, y = clusters(), clusters()
    return match_trees(LevelSetTree.fit(x), LevelSetTree.fit(y), x, y).verdict == "found"


DATA: dict[str, Draw] = {f.__name__: f for f in (plain, repeats, wide, line, rounded)}
JUDGED = (drift, evaluation, recommendation, basins, memories)
JUDGED += (loops, trees, fidelity, certified, information)
VERDICTS: dict[str, Verdict] = {f.__name__: f for f in JUDGED}


def main() -> None:
    """Compute the cells that are missing and print the table."""
    parser = parser_of(__doc__, "out", seed=1)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--verdicts", default=",".join(VERDICTS))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = Rows(arguments.out, ("verdict", "data", "seed"), ("benchmarks/false_found.py", "repdyn"))
    print(f"{'':12} " + " ".join(f"{name:>8}" for name in DATA), flush=True)

    def count(name: str, data: str, seed: int) -> dict[str, int]:
        key = zlib.crc32(f"{name} {data}".encode())
        draws = (np.random.default_rng([seed, key, k]) for k in range(arguments.repeats))
        return {"found": sum(VERDICTS[name](g, DATA[data]) for g in draws), "repeats": arguments.repeats}

    for name in arguments.verdicts.split(","):
        keys = [(name, data, arguments.seed) for data in DATA]
        rows.complete(keys, count)
        cells = " ".join(f"{(rows.get(*key) or {})['found']:>8}" for key in keys)
        print(f"{name:12} {cells}", flush=True)


if __name__ == "__main__":
    main()
