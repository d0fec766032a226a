"""Starting a store of paths: planned, compared with what is there, put in place in one piece."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from repdyn.errors import RepdynError
from repdyn.paths.checks import check_points, storage_dtype
from repdyn.paths.layout import Layout, is_store, rows_per_chunk
from repdyn.paths.origin import MAY_DIFFER, complete_meta
from repdyn.paths.places import Folder, Place
from repdyn.paths.zarr_format import group_metadata, read_json, write_json

__all__ = ["check_place", "check_same", "create_store", "fill_store", "keep_checksums", "plan_layout"]

# Tokens of a sample are not known beforehand; for the size of chunks this many are assumed.
_TOKENS_ASSUMED = 128


def check_place(place: Place) -> bool:
    """Whether a store is there; refuse a place where something else is."""
    if is_store(place):
        return True
    if place.exists() and not place.is_empty():
        raise RepdynError(f"{place}: is in the way and is not a store of paths; choose another path")
    return False


def plan_layout(
    points: Sequence[str],
    widths: Mapping[str, int],
    size: int,
    meta: Mapping[str, Any],
    dtype: str,
    logits_width: int | None,
    tokens: Iterable[str],
) -> Layout:
    """What a new store will hold; refuses names, widths and sizes that make no paths."""
    names = check_points(points)
    kept = tuple(name for name in names if name in set(tokens))
    strangers = sorted(set(tokens) - set(names))
    if strangers:
        raise RepdynError(f"tokens: {strangers[0]!r} is none of the points {list(names)}")
    for name in names:
        if widths.get(name, 0) < 1:
            raise RepdynError(f"widths: {widths.get(name)} for point {name!r}; expected 1 or more entries")
    if size < 1:
        raise RepdynError(f"size: there are {size} samples; paths need at least one")
    kind = storage_dtype(dtype).name
    known = {name: int(widths[name]) for name in names}
    entries = sum(width * (_TOKENS_ASSUMED if name in kept else 1) for name, width in known.items())
    rows = rows_per_chunk(size, entries * np.dtype(kind).itemsize)
    origin = complete_meta(meta, names, known, kept, kind)
    return Layout(names, known, kept, size, rows, kind, logits_width, origin)


def check_same(place: Place, found: Layout, wanted: Layout) -> None:
    """Refuse to continue a store of something else, naming the first difference."""
    pairs = [(key, found.meta.get(key), wanted.meta.get(key)) for key in ("digest", "model")]
    own = ("points", "widths", "tokens", "size", "dtype", "logits_width")
    pairs += [(key, getattr(found, key), getattr(wanted, key)) for key in own]
    others = sorted((found.meta.keys() | wanted.meta.keys()) - set(MAY_DIFFER))
    pairs += [(key, found.meta.get(key), wanted.meta.get(key)) for key in others]
    for key, there, here in pairs:
        if there != here:
            raise RepdynError(
                f"{place}: holds another trace, its {key} is {_short(there)} and not {_short(here)}; "
                "choose another path, or start over with resume=False (--no-resume)"
            )


def create_store(place: Place, layout: Layout) -> None:
    """Put an empty store in a place, in one piece; an earlier store there is removed."""
    if isinstance(place, Folder):
        scratch = place.scratch()
        try:
            fill_store(scratch, layout)
            place.take_over(scratch)
        finally:
            scratch.remove_below("")
    else:
        # Objects cannot be renamed together: the group's own, by which a store is known, comes last.
        place.remove_below("")
        fill_store(place, layout)


def fill_store(place: Place, layout: Layout) -> None:
    """Write what describes a store into an empty place."""
    for name, metadata in layout.arrays(None).items():
        write_json(place, f"{name}/zarr.json", metadata)
    for name in layout.groups():
        write_json(place, f"{name}/zarr.json", group_metadata({}))
    write_json(place, "zarr.json", group_metadata(layout.to_attributes()))


def keep_checksums(place: Place, layout: Layout) -> None:
    """Make room for checksums in a store that an earlier repdyn began without."""
    if read_json(place, "checksums/zarr.json") is None:
        write_json(place, "checksums/zarr.json", layout.arrays(None)["checksums"])


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
