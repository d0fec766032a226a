"""The samples of a trace: any sequence or data set, with checked labels and ids, and their batches."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import tee
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    default_collate,
    default_convert,
)

from repdyn.errors import RepdynError
from repdyn.paths.arrays import check_labels
from repdyn.reading import as_array
from repdyn.repeats import renumbered
from repdyn.tracing.identity import NOT_HASHED, Unhashable, sample_digest
from repdyn.tracing.spool import gathered

__all__ = ["Samples", "as_samples", "batches", "copied"]

Index = NDArray[np.int64]

TOKENS = "input_ids"
SHORT = 64
"""A batch may hold ``batch_size * SHORT`` tokens, whatever the number of its samples. With one thread,
MiniLM takes a fifth longer per token for 32 × 11 tokens than for 128 × 11; beyond some thousand rows the time
per token is constant."""


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples of a trace.

    Attributes
    ----------
    items
        A sequence with a length, indexed by number.
    labels
        ``(N,)``, or None.
    ids
        ``(N,)`` strings.
    labelled
        Whether each item is a pair of sample and label (a torch data set).
    shortcut
        Whether the labels are those of the data set's ``targets``, with which the items must agree.
    texts
        Whether the first sample is a text.
    workers
        Number of processes that read items ahead; 0: a background thread.
    """

    items: Any
    labels: NDArray[Any] | None
    ids: NDArray[np.str_]
    labelled: bool = False
    shortcut: bool = False
    texts: bool = False
    workers: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: NDArray[np.int64]) -> list[Any]:
        """The samples with these numbers."""
        return [self._sample(int(number), self._item(int(number))) for number in index]

    def _item(self, number: int) -> Any:
        """One item; an error names its sample."""
        try:
            return _kept(self.items, number)
        except Exception as error:  # a data set may raise anything for an unreadable item
            raise self.unreadable(number, _reason(error)) from error

    def _sample(self, number: int, item: Any) -> Any:
        """The sample in an item, whose label is compared with the known one."""
        if not self.labelled:
            return item
        if not _is_pair(item):
            raise self.unreadable(
                number, f"is a {type(item).__name__}, the first item a pair of sample and label"
            )
        if self.shortcut and self.labels is not None:
            known, own = self.labels[number], _plain_label(item[1])
            if (str(own) != str(known)) if self.labels.dtype.kind == "U" else (own != known):
                raise self.unreadable(
                    number, f"the data set gives the label {own!r}, its targets say {known!r}; pass labels=…"
                )
        return item[0]

    def unreadable(self, number: int, reason: str) -> RepdynError:
        """The error for a sample that cannot be read."""
        return RepdynError(f"sample {number} (id {str(self.ids[number])!r}): {reason}")

    def read(
        self, plan: Iterable[tuple[range, NDArray[np.int64]]]
    ) -> Iterator[tuple[range, Index, list[Any]]]:
        """Yield the samples of planned batches, in order.

        With ``workers``, processes of a torch ``DataLoader`` read ahead.
        """
        if not self.workers:
            for rows, index in plan:
                yield rows, index, self.take(index)
            return
        # The loader consumes the plan ahead of the batches that it returns.
        ours, theirs = tee(plan)
        loader = DataLoader(
            _Numbered(self.items),
            batch_sampler=(index.tolist() for _, index in theirs),
            num_workers=self.workers,
            collate_fn=list,
        )
        for (rows, index), items in zip(ours, loader, strict=True):
            for number, item in zip(index.tolist(), items, strict=True):
                if isinstance(item, _Unread):
                    raise self.unreadable(number, item.reason)
            yield rows, index, [self._sample(int(k), item) for k, item in zip(index, items, strict=True)]

    @property
    def in_memory(self) -> bool:
        """Whether all samples are arrays, texts or numbers in memory, which can be hashed without reading."""
        if isinstance(self.items, (np.ndarray, Tensor)):
            return not (isinstance(self.items, np.ndarray) and self.items.dtype.hasobject)
        kinds = (str, bytes, int, float, np.ndarray, np.generic, Tensor)
        return isinstance(self.items, (list, tuple)) and all(isinstance(item, kinds) for item in self.items)

    def digest(self) -> str:
        """SHA-256 of the ids, and of all samples if they are in memory."""
        total = hashlib.sha256("\0".join(self.ids).encode("utf-8", "surrogatepass"))
        if self.in_memory:
            for number in range(len(self)):
                total.update(self.sample_digest(number, self.items[number]).encode())
        return total.hexdigest()

    def sample_digest(self, number: int, sample: Any) -> str:
        """SHA-256 of the content of one sample, or the reason why there is none."""
        own = getattr(self.items, "sample_digest", None)
        try:
            return str(own(number)) if callable(own) else sample_digest(sample)
        except Unhashable as error:
            return f"{NOT_HASHED}{error}"

    def groups(self) -> Index:
        """Group of equal samples that each belongs to, ``(N,)``; one that cannot be hashed is alone."""
        digests = [
            self.sample_digest(number, self.take(np.array([number]))[0]) for number in range(len(self))
        ]
        keys = [f"{number}" if key.startswith(NOT_HASHED) else key for number, key in enumerate(digests)]
        return renumbered(np.unique(keys, return_inverse=True)[1])

    def chunk_digest(self, digests: Mapping[int, str]) -> str:
        """SHA-256 of a chunk, from the digests of its samples, or the reason why there is none."""
        for number, digest in digests.items():
            if digest.startswith(NOT_HASHED):
                return f"{NOT_HASHED}sample {str(self.ids[number])!r}: {digest.removeprefix(NOT_HASHED)}"
        joined = "\0".join(digests[number] for number in sorted(digests))
        return hashlib.sha256(joined.encode()).hexdigest()

    def read_chunk_digest(self, rows: range, batch_size: int) -> str:
        """SHA-256 of a chunk whose samples are read for this purpose."""
        starts = range(rows.start, rows.stop, batch_size)
        plan = ((rows, np.arange(start, min(start + batch_size, rows.stop))) for start in starts)
        digests: dict[int, str] = {}
        for _, index, taken in self.read(plan):
            for number, sample in zip(index.tolist(), taken, strict=True):
                digests[number] = self.sample_digest(number, sample)
        return self.chunk_digest(digests)


