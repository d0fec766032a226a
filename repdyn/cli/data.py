"""DATA specifications: ``images:DIR``, ``npz:FILE#X,Y``, ``csv:FILE#TEXT,LABEL``, ``hf:NAME#SPLIT``, …"""

from __future__ import annotations

import csv
import gzip
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError, nearest_names

__all__ = ["Data", "read_data"]

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True, eq=False)
class Data:
    """What a specification led to.

    Attributes
    ----------
    inputs
        One entry a sample: strings, pictures (opened when read), or an array whose first axis is the sample.
    labels
        ``(N,)`` integers or strings, or None.
    ids
        ``(N,)`` names that a user recognises, or None.
    """

    inputs: Sequence[Any] | NDArray[Any]
    labels: NDArray[Any] | None
    ids: tuple[str, ...] | None = None


def read_data(specification: str) -> Data:
    """Read what a DATA specification names.

    Parameters
    ----------
    specification
        ``images:DIR`` (a folder per class, or pictures without one), ``npz:FILE#X,Y``,
        ``csv:FILE#TEXT,LABEL`` (gzip by its ending), ``hf:NAME#SPLIT`` (needs ``pip install datasets``),
        ``digits`` (scikit-learn's) or ``docstrings`` (first paragraphs of the installed packages'
        documentation, labelled by package). Y and LABEL may be left out.

    Returns
    -------
    Data

    Raises
    ------
    RepdynError
        On an unknown kind, a missing file, array or column, or no sample at all.
    """
    kind, _, rest = specification.partition(":")
    if kind not in _READERS:
        raise RepdynError(
            f"data {specification!r}: unknown kind {kind!r}; {nearest_names(kind, _READERS)}; "
            "write images:DIR, npz:FILE#X,Y, csv:FILE#TEXT,LABEL, hf:NAME#SPLIT, digits or docstrings"
        )
    if bool(rest) == (kind in _WITHOUT_ADDRESS):
        raise RepdynError(f"data {specification!r}: {kind} takes {'no' if rest else 'an'} address after it")
    data = _READERS[kind](rest)
    if len(data.inputs) == 0:
        raise RepdynError(f"data {specification!r}: holds no sample")
    if data.labels is not None and len(data.labels) != len(data.inputs):
        raise RepdynError(
            f"data {specification!r}: {len(data.inputs)} samples but {len(data.labels)} labels; one for each"
        )
    return data


class _Pictures(Sequence[Any]):
    """Pictures opened one by one when they are read, so that a folder of any size fits in memory."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(self.files[index]) as picture:
                return picture.convert("RGB")
        except (UnidentifiedImageError, OSError) as error:
            raise RepdynError(f"{self.files[index]}: is not a readable picture ({error})") from None


def _images(address: str) -> Data:
    folder = Path(address)
    if not folder.is_dir():
        raise RepdynError(f"data images:{address}: there is no such folder")
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in PICTURE_SUFFIXES and f.is_file())
    classes = [f.relative_to(folder).parts[0] if f.parent != folder else "" for f in files]
    return Data(
        _Pictures(files),
        np.array(classes) if any(classes) else None,
        tuple(str(f.relative_to(folder)) for f in files),
    )


def _npz(address: str) -> Data:
    name, columns = _columns(address, "npz:FILE#X,Y")
    path = _file(name, "npz")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for column in columns:
                if column not in arrays:
                    raise RepdynError(f"{path}: has no array {column!r}; {nearest_names(column, arrays)}")
            loaded = [np.asarray(arrays[column]) for column in columns]
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        if isinstance(error, RepdynError):
            raise
        raise RepdynError(f"{path}: is not a readable npz of plain arrays ({error})") from None
    return Data(loaded[0], loaded[1] if len(loaded) == 2 else None)


def _csv(address: str) -> Data:
    name, columns = _columns(address, "csv:FILE#TEXT,LABEL")
    path = _file(name, "csv")
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines)
            known = reader.fieldnames or []
            for column in columns:
                if column not in known:
                    raise RepdynError(f"{path}: has no column {column!r}; {nearest_names(column, known)}")
            rows = [[row[column] for column in columns] for row in reader]
    except (UnicodeDecodeError, csv.Error, gzip.BadGzipFile, EOFError) as error:
        raise RepdynError(f"{path}: is not a readable UTF-8 CSV ({error})") from None
    for number, row in enumerate(rows, 2):
        if None in row:
            raise RepdynError(f"{path}: line {number} has fewer columns than the header")
    return Data([row[0] for row in rows], np.array([row[1] for row in rows]) if len(columns) == 2 else None)


def _hub(address: str) -> Data:
    name, _, split = address.partition("#")
    try:
        from datasets import load_dataset
    except ImportError:
        raise RepdynError("data hf:…: needs the datasets library: pip install datasets") from None
    try:
        loaded = load_dataset(name, split=split or "train")
    except Exception as error:  # the library raises many kinds for one meaning: it is not to be had
        raise RepdynError(f"data hf:{address}: could not be loaded ({error})") from None
    label = next((c for c in ("label", "labels", "fine_label") if c in loaded.column_names), None)
    known = [c for c in ("text", "sentence", "image", "img") if c in loaded.column_names]
    if not known:
        raise RepdynError(f"data hf:{address}: has no column text, sentence, image or img")
    return Data(loaded[known[0]], None if label is None else np.asarray(loaded[label]))


def _digits(address: str) -> Data:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return Data((bunch.images / 16).astype(np.float32)[:, None], bunch.target)


def _docstrings(address: str) -> Data:
    from repdyn.cli.corpus import documentation_corpus

    corpus = documentation_corpus()
    return Data(list(corpus.texts), corpus.labels)


def _columns(address: str, form: str) -> tuple[str, list[str]]:
    name, _, names = address.rpartition("#")
    columns = [column.strip() for column in names.split(",")]
    if not name or not all(columns) or len(columns) > 2:
        raise RepdynError(f"data {address!r}: name one or two columns after '#', as in {form}")
    return name, columns


def _file(name: str, kind: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise RepdynError(f"data {kind}:{name}: there is no such file")
    return path


_READERS: dict[str, Callable[[str], Data]] = {
    "images": _images,
    "npz": _npz,
    "csv": _csv,
    "hf": _hub,
    "digits": _digits,
    "docstrings": _docstrings,
}
_WITHOUT_ADDRESS = {"digits", "docstrings"}
