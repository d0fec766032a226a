"""DATA specifications: ``images:DIR``, ``npz:FILE#X,Y``, ``csv:FILE#TEXT,LABEL``, ``hf:NAME#SPLIT``, …"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError, nearest_names
from repdyn.limits import check_archive, check_pixels, open_gzip, read_parquet
from repdyn.paths.arrays import check_labels
from repdyn.progress import track
from repdyn.tracing.spool import gathered

__all__ = ["Data", "is_data", "read_data"]

_JPEG = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".jp2"}
_NETPBM = {".ppm", ".pgm", ".pbm", ".pnm"}
_CAMERA = {".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"}
PICTURE_SUFFIXES = frozenset(
    {
        ".png",
        ".apng",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".webp",
        ".avif",
        ".tga",
        ".heic",
        ".heif",
        ".jxl",
        ".psd",
        ".exr",
        ".ico",
        ".pcx",
        ".dds",
        *_JPEG,
        *_NETPBM,
        *_CAMERA,
    }
)
"""Suffixes of picture files in a folder. A file that Pillow cannot decode (heic) raises an error."""

_WINDOWS = {code: text for code in range(0x80, 0xA0) if (text := bytes([code]).decode("cp1252", "ignore"))}
"""Characters that Windows-1252 has in place of latin-1's control codes."""


@dataclass(frozen=True, eq=False)
class Data:
    """The samples that a DATA specification names.

    Attributes
    ----------
    inputs
        One entry per sample: strings, pictures (opened on access), or an array of shape ``(N, ...)``.
    labels
        ``(N,)`` integers or strings, or None.
    ids
        ``(N,)`` sample ids from the data, such as relative file paths, or None.
    skipped
        ``{name: reason}`` of the samples that could not be read and were left out by ``skip_bad``.
    """

    inputs: Sequence[Any] | NDArray[Any]
    labels: NDArray[Any] | None
    ids: tuple[str, ...] | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)

    def part(self, limit: int, seed: int) -> Data:
        """A random subset of at most ``limit`` samples, in the original order."""
        size = len(self.inputs)
        if limit >= size:
            return self
        return self.chosen(np.sort(np.random.default_rng(seed).choice(size, limit, replace=False)))

    def chosen(self, chosen: NDArray[np.int64], skipped: Mapping[str, str] | None = None) -> Data:
        """The samples at these indices; ``skipped`` is merged into the samples skipped before."""
        inputs = self.inputs
        if isinstance(inputs, Pictures):
            inputs = Pictures([inputs.files[int(k)] for k in chosen])
        else:
            inputs = inputs[chosen] if isinstance(inputs, np.ndarray) else [inputs[int(k)] for k in chosen]
        labels = None if self.labels is None else self.labels[chosen]
        ids = tuple(str(k) if self.ids is None else self.ids[int(k)] for k in chosen)
        return Data(inputs, labels, ids, {**self.skipped, **(skipped or {})})


