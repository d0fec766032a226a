"""What the translation study prints of its lines: means over seeds, with the lowest and the highest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from harness import over_seeds, table

__all__ = ["tables"]

Row = dict[str, Any]

EXCEEDS, NEVER_BELOW = 0.5, 0.25
"""Of the paired ceiling: runs above the first ought to be found, runs below the second must not be."""

GOALS = (0.9, 0.95)
"""Of the paired ceiling: between models of different families, and within one."""

METHODS = {
    "repdyn": "`translate`",
    "kmeans": "k-means aligner",
    "gw": "Gromov-Wasserstein",
    "fused gw": "fused Gromov-Wasserstein",
}
CONTROLS = {
    "identity": "identity",
    "random": "random",
    "paired": "Procrustes, all pairs",
    "paired ridge": "ridge, all pairs",
    "relative": "relative, 300 anchors",
    "own head": "head on B's own",
    "stitched paired": "head on A's, all pairs",
}


def tables(rows: Sequence[Row]) -> str:
    """All tables, each under its name."""
    made = {
        "Without pairs": unpaired(rows),
        "Compared with other methods": beside_peers(rows),
        "Controls and ceilings of the same runs": controls(rows),
        "Few pairs": few_pairs(rows),
        "Negatives": negatives(rows),
        "The verdict": verdicts(rows),
    }
    return "\n\n".join(f"### {name}\n\n{lines}" for name, lines in made.items() if lines)


def unpaired(rows: Sequence[Row]) -> str:
    """A line per setting; of the ceiling: top-1 over that of paired Procrustes, seed by seed."""
    kept = [row for row in rows if row["method"] == "repdyn" and "|" not in row["setting"]]
    lines = []
    for (setting,), part in grouped(kept, "setting"):
        share = [row["translation"] / row["paired"] for row in part]
        lost = [100 * (row["stitched paired"] - row["stitched"]) for row in part if "stitched" in row]
        figures = ("translation classes", "stitched")
        lines.append(
            [
                *(setting, count(part), str(len(part)), spread(part, "translation"), ranged(share, ".1%")),
                *(f"{sum(one >= goal for one in share)}" for goal in GOALS),
                *(spread(part, name) for name in figures),
                bracketed(lost),
                spread(part, "retrieval between halves"),
                *(f"{sum(row['verdict'] == 'found' for row in part)}", f"{mean(part, 'cpu'):.0f}"),
            ]
        )
    head = ["setting", "N", "seeds", "top-1", "of the ceiling", *(f"{goal:.0%} of it" for goal in GOALS)]
    head += ["classes", "head on A's", "points lost to all pairs", "halves", "found", "CPU s"]
    return markdown(head, lines)


def beside_peers(rows: Sequence[Row]) -> str:
    """A line per setting: top-1 and processor time of all.

    Ahead: seeds in which no peer reaches ours. Last, our processor time over that of each of them.
    """
    lines = []
    for (setting,), part in grouped([row for row in rows if row["method"] in METHODS], "setting"):
        if "|" in setting:
            continue
        of = {method: [row for row in part if row["method"] == method] for method in METHODS}
        ours = {row["seed"]: row["translation"] for row in of["repdyn"]}
        best: dict[int, float] = {}
        for row in part:
            if row["method"] != "repdyn" and row["seed"] in ours:
                best[row["seed"]] = max(best.get(row["seed"], 0.0), row["translation"])
        if not best:
            continue
        cells = [
            f"{spread(some, 'translation')}; {mean(some, 'cpu'):.0f} s" if some else ""
            for some in of.values()
        ]
        times = [mean(of["repdyn"], "cpu") / mean(of[m], "cpu") for m in METHODS if m != "repdyn" and of[m]]
        ahead = f"{sum(ours[seed] > best[seed] for seed in best)} of {len(best)}"
        lines.append([setting, *cells, ahead, ", ".join(f"{ratio:.1f}" for ratio in times)])
    return markdown(["setting", *METHODS.values(), "ahead", "times their CPU s"], lines)


def controls(rows: Sequence[Row]) -> str:
    """A line per setting: what stands beside it."""
    lines = [
        [setting, *(spread(part, name) for name in CONTROLS)]
        for (setting,), part in grouped([row for row in rows if "paired" in row], "setting")
    ]
    return markdown(["setting", *CONTROLS.values()], lines)


def few_pairs(rows: Sequence[Row]) -> str:
    """A line per setting and number of anchors."""
    kept = [{**row, "anchors": int(row["method"].split()[0])} for row in rows if "anchors" in row["method"]]
    alone = ("anchors procrustes", "anchors cca", "relative")
    lines = [
        [setting, str(anchors), str(len(part)), spread(part, "translation")]
        + [spread(part, name) for name in alone]
        + [f"{sum(row['verdict'] == 'found' for row in part)}", f"{mean(part, 'cpu'):.0f}"]
        for (setting, anchors), part in grouped(kept, "setting", "anchors")
    ]
    head = ["setting", "pairs", "seeds", "`translate`", "Procrustes alone", "CCA alone", "relative"]
    return markdown([*head, "found", "CPU s"], lines)


def negatives(rows: Sequence[Row]) -> str:
    """A line per kind, and one for all."""
    kept = [row for row in rows if "|" in row["setting"]]
    lines = []
    for (setting,), part in [*grouped(kept, "setting"), *([(("all | ",), kept)] if kept else [])]:
        name, other = setting.split("|")
        highest = max(row["retrieval between halves"] for row in part if "retrieval between halves" in row)
        lines.append(
            [name.strip(), other.strip(), count(part), str(len(part)), f"{highest:.3f}"]
            + [f"{sum(row['verdict'] == verdict for row in part)}" for verdict in ("found", "inconclusive")]
            + [f"{mean(part, 'cpu'):.0f}"]
        )
    head = [
        "setting",
        "instead of B's sample",
        "N",
        "runs",
        "highest between halves",
        "found",
        "inconclusive",
    ]
    return markdown([*head, "CPU s"], lines)


def verdicts(rows: Sequence[Row]) -> str:
    """How verdict and truth go together over all unpaired runs with a ceiling."""
    runs = [row for row in rows if row["method"] == "repdyn" and row.get("paired")]
    if not runs:
        return ""
    share = {id(row): row["translation"] / row["paired"] for row in runs}
    good = [row for row in runs if share[id(row)] > EXCEEDS]
    bad = [row for row in runs if share[id(row)] < NEVER_BELOW]
    found = [row for row in runs if row["verdict"] == "found"]
    halves = "retrieval between halves"
    lines = [
        ["runs without pairs", str(len(runs))],
        [f"above {EXCEEDS:.0%} of the ceiling, of these found", f"{len(good)}, {among(good, found)}"],
        [f"below {NEVER_BELOW:.0%} of the ceiling, of these found", f"{len(bad)}, {among(bad, found)}"],
        ["lowest share of the ceiling where found", f"{min((share[id(r)] for r in found), default=0):.2f}"],
        ["lowest between halves where found", f"{min((row[halves] for row in found), default=0):.3f}"],
        [
            "highest between halves below a quarter of the ceiling",
            f"{max((row.get(halves, 0.0) for row in bad), default=0):.3f}",
        ],
    ]
    return markdown(["over all settings", ""], lines)


def grouped(rows: Sequence[Row], *names: str) -> list[tuple[tuple[Any, ...], list[Row]]]:
    """Rows by these entries, in order."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda row: [row[name] for name in names]):
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return list(groups.items())


