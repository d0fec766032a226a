"""Paths of what other libraries write as folders of activations.

=====================================  ====================================================================
written by                             what is read
=====================================  ====================================================================
``datasets``, ``save_to_disk``         columns of vectors, ids and labels; ``Array2D`` columns keep tokens
SAELens, ``CacheActivationsRunner``    such folders, ``shard_0``, ``shard_1``, …; one point per hook
THINGSvision, ``extract_features``     ``MODULE/features*.npy`` and ``file_names.txt``; one point per module
vLLM, ``ExampleHiddenStatesConnector`` a safetensors file per request; one point per layer, tokens are kept
hs-connectors, FP8 of the same         their scales are applied, in float32
=====================================  ====================================================================

Nothing is unpickled, and none of these libraries is imported.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError, nearest_names
from repdyn.paths.arrays import padded
from repdyn.paths.arrow import arrow, check_once, matrix_of, open_table, tokens_of, vector_columns
from repdyn.provenance import without_folders
from repdyn.reading import as_array

__all__ = ["parts_of_dataset"]

Parts = dict[str, Any]
"""Arguments of :meth:`RepresentationPaths.from_arrays`."""

_NUMBERS = re.compile(r"\d+")


def parts_of_dataset(source: Any, points: Sequence[str] | None, ids: str | None, labels: str | None) -> Parts:
    """Arguments of :meth:`RepresentationPaths.from_arrays` for a data set.

    Parameters
    ----------
    source
        A folder, or a ``datasets.Dataset``.
    points, ids, labels
        As in :meth:`RepresentationPaths.from_dataset`.
    """
    if not isinstance(source, str | os.PathLike):
        return _of_object(source, points, ids, labels)
    folder = Path(source)
    if not folder.is_dir():
        raise RepdynError(
            f"{folder}: there is no such folder; from_dataset reads folders and datasets.Dataset"
        )
    readers: tuple[Callable[[Path], Parts | None], ...] = (
        lambda found: _saved(found, points, ids, labels),
        lambda found: _thingsvision(found, points),
        lambda found: _vllm(found, points),
    )
    for read in readers:
        parts = read(folder)
        if parts is not None:
            return {**parts, "meta": {"data": without_folders(str(folder))}}
    raise RepdynError(
        f"{folder}: is no folder of `datasets` (state.json), of SAELens (shard_0), of THINGSvision "
        "(features*.npy) or of vLLM (*.safetensors); open a store with open_paths"
    )


def _of_object(dataset: Any, points: Sequence[str] | None, ids: str | None, labels: str | None) -> Parts:
    """Of a ``datasets.Dataset`` in memory."""
    if not hasattr(dataset, "with_format"):
        kind = type(dataset).__name__
        raise RepdynError(f"from_dataset: is a {kind}, expected a folder or a datasets.Dataset")
    table = dataset.with_format("arrow")[:]
    if not hasattr(table, "schema"):
        raise RepdynError("from_dataset: is a DatasetDict or streamed; give one split, dataset['train']")
    return _of_batches(table.combine_chunks().to_batches(), table.schema, "from_dataset", points, ids, labels)


def _saved(folder: Path, points: Sequence[str] | None, ids: str | None, labels: str | None) -> Parts | None:
    """A folder of ``save_to_disk``, or folders ``shard_0``, ``shard_1``, … of SAELens."""
    if (folder / "dataset_dict.json").is_file():
        splits = ", ".join(sorted(inner.name for inner in folder.iterdir() if inner.is_dir()))
        raise RepdynError(f"{folder}: holds several splits; give the folder of one of them: {splits}")
    shards = [folder]
    if not (folder / "state.json").is_file():
        shards = [state.parent for state in _numbered(folder.glob("shard_*/state.json"))]
    if not shards:
        return None
    batches: list[Any] = []
    schema: Any = None
    for shard in shards:
        for file in _data_files(shard):
            with open_table(file) as table:
                if schema is not None and table.schema.names != schema.names:
                    raise RepdynError(
                        f"{file}: has the columns {table.schema.names}, the files before it {schema.names}"
                    )
                schema = table.schema
                # Arrow keeps the memory map as long as a batch refers to it.
                batches += list(table.batches(table.schema.names)) if table.size else []
    if schema is None:
        raise RepdynError(f"{folder}: names no data file in state.json; save the data set again")
    return _of_batches(batches, schema, str(folder), points, ids, labels)


def _data_files(shard: Path) -> list[Path]:
    """The Arrow files that a saved data set consists of, in order."""
    try:
        state = json.loads((shard / "state.json").read_text())
        names = [str(entry["filename"]) for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RepdynError(f"{shard / 'state.json'}: is damaged ({error}); save the data set again") from None
    if any(Path(name).name != name for name in names):
        raise RepdynError(f"{shard / 'state.json'}: names files outside of the folder; they are not read")
    return [shard / name for name in names]


def _of_batches(
    batches: Sequence[Any],
    schema: Any,
    where: str,
    points: Sequence[str] | None,
    ids: str | None,
    labels: str | None,
) -> Parts:
    """Vectors and tokens, ids and labels of record batches."""
    pa = arrow(where)
    plain = pa.schema([_plain_field(pa, field) for field in schema])
    known = plain.names
    chosen = vector_columns(plain) if points is None else list(points)
    for name in [*chosen, *(one for one in (ids, labels) if one is not None)]:
        if name not in known:
            raise RepdynError(f"{where}: has no column {name!r}; {nearest_names(name, known)}")
    if not chosen:
        kinds = ", ".join(f"{field.name} {field.type}" for field in list(plain)[:5])
        raise RepdynError(f"{where}: has no column of vectors, only {kinds or 'nothing'}")
    check_once(chosen, known, where)
    arrays: dict[str, NDArray[Any]] = {}
    masks: dict[str, NDArray[np.bool_]] = {}
    for name in chosen:
        tokens = _is_list(pa, plain.field(name).type) and _is_list(pa, plain.field(name).type.value_type)
        parts: list[NDArray[Any]] = []
        start = 0
        for batch in batches:
            column = batch.column(batch.schema.get_field_index(name))
            column = column.storage if isinstance(column, pa.ExtensionArray) else column
            parts += (
                tokens_of(column, name, where, start) if tokens else [matrix_of(column, name, where, start)]
            )
            start += batch.num_rows
        if not parts:
            raise RepdynError(f"{where}: holds no row")
        if tokens:
            arrays[name], masks[name] = padded(parts)
        else:
            arrays[name] = np.concatenate(parts)
    usual = [
        given or next((name for name in names if name in known and name not in chosen), None)
        for given, names in ((ids, ("id", "ids")), (labels, ("label", "labels")))
    ]
    values = [
        None
        if name is None
        else [
            one for batch in batches for one in batch.column(batch.schema.get_field_index(name)).to_pylist()
        ]
        for name in usual
    ]
    if ids is None and None in (values[0] or ()):
        values[0] = None
    if labels is None and not all(isinstance(one, int | str) for one in values[1] or ()):
        values[1] = None  # scores, say: a column of that name which holds no labels
    return {"arrays": arrays, "masks": masks, "ids": values[0], "labels": values[1]}


def _plain_field(pa: Any, field: Any) -> Any:
    """A field with the storage type of an extension type: ``Array2D`` where ``datasets`` is imported."""
    kind = field.type
    return pa.field(field.name, kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind)


def _is_list(pa: Any, kind: Any) -> bool:
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _thingsvision(folder: Path, points: Sequence[str] | None) -> Parts | None:
    """``features*.npy`` of one module, or a folder of them for each module."""
    named = {inner.name: inner for inner in sorted(folder.iterdir()) if any(inner.glob("features*.npy"))}
    if any(folder.glob("features*.npy")):
        named = {folder.name: folder}
    if not named:
        if any(folder.rglob("features*.pt")):
            raise RepdynError(f"{folder}: holds pickled features (.pt), which are not read; save them as npy")
        return None
    names = list(named) if points is None else list(points)
    for name in names:
        if name not in named:
            raise RepdynError(f"{folder}: has no module {name!r}; {nearest_names(name, named)}")
    arrays = {}
    for name in names:
        files = _numbered(named[name].glob("features*.npy"))
        if len(files) > 1 and any(file.name == "features.npy" for file in files):
            files = [file for file in files if file.name == "features.npy"]  # the parts were joined in it
        try:
            parts = [np.load(file, allow_pickle=False) for file in files]
            arrays[name] = np.concatenate(parts)
        except (OSError, ValueError, EOFError) as error:
            text = " ".join(str(error).split())
            raise RepdynError(f"{named[name]}: its features cannot be read ({text})") from None
        if arrays[name].ndim > 3:
            raise RepdynError(
                f"{named[name]}: features have shape {arrays[name].shape}; extract with flatten_acts=True"
            )
    ids = _file_names(folder, len(arrays[names[0]]))
    return {"arrays": arrays, "ids": ids}


def _file_names(folder: Path, size: int) -> list[str] | None:
    """Ids of ``file_names.txt``, in the folder or beside it."""
    for place in (folder / "file_names.txt", folder.parent / "file_names.txt"):
        if place.is_file():
            lines = place.read_text(encoding="utf-8").splitlines()
            if len(lines) != size:
                raise RepdynError(
                    f"{place}: names {len(lines)} files for {size} samples; correct it, or remove it"
                )
            return lines
    return None


def _vllm(folder: Path, points: Sequence[str] | None) -> Parts | None:
    """A file per request with ``hidden_states`` ``(T, L, D)`` and ``token_ids`` ``(T,)``."""
    from safetensors import SafetensorError, safe_open

    files = _numbered(folder.glob("*.safetensors"))
    if not files:
        return None
    tokens: list[list[NDArray[Any]]] = []
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:  # NumPy's has no bfloat16
                held = list(opened.keys())
                if "hidden_states" not in held:
                    raise RepdynError(f"{file}: has no tensor 'hidden_states'; is it written by vLLM?")
                states = as_array(opened.get_tensor("hidden_states"))
                if "hidden_states_scales" in held:  # of hs-connectors: float8, one scale for each token
                    states = _rescaled(states, as_array(opened.get_tensor("hidden_states_scales")), file)
                count = len(opened.get_tensor("token_ids")) if "token_ids" in held else len(states)
        except (SafetensorError, OSError) as error:
            text = " ".join(str(error).split())
            raise RepdynError(
                f"{file}: is not a whole safetensors file ({text}); is it being written?"
            ) from None
        if states.ndim == 2:
            states = states[:, None]
        if states.ndim != 3 or not states.size or count != len(states):
            raise RepdynError(
                f"{file}: hidden_states have shape {states.shape} for {count} tokens; expected "
                "(tokens, layers, D)"
            )
        if tokens and (states.shape[1], states.shape[2]) != (len(tokens), tokens[0][0].shape[1]):
            raise RepdynError(
                f"{file}: has {states.shape[1]} layers of width {states.shape[2]}, {files[0].name} has "
                f"{len(tokens)} of {tokens[0][0].shape[1]}; read the requests of one model at a time"
            )
        tokens = tokens or [[] for _ in range(states.shape[1])]
        for layer, own in enumerate(tokens):
            own.append(states[:, layer])
    names = [f"hidden_states.{k}" for k in range(len(tokens))] if points is None else list(points)
    if len(names) != len(tokens):
        raise RepdynError(f"points: {len(names)} names for the {len(tokens)} layers that {folder} holds")
    filled = {name: padded(own) for name, own in zip(names, tokens)}
    return {
        "arrays": {name: array for name, (array, _) in filled.items()},
        "masks": {name: mask for name, (_, mask) in filled.items()},
        "ids": [file.stem for file in files],
    }


def _rescaled(states: NDArray[Any], scales: NDArray[Any], file: Path) -> NDArray[np.float32]:
    """float8 states ``(T, L, D)`` times their scales ``(T, 1, 1)``."""
    if scales.size != len(states):
        raise RepdynError(f"{file}: has {scales.size} scales for {len(states)} tokens; read it again later")
    shape = (-1, *[1] * (states.ndim - 1))
    return states.astype(np.float32) * scales.astype(np.float32).reshape(shape)


def _numbered(files: Any) -> list[Path]:
    """Files in the order of the numbers in their names: ``shard_2`` before ``shard_10``."""

    def place(file: Path) -> tuple[list[int], Path]:
        return [int(number) for number in _NUMBERS.findall(f"{file.parent.name} {file.name}")], file

    return sorted(files, key=place)
