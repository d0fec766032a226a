"""Import of paths from files of vectors: ``.npy``, ``.npz``, Parquet, Arrow, Feather, Lance and safetensors.

An address is a file, ``FILE``, or columns of it, ``FILE#COLUMN`` or ``FILE#COLUMN,COLUMN``: columns of a
table, arrays of an ``.npz``, tensors of a safetensors file. Each column is a point, in the order given.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError, nearest_names
from repdyn.limits import check_archive
from repdyn.paths.arrays import padded
from repdyn.paths.arrow import (
    LANCE,
    TABLES,
    check_memory,
    check_once,
    checked_columns,
    holds_tokens,
    matrix_of,
    open_table,
    strings_of,
    tokens_of,
    vector_columns,
)
from repdyn.paths.paths import LOGITS, RepresentationPaths
from repdyn.reading import as_array

__all__ = [
    "VECTORS",
    "FileOfVectors",
    "file_meta",
    "file_of_vectors",
    "import_paths",
    "special_columns",
    "vector_blocks",
]

VECTORS = "vectors"
"""Name of the point of a file or an array that has none, as ``.npy``."""
_ENDINGS = (".npy", ".npz", ".safetensors", *TABLES)
_ADDRESS = re.compile(rf"(.+?(?:{'|'.join(map(re.escape, _ENDINGS))}))#(.*)", re.IGNORECASE | re.DOTALL)
_IDS, _LABELS = ("id", "ids"), ("label", "labels")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileOfVectors:
    """The file and the columns that an address names.

    Attributes
    ----------
    path
        The file.
    columns
        What follows ``#``; empty where nothing does.
    """

    path: Path
    columns: str = ""

    @property
    def ending(self) -> str:
        """Ending of the file's name, in lower case."""
        return self.path.suffix.lower()

    @property
    def exists(self) -> bool:
        """Whether the file is there; a Lance dataset is a folder."""
        return self.path.is_dir() if self.ending == LANCE else self.path.is_file()

    def chosen(self, known: Iterable[str]) -> list[str] | None:
        """Names of the columns; ``None`` where the address names none."""
        known = list(known)
        if not self.columns:
            return None
        names = [self.columns] if self.columns in known else [n.strip() for n in self.columns.split(",")]
        check_once(names, known, str(self.path))
        for name in names:
            if name not in known:
                raise RepdynError(f"{self.path}: has no column {name!r}; {nearest_names(name, known)}")
        return names


def file_of_vectors(address: str | os.PathLike[str]) -> FileOfVectors | None:
    """The file and columns of an address, or ``None`` if its ending is none of a file of vectors.

    A folder is a store, whatever its name is, but for that of a Lance dataset.
    """
    text = os.fspath(address)
    if "://" in text:
        return None
    path = Path(text)
    named = None if path.suffix.lower() in _ENDINGS and os.path.exists(path) else _ADDRESS.fullmatch(text)
    if named is not None:
        found = FileOfVectors(Path(named[1]), named[2])
        if not found.columns:
            raise RepdynError(f"{text}: names no column after '#'; write FILE#COLUMN, or FILE alone")
    elif path.suffix.lower() in _ENDINGS:
        found = FileOfVectors(path)
    else:
        return None
    if not found.path.is_dir():
        return found
    return found if found.ending == LANCE and (found.path / "_versions").is_dir() else None


