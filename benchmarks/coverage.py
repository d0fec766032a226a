"""How often the intervals that repdyn prints hold the truth: coverage by kind, sample size and truth.

Run: python benchmarks/coverage.py --out coverage.jsonl [--repeats 1000] [--kinds "share;auroc"] [--seed 1]

One line per batch of repeats is appended to the file. Repeats that it holds are not computed again: more
``--repeats`` later add to them. Every cell is a share of repeated experiments with a known truth, and is
printed with its Monte Carlo standard error; that of a share is exact. Two marks are on cells in which no
interval can be near 95 %. There the aim is not to fall below 93 %.

d
    The figure has few outcomes: no range of them around the truth has a probability of .93 to .97. Of 20
    samples of a share of .999, all are successes 98 % of the time.
b
    The figure is 0 or 1 in more than 2.5 % of the experiments. An interval with equal tails cannot miss the
    truth on that side, so that its nominal coverage is .975.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from harness import Rows, parser_of
from scipy import stats
from scipy.optimize import brentq

from repdyn.disentangle.interventions import SwapTable, published_score, strict_score
from repdyn.intervals import (
    Estimate,
    bootstrap_mean,
    difference_interval,
    ratio_interval,
    share_interval,
)
from repdyn.ood import DriftMonitor, PathDetector
from repdyn.ood.comparison import IN_DISTRIBUTION, compare
from repdyn.paths import RepresentationPaths
from repdyn.ranking import auroc_interval, passing_interval, precision_interval

SOURCES = (
    "benchmarks/coverage.py",
    "repdyn/intervals.py",
    "repdyn/ranking.py",
    "repdyn/repeats.py",
    "repdyn/disentangle/interventions.py",
    "repdyn/ood/comparison.py",
)
SIZES = (20, 50, 200, 1000, 5000)
TRUTHS = (0.5, 0.8, 0.9, 0.95, 0.99, 0.999)
Trial = Callable[[np.random.Generator, int, float], tuple[Estimate, float]]


def share(g: np.random.Generator, n: int, truth: float) -> tuple[Estimate, float]:
    """An accuracy, an agreement, a share flagged."""
    return share_interval(g.random(n) < truth), truth


def auroc(
    g: np.random.Generator, n: int, truth: float, spread: float = 1, inside: int | None = None
) -> tuple[Estimate, float]:
    """Normal scores, n or ``inside`` of them in-distribution; n foreign ones, so many times as spread."""
    shift = stats.norm.ppf(truth) * np.sqrt(1 + spread**2)
    return auroc_interval(g.normal(size=inside or n) + shift, spread * g.normal(size=n)), truth


def fpr95(g: np.random.Generator, n: int, truth: float) -> tuple[Estimate, float]:
    """1 − truth of the foreign pass where 95 % of the normal ones do."""
    shift = stats.norm.ppf(0.95) + stats.norm.ppf(truth)
    return passing_interval(g.normal(size=n) + shift, g.normal(size=n)), 1 - truth


_AUPR: dict[tuple[float, float], tuple[float, float]] = {}


def aupr(g: np.random.Generator, n: int, truth: float, spread: float = 1.0) -> tuple[Estimate, float]:
    """At the shift of which the AUROC is the truth; its own truth by integration."""
    if (truth, spread) not in _AUPR:
        shift = stats.norm.ppf(truth) * np.sqrt(1 + spread**2)
        x = stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000) + shift
        passed = stats.norm.sf(x - shift)
        _AUPR[truth, spread] = shift, float((passed / (passed + stats.norm.sf(x / spread))).mean())
    shift, own = _AUPR[truth, spread]
    return precision_interval(g.normal(size=n) + shift, spread * g.normal(size=n)), own


def aupr_heavy_tails(g: np.random.Generator, n: int, truth: float) -> tuple[Estimate, float]:
    """Scores of Student's t with three degrees of freedom."""
    if (truth, 0.0) not in _AUPR:
        _AUPR[truth, 0.0] = _located(stats.t(3).ppf, stats.t(3).sf, truth)
    shift, own = _AUPR[truth, 0.0]
    return precision_interval(g.standard_t(3, size=n) + shift, g.standard_t(3, size=n)), own


