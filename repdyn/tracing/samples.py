"""The samples of a trace: any sequence or data set, with labels and ids, checked before work starts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import Dataset

from repdyn.errors import RepdynError

__all__ = ["Samples", "as_samples"]


@dataclass(frozen=True, eq=False)
class Samples:
    """What is traced.

    Attributes
    ----------
    items
        Anything with a length that is indexed by number.
    labels
        ``(N,)``, or None.
    ids
        ``(N,)`` strings.
    labelled
        Whether each item is a pair of sample and label (a torch data set).
    """

    items: Any
    labels: NDArray[Any] | None
    ids: NDArray[np.str_]
    labelled: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: NDArray[np.int64]) -> list[Any]:
        """The samples of these numbers."""
        found = [self.items[int(number)] for number in index]
        return [item[0] for item in found] if self.labelled else found

    def order(self, start: int, stop: int) -> NDArray[np.int64]:
        """The samples from start to stop, texts by decreasing length so that batches need little padding.

        The order depends on these samples alone: a run that is resumed forms the same batches.
        """
        index = np.arange(start, stop)
        texts = [self.items[int(number)] for number in index[:1]]
        if not (texts and isinstance(texts[0], str)):
            return index
        lengths = np.array([len(self.items[int(number)]) for number in index])
        return index[np.argsort(-lengths, kind="stable")]

    def digest(self) -> str:
        """SHA-256 of texts and arrays with their ids; of ids alone where samples are neither."""
        total = hashlib.sha256("\0".join(self.ids).encode())
        if isinstance(self.items, (np.ndarray, Tensor)):
            array = np.ascontiguousarray(np.asarray(self.items))
            total.update(f"{array.dtype}{array.shape}".encode())
            total.update(array.reshape(-1).view(np.uint8).data)
        elif isinstance(self.items, (list, tuple)):
            for item in self.items:
                if isinstance(item, str):
                    total.update(item.encode() + b"\0")
        return total.hexdigest()


def as_samples(inputs: Any, labels: ArrayLike | None = None, ids: ArrayLike | None = None) -> Samples:
    """Check inputs, labels and ids against each other.

    Parameters
    ----------
    inputs
        A list of strings or pictures, an array or tensor with samples first, a torch data set with a
        length (of samples, or of pairs of sample and label), or any other iterable, which is then read
        to its end.
    labels
        One per sample.
    ids
        One per sample, all different; default their numbers.

    Raises
    ------
    RepdynError
        If there are no samples, or another number of labels or ids.
    """
    if isinstance(inputs, str) or not isinstance(inputs, (Iterable, Dataset)):
        raise RepdynError(
            f"inputs: expected a sequence of samples, got {type(inputs).__name__}; put a single one in a list"
        )
    if isinstance(inputs, dict):
        raise RepdynError("inputs: expected a sequence of samples, got a dict; pass one of its values")
    items: Any = inputs
    # A pandas Series has a length and items, too, but is indexed by its labels and not by number.
    if not (isinstance(inputs, Sized) and hasattr(inputs, "__getitem__")) or hasattr(inputs, "iloc"):
        items = list(items)
    if isinstance(items, (np.ndarray, Tensor)) and items.ndim == 0:
        raise RepdynError("inputs: the array has no axis of samples")
    size = len(items)
    if size == 0:
        raise RepdynError("inputs: there are no samples")
    labelled = isinstance(items, Dataset) and isinstance(items[0], tuple) and len(items[0]) == 2
    if labelled and labels is None:
        labels = [item[1] for item in (items[number] for number in range(size))]
    names = (
        np.arange(size).astype(str) if ids is None else np.asarray([str(name) for name in np.asarray(ids)])
    )
    known = (
        None if labels is None else np.asarray(labels.cpu() if isinstance(labels, torch.Tensor) else labels)
    )
    for what, found in (("labels", known), ("ids", names)):
        if found is not None and (found.ndim != 1 or len(found) != size):
            raise RepdynError(
                f"{what}: {len(found)} of them for {size} samples; there must be one per sample"
            )
    if len(set(names.tolist())) < size:
        repeated = Counter(names.tolist()).most_common(1)[0][0]
        raise RepdynError(f"ids: {repeated!r} is there twice; every sample needs its own")
    return Samples(items, known, names, labelled)