def import_paths(
    source: str | os.PathLike[str],
    ids: ArrayLike | str | os.PathLike[str] | None = None,
    labels: ArrayLike | str | os.PathLike[str] | None = None,
) -> RepresentationPaths:
    """Open a file of vectors as paths in memory; every column of vectors is a point.

    Parameters
    ----------
    source
        ``FILE`` or ``FILE#COLUMN,COLUMN``. ``.npy``: a matrix ``(N, D)``, the point ``"vectors"``, read
        through a memory map. ``.npz`` and ``.safetensors``: arrays ``(N, D)`` or ``(N, T, D)``.
        ``.parquet``, ``.arrow`` and ``.feather`` (which need pyarrow) and ``.lance``, the folder of a table
        of LanceDB (pylance): columns of lists of numbers. Without ``#``, all floating-point columns are
        taken. What :func:`export_paths` wrote is read back whole.
    ids, labels
        A column of the same file, the address of a column of another (``"meta.parquet#topic"``,
        ``"labels.npy"``), or ``(N,)`` values. Default: the columns ``id`` or ``ids``, and ``label`` or
        ``labels``, where the file has them.

    Returns
    -------
    RepresentationPaths
        In the floating-point type of the file (float32 for integers).

    Raises
    ------
    RepdynError
        If the file or a column is missing, the file is damaged, a vector is missing or not finite, or
        widths differ. Python objects in ``.npy`` and ``.npz`` are never unpickled.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> import numpy as np
    >>> file = mkdtemp() + "/a.npz"
    >>> np.savez(file, stem=np.zeros((3, 2)), head=np.ones((3, 4)), labels=[0, 1, 1])
    >>> import_paths(file + "#stem,head").labels.tolist()
    [0, 1, 1]
    """
    file = file_of_vectors(source)
    if file is None:
        raise RepdynError(f"{os.fspath(source)}: is none of the files of vectors: {', '.join(_ENDINGS)}")
    if not file.exists:
        raise RepdynError(f"{file.path}: there is no such file")
    names = [value if isinstance(value, str) else None for value in (ids, labels)]
    inside = [None if name is None or file_of_vectors(name) is not None else name for name in names]
    contents = _READERS[file.ending](file, inside[0], inside[1])
    given = {"ids": contents.ids, "labels": contents.labels}
    for key, here in (("ids", inside[0]), ("labels", inside[1])):
        if here is None and given[key] is not None and (why := _unusable(given[key], key)):
            _LOG.warning("%s: the column of %s is left out, %s", file.path, key, why)
            given[key] = None
    for key, value, here in (("ids", ids, inside[0]), ("labels", labels, inside[1])):
        if value is not None and here is None:
            given[key] = _column(value, key) if isinstance(value, str | os.PathLike) else value
    meta = {"data": file.path.name + (f"#{file.columns}" if file.columns else ""), **contents.meta}
    try:
        return RepresentationPaths.from_arrays(
            contents.arrays, given["labels"], given["ids"], contents.logits, meta, contents.masks
        )
    except RepdynError as error:
        raise type(error)(f"{file.path}: {error}") from None


@dataclass
class _Contents:
    """What a file holds, in the terms of ``RepresentationPaths.from_arrays``."""

    arrays: dict[str, Any]
    ids: Any = None
    labels: Any = None
    logits: Any = None
    masks: dict[str, Any] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)


def _npy(file: FileOfVectors, ids: str | None, labels: str | None) -> _Contents:
    for name in (file.columns, ids, labels):
        if name:
            raise RepdynError(f"{file.path}: a .npy file has no column {name!r}; give the file alone")
    return _Contents({VECTORS: load_npy(file.path)})


def load_npy(path: Path) -> NDArray[Any]:
    """The array of a ``.npy`` file, as a memory map."""
    try:
        # Copy on write: torch warns of arrays that it must not write to.
        return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
    except (ValueError, OSError, EOFError) as error:
        raise RepdynError(f"{path}: is not a plain .npy array ({_one_line(error)})") from None


def _npz(file: FileOfVectors, ids: str | None, labels: str | None) -> _Contents:
    try:
        with file.path.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array, not an archive of them")
            known = list(archive)
            chosen = file.chosen(known)
            names = special_columns(known, chosen or [], ids, labels, file.path)
            wanted = known if chosen is None else chosen
            needed = [*dict.fromkeys([*wanted, *(n for n in names if n is not None)])]
            check_archive(file.path, opened, needed)
            loaded = {name: archive[name] for name in needed}
    except RepdynError:
        raise
    except Exception as error:  # a damaged archive makes zip, zlib and NumPy fail in many ways
        raise RepdynError(
            f"{file.path}: is not a readable npz of plain arrays ({_one_line(error)})"
        ) from None
    return _of_arrays(file, loaded, chosen, names)


def _safetensors(file: FileOfVectors, ids: str | None, labels: str | None) -> _Contents:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file.path, framework="pt") as opened:  # NumPy's has no bfloat16
            known = list(opened.keys())
            metadata = opened.metadata() or {}
            chosen = file.chosen(known)
            names = special_columns(known, chosen or [], ids, labels, file.path)
            loaded = {
                name: as_array(opened.get_tensor(name)) for name in known if _wanted(name, chosen, names)
            }
    except (SafetensorError, OSError) as error:
        raise RepdynError(f"{file.path}: is not a readable safetensors file ({_one_line(error)})") from None
    if "repdyn" not in metadata:
        return _of_arrays(file, loaded, chosen, names)
    try:  # what export_paths wrote
        meta = json.loads(metadata["repdyn"])
        classes = json.loads(metadata["classes"]) if "classes" in metadata else None
        own_ids = json.loads(loaded.pop("ids").tobytes()) if "ids" in loaded else None
        points = [str(point) for point in meta["points"]] if chosen is None else chosen
    except (ValueError, TypeError, KeyError) as error:
        raise RepdynError(
            f"{file.path}: its metadata are damaged ({_one_line(error)}); export again"
        ) from None
    own_labels = loaded.pop("labels", None)
    if classes is not None and own_labels is not None:
        own_labels = np.asarray(classes)[own_labels]
    arrays, masks = {}, {}
    for point in points:
        lengths = loaded.get(f"{point}.lengths")
        arrays[point] = loaded[point]
        if lengths is not None:
            arrays[point], masks[point] = padded(np.split(loaded[point], np.cumsum(lengths)[:-1]))
    return _Contents(arrays, own_ids, own_labels, loaded.get(LOGITS), masks, meta)