def as_samples(inputs: Any, labels: ArrayLike | None = None, ids: ArrayLike | None = None) -> Samples:
    """Samples from inputs, labels and ids, which are checked against each other.

    Parameters
    ----------
    inputs
        A list of strings or pictures, an array or tensor with samples first, what a tokenizer returns for
        many texts (``input_ids`` and ``attention_mask``, or a list or data set of such), a torch data set
        with a length (of samples, or of pairs of sample and label), a torch ``DataLoader`` that keeps the
        order of its data set (of which the samples and the number of workers are taken, not the batches), or
        any other iterable (a generator, a streamed data set), which is then read to its end; more than 64 MiB
        of texts or token ids are kept in a temporary file.
    labels
        One per sample.
    ids
        One per sample, all different; default: row numbers.

    Raises
    ------
    RepdynError
        If there are no samples, or the number of labels or ids differs.
    """
    indexed = isinstance(inputs, Sized) and hasattr(inputs, "__getitem__")
    if isinstance(inputs, str) or not (indexed or isinstance(inputs, (Iterable, Dataset))):
        raise RepdynError(
            f"inputs: expected a sequence of samples, got {type(inputs).__name__}; put a single one in a list"
        )
    if isinstance(inputs, Mapping):
        if TOKENS not in inputs:
            raise RepdynError("inputs: expected a sequence of samples, got a dict; pass one of its values")
        inputs = _samples_of(inputs)
    inputs, workers, pairs = _rows(inputs), 0, isinstance(inputs, Dataset)
    if isinstance(inputs, DataLoader):
        workers, pairs = inputs.num_workers, isinstance(inputs.dataset, Dataset)
        inputs = _in_its_order(inputs)
    indexed = isinstance(inputs, Sized) and hasattr(inputs, "__getitem__")  # read sample by sample
    items: Any = inputs
    # A pandas Series has a length and items, too, but is indexed by its labels and not by number.
    if not indexed or hasattr(inputs, "iloc"):
        items = _listed(items)
    if isinstance(items, (np.ndarray, Tensor)) and items.ndim == 0:
        raise RepdynError("inputs: the array has no axis of samples")
    size = len(items)
    if size == 0:
        raise RepdynError("inputs: there are no samples")
    first = _read_one(items, 0)
    if isinstance(first, Mapping) and TOKENS in first:
        items = [_token_ids(_read_one(items, number), number) for number in range(size)]
        first = items[0]
    if isinstance(first, Mapping):
        _refused(first)
    labelled, shortcut = pairs and _is_pair(first), False
    if of_items := labelled and labels is None:
        labels, shortcut = _labels(items, size, first[1])
    names = (
        np.arange(size).astype(str) if ids is None else np.asarray([_text(name) for name in np.asarray(ids)])
    )
    known: NDArray[Any] | None = None
    if labels is not None:
        labels = list(labels) if isinstance(labels, Iterator) else labels
        labels = as_array(labels) if isinstance(labels, Tensor) else labels
        shape = labels.shape if isinstance(labels, np.ndarray) else (len(list(labels)),)  # type: ignore[arg-type]
        if len(shape) != 1 or shape[0] != size:
            raise RepdynError(f"labels: {shape[0]} labels for {size} samples; give one per sample")
        try:
            known = check_labels(labels, size)
        except RepdynError as error:
            if not of_items:
                raise
            raise RepdynError(
                f"{error}; they are the second parts of the items of {type(inputs).__name__}: pass labels=…, "
                "or a data set of the samples alone"
            ) from None
    if names.ndim != 1 or len(names) != size:
        raise RepdynError(f"ids: {len(names)} ids for {size} samples; give one per sample")
    if len(set(names.tolist())) < size:
        repeated = Counter(names.tolist()).most_common(1)[0][0]
        raise RepdynError(f"ids: {repeated!r} occurs twice; give every sample its own")
    texts = isinstance(first[0] if labelled else first, str)
    return Samples(items, known, names, labelled, shortcut, texts, workers)