def read_data(specification: str, skip_bad: bool = False) -> Data:
    """Read the samples that a DATA specification names.

    Parameters
    ----------
    specification
        ``images:DIR`` (a folder per class, or pictures without one), ``npz:FILE#X,Y``,
        ``csv:FILE#TEXT,LABEL`` (gzip by its ending; commas, semicolons, tabs or bars by its header; UTF-8,
        or UTF-16 with its mark), ``csv-latin1:…`` (the same, in latin-1 or Windows-1252),
        ``jsonl:FILE#TEXT,LABEL`` (``jsonl:-#TEXT`` from stdin), ``parquet:FILE#TEXT,LABEL``,
        ``hf:NAME#SPLIT`` (needs ``pip install datasets``),
        ``digits`` (scikit-learn's) or ``docstrings`` (first paragraphs of the installed packages'
        documentation, labeled by package). Y and LABEL may be left out.
    skip_bad
        Leave out pictures that cannot be read or hold several frames, lines of a CSV with too few or too
        many columns, and rows without a label. ``skipped`` lists them. Every picture is then decoded once
        beforehand.

    Returns
    -------
    Data

    Raises
    ------
    RepdynError
        On an unknown kind, a missing file, array or column, a malformed line, or data without samples.
        A picture that cannot be read raises when it is accessed; the message names the file.
    """
    kind, _, rest = specification.partition(":")
    if kind not in _READERS:
        raise RepdynError(
            f"data {specification!r}: unknown kind {kind!r}; {nearest_names(kind, _READERS)}; "
            "write images:DIR, npz:FILE#X,Y, csv:FILE#TEXT,LABEL, hf:NAME#SPLIT, digits or docstrings"
        )
    if bool(rest) == (kind in _WITHOUT_ADDRESS):
        raise RepdynError(f"data {specification!r}: {kind} takes {'no' if rest else 'an'} address after it")
    try:
        data = _READERS[kind](rest)
    except OSError as error:  # a name that is too long, missing permissions, or a failing disk
        raise RepdynError(f"data {specification!r}: cannot be read ({error.strerror or error})") from None
    if data.skipped and not skip_bad:
        name, reason = next(iter(data.skipped.items()))
        raise RepdynError(f"{name}: {reason}; fix it, or leave such samples out with --skip-bad")
    if skip_bad and isinstance(data.inputs, Pictures):
        data = _without_bad_pictures(data, data.inputs)
    if len(data.inputs) == 0:
        why = f": all {len(data.skipped)} were skipped" if data.skipped else ""
        raise RepdynError(f"data {specification!r}: holds no sample{why}")
    if data.labels is not None and len(data.labels) != len(data.inputs):
        raise RepdynError(
            f"data {specification!r}: {len(data.inputs)} samples but {len(data.labels)} labels; one for each"
        )
    return data


def is_data(specification: str) -> bool:
    """Whether a string is a DATA specification of a kind that :func:`read_data` supports."""
    kind, _, rest = specification.partition(":")
    return kind in _READERS and bool(rest) != (kind in _WITHOUT_ADDRESS)


