"""How often the verdict of a translation without pairs is right: pairs whose true translation is known.

    python benchmarks/verdicts.py --out verdicts.jsonl --cache FOLDER [--half development|final]
        [--only TEXT] [--most 60] [--minutes 60] [--only-table]

Settings of the verdict were set on the development half; the final half is for reading. Every pair is a
line of the output; one that is there already is not run again, so an interrupted study goes on where it was.
Pairs come in one fixed random order, so that the first 60 are a sample of all kinds. True retrieval is top-1
among 1 000 held-out pairs, as a share of what Procrustes reaches when it is fitted on half of these and read
on the other.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from harness import Rows, parser_of, seconds, table
from numpy.typing import NDArray
from scipy.stats import spearmanr
from verdict_pairs import Pair, names, pair

from repdyn.paths import RepresentationPaths
from repdyn.translation import LinearTranslation, translate
from repdyn.translation.coordinates import outlier_shrink, unit_rows
from repdyn.translation.unpaired.verdict import Figures, confidence_of, far_and_unshared, verdict_of

Floats = NDArray[np.float64]

FIGURES = (
    "retrieval between halves",
    "excess distance",
    "margin of the best different map",
    "margin of the best map of other clusters",
    "agreement with rivals",
    "lead in standard errors",
    "stability across compositions",
)
REPLICATION_ALONE = 0.5
"""Retrieval between halves from which on the verdict was "found" before there was a second test."""

SOURCES = (
    "benchmarks/verdicts.py",
    "benchmarks/verdict_pairs.py",
    "benchmarks/verdict_clouds.py",
    "repdyn/translation",
)
BANDS = ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 9.0))


def main() -> None:
    """Run what has not been run, then print the tables."""
    parser = parser_of(__doc__, "minutes", out="verdicts.jsonl", cache="translation-cache")
    parser.add_argument("--half", choices=("development", "final"), default="final")
    parser.add_argument("--only", default="", help="pairs whose name contains this")
    parser.add_argument("--most", type=int, default=1000, help="pairs")
    parser.add_argument("--only-table", action="store_true")
    arguments = parser.parse_args()
    final = arguments.half == "final"
    wanted = names(final)
    random.Random(0).shuffle(wanted)
    wanted = [name for name in wanted if arguments.only in name][: arguments.most]
    rows = Rows(arguments.out, ("half", "name"), SOURCES)

    def make(_: str, name: str) -> dict[str, Any]:
        row = run(pair(name, final, arguments.cache))
        print(name, {key: row[key] for key in ("verdict", "confidence", "share", "ceiling")}, flush=True)
        return row

    if not arguments.only_table:
        rows.complete([(arguments.half, name) for name in wanted], make, arguments.minutes)
    print(tables([row for row in rows if row["half"] == arguments.half]))


def run(of: Pair) -> dict[str, Any]:
    """One translation, and what it is worth."""
    a, b = (RepresentationPaths.from_arrays(points) for points in (of.a, of.b))
    with seconds() as spent:
        t = translate(a, b)
    reached, ceiling = (
        (0.0, 0.0) if of.held_a is None or of.held_b is None else worth(t, of.held_a, of.held_b)
    )
    return {
        "kind": of.kind,
        "verdict": t.verdict,
        "confidence": t.confidence,
        "interval": t.interval,
        "evidence": {key: float(value) for key, value in t.evidence.items()},
        "share": reached / ceiling if ceiling > 0 else 0.0,
        "top1": reached,
        "ceiling": ceiling,
        "samples": [len(a), len(b)],
        "seconds": spent(),
    }


def worth(t: LinearTranslation, held_a: Floats, held_b: Floats) -> tuple[float, float]:
    """Top-1 retrieval of a translation and of Procrustes, cross-fitted, among held-out pairs."""
    (x, _), (y, frame) = (_directions(z, o) for z, o in ((held_a, t.offset_a), (held_b, t.offset_b)))
    hits = []
    halves = np.array_split(np.arange(len(x)), 2)
    for fit, read in (halves, halves[::-1]):
        left, _, right = np.linalg.svd(x[fit].T @ y[fit], full_matrices=False)
        hits.append((x[read] @ left @ right @ y.T).argmax(1) == read)
    moved = unit_rows((t(held_a) - t.offset_b) @ frame)
    reached = ((moved @ y.T).argmax(1) == np.arange(len(y))).mean()
    return float(reached), float(np.concatenate(hits).mean())


def _directions(x: Floats, offset: Floats) -> tuple[Floats, Floats]:
    """Directions from the offset, outlier axes brought to the others, and what does that."""
    shrink = outlier_shrink(x - x.mean(0))
    frame = np.eye(x.shape[1]) if shrink is None else shrink
    return np.asarray(unit_rows((x - offset) @ frame)), frame


def figures_of(row: dict[str, Any]) -> Figures | None:
    """What the verdict rests on; none where there were no rivals."""
    evidence = row["evidence"]
    return (
        Figures(*(evidence[name] for name in FIGURES)) if all(name in evidence for name in FIGURES) else None
    )


def tables(rows: list[dict[str, Any]]) -> str:
    """Verdicts by the true share of the ceiling and by kind, calibration, coverage, time."""
    for row in rows:  # by the present settings: rows keep figures, not only verdicts
        figures = figures_of(row)
        if figures is not None:
            found = confidence_of(figures)
            row |= {"verdict": verdict_of(figures), "confidence": found.value}
            row |= {"interval": [found.low, found.high]}
        elif row["interval"] is not None and set(row["evidence"]) == set(FIGURES[:2]):  # ended before rivals
            found = far_and_unshared(*(row["evidence"][name] for name in FIGURES[:2])).confidence
            row |= {"confidence": found.value, "interval": [found.low, found.high]}
    rows = [row for row in rows if row["interval"] is not None]
    if not rows:
        return "no runs of this code yet"
    share = np.clip([row["share"] for row in rows], 0, 1)
    confidence = np.array([row["confidence"] for row in rows])
    inside = np.array([row["interval"][0] <= s <= row["interval"][1] for row, s in zip(rows, share)])
    given = [row["verdict"] for row in rows]
    taken = np.array([row["seconds"] for row in rows])
    alone = ["found" if r["evidence"][FIGURES[0]] >= REPLICATION_ALONE else "other" for r in rows]
    verdicts = ("found", "neighborhoods", "ambiguous", "inconclusive", "not found")
    by_share, by_kind, calibration = [], [], []

    def counts(here: list[int]) -> list[int]:
        return [len(here), *(sum(given[k] == v for k in here) for v in verdicts)]

    for low, high in BANDS:
        here = [k for k, s in enumerate(share) if low <= s < high]
        replicated = sum(alone[k] == "found" for k in here)
        by_share.append([f"{low:.2f} to {min(high, 1):.2f}", *counts(here), replicated])
    for kind in dict.fromkeys(row["kind"] for row in rows):
        here = [k for k, row in enumerate(rows) if row["kind"] == kind]
        by_kind.append([kind, *counts(here), f"{share[here].mean():.2f}"])
    for low, high in ((0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 0.9), (0.9, 1.01)):
        inner = (confidence >= low) & (confidence < high)
        if inner.any():
            ends = np.quantile(share[inner], (0.05, 0.95))
            means = [f"{x[inner].mean():.2f}" for x in (confidence, share)]
            spread = f"{ends[0]:.2f} to {ends[1]:.2f}"
            calibration.append([f"{low} to {min(high, 1)}", inner.sum(), *means, spread])
    lines = [
        table(["share of the ceiling", "runs", *verdicts, "found by replication alone"], by_share),
        table(["kind", "runs", *verdicts, "mean share"], by_kind),
        table(["confidence", "runs", "mean", "mean share", "5 to 95 % of shares"], calibration),
    ]
    found = np.array([v == "found" for v in given])
    above = share >= 0.75
    median = [float(np.median(taken[k])) if k.any() else float("nan") for k in (found, ~found)]
    summary = [
        f"runs {len(rows)}",
        f"found below half of the ceiling: {int((found & (share < 0.5)).sum())}",
        f"found above three quarters of it: {int((found & above).sum())} of {int(above.sum())}",
        f"Spearman of confidence and share: {spearmanr(confidence, share)[0]:.3f}",
        f"intervals cover: {inside.mean():.1%}",
        f"CPU s, median: {median[0]:.0f} where found, {median[1]:.0f} elsewhere",
    ]
    return "\n\n".join([*lines, "\n".join(summary)])


if __name__ == "__main__":
    main()