def aupr_outliers(g: np.random.Generator, n: int, truth: float) -> tuple[Estimate, float]:
    """Normal scores; of the foreign ones one in 200 lies 12 standard deviations higher."""

    def above(x: Any) -> Any:
        return 0.995 * stats.norm.sf(x) + 0.005 * stats.norm.sf(x - 12)

    if (truth, -1.0) not in _AUPR:
        _AUPR[truth, -1.0] = _located(stats.norm.ppf, above, truth)
    shift, own = _AUPR[truth, -1.0]
    return precision_interval(g.normal(size=n) + shift, g.normal(size=n) + 12 * (g.random(n) < 0.005)), own


def _located(quantile: Any, above: Any, truth: float) -> tuple[float, float]:
    """Shift of positive scores at which the AUROC is ``truth``, and the AUPR there, by integration."""
    x = quantile((np.arange(100_000) + 0.5) / 100_000)
    share = 1 - (np.arange(100_000) + 0.5) / 100_000  # of positive scores at or above x
    shift = brentq(lambda s: float((1 - above(x + s)).mean()) - truth, -50, 200)
    return shift, float((share / (share + above(x + shift))).mean())


def difference(g: np.random.Generator, n: int, truth: float) -> tuple[Estimate, float]:
    """AUROC of a detector minus that of a control on the same samples."""
    shift, noise = stats.norm.ppf(truth) * np.sqrt(2), np.sqrt(0.5)
    inside, outside = g.normal(size=n) + shift, g.normal(size=n)
    other = {
        IN_DISTRIBUTION: inside + noise * g.normal(size=n),
        "foreign": outside + noise * g.normal(size=n),
    }
    found = compare({"detector": {IN_DISTRIBUTION: inside, "foreign": outside}, "control": other})
    gap = found.against("detector", ["control"]).difference["foreign"]
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


def share_of_variance(g: np.random.Generator, n: int, truth: float) -> tuple[Estimate, float]:
    """The variance that one part holds of that of both (the static share), normal values in 8 dimensions."""
    parts = [np.square(g.normal(size=(n, 8))).sum(axis=1) * part for part in (truth, 1 - truth)]
    found = ratio_interval(parts[1], parts[0] + parts[1])
    return Estimate(1 - found.value, 1 - found.high, 1 - found.low), truth


def decay(g: np.random.Generator, n: int, truth: float) -> tuple[Estimate, float]:
    """Difference of two shares of variance explained of the same samples (fields: does alignment decay)."""
    spread = np.square(g.normal(size=(n, 8))).sum(axis=1)
    common = g.normal(size=(n, 8))
    errors = [
        part * np.square(np.sqrt(0.5) * (common + g.normal(size=(n, 8)))).sum(axis=1)
        for part in (1 - truth, 0.5)
    ]
    found = [ratio_interval(error, spread) for error in errors]
    moved = [error - e.value * spread for error, e in zip(errors, found)]
    correlation = float(np.corrcoef(moved)[0, 1])
    return difference_interval(found[0], found[1], correlation), (1 - truth) - 0.5


KEPT = np.array([[True, True, False], [False, False, True]])
CLASSES = (4, 9, 3)


def _swaps(g: np.random.Generator, n: int, truth: float, shift: float) -> tuple[SwapTable, np.ndarray]:
    """n sequences, judged in 5 passes that agree in part; a kept factor is right with the truth's chance."""
    accuracy = np.where(KEPT, truth, 1 / np.array(CLASSES) + shift)
    drawn = g.random((n, 1, *KEPT.shape)), g.random((n, 5, *KEPT.shape))
    called = np.where(g.random((n, 5, 1, 1)) < 0.5, *drawn) < accuracy
    return SwapTable(("dynamic", "static"), ("a", "b", "c"), called.mean(axis=1), KEPT, CLASSES), accuracy


def swap_score(
    g: np.random.Generator, n: int, truth: float, shift: float, strict: bool
) -> tuple[Estimate, float]:
    """Published or strict score of a table of swaps; replaced factors are so far over chance.

    At chance, the distance from chance has its least value, and each strict score can only be too low.
    """
    table, accuracy = _swaps(g, n, truth, shift)
    if strict:
        return table.strict(), strict_score(accuracy, KEPT, CLASSES)
    return table.score(), published_score(accuracy, KEPT, CLASSES)


def mean(g: np.random.Generator, n: int, truth: float) -> tuple[Estimate, float]:
    """Mean of exponential values (a divergence, a drift)."""
    return bootstrap_mean(truth * g.exponential(size=n)), truth


