"""What the field protocol of the translation study prints of its rows: means over the seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from harness import table

__all__ = ["tables"]

Row = dict[str, Any]

NAMES = {
    "translate": "`translate`, all depths",
    "translate last": "`translate`, last layer",
    "wp 10000": "Wasserstein Procrustes, b 10 000, R 100",
    "wp all": "Wasserstein Procrustes, b all, R 8",
    "wp 2000": "Wasserstein Procrustes, b 2 000, R 30",
    "kmeans": "k-means aligner",
    "gw": "Gromov-Wasserstein",
    "fused gw": "fused Gromov-Wasserstein",
    "paired": "Procrustes",
    "paired ridge": "ridge",
}


def tables(rows: Sequence[Row]) -> str:
    """All tables, each under its name."""
    plain = [row for row in rows if row["method"] in NAMES]
    few = [row for row in rows if " pairs " in row["method"]]
    solved = [row for row in rows if row["method"] == "solvers"]
    ceilings = {row["setting"] for row in plain if row["method"] == "paired"}
    made = {
        "Without pairs": methods_of(plain, ceilings),
        "Few pairs": few_pairs(few, plain),
        "Who is ahead": ahead(plain),
        "Solvers of the quadratic assignment": solvers(solved),
    }
    return "\n\n".join(f"### {name}\n\n{lines}" for name, lines in made.items() if lines)


def methods_of(rows: Sequence[Row], settings: Iterable[str]) -> str:
    """A line per setting and method."""
    lines = []
    for setting in in_order(rows, settings):
        for method, name in NAMES.items():
            part = [row for row in rows if (row["setting"], row["method"]) == (setting, method)]
            if part:
                label = f"{name}, all pairs" if method.startswith("paired") else name
                lines.append([setting, label, *figures(part, rows)])
    return markdown(["setting", "method", *HEAD], lines)


HEAD = [
    "N",
    "seeds",
    "top-1",
    "of the ceiling",
    "top-10",
    "mean rank",
    "FOSCTTM",
    "cosine",
    "verdicts",
    "CPU s",
]


def figures(part: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    """The entries of :data:`HEAD`; the ceiling is Procrustes with all pairs, seed by seed."""
    share = []
    for row in part:
        top = [r["top1"] for r in rows if cell(r) == (row["setting"], "paired", row["seed"])]
        share += [row["top1"] / top[0]] if top and top[0] > 0 else []
    verdicts = [row["verdict"] for row in part if "verdict" in row]
    return [
        str(part[0]["count"]),
        str(len(part)),
        spread(part, "top1", ".3f"),
        f"{np.mean(share):.0%}" if len(share) == len(part) else "",
        f"{mean(part, 'top10'):.3f}",
        f"{mean(part, 'mean_rank'):.1f}",
        spread(part, "foscttm", ".4f"),
        f"{mean(part, 'cosine'):.3f}",
        ", ".join(f"{name} {verdicts.count(name)}" for name in dict.fromkeys(verdicts)),
        f"{mean(part, 'cpu'):.1f}",
    ]


def few_pairs(rows: Sequence[Row], plain: Sequence[Row]) -> str:
    """A line per setting, number of pairs and method."""
    lines = []
    for setting in in_order(rows, {row["setting"] for row in rows}):
        counts = sorted({pairs(row) for row in rows if row["setting"] == setting})
        for count in counts:
            for method, name in NAMES.items():
                wanted = (setting, f"{count} pairs {method}")
                part = [row for row in rows if (row["setting"], row["method"]) == wanted]
                if part:
                    lines.append([setting, str(count), name, *figures(part, plain)])
    return markdown(["setting", "pairs", "method", *HEAD], lines)


def ahead(rows: Sequence[Row]) -> str:
    """For each setting the last layer against each rival, on the seeds that both have.

    Ahead in a figure: the mean is better by more than 2 % of it; level: within 2 %. Neither: both retrieve
    less than ten times as many as a random order, or have a fraction closer than the match of .35 or more.
    """
    lines = []
    for setting in in_order(rows, {row["setting"] for row in rows}):
        own = {r["seed"]: r for r in rows if cell(r)[:2] == (setting, "translate last")}
        for method, name in NAMES.items():
            if method.startswith(("translate", "paired")):
                continue
            both = [
                (own[r["seed"]], r) for r in rows if cell(r)[:2] == (setting, method) and r["seed"] in own
            ]
            if both:
                ours, theirs = ([pair[k] for pair in both] for k in (0, 1))
                entries = [compared(ours, theirs, "top1", True), compared(ours, theirs, "foscttm", False)]
                time = f"{mean(ours, 'cpu') / mean(theirs, 'cpu'):.2f}"
                lines.append([setting, name, str(len(both)), *entries, time])
    return markdown(
        ["setting", "rival", "seeds", "`translate`, last layer: top-1", "FOSCTTM", "times its CPU s"], lines
    )


LEVEL = 0.02
CHANCE = 10
POOR = 0.35


def compared(ours: Sequence[Row], theirs: Sequence[Row], figure: str, high: bool) -> str:
    """Whether our mean is ahead, level or behind, with both."""
    one, other = mean(ours, figure), mean(theirs, figure)
    gain = (one - other) if high else (other - one)
    if max(one, other) < CHANCE / ours[0]["pool"] if high else min(one, other) >= POOR:
        return f"neither ({one:.2g}, {other:.2g})"
    word = "level" if abs(gain) <= LEVEL * max(one, other) else "ahead" if gain > 0 else "**behind**"
    return f"{word} ({one:.3g}, {other:.3g})"


def solvers(rows: Sequence[Row]) -> str:
    """A line per setting."""
    names = [f"{solver} {figure}" for solver in ("relaxation", "mpopt") for figure in ("alignment", "cpu")]
    return markdown(
        ["setting", "ours: kernel alignment", "CPU s", "MPOpt: kernel alignment", "CPU s"],
        [[row["setting"], *(f"{row[name]:.4g}" for name in names)] for row in rows],
    )


def cell(row: Row) -> tuple[str, str, int]:
    """What identifies a row."""
    return row["setting"], row["method"], row["seed"]


def pairs(row: Row) -> int:
    """Number of known pairs."""
    return int(row["method"].split()[0])


def in_order(rows: Sequence[Row], settings: Iterable[str]) -> list[str]:
    """Settings in the order of their rows."""
    wanted = set(settings)
    return [name for name in dict.fromkeys(row["setting"] for row in rows) if name in wanted]


def mean(rows: Sequence[Row], name: str) -> float:
    """Mean of an entry."""
    return float(np.mean([row[name] for row in rows]))


def spread(rows: Sequence[Row], name: str, form: str) -> str:
    """Mean (lowest to highest)."""
    values = [row[name] for row in rows]
    middle = format(mean(rows, name), form)
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}} to {max(values):{form}})"


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table, or nothing where it has no line."""
    return table(head, lines) if lines else ""