def batches(
    samples: Samples,
    rows: range,
    batch_size: int,
    lengths: Callable[[Sequence[Any]], Sequence[int]] | None = None,
    padded: bool = True,
) -> list[Index]:
    """Numbers of some samples, batch by batch; texts by decreasing length, for little padding.

    The batches depend on these samples alone, so a resumed run forms the same ones.

    Parameters
    ----------
    samples
        The samples. Samples without a length (pictures) keep their order.
    rows
        Samples to form batches of.
    batch_size
        Samples in a batch. With known lengths, a batch of short samples holds more, up to
        ``batch_size * SHORT`` tokens, because matrix products of a few hundred rows are slow. A text of more
        than ``SHORT`` tokens shares a batch only with texts that are at least half as long: a few long texts
        among many short ones would be mostly padding.
    lengths
        Function from samples to lengths in tokens. None: texts are sorted by their number of characters, and
        batches are not enlarged.
    padded
        Whether samples of different lengths may share a batch.
    """
    index = np.arange(rows.start, rows.stop)
    if lengths is None and not samples.texts:
        return [index[start : start + batch_size] for start in range(0, len(index), batch_size)]
    taken = samples.take(index)
    known = np.array([len(item) for item in taken] if lengths is None else _lengths(samples, index, lengths))
    index, known = index[np.argsort(-known, kind="stable")], -np.sort(-known)
    plan, start = [], 0
    while start < len(index):
        more = 0 if lengths is None else batch_size * SHORT // max(int(known[start]), 1)
        stop = start + max(batch_size, more)
        if lengths is not None and not (padded and known[start] <= SHORT):
            shortest = known[start] / 2 if padded else known[start]
            stop = min(stop, start + int(np.searchsorted(-known[start:], -shortest, side="right")))
        plan.append(index[start:stop])
        start += len(plan[-1])
    return plan