KINDS: dict[str, Trial] = {
    "share": share,
    "auroc": auroc,
    "auroc, unequal spread": partial(auroc, spread=3),
    "fpr95": fpr95,
    "aupr, unequal spread": partial(aupr, spread=3.0),
    "aupr": aupr,
    "aupr, Student's t": aupr_heavy_tails,
    "aupr, outliers": aupr_outliers,
    "difference of aurocs": difference,
    "auroc, 1000 and n, unequal spread": partial(auroc, spread=3, inside=1000),
    "share of variance": share_of_variance,
    "decay": decay,
    "fvu": explained,
    "fvu, log-normal errors": explained_heavy,
    "mean, exponential": mean,
    "swap score": partial(swap_score, shift=0.15, strict=False),
    "swap score, strict": partial(swap_score, shift=0.15, strict=True),
    "swap score, at chance": partial(swap_score, shift=0.0, strict=False),
    "swap score, strict, at chance": partial(swap_score, shift=0.0, strict=True),
}


SCALED = ("fvu", "fvu, log-normal errors", "mean, exponential")
"""Kinds whose truth is a factor of every sample: one column is enough."""
SLOW = ("difference of aurocs", "share of variance", "decay", *SCALED)
"""Kinds that resample: fewer repeats of the larger sizes."""
SLOWER = {1000: 2, 5000: 2}
"""Repeats of a slow kind are divided by this."""
BOUNDED = ("share", "auroc", "fpr95", "aupr", "swap")
"""How the names of kinds begin of which the figure lies between 0 and 1."""
FEW = 200
"""Repeats from which the outcomes of a cell are judged."""
EXACT = 10**9
"""Stands for the repeats of a cell that is a sum over all outcomes."""


def coverage(kind: str, n: int, truth: float, repeats: range, seed: int) -> dict[str, float | None]:
    """Shares of repeats whose interval lies above the truth, below it, and is of width 0."""
    found: list[tuple[Estimate, float]] = []
    for repeat in repeats:
        g = np.random.default_rng([seed, zlib.crc32(kind.encode()), n, int(truth * 1000), repeat])
        found.append(KINDS[kind](g, n, truth))
    return _summary(found, np.full(len(found), 1 / len(found)), kind)


def exact_share(n: int, truth: float) -> dict[str, float | None]:
    """:func:`coverage` of a share, as a sum over its outcomes."""
    outcomes = np.arange(n + 1)
    chance = stats.binom.pmf(outcomes, n, truth)
    kept = chance > 1e-9
    found = [(share_interval(np.arange(n) < k), truth) for k in outcomes[kept]]
    return _summary(found, chance[kept] / chance[kept].sum(), "share")


def _summary(found: list[tuple[Estimate, float]], weight: np.ndarray, kind: str) -> dict[str, float | None]:
    above = np.array([own < e.low for e, own in found])
    below = np.array([own > e.high for e, own in found])
    empty = np.array([e.high - e.low <= 0 for e, _ in found])
    values, truth = np.array([e.value for e, _ in found]), found[0][1]
    shares = {"above": float(weight @ above), "below": float(weight @ below), "empty": float(weight @ empty)}
    known = kind == "share" or len(found) >= FEW
    border = float(weight @ ((values <= 0) | (values >= 1))) if kind.startswith(BOUNDED) else 0.0
    return shares | {
        "nearest": nearest(values, weight, truth) if known else None,
        "border": border if known and kind != "share of variance" else None,
    }


def nearest(values: np.ndarray, weight: np.ndarray, truth: float) -> float:
    """Probability next to .95 of a range of outcomes around the truth.

    Parameters
    ----------
    values, weight
        Outcomes of the figure and their probabilities, ``(N,)``.

    Examples
    --------
    >>> outcomes = np.arange(21)
    >>> round(nearest(outcomes / 20, stats.binom.pmf(outcomes, 20, 0.99), 0.99), 3)
    0.983
    """
    distinct, own = np.unique(values, return_inverse=True)
    total = np.concatenate([[0.0], np.cumsum(np.bincount(own, weights=weight))])
    # Ranges end at the first of these or after, and start at the second or before.
    first = min(int(np.searchsorted(distinct, truth, side="right")), len(distinct) - 1)
    last = max(int(np.searchsorted(distinct, truth, side="left")) - 1, 0)
    best = 0.0
    for start in range(last + 1):
        ends = total[max(first, start) + 1 :] - total[start]
        best = min([best, *ends[np.argmin(np.abs(ends - 0.95)), None]], key=lambda p: abs(p - 0.95))
    return float(best)