def _wanted(name: str, chosen: Sequence[str] | None, names: Sequence[str | None]) -> bool:
    return chosen is None or name in chosen or name in names or name.removesuffix(".lengths") in chosen


def _of_arrays(
    file: FileOfVectors,
    loaded: Mapping[str, NDArray[Any]],
    chosen: Sequence[str] | None,
    names: tuple[str | None, str | None],
) -> _Contents:
    """Contents of named arrays; without a choice, all that are of floats and have two or three axes."""
    own_ids, own_labels = (None if name is None else loaded[name] for name in names)
    if chosen is None:
        chosen = [
            name for name, x in loaded.items() if name not in names and x.ndim in (2, 3) and _is_float(x)
        ]
    if not chosen:
        shapes = ", ".join(f"{name} {x.shape}" for name, x in list(loaded.items())[:5])
        raise RepdynError(
            f"{file.path}: has no array of floats (N, D), only {shapes or 'nothing'}; name one as FILE#NAME"
        )
    return _Contents({name: loaded[name] for name in chosen}, own_ids, own_labels)


def _is_float(x: NDArray[Any]) -> bool:
    return x.dtype.kind == "f"


def _table(file: FileOfVectors, ids: str | None, labels: str | None) -> _Contents:
    with open_table(file.path) as table:
        schema = table.schema
        found = vector_columns(schema)
        chosen = file.chosen(schema.names)
        meta, stored = _own_meta(schema, file.path)
        if chosen is None:
            chosen = [name for name in found if not (stored and name == LOGITS)]
            if not chosen:
                kinds = ", ".join(f"{f.name} {f.type}" for f in list(schema)[:5])
                raise RepdynError(f"{file.path}: has no column of vectors, only {kinds}")
        logits = [LOGITS] if stored and LOGITS in found and LOGITS not in chosen else []
        names = special_columns(schema.names, chosen, ids, labels, file.path)
        others = [name for name in names if name is not None]
        columns: dict[str, list[Any]] = {name: [] for name in [*chosen, *logits]}
        small, done = [], 0
        for batch in table.batches(checked_columns(schema, [*columns, *others], str(file.path))):
            for name, parts in columns.items():
                if holds_tokens(schema, name):
                    parts.extend(tokens_of(batch.column(name), name, str(file.path), done))
                    continue
                part = matrix_of(batch.column(name), name, str(file.path), done)
                if not parts:
                    check_memory(table, part.shape[1], part.itemsize)
                    parts.append(np.empty((table.size, part.shape[1]), part.dtype))
                if part.shape[1] != parts[0].shape[1]:
                    raise RepdynError(
                        f"{file.path}: the widths of {name!r} differ: row {done} has {part.shape[1]}, row 0 "
                        f"has {parts[0].shape[1]}; give vectors of one width"
                    )
                parts[0][done : done + len(part)] = part
            small.append(batch.select(others))
            done += batch.num_rows
    if not done:
        raise RepdynError(f"{file.path}: has no rows")
    arrays, masks = {}, {}
    for name, parts in columns.items():
        arrays[name] = parts[0]
        if holds_tokens(schema, name):
            arrays[name], masks[name] = padded(parts)
    own = [
        None if name is None else [v for batch in small for v in batch.column(name).to_pylist()]
        for name in names
    ]
    for given, values in zip((ids, labels), own):
        if given is not None and values is not None and None in values:
            raise RepdynError(
                f"{file.path}: row {values.index(None)} of {given!r} is missing; fill it, or drop the row"
            )
    outputs = arrays.pop(LOGITS) if logits else None
    return _Contents(arrays, own[0], own[1], outputs, masks, meta)


