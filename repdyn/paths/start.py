"""Starting a store of paths: planned, compared with what is there, put in place in one piece."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repdyn.errors import RepdynError
from repdyn.paths.checks import check_points, storage_dtype
from repdyn.paths.layout import Layout, complete_meta, is_store, rows_per_chunk
from repdyn.paths.zarr_format import group_metadata, write_json, writing_failed

__all__ = [
    "check_place",
    "check_same",
    "create_store",
    "fill_store",
    "move_into_place",
    "plan_layout",
    "scratch_folder",
]

# What may differ between a trace and its continuation: these change how the work is done, not its result.
_MAY_DIFFER = ("versions", "device", "batch_size", "created", "seconds")
# Tokens of a sample are not known beforehand; for the size of chunks this many are assumed.
_TOKENS_ASSUMED = 128


def check_place(folder: Path) -> bool:
    """Whether a store is there; refuse a place where something else is."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not is_store(folder):
        raise RepdynError(f"{folder}: is in the way and is not a store of paths; choose another path")
    return True


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


def check_same(folder: Path, found: Layout, wanted: Layout) -> None:
    """Refuse to continue a store of something else, naming the first difference."""
    pairs = [(key, found.meta.get(key), wanted.meta.get(key)) for key in ("digest", "model")]
    own = ("points", "widths", "tokens", "size", "dtype", "logits_width")
    pairs += [(key, getattr(found, key), getattr(wanted, key)) for key in own]
    others = sorted((found.meta.keys() | wanted.meta.keys()) - set(_MAY_DIFFER))
    pairs += [(key, found.meta.get(key), wanted.meta.get(key)) for key in others]
    for key, there, here in pairs:
        if there != here:
            raise RepdynError(
                f"{folder}: holds another trace, its {key} is {_short(there)} and not {_short(here)}; "
                "choose another path, or start over with resume=False"
            )


def create_store(folder: Path, layout: Layout) -> None:
    """Make an empty store beside its place and move it there, so that there is never half of one."""
    scratch = scratch_folder(folder)
    try:
        fill_store(scratch, layout)
        move_into_place(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def fill_store(folder: Path, layout: Layout) -> None:
    """Write what describes a store into an empty folder."""
    for name, metadata in layout.arrays(None).items():
        write_json(folder / name / "zarr.json", metadata)
    if layout.tokens:
        for place in ("tokens", *(f"tokens/{number}" for number in range(len(layout.tokens)))):
            write_json(folder / place / "zarr.json", group_metadata({}))
    write_json(folder / "zarr.json", group_metadata(layout.to_attributes()))


def scratch_folder(target: Path) -> Path:
    """A new folder beside a place, to be filled and then moved there."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        scratch.chmod(0o755)
    except OSError as error:
        raise writing_failed(target, error) from error
    return scratch


def move_into_place(scratch: Path, target: Path) -> None:
    """Put a finished folder where it belongs; what was there is removed only after that."""
    earlier = scratch.with_name(scratch.name + ".earlier")
    try:
        if target.exists():
            target.rename(earlier)
        scratch.rename(target)
    except OSError as error:
        if earlier.exists() and not target.exists():
            earlier.rename(target)
        raise writing_failed(target, error) from error
    shutil.rmtree(earlier, ignore_errors=True)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
