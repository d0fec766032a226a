"""How often the intervals that repdyn prints hold the truth: coverage by kind, sample size and truth.

Run: python benchmarks/coverage.py [--repeats 1000] [--kinds share,auroc]

Every cell is a share of repeated experiments with a known truth. Where an experiment has few possible
outcomes (20 samples of a share of .999 are all successes 98 % of the time) no interval can be at 95 %: there
the aim is not to fall below 93 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from scipy import stats

from repdyn.intervals import Estimate, auroc_interval, bootstrap_mean, ratio_interval, share_interval
from repdyn.ood import DriftMonitor, PathDetector
from repdyn.ood.comparison import compare
from repdyn.ood.controls import IN_DISTRIBUTION
from repdyn.paths import RepresentationPaths

SIZES = (20, 50, 200, 1000, 5000)
TRUTHS = (0.5, 0.8, 0.9, 0.95, 0.99, 0.999)
Trial = Callable[[np.random.Generator, int, float], tuple[Estimate, float]]


def share(g: np.random.Generator, n: int, truth: float) -> tuple[Estimate, float]:
    """An accuracy, an agreement, a share flagged."""
    return share_interval(g.random(n) < truth), truth


def auroc(g: np.random.Generator, n: int, truth: float) -> tuple[Estimate, float]:
    """Normal scores of equal spread."""
    shift = stats.norm.ppf(truth) * np.sqrt(2)
    return auroc_interval(g.normal(size=n) + shift, g.normal(size=n)), truth


def auroc_unequal(g: np.random.Generator, n: int, truth: float) -> tuple[Estimate, float]:
    """Normal scores, the foreign ones three times as spread."""
    shift = stats.norm.ppf(truth) * np.sqrt(10)
    return auroc_interval(g.normal(size=n) + shift, 3 * g.normal(size=n)), truth


def _compared(g: np.random.Generator, n: int, shift: float, metric: str) -> Estimate:
    scores = {IN_DISTRIBUTION: g.normal(size=n) + shift, "foreign": g.normal(size=n)}
    return compare({"detector": scores}).table()["detector"]["foreign"][metric]


def fpr95(g: np.random.Generator, n: int, truth: float) -> tuple[Estimate, float]:
    """1 − truth of the foreign pass where 95 % of the normal ones do."""
    shift = stats.norm.ppf(0.95) + stats.norm.ppf(truth)
    return _compared(g, n, shift, "fpr95"), 1 - truth


_AUPR: dict[float, tuple[float, float]] = {}


def aupr(g: np.random.Generator, n: int, truth: float) -> tuple[Estimate, float]:
    """At the shift of which the AUROC is the truth; its own truth by integration."""
    if truth not in _AUPR:
        shift = stats.norm.ppf(truth) * np.sqrt(2)
        x = stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000) + shift
        passed = stats.norm.sf(x - shift)
        _AUPR[truth] = shift, float((passed / (passed + stats.norm.sf(x))).mean())
    shift, own = _AUPR[truth]
    return _compared(g, n, shift, "aupr"), own


def difference(g: np.random.Generator, n: int, truth: float) -> tuple[Estimate, float]:
    """AUROC of a detector minus that of a control on the same samples."""
    shift, noise = stats.norm.ppf(truth) * np.sqrt(2), np.sqrt(0.5)
    inside, outside = g.normal(size=n) + shift, g.normal(size=n)
    other = {
        IN_DISTRIBUTION: inside + noise * g.normal(size=n),
        "foreign": outside + noise * g.normal(size=n),
    }
    found = compare({"detector": {IN_DISTRIBUTION: inside, "foreign": outside}, "control": other})
    gap = found.judge("detector", ["control"]).difference["foreign"]
    return gap, truth - float(stats.norm.cdf(shift / np.sqrt(2 * (1 + noise**2))))


def explained(g: np.random.Generator, n: int, truth: float) -> tuple[Estimate, float]:
    """Fraction of variance unexplained, 1 − truth; normal errors in 8 dimensions."""
    error, spread = (np.square(g.normal(size=(n, 8))).sum(axis=1) for _ in range(2))
    return ratio_interval((1 - truth) * error, spread), 1 - truth


def explained_heavy(g: np.random.Generator, n: int, truth: float) -> tuple[Estimate, float]:
    """The same with errors of log-normal size, five of which in a hundred make half of the sum."""
    error = np.exp(g.normal(size=n) - 0.5)
    spread = np.square(g.normal(size=(n, 8))).mean(axis=1)
    return ratio_interval((1 - truth) * error, spread), 1 - truth


def mean(g: np.random.Generator, n: int, truth: float) -> tuple[Estimate, float]:
    """Mean of exponential values (a divergence, a drift)."""
    return bootstrap_mean(truth * g.exponential(size=n)), truth


KINDS: dict[str, Trial] = {
    "share": share,
    "auroc": auroc,
    "auroc, unequal spread": auroc_unequal,
    "fpr95": fpr95,
    "aupr": aupr,
    "difference of aurocs": difference,
    "fvu": explained,
    "fvu, log-normal errors": explained_heavy,
    "mean, exponential": mean,
}


def coverage(trial: Trial, n: int, truth: float, repeats: int) -> tuple[float, float]:
    """Share of repeats whose interval holds the truth, and share of intervals of width 0."""
    hits = empty = 0
    for seed in range(repeats):
        found, own = trial(np.random.default_rng(seed), n, truth)
        hits += found.low <= own <= found.high
        empty += found.high - found.low <= 0
    return hits / repeats, empty / repeats


def drift(repeats: int, held_out: bool, fit: int = 400, window: int = 100) -> tuple[float, float]:
    """Share of reports that name a moved depth, and of verdicts "found", where nothing moved."""
    moved = found = 0
    for seed in range(repeats):
        g = np.random.default_rng(seed)
        mixing = [g.normal(size=(8, 16)) for _ in range(4)]

        def draw(
            count: int, g: np.random.Generator = g, mixing: list[np.ndarray] = mixing
        ) -> RepresentationPaths:
            z = g.normal(size=(count, 8))
            arrays = {f"{k}": np.tanh(z @ w) + 0.3 * g.normal(size=(count, 16)) for k, w in enumerate(mixing)}
            return RepresentationPaths.from_arrays(arrays)

        detector = PathDetector().fit(draw(fit))
        if held_out:
            detector.calibrate(draw(fit))
        monitor = DriftMonitor(detector, window=window)
        monitor.update(draw(window))
        report = monitor.report()
        moved += bool(report.moved)
        found += report.verdict == "found"
    return moved / repeats, found / repeats


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--kinds", default=",".join(KINDS).replace(", ", "; "))
    parser.add_argument("--sizes", default=",".join(str(n) for n in SIZES))
    arguments = parser.parse_args()
    chosen = [kind.replace("; ", ", ").strip() for kind in arguments.kinds.split(",")]
    for kind in chosen:
        if kind == "drift":
            continue
        print(f"\n{kind}\n{'n':>6} " + " ".join(f"{truth:>7}" for truth in TRUTHS), flush=True)
        for n in (int(size) for size in arguments.sizes.split(",")):
            repeats = arguments.repeats if n <= 1000 else max(arguments.repeats // 4, 1)
            cells = [coverage(KINDS[kind], n, truth, repeats) for truth in TRUTHS]
            flat = max(empty for _, empty in cells)
            note = f"  width 0 in up to {flat:.0%}" if flat else ""
            print(f"{n:>6} " + " ".join(f"{hit:7.3f}" for hit, _ in cells) + note, flush=True)
    print("\nno drift: share of reports that name a moved depth, share of verdicts 'found' (nominal .05)")
    for held_out in (False, True):
        moved, found = drift(min(arguments.repeats, 200), held_out)
        print(
            f"  {'held-out' if held_out else 'cross-fitted'} calibration: {moved:.3f} {found:.3f}", flush=True
        )


if __name__ == "__main__":
    main()