def _samples_of(encoded: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A tokenizer's output for many texts, text by text."""
    sizes = {len(values) for values in encoded.values()}
    if len(sizes) > 1:
        raise RepdynError(
            f"inputs: {', '.join(encoded)} have {', '.join(map(str, sorted(sizes)))} rows; give one per text"
        )
    return [{key: values[number] for key, values in encoded.items()} for number in range(sizes.pop())]


def _token_ids(encoded: Mapping[str, Any], number: int) -> list[int]:
    """The token ids of one text that a tokenizer has read, without padding."""
    ids = np.asarray(as_array(encoded[TOKENS]))
    mask = np.asarray(as_array(encoded.get("attention_mask", np.ones_like(ids))))
    others = [key for key in encoded if key not in (TOKENS, "attention_mask", "token_type_ids")]
    if "token_type_ids" in encoded and np.any(as_array(encoded["token_type_ids"])):
        others.append("token_type_ids")
    if others or ids.ndim != 1 or ids.shape != mask.shape:
        raise RepdynError(
            f"inputs: sample {number} holds {', '.join(map(str, encoded))} with input_ids of shape "
            f"{ids.shape}; expected input_ids and attention_mask of one text, and token_type_ids of zeros at "
            "most. Give other columns as labels=… or leave them out"
        )
    return [int(token) for token in ids[mask.astype(bool)]]


def _lengths(
    samples: Samples, index: Index, lengths: Callable[[Sequence[Any]], Sequence[int]]
) -> Sequence[int]:
    """Lengths of samples in tokens; an error names the sample without one."""
    taken = samples.take(index)
    try:
        return lengths(taken)
    except Exception:  # the samples are then tried one by one
        for number, item in zip(index.tolist(), taken, strict=True):
            try:
                lengths([item])
            except Exception as error:
                raise samples.unreadable(number, _reason(error)) from error
        raise


def _in_its_order(loader: DataLoader[Any]) -> Any:
    """Data set of a loader that keeps its order; raise for other loaders."""
    if loader.collate_fn not in (default_collate, default_convert) and not _has_tokens(loader.dataset):
        raise RepdynError(
            "inputs: the DataLoader has a collate_fn of its own, which would not be called; pass its data "
            "set, and the function as repdyn.wrap(module, prepare=…)"
        )
    if isinstance(loader.dataset, IterableDataset):
        return _listed(loader.dataset)
    if not isinstance(loader.sampler, SequentialSampler) or loader.drop_last:
        raise RepdynError(
            "inputs: the DataLoader shuffles or leaves samples out, so ids would not identify samples; pass "
            "its dataset, or create it without shuffle, sampler and drop_last"
        )
    return loader.dataset


def _rows(inputs: Any) -> Any:
    """Inputs whose rows are the samples: a table or a sparse matrix is no sequence of its rows."""
    if hasattr(inputs, "toarray") and hasattr(inputs, "nnz"):
        return as_array(inputs)
    named = getattr(inputs, "column_names", None) if hasattr(inputs, "schema") else None
    columns = getattr(inputs, "columns", named) if getattr(inputs, "ndim", 2) == 2 else None
    if isinstance(inputs, Dataset | DataLoader) or columns is None or not hasattr(inputs, "shape"):
        return inputs
    array = np.asarray(inputs)
    if array.ndim == 2 and array.dtype.kind in "fiub":
        return array
    shown = ", ".join(str(getattr(one, "name", one)) for one in list(named or columns)[:5])
    raise RepdynError(
        f"inputs: is a {type(inputs).__name__} with the columns {shown}; pass one of them, "
        "such as table['text'], and labels=table['label']"
    )


def _has_tokens(items: Any) -> bool:
    """Whether the items of a data set are token ids, which need no function that joins them."""
    first = None if isinstance(items, IterableDataset) or not len(items) else _read_one(items, 0)
    return isinstance(first, Mapping) and TOKENS in first


def _labels(items: Any, size: int, first: Any) -> tuple[list[Any], bool]:
    """Labels of a labelled data set, and whether they are those of its ``targets``, not of its items."""
    kept: Any = getattr(items, "targets", None)
    listed = isinstance(kept, list | tuple | np.ndarray | Tensor) and len(kept) == size
    if listed and getattr(items, "target_transform", None) is None:
        # A data set may give other labels than its targets; the rest is compared as it is read.
        own = {0: first, size - 1: first if size == 1 else _label(items, size - 1)}
        if all(np.array_equal(_plain_label(label), _plain_label(kept[k])) for k, label in own.items()):
            return [_plain_label(label) for label in kept], True
    return [_plain_label(_label(items, number)) for number in range(size)], False


def _label(items: Any, number: int) -> Any:
    """The label in an item of a labelled data set; an error names its sample."""
    item = _read_one(items, number)
    if not _is_pair(item):
        raise RepdynError(
            f"sample {number}: is a {type(item).__name__}, the first item a pair of sample and label"
        )
    return item[1]


def _plain_label(label: Any) -> Any:
    """A label as a plain value, where it is an array of one."""
    if isinstance(label, Tensor | np.ndarray | np.generic) and math.prod(label.shape) == 1:
        return as_array(label).reshape(()).item()
    return label


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple | list) and len(item) == 2