def marks(cell: dict[str, Any]) -> str:
    """See the top of this file."""
    if cell.get("nearest") is None:
        return " "
    if not 0.93 <= cell["nearest"] <= 0.97:
        return "d"
    return "b" if (cell.get("border") or 0.0) > 0.025 else " "


def pooled(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A cell from its batches of repeats; outcomes are those of the largest batch."""
    count = sum(row["repeats"] for row in rows)
    shares = ("above", "below", "empty")
    if not rows or rows[0]["repeats"] == EXACT:
        return rows[0] if rows else dict.fromkeys(shares, 0.0) | {"repeats": 0}
    found = {name: sum(row[name] * row["repeats"] for row in rows) / count for name in shares}
    largest = max(rows, key=lambda row: row["repeats"])
    return found | {"repeats": count, "nearest": largest["nearest"], "border": largest["border"]}


def error(cell: dict[str, Any]) -> float:
    """Monte Carlo standard error of a cell's coverage, as if three more repeats were half right."""
    if cell["repeats"] == EXACT:
        return 0.0
    count = cell["repeats"] + 3
    missed = ((cell["above"] + cell["below"]) * cell["repeats"] + 1.5) / count
    return float(np.sqrt(missed * (1 - missed) / count))


def drift(repeats: int, held_out: bool, fit: int = 400, window: int = 100) -> tuple[float, float]:
    """Share of reports that name a moved depth, and of verdicts "drift found", where nothing moved."""
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
        found += report.verdict == "drift found"
    return moved / repeats, found / repeats


def main() -> None:
    """Compute the cells that are missing and print the tables."""
    parser = parser_of(__doc__, "out", seed=1)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--kinds", default=";".join([*KINDS, "drift"]))
    parser.add_argument("--sizes", default=",".join(str(n) for n in SIZES))
    arguments = parser.parse_args()
    known = Rows(arguments.out, ("kind", "n", "truth", "seed"), SOURCES)
    cells: dict[tuple[str, int, float], list[dict[str, Any]]] = {}
    for row in known:
        if row["seed"] == arguments.seed:
            cells.setdefault((row["kind"], row["n"], row["truth"]), []).append(row)
    for kind in arguments.kinds.split(";"):
        if kind == "drift":
            continue
        truths = (0.5,) if kind in SCALED else TRUTHS
        print(f"\n{kind}\n{'n':>6} " + " ".join(f"{truth:>12}" for truth in truths), flush=True)
        for n in (int(size) for size in arguments.sizes.split(",")):
            wanted = max(arguments.repeats // (SLOWER.get(n, 1) if kind in SLOW else 1), 1)
            wanted = EXACT if kind == "share" else wanted
            for truth in truths:
                rows = cells.setdefault((kind, n, truth), [])
                done = int(pooled(rows)["repeats"])
                if done >= wanted:
                    continue
                if kind == "share":
                    found = exact_share(n, truth)
                else:
                    found = coverage(kind, n, truth, range(done, wanted), arguments.seed)
                row = {"kind": kind, "n": n, "truth": truth, "repeats": wanted - done, "seed": arguments.seed}
                rows.append(known.add(row | found))
            shown = [pooled(cells[kind, n, truth]) for truth in truths]
            flat = max(cell["empty"] for cell in shown)
            note = f"  width 0 in up to {flat:.0%}" if flat else ""
            hits = " ".join(
                f"{1 - cell['above'] - cell['below']:5.3f}{marks(cell)}±{error(cell):.3f}" for cell in shown
            )
            print(f"{n:>6} {hits}{note}", flush=True)
    if "drift" not in arguments.kinds.split(";"):
        return
    print(
        "\nno drift: shares of reports that name a moved depth, and of verdicts 'drift found' (nominal .05)"
    )
    for held_out in (False, True):
        moved, verdicts = drift(min(arguments.repeats, 200), held_out)
        name = "held-out" if held_out else "cross-fitted"
        print(f"  {name} calibration: {moved:.3f} {verdicts:.3f}", flush=True)


if __name__ == "__main__":
    main()