class Pictures(Sequence[Any]):
    """Pictures that are opened on access, so that a folder of any size fits in memory.

    Every mode is converted to RGB: transparency is dropped, and 16-bit gray becomes 8-bit. The EXIF
    orientation is ignored, as in torchvision and timm.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def sample_digest(self, index: int) -> str:
        """SHA-256 of a picture's file; a continued trace uses it to check that the sample is the same."""
        try:
            with open(self.files[index], "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise RepdynError(f"{self.files[index]}: cannot be read ({error.strerror or error})") from None

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        picture = _open(self.files[index])
        if isinstance(picture, str):
            raise RepdynError(
                f"{self.files[index]}: {picture}; fix it, or leave such pictures out with --skip-bad"
            )
        return picture


def _open(file: Path) -> Any:
    """The file as an RGB picture; if it cannot be used, the reason as a string."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata, which is not used, and of sizes, which check_pixels limits.
            warnings.simplefilter("ignore")
            with Image.open(file) as picture:
                check_pixels(*picture.size)
                # The first frame of a phone's MPO is the picture; the others are a depth map or a preview.
                frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
                return _rgb(picture) if frames == 1 else f"has {frames} frames or pages, expected one"
    except Exception as error:  # decoders raise exceptions of many types on broken files
        return f"is not a readable picture ({_one_line(error).replace(str(file), 'the file')})"


def _rgb(picture: Any) -> Any:
    """Convert a picture of any mode to 8-bit RGB."""
    from PIL import Image

    if picture.mode == "F":
        raise ValueError("it holds floating-point values, whose range is unknown")
    if picture.mode.startswith("I"):
        deep = np.asarray(picture)
        least, most = int(deep.min()), int(deep.max())
        # Pillow gives 16-bit PNG and PGM as 32 bit, too, and those it scales itself.
        own = picture.mode != "I" or picture.format in ("PNG", "PPM")
        if not own and (least < 0 or most > 65535 or most < 256):
            raise ValueError(f"it holds 32-bit integers from {least} to {most}, whose range is unknown")
        deep = np.clip(deep, 0, 65535)  # 65 535 / 257 = 255
        return Image.fromarray((deep // 257).astype(np.uint8)).convert("RGB")
    if "transparency" in picture.info:
        # PIL warns of a palette with transparency that is converted to RGB in one step.
        return picture.convert("RGBA").convert("RGB")
    return picture.convert("RGB")


def _without_bad_pictures(data: Data, pictures: Pictures) -> Data:
    """The data without the pictures that cannot be read, which are added to ``skipped``."""
    # Threads help, because Pillow releases the interpreter's lock while it decodes.
    with ThreadPoolExecutor() as pool:
        checks = pool.map(
            lambda file: result if isinstance(result := _open(file), str) else None, pictures.files
        )
        reasons = list(track(checks, "checking pictures", len(pictures)))
    good = [number for number, reason in enumerate(reasons) if reason is None]
    ids = data.ids or ()
    return Data(
        Pictures([pictures.files[number] for number in good]),
        None if data.labels is None else data.labels[good],
        tuple(ids[number] for number in good),
        {ids[number]: reason for number, reason in enumerate(reasons) if reason is not None},
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _images(address: str) -> Data:
    folder = Path(address)
    if not folder.is_dir():
        raise RepdynError(f"data images:{address}: there is no such folder")
    files = sorted(f for f in _walk(folder) if f.suffix.lower() in PICTURE_SUFFIXES and f.is_file())
    for file in files:
        try:
            str(file).encode()  # the name becomes an id, and stores keep ids in UTF-8
        except UnicodeEncodeError:
            raise RepdynError(f"{str(file)!r}: its name is not valid UTF-8; rename it") from None
    classes = [f.relative_to(folder).parts[0] if f.parent != folder else "" for f in files]
    if any(classes) and not all(classes):
        loose = files[classes.index("")]
        raise RepdynError(f"{loose}: is in no class folder, but others are; put all into folders, or none")
    return Data(
        Pictures(files),
        np.array(classes) if any(classes) else None,
        tuple(str(f.relative_to(folder)) for f in files),
    )


def _walk(folder: Path) -> Iterator[Path]:
    """All files below a folder; links are followed, hidden names skipped, no folder is entered twice.

    The system of Macs adds ``._NAME`` to every file and ``__MACOSX`` to archives; neither holds pictures.
    """
    entered: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        yield from (Path(place) / name for name in files if not name.startswith("."))


def _npz(address: str) -> Data:
    name, columns = _columns(address, "npz:FILE#X,Y")
    path = _file(name, "npz")
    try:
        # Opened here, because NumPy does not close the file of a damaged archive.
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                check_archive(path, file, columns)
            file.seek(0)
            arrays = np.load(file, allow_pickle=False)
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array, not an archive of them")
            for column in columns:
                if column not in arrays:
                    raise RepdynError(f"{path}: has no array {column!r}; {nearest_names(column, arrays)}")
            loaded = [np.asarray(arrays[column]) for column in columns]
    except RepdynError:
        raise
    except Exception as error:  # a damaged archive makes zip, zlib and NumPy fail in many ways
        raise RepdynError(f"{path}: is not a readable npz of plain arrays ({_one_line(error)})") from None
    if loaded[0].ndim == 0 or loaded[0].dtype.kind not in "fiubU":
        raise RepdynError(
            f"{path}: {columns[0]!r} has shape {loaded[0].shape} and dtype {loaded[0].dtype}; "
            "expected numbers or texts, samples first"
        )
    if len(loaded) == 2 and loaded[1].ndim != 1:
        raise RepdynError(f"{path}: {columns[1]!r} has shape {loaded[1].shape}; expected a label per sample")
    inputs = loaded[0].tolist() if loaded[0].dtype.kind == "U" else loaded[0]
    return Data(inputs, loaded[1] if len(loaded) == 2 else None)


def _csv(address: str, form: str = "csv", encoding: str = "utf-8-sig") -> Data:
    name, columns = _columns(address, f"{form}:FILE#TEXT,LABEL")
    path = _file(name, form)
    opened: Callable[..., Any] = open_gzip if path.suffix == ".gz" else open
    rows: list[list[str]] = []
    bad: dict[str, str] = {}
    line = 0
    # Texts may be longer than the default of 131 072 characters. The limit is global: it is restored below.
    limit = csv.field_size_limit(2**31 - 1)
    try:
        with opened(path, "rt", encoding=_unicode(path, opened, encoding), newline="") as lines:
            head = lines.readline()  # read once only: a gzip stream is not rewound
            if head[:4] == "sep=" and len(head.strip()) == 5:  # written by Excel
                head = lines.readline()
            delimiter, spaced = _delimiter(head, columns)
            # Strict, because an unclosed quote would otherwise merge the lines after it into one field.
            reader = csv.DictReader(
                chain([head], lines), delimiter=delimiter, strict=True, skipinitialspace=spaced
            )
            reader.fieldnames = known = [name.strip() for name in reader.fieldnames or []]
            for column in columns:
                if column not in known:
                    raise RepdynError(f"{path}: has no column {column!r}; {nearest_names(column, known)}")
                if known.count(column) > 1:
                    raise RepdynError(f"{path}: has {known.count(column)} columns {column!r}; rename them")
            for row in reader:
                line = reader.line_num
                if None in row or None in row.values():
                    more = "more" if None in row else "fewer"
                    bad[f"{path}: line {reader.line_num}"] = f"has {more} columns than the header"
                elif len(columns) == 2 and not row[columns[1]].strip():
                    bad[f"{path}: line {reader.line_num}"] = f"has no label in {columns[1]!r}"
                else:
                    rows.append([row[column] for column in columns])
    except csv.Error as error:
        raise RepdynError(
            f"{path}: the line that begins after line {line} has a quote that does not end its field "
            f"({_one_line(error)}); double the quotes inside of fields"
        ) from None
    except UnicodeError as error:
        raise RepdynError(
            f"{path}: is not a readable UTF-8 CSV ({_one_line(error)}); write csv-latin1:FILE#TEXT,LABEL "
            "if it is in latin-1"
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise RepdynError(f"{path}: is not a readable UTF-8 CSV ({_one_line(error)})") from None
    finally:
        csv.field_size_limit(limit)
    if form == "csv-latin1":
        rows = [[value.translate(_WINDOWS) for value in row] for row in rows]
    labels = np.array([row[1].strip() for row in rows], dtype=np.str_) if len(columns) == 2 else None
    return Data([row[0] for row in rows], labels, None, bad)


def _unicode(path: Path, opened: Callable[..., Any], encoding: str) -> str:
    """UTF-16 if a file begins with its mark; else the given encoding."""
    with opened(path, "rt", encoding="latin-1", newline="") as file:
        return "utf-16" if file.read(2) in ("\xff\xfe", "\xfe\xff") else encoding


def _delimiter(header: str, columns: Sequence[str]) -> tuple[str, bool]:
    """The first delimiter that splits the header into the wanted columns, and whether spaces follow it."""
    for delimiter in ",;\t|":
        names = next(csv.reader([header], delimiter=delimiter, skipinitialspace=True), [])
        if set(columns) <= {name.strip() for name in names}:
            return delimiter, set(columns) > set(next(csv.reader([header], delimiter=delimiter), []))
    return ",", False


def _jsonl(address: str) -> Data:
    name, columns = _columns(address, "jsonl:FILE#TEXT,LABEL")
    path = Path("stdin") if name == "-" else _file(name, "jsonl")
    opened: Callable[..., Any] = open_gzip if path.suffix == ".gz" else open
    bad: dict[str, str] = {}

    def parsed(lines: Iterable[str]) -> Iterator[list[Any]]:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                yield [record[column] for column in columns]
            except (ValueError, RecursionError):
                bad[f"{path}: line {number}"] = "is not JSON"
            except (KeyError, TypeError, IndexError):
                bad[f"{path}: line {number}"] = f"is not an object with {' and '.join(columns)}"

    try:
        if name == "-":
            return _of_rows(path, parsed(TextIOWrapper(sys.stdin.buffer, "utf-8-sig")), columns, bad)
        with opened(path, "rt", encoding=_unicode(path, opened, "utf-8-sig")) as lines:
            return _of_rows(path, parsed(lines), columns, bad)
    except (UnicodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise RepdynError(f"{path}: is not readable UTF-8 ({_one_line(error)})") from None


def _parquet(address: str) -> Data:
    name, columns = _columns(address, "parquet:FILE#TEXT,LABEL")
    path = _file(name, "parquet")
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise RepdynError("data parquet:…: needs pyarrow: pip install pyarrow") from None
    try:
        schema = parquet.read_schema(path)
        for column in columns:
            if column not in schema.names:
                raise RepdynError(f"{path}: has no column {column!r}; {nearest_names(column, schema.names)}")
            if schema.names.count(column) > 1:
                raise RepdynError(f"{path}: has several columns {column!r}; rename them")
            if schema.field(column).type.num_fields:
                raise RepdynError(
                    f"{path}: column {column!r} holds {schema.field(column).type}, expected texts and "
                    "labels; vectors are read by the verbs that take a store, pictures as images:FOLDER"
                )
        read = read_parquet(path, columns)
    except RepdynError:
        raise
    except Exception as error:  # a damaged file makes Arrow fail in many ways
        raise RepdynError(f"{path}: is not a readable Parquet file ({_one_line(error)})") from None
    return _of_rows(path, [list(row) for row in zip(*read, strict=True)], columns, {})


def _of_rows(path: Path, rows: Iterable[list[Any]], columns: Sequence[str], bad: dict[str, str]) -> Data:
    """Texts and labels of rows; a row whose text is not a string is added to ``bad``."""
    labels: list[Any] = []

    def texts() -> Iterator[str]:
        for number, row in enumerate(rows):
            if not isinstance(row[0], str):
                kind = type(row[0]).__name__
                bad[f"{path}: row {number}"] = f"has a {kind} in {columns[0]!r}, expected a text"
            elif len(columns) == 2 and (row[1] is None or row[1] != row[1]):
                bad[f"{path}: row {number}"] = f"the label {columns[1]!r} of sample {number} is missing"
            else:
                labels.extend(row[1:])
                yield row[0]

    inputs = gathered(texts())
    return Data(inputs, check_labels(labels, len(labels)) if labels else None, None, bad)


def _hub(address: str) -> Data:
    name, _, split = address.partition("#")
    try:
        from datasets import load_dataset
    except ImportError:
        raise RepdynError("data hf:…: needs the datasets library: pip install datasets") from None
    try:
        loaded = load_dataset(name, split=split or "train")
    except Exception as error:  # the library raises exceptions of many types if a data set cannot be loaded
        raise RepdynError(f"data hf:{address}: could not be loaded ({_one_line(error)})") from None
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
    from repdyn.datasets import documentation_corpus

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
    "csv-latin1": partial(_csv, form="csv-latin1", encoding="latin-1"),
    "jsonl": _jsonl,
    "parquet": _parquet,
    "hf": _hub,
    "digits": _digits,
    "docstrings": _docstrings,
}
_WITHOUT_ADDRESS = {"digits", "docstrings"}