def _text(name: Any) -> str:
    """An id as a string; bytes are read as UTF-8."""
    return name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else str(name)


def _kept(items: Any, number: int) -> Any:
    """One item in memory of its own: a data set may give the same buffer, filled anew, for every item."""
    item = items[number]
    return item if isinstance(items, list | tuple | np.ndarray | Tensor) else copied(item)


def copied(item: Any) -> Any:
    """An item with copies of its arrays and tensors."""
    if isinstance(item, Tensor):
        return item.clone()
    if isinstance(item, np.ndarray):
        return item.copy()
    if type(item) in (list, tuple):
        return type(item)(copied(part) for part in item)
    if type(item) is dict:
        return {name: copied(part) for name, part in item.items()}
    return item


def _read_one(items: Any, number: int) -> Any:
    """One item; an error names its sample."""
    try:
        return items[number]
    except Exception as error:  # a data set may raise anything for an unreadable item
        raise RepdynError(f"sample {number}: {_reason(error)}") from error


def _listed(items: Iterable[Any]) -> Sequence[Any]:
    """All items of an iterable; an error names the sample."""
    fresh = not isinstance(items, Sized)  # a generator may give the same buffer, filled anew, for every item
    number = 0

    def own() -> Iterator[Any]:
        nonlocal number
        for number, item in enumerate(items):
            if isinstance(item, Mapping):  # refused before the others are read, of which there may be many
                yield _token_ids(item, number) if TOKENS in item else _refused(item)
            else:
                yield copied(item) if fresh else item
            number += 1

    try:
        return gathered(own())
    except Exception as error:  # a generator may raise anything
        if isinstance(error, RepdynError) and str(error).startswith("inputs: "):
            raise
        raise RepdynError(f"sample {number}: {_reason(error)}") from error


def _refused(item: Mapping[Any, Any]) -> NoReturn:
    """Raise for a sample that has several parts."""
    first = next(iter(item), "text")
    raise RepdynError(
        f"inputs: every sample is a {type(item).__name__} of {', '.join(map(str, item))}; pass the samples "
        f"of one of these, of a stream as (row[{first!r}] for row in stream), and labels=… of another"
    )


@dataclass(frozen=True)
class _Unread:
    """Placeholder for a sample that a worker could not read."""

    reason: str


def _reason(error: Exception) -> str:
    """Message of an exception in one line, with its type unless it is a RepdynError."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, RepdynError) else f"{type(error).__name__}: {text}"


class _Numbered(Dataset[Any]):
    """Data set of a sequence, for the workers of a loader.

    A sample that cannot be read gives an :class:`_Unread`, because a worker's error does not name the sample.
    """

    def __init__(self, items: Any) -> None:
        self.items = items

    def __getitem__(self, number: int) -> Any:
        try:
            return _kept(self.items, number)
        except Exception as error:  # a data set may raise anything for an unreadable item
            return _Unread(_reason(error))

    def __len__(self) -> int:
        return len(self.items)