def _own_meta(schema: Any, path: Path) -> tuple[dict[str, Any], bool]:
    """The provenance that an export wrote, and whether there is one."""
    text = (schema.metadata or {}).get(b"repdyn")
    if text is None:
        return {}, False
    try:
        return dict(json.loads(text)), True
    except (ValueError, TypeError):
        raise RepdynError(f"{path}: its metadata 'repdyn' are not JSON; export the paths again") from None


def special_columns(
    known: Sequence[str], chosen: Sequence[str], ids: str | None, labels: str | None, path: Path
) -> tuple[str | None, str | None]:
    """Names of the columns of ids and of labels: those given, or those that are called so."""
    found = []
    for given, usual in ((ids, _IDS), (labels, _LABELS)):
        if given is not None and given not in known:
            raise RepdynError(f"{path}: has no column {given!r}; {nearest_names(given, known)}")
        found.append(given or next((name for name in usual if name in known and name not in chosen), None))
    return found[0], found[1]


def _unusable(values: Any, what: str) -> str | None:
    """Why a column that only its name makes one of ids or labels cannot be used; ``None`` if it can."""
    missing = sum(value is None or value != value for value in np.asarray(values).tolist())
    if missing:
        return f"because {missing} of {len(values)} are missing"
    kinds = {type(value) for value in np.asarray(values).ravel().tolist()}
    if what == "labels" and not kinds <= {int, str, bool}:
        return (
            f"because they are {', '.join(sorted(kind.__name__ for kind in kinds))}, not integers or strings"
        )
    return None


def _column(address: str | os.PathLike[str], what: str) -> Any:
    """Values ``(N,)`` of one column of a file, for ids or labels."""
    file = file_of_vectors(address)
    if file is None or not file.exists:
        raise RepdynError(f"{what} {os.fspath(address)!r}: there is no such column or file")
    if file.ending in TABLES:
        with open_table(file.path) as table:
            names = file.chosen(table.schema.names) or []
            if len(names) != 1:
                raise RepdynError(f"{what} {os.fspath(address)!r}: name one column, as FILE#COLUMN")
            return strings_of(list(table.batches(names)), names[0], str(file.path))
    if file.ending == ".npy":
        return load_npy(file.path)
    contents = _READERS[file.ending](file, None, None)
    return next(iter(contents.arrays.values()))


def vector_blocks(
    source: FileOfVectors, rows: int
) -> Iterator[tuple[NDArray[np.str_], dict[str, NDArray[Any]]]]:
    """Ids and ``{point: (n, D)}`` of consecutive rows, without a check of finite values.

    For streams: a table of any size is read batch by batch.
    """
    if source.ending not in TABLES:
        contents = _READERS[source.ending](source, None, None)
        size = len(next(iter(contents.arrays.values())))
        ids = np.arange(size).astype(np.str_) if contents.ids is None else np.asarray(contents.ids, np.str_)
        for start in range(0, size, rows):
            part = slice(start, start + rows)
            yield ids[part], {name: as_array(x[part]) for name, x in contents.arrays.items()}
        return
    with open_table(source.path) as table:
        names = source.chosen(table.schema.names) or vector_columns(table.schema)
        key, _ = special_columns(table.schema.names, names, None, None, source.path)
        if not names:
            raise RepdynError(
                f"{source.path}: has no column of vectors; name a column of texts as "
                f"{source.path.name}#COLUMN"
            )
        done = 0
        for batch in table.batches([*names, *([key] if key else [])], rows):
            found = {name: matrix_of(batch.column(name), name, str(source.path), done) for name in names}
            own = batch.column(key).to_pylist() if key else range(done, done + batch.num_rows)
            done += batch.num_rows
            yield np.array([str(one) for one in own], np.str_), found


def file_meta(source: FileOfVectors) -> tuple[dict[str, Any], bool]:
    """The provenance that an export wrote into a table, and whether there is one."""
    if source.ending not in TABLES:
        return {}, False
    with open_table(source.path) as table:
        return _own_meta(table.schema, source.path)


def holds_vectors(source: FileOfVectors) -> bool:
    """Whether the columns that the address names hold vectors; true where it names none."""
    if not source.exists:
        return not source.columns
    if source.ending not in TABLES or not source.columns:
        return True
    with open_table(source.path) as table:
        names = source.chosen(table.schema.names) or []
        return all("list" in str(table.schema.field(name).type) for name in names)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


_READERS: dict[str, Callable[[FileOfVectors, str | None, str | None], _Contents]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".safetensors": _safetensors,
    **dict.fromkeys(TABLES, _table),
}
