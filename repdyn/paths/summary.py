"""Summary of representation paths, as text for a terminal and as HTML for a notebook."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from repdyn.paths.columns import TokenColumn, VectorColumn

__all__ = ["summary_html", "summary_text"]

_POINTS_SHOWN = 14  # of deep models, the first ones and the last
_ORIGIN_SHOWN = 40  # characters of an entry: digests and lists of files are long
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def summary_text(known: Mapping[str, Any]) -> str:
    """Summary of paths from the values of :meth:`RepresentationPaths.to_dict`, on one screen."""
    tokens = set(known["tokens"])
    shown = [f"{p} {width}{' (tokens)' if p in tokens else ''}" for p, width in known["widths"].items()]
    if len(shown) > _POINTS_SHOWN:
        shown = [*shown[: _POINTS_SHOWN - 1], f"… {len(shown) - _POINTS_SHOWN} more …", shown[-1]]
    lines = [f"RepresentationPaths: {_head(known)}"]
    if origin := _origin(known):
        lines.append(f"  from    {origin}")
    lines.append(f"  points  {', '.join(shown)}")
    lines.append(f"  labels  {'none' if known['classes'] is None else str(known['classes']) + ' classes'}")
    lines.append(f"  logits  {known['logits_width'] or 'none'}")
    return "\n".join(lines)


def summary_html(
    known: Mapping[str, Any], columns: Mapping[str, VectorColumn | TokenColumn], labels: str | None
) -> str:
    """The same for a notebook: a row for each point, with its shape, type and bytes.

    Parameters
    ----------
    known
        Values of :meth:`RepresentationPaths.to_dict`.
    columns
        Column of each point. No representation is read.
    labels
        Type of the labels, or ``None``.
    """
    rows, total = [], 0
    for point, column in columns.items():
        shape, size = _extent(column)
        total += size
        rows.append((point, shape, column.dtype.name, _in_bytes(size)))
    more = len(rows) - _POINTS_SHOWN
    if more > 0:
        rows = [*rows[: _POINTS_SHOWN - 1], (f"… {more} more …", "", "", ""), rows[-1]]
    classes = "none" if known["classes"] is None else f"{known['classes']} classes, {labels}"
    facts = [
        ("from", _origin(known)),
        ("labels", classes),
        ("logits", str(known["logits_width"] or "none")),
        ("size of all points", _in_bytes(total)),
    ]
    table = _row(("point", "shape", "dtype", "bytes"), "th") + "".join(_row(row, "td") for row in rows)
    told = "".join(f"<br>{name}: {html.escape(text)}" for name, text in facts if text)
    return f"<p><b>RepresentationPaths</b>: {html.escape(_head(known))}{told}</p><table>{table}</table>"


def _row(cells: Sequence[str], kind: str) -> str:
    return (
        "<tr>"
        + "".join(f"<{kind} style='text-align:left'>{html.escape(x)}</{kind}>" for x in cells)
        + "</tr>"
    )


def _head(known: Mapping[str, Any]) -> str:
    where = "in memory" if known["path"] is None else f"in {known['path']}"
    return f"{known['size']} samples at {len(known['points'])} points, {known['dtype']}, {where}"


def _origin(known: Mapping[str, Any]) -> str:
    """Model and data, the beginning of each; empty where neither is known."""
    return " on ".join(_short(str(known["meta"][key])) for key in ("model", "data") if known["meta"].get(key))


def _extent(column: VectorColumn | TokenColumn) -> tuple[str, int]:
    """Shape as text, and bytes of the values without padding."""
    if isinstance(column, TokenColumn):
        samples, longest, width = column.shape
        tokens = int(column.shown_lengths().sum())
        text = f"({samples}, ≤ {longest} tokens, {width})"
        return text, tokens * width * column.dtype.itemsize
    samples, width = column.shape
    return f"({samples}, {width})", samples * width * column.dtype.itemsize


def _in_bytes(size: int) -> str:
    """A number of bytes in the largest binary unit of which it has at least one."""
    unit = max(k for k in range(len(_UNITS)) if k == 0 or size >= 1024**k)
    return f"{size} B" if unit == 0 else f"{size / 1024**unit:.1f} {_UNITS[unit]}"


def _short(text: str) -> str:
    """The beginning of a long text."""
    return text if len(text) <= _ORIGIN_SHOWN else text[: _ORIGIN_SHOWN - 1] + "…"
