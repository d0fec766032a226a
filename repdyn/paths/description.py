"""Paths in words, on one screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from repdyn.paths.paths import RepresentationPaths

__all__ = ["as_dict", "one_screen"]

_POINTS_SHOWN = 14
# Digests and lists of files are long: their beginning tells them apart.
_ORIGIN_SHOWN = 40


def as_dict(paths: RepresentationPaths) -> dict[str, Any]:
    """What paths hold, without the numbers."""
    labels, logits = paths.labels, paths.logits_column
    return {
        "path": None if paths.path is None else str(paths.path),
        "size": len(paths),
        "points": list(paths.points),
        "widths": paths.widths,
        "dtype": paths.dtype.name,
        "tokens": list(paths.tokens),
        "classes": None if labels is None else len(np.unique(labels)),
        "logits_width": None if logits is None else logits.width,
        "meta": dict(paths.meta),
    }


def one_screen(known: Mapping[str, Any]) -> str:
    """Describe paths from what :meth:`RepresentationPaths.to_dict` tells of them."""
    where = "in memory" if known["path"] is None else f"in {known['path']}"
    origin = [_short(str(known["meta"][key])) for key in ("model", "data") if known["meta"].get(key)]
    tokens = set(known["tokens"])
    shown = [f"{p} {width}{' (tokens)' if p in tokens else ''}" for p, width in known["widths"].items()]
    if len(shown) > _POINTS_SHOWN:
        shown = [*shown[: _POINTS_SHOWN - 1], f"… {len(shown) - _POINTS_SHOWN} more …", shown[-1]]
    count = len(known["points"])
    lines = [f"RepresentationPaths: {known['size']} samples at {count} points, {known['dtype']}, {where}"]
    if origin:
        lines.append(f"  from    {' on '.join(origin)}")
    lines.append(f"  points  {', '.join(shown)}")
    lines.append(f"  labels  {'none' if known['classes'] is None else str(known['classes']) + ' classes'}")
    lines.append(f"  logits  {known['logits_width'] or 'none'}")
    return "\n".join(lines)


def _short(text: str) -> str:
    return text if len(text) <= _ORIGIN_SHOWN else text[: _ORIGIN_SHOWN - 1] + "…"
