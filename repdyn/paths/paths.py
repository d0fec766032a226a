"""RepresentationPaths: the one data structure, in memory or on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError, nearest_names
from repdyn.paths.checks import check_finite, check_ids, check_labels, check_logits, check_points
from repdyn.paths.columns import Index, Rows, Tokens, compose, gather
from repdyn.paths.sampling import Batch, batch_indices, split_indices

if TYPE_CHECKING:
    pass

__all__ = ["RepresentationPaths"]


class RepresentationPaths:
    """The representation paths :math:`x_0, …, x_L` of N samples through the points of a model.

    Made by :meth:`from_arrays`, by tracing a model, or by opening a store; all three behave the same. What
    is on disk is read when it is indexed, through memory maps.

    Attributes
    ----------
    points
        Names of the points, in order of depth.
    widths
        Entries of one vector at each point, ``{point: D}``.
    labels
        ``(N,)`` integers or strings, or ``None``.
    ids
        ``(N,)`` strings, the samples' names.
    logits
        The model's own outputs ``(N, C)``, or ``None``.
    meta
        Where they come from: model name and digest, pooling, preprocessing, data, seed, versions.
    path
        The store they are read from, ``None`` in memory.

    Examples
    --------
    >>> paths = RepresentationPaths.from_arrays({"stem": np.zeros((4, 2)), "head": np.ones((4, 3))})
    >>> paths.points, paths.widths, len(paths)
    (('stem', 'head'), {'stem': 2, 'head': 3}, 4)
    >>> paths["head"].shape
    (4, 3)
    """

    def __init__(
        self,
        columns: Mapping[str, Rows | Tokens],
        *,
        logits: Rows | None,
        read_labels: Callable[[], NDArray[Any] | None],
        read_ids: Callable[[], NDArray[np.str_]],
        meta: Mapping[str, Any],
        path: Path | None = None,
        index: Index | None = None,
    ) -> None:
        self._columns = dict(columns)
        self._logits = logits
        self._read_labels = read_labels
        self._read_ids = read_ids
        self._index = index
        self.meta: Mapping[str, Any] = MappingProxyType(dict(meta))
        self.path = path
        self.points: tuple[str, ...] = tuple(self._columns)
        self.widths: dict[str, int] = {name: column.width for name, column in self._columns.items()}

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, ArrayLike],
        labels: ArrayLike | None = None,
        ids: ArrayLike | None = None,
        logits: ArrayLike | None = None,
        meta: Mapping[str, Any] | None = None,
        masks: Mapping[str, ArrayLike] | None = None,
    ) -> RepresentationPaths:
        """Make paths of arrays in memory; nothing is copied that has the right type.

        Parameters
        ----------
        arrays
            ``{point: (N, D)}`` in order of depth, or ``(N, T, D)`` where tokens are kept. All points get one
            floating-point type, the widest given (float32 for integers).
        labels
            ``(N,)`` integers or strings.
        ids
            ``(N,)`` names of the samples; by default their numbers.
        logits
            ``(N, C)``.
        meta
            What is known of their origin, JSON-able.
        masks
            For points with tokens, ``{point: (N, T)}``, true where a token is real; by default all are.
            Padding is not kept: real tokens are moved to the front.

        Returns
        -------
        RepresentationPaths

        Raises
        ------
        RepdynError
            If there are no points or no samples, sizes differ, or an entry is not finite.
        """
        names = check_points(arrays)
        found = {name: np.asarray(arrays[name]) for name in names}
        for name, array in found.items():
            if array.ndim not in (2, 3) or array.dtype.kind not in "fiub":
                raise RepdynError(
                    f"point {name!r}: has shape {array.shape} and dtype {array.dtype}; expected numbers of shape (N, D) or (N, T, D)"
                )
            if 0 in array.shape:
                raise RepdynError(
                    f"point {name!r}: is empty, shape {array.shape}; give at least one sample and one entry"
                )
        size = len(found[names[0]])
        for name, array in found.items():
            if len(array) != size:
                raise RepdynError(
                    f"point {name!r}: has {len(array)} samples but {names[0]!r} has {size}; every point needs all"
                )
        kinds = {a.dtype for a in found.values() if a.dtype.kind == "f"}
        dtype = np.result_type(*kinds) if kinds else np.dtype(np.float32)
        dtype = np.dtype(np.float64) if dtype.itemsize > 8 else dtype
        names_of_samples = check_ids(ids, size)
        known_labels = check_labels(labels, size)
        known_logits = check_logits(logits, size)
        masks = masks or {}
        for name in masks:
            if name not in found or found[name].ndim != 3:
                raise RepdynError(
                    f"masks: {name!r} is not a point with tokens (N, T, D); masks belong to those"
                )
        columns: dict[str, Rows | Tokens] = {}
        for name, array in found.items():
            values = array.astype(dtype, copy=False)
            if array.ndim == 2:
                check_finite(values, name, names_of_samples)
                columns[name] = Rows.of(values)
                continue
            mask = np.asarray(masks.get(name, np.ones(array.shape[:2], dtype=bool)))
            if mask.shape != array.shape[:2] or mask.dtype != np.bool_:
                raise RepdynError(
                    f"masks: that of {name!r} has shape {mask.shape} and dtype {mask.dtype}; expected {array.shape[:2]} booleans"
                )
            check_finite(np.where(mask[..., None], values, 0), name, names_of_samples)
            columns[name] = Tokens.of(values, mask)
        if known_logits is not None:
            check_finite(known_logits, "logits", names_of_samples)
        return cls(
            columns,
            logits=None if known_logits is None else Rows.of(known_logits),
            read_labels=lambda: known_labels,
            read_ids=lambda: names_of_samples,
            meta=meta or {},
        )

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __contains__(self, point: object) -> bool:
        return point in self._columns

    def __getitem__(self, point: str) -> NDArray[Any] | Rows | Tokens:
        """Representations at one point, ``(N, D)``, or ``(N, T, D)`` where tokens are kept.

        An array in memory; from disk something that is read when indexed or passed to ``np.asarray``.
        Padding beyond a sample's tokens is zero, see :meth:`mask`.
        """
        column = self._column(point)
        return np.asarray(column) if self.path is None else column

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type that representations are kept in."""
        return next(iter(self._columns.values())).dtype

    @cached_property
    def labels(self) -> NDArray[Any] | None:
        """``(N,)`` integers or strings, or ``None``."""
        found = self._read_labels()
        return found if found is None or self._index is None else found[self._index]

    @cached_property
    def ids(self) -> NDArray[np.str_]:
        """``(N,)`` names of the samples."""
        found = self._read_ids()
        return found if self._index is None else found[self._index]

    @property
    def logits(self) -> NDArray[Any] | None:
        """The model's own outputs ``(N, C)``, or ``None``."""
        return None if self._logits is None else np.asarray(self._logits)

    @property
    def tokens(self) -> tuple[str, ...]:
        """The points that were kept with all their tokens."""
        return tuple(name for name, column in self._columns.items() if isinstance(column, Tokens))

    def mask(self, point: str) -> NDArray[np.bool_]:
        """Which tokens at a point are real, ``(N, T)``; the others are padding.

        Raises
        ------
        RepdynError
            If the point was pooled: it has one vector a sample and no tokens.
        """
        column = self._column(point)
        if not isinstance(column, Tokens):
            raise RepdynError(
                f"point {point!r}: is pooled to one vector a sample, it has no tokens and no mask"
            )
        return np.asarray(np.arange(column.shape[1]) < column.shown_lengths()[:, None])

    def subset(self, index: ArrayLike | slice) -> RepresentationPaths:
        """Some of the samples, in the order given; nothing is read or copied.

        Parameters
        ----------
        index
            Numbers of samples, a boolean for each sample, or a slice.

        Raises
        ------
        RepdynError
            If a number is out of range or nothing is chosen.
        """
        size = len(self)
        chosen: NDArray[Any]
        if isinstance(index, slice):
            chosen = np.arange(size)[index]
        else:
            chosen = np.asarray(index)
            if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "biu"):
                raise RepdynError(
                    f"index: has shape {chosen.shape} and dtype {chosen.dtype}; expected numbers or booleans, one axis"
                )
            if chosen.dtype == np.bool_:
                if len(chosen) != size:
                    raise RepdynError(
                        f"index: {len(chosen)} booleans for {size} samples; give one per sample"
                    )
                chosen = np.flatnonzero(chosen)
            elif chosen.size and (chosen.min() < -size or chosen.max() >= size):
                wrong = chosen[(chosen < -size) | (chosen >= size)][0]
                raise RepdynError(f"index: there is no sample {wrong} among {size}")
        if len(chosen) == 0:
            raise RepdynError(
                f"index: chooses none of the {size} samples; an empty set of paths is of no use"
            )
        numbers = chosen.astype(np.int64) % size
        return RepresentationPaths(
            {name: column.subset(numbers) for name, column in self._columns.items()},
            logits=None if self._logits is None else self._logits.subset(numbers),
            read_labels=self._read_labels,
            read_ids=self._read_ids,
            meta=self.meta,
            path=self.path,
            index=compose(self._index, numbers),
        )

    def split(
        self, fractions: Sequence[float] = (0.8, 0.2), seed: int = 0, stratify: bool = True
    ) -> tuple[RepresentationPaths, ...]:
        """Divide the samples at random into parts.

        Parameters
        ----------
        fractions
            Shares of the parts, positive, summing to 1.
        seed
            Of the random order; the same seed gives the same parts.
        stratify
            Whether each part gets its share of each label, where there are labels.

        Returns
        -------
        tuple of RepresentationPaths
            As many as there are fractions, each in the order of the whole.
        """
        parts = split_indices(len(self), fractions, self.labels if stratify else None, seed)
        return tuple(self.subset(part) for part in parts)

    def batches(
        self,
        batch_size: int = 256,
        points: Sequence[str] | None = None,
        shuffle: bool | Literal["blocks"] = True,
        seed: int = 0,
    ) -> Iterator[Batch]:
        """Mini-batches for training: every sample once, ``{point: float32 tensor}``.

        Parameters
        ----------
        batch_size
            Samples in a batch; the last one is as small as it comes.
        points
            Which points to read, by default all.
        shuffle
            ``True``: a uniform permutation; ``"blocks"``: an order that reads neighbours together, for data
            much larger than memory; ``False``: the order of the samples.
        seed
            Of the order. Give another in every epoch.

        Yields
        ------
        Batch
            A dictionary of tensors ``(n, D)`` (or ``(n, T, D)``, padded), with ``index`` and ``masks``.
        """
        names = self.points if points is None else check_points(points)
        columns = {name: self._column(name) for name in names}
        return _batches(columns, batch_indices(len(self), batch_size, shuffle, seed))

    def _column(self, point: str) -> Rows | Tokens:
        if point not in self._columns:
            raise RepdynError(
                f"point {point!r}: is not on these paths; {nearest_names(str(point), self.points)}"
            )
        return self._columns[point]


def _batches(columns: Mapping[str, Rows | Tokens], orders: Iterator[Index]) -> Iterator[Batch]:
    # Imported when the first batch is read: whoever only looks at a store does not wait for torch.
    import torch

    for index in orders:
        arrays = gather(columns, index)
        tensors = {
            name: torch.from_numpy(np.array(array, dtype=np.float32)) for name, array in arrays.items()
        }
        masks = {}
        for name, column in columns.items():
            if isinstance(column, Tokens):
                lengths = column.shown_lengths()[index]
                masks[name] = torch.from_numpy(np.arange(arrays[name].shape[1]) < lengths[:, None])
        yield Batch(tensors, index, masks)