def among(some: Sequence[Row], others: Sequence[Row]) -> int:
    """How many of some are among the others."""
    return sum(any(row is other for other in others) for row in some)


def mean(rows: Sequence[Row], name: str) -> float:
    """Mean of an entry."""
    return float(np.mean([row[name] for row in rows]))


def spread(rows: Sequence[Row], name: str) -> str:
    """Mean of an entry, with the lowest and the highest where there are several."""
    return ranged([row[name] for row in rows if name in row], ".3f")


def ranged(values: Sequence[float], form: str) -> str:
    """Mean (lowest to highest)."""
    if not values:
        return ""
    middle = format(float(np.mean(values)), form)
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}} to {max(values):{form}})"


def bracketed(values: Sequence[float]) -> str:
    """Mean [its 95 % interval over seeds] (lowest to highest); of fewer than five seeds no interval."""
    if len(values) < 5:
        return ranged(values, ".1f")
    found = over_seeds(values)
    ends = f"[{found.low:.1f}, {found.high:.1f}] ({min(values):.1f} to {max(values):.1f})"
    return f"{found.value:.1f} {ends}"


def count(rows: Sequence[Row]) -> str:
    """Samples of either model."""
    return " or ".join(str(n) for n in sorted({row["count"] for row in rows}))


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table, or nothing where it has no line."""
    return table(head, lines) if lines else ""
