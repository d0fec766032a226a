"""Which samples are read in which order: splits, mini-batches, consecutive blocks, random subsets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.paths.columns import Index, TokenColumn, VectorColumn, gather

if TYPE_CHECKING:
    import torch

__all__ = [
    "STRETCH",
    "Batch",
    "Block",
    "Blocks",
    "all_batches",
    "batch_indices",
    "block_shuffle",
    "chosen_indices",
    "default_rows",
    "drawn_rows",
    "read_ahead",
    "read_batches",
    "sample_indices",
    "split_indices",
]

# Eight blocks of 500 rows are permuted together: measured fastest for stores that cannot be memory-mapped,
# while a batch still mixes samples of eight blocks.
BLOCK_ROWS = 500
BLOCKS_TOGETHER = 8
STRETCH = BLOCK_ROWS * BLOCKS_TOGETHER
"""Samples that are fetched together from a remote store: one group of blocks."""
_BLOCK_SAMPLES = 2048  # default samples in a block: at 13 points of width 768 in float32, 80 MB
_BLOCK_BYTES = 2**27  # limit of a block, which reduces the default for wide paths
# Samples that are plotted.
_SAMPLES_PLOTTED = 1200


class Batch(dict[str, "torch.Tensor"]):
    """A mini-batch, ``{point: tensor}``, with the numbers of its samples.

    Attributes
    ----------
    index
        Row numbers of the samples in the paths, ``(n,)``.
    masks
        For points with tokens, whether each is real: ``{point: (n, T) bool tensor}``.
    """

    def __init__(
        self, tensors: dict[str, torch.Tensor], index: NDArray[np.int64], masks: dict[str, torch.Tensor]
    ) -> None:
        super().__init__(tensors)
        self.index = index
        self.masks = masks


def chosen_indices(index: ArrayLike | slice, size: int) -> Index:
    """Row numbers ``(n,)`` of an index of numbers, booleans or a slice; raise if it selects nothing."""
    chosen: NDArray[Any]
    if isinstance(index, slice):
        chosen = np.arange(size)[index]
    else:
        chosen = np.asarray(index)
        if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "biu"):
            raise RepdynError(
                f"index: has shape {chosen.shape} and dtype {chosen.dtype}; "
                "expected numbers or booleans along one axis"
            )
        if chosen.dtype == np.bool_:
            if len(chosen) != size:
                raise RepdynError(f"index: {len(chosen)} booleans for {size} samples; give one each")
            chosen = np.flatnonzero(chosen)
        elif chosen.size and (chosen.min() < -size or chosen.max() >= size):
            wrong = chosen[(chosen < -size) | (chosen >= size)][0]
            raise RepdynError(f"index: there is no sample {wrong} among {size}")
    if len(chosen) == 0:
        raise RepdynError(f"index: selects none of the {size} samples; select at least one")
    numbers: Index = chosen.astype(np.int64) % size
    return numbers


def split_indices(
    size: int,
    fractions: Sequence[float],
    labels: NDArray[Any] | None,
    seed: int,
    groups: NDArray[np.int64] | None = None,
) -> list[NDArray[np.int64]]:
    """Divide samples at random into parts; with labels, each part gets its share of each label.

    Samples are ordered by label, with labels and the samples of each label in random order. Each part takes
    members at even distances. The count of each label in each part is thus within one or two of its share,
    and the sizes of the parts are exact even if every label is rare.

    Parameters
    ----------
    size
        Number of samples N.
    fractions
        Shares of the parts, positive, with sum 1.
    labels
        ``(N,)``, or ``None`` for a random division without labels.
    seed
        Seed of the random order.
    groups
        ``(N,)``: the samples of a group go to one part, with the label of its first sample. Ignored if there
        are fewer groups than parts.

    Returns
    -------
    list of array
        Sorted row numbers, one array for each part; every sample is in one part.
    """
    shares = np.asarray(fractions, dtype=np.float64)
    if shares.ndim != 1 or len(shares) == 0 or not (shares > 0).all() or abs(shares.sum() - 1) > 1e-6:
        raise RepdynError(
            f"fractions: {tuple(fractions)} are not shares; expected positive numbers that sum to 1"
        )
    generator = np.random.default_rng(seed)
    weight: NDArray[np.int64] = np.ones(size, dtype=np.int64)
    if groups is not None and len(shares) <= int(groups.max()) + 1 < size:
        _, first, groups, weight = np.unique(
            groups, return_index=True, return_inverse=True, return_counts=True
        )
        labels = None if labels is None else np.asarray(labels)[first]
    else:
        groups = None
    rest = generator.permutation(len(weight))
    if labels is not None:
        codes = np.unique(labels, return_inverse=True)[1]
        codes = generator.permutation(codes.max() + 1)[codes]
        rest = rest[np.argsort(codes[rest], kind="stable")]
    parts = []
    for number in range(len(shares) - 1):
        share = shares[number] / shares[number:].sum()
        if groups is None:
            # Even distances: member g is taken if the cumulative share passes the next half-integer.
            reached = np.floor(np.arange(len(rest) + 1) * share + 0.5)
            taken = np.diff(reached) > 0
        else:
            taken = _taken(weight[rest], float(share), len(shares) - number - 1)
        parts.append(np.sort(rest[taken]))
        rest = rest[~taken]
    parts.append(np.sort(rest))
    if groups is not None:
        parts = [np.flatnonzero(np.isin(groups, part)) for part in parts]
    empty = [float(share) for share, part in zip(shares, parts) if len(part) == 0]
    if empty:
        raise RepdynError(f"fractions: {empty[0]:g} of {size} samples is no sample; give larger shares")
    return parts


def _taken(weight: NDArray[np.int64], share: float, later: int) -> NDArray[np.bool_]:
    """Mask of groups at even distances with a share of the samples; leaves one group for each later part."""
    taken = np.zeros(len(weight), dtype=bool)
    whole = filled = 0
    for number, size in enumerate(weight.tolist()):
        whole += size
        if filled + size / 2 <= share * whole:
            taken[number] = True
            filled += size
    if not taken.any():
        taken[0] = True
    left = np.flatnonzero(taken)
    taken[left[: max(0, later - int((~taken).sum()))]] = False
    return taken


def block_shuffle(size: int, seed: int) -> NDArray[np.int64]:
    """A random order that reads neighboring samples together: shuffled groups of eight random blocks.

    For data where reading single rows is slow: object storage, or much more than memory. The permutation is
    not uniform: a sample is mixed only with the samples of the eight blocks of its group.

    Parameters
    ----------
    size
        Number of samples N.
    seed
        Seed of the random order.

    Returns
    -------
    array
        A permutation of ``0 … N-1``.
    """
    generator = np.random.default_rng(seed)
    blocks = generator.permutation(-(-size // BLOCK_ROWS))
    groups = []
    for start in range(0, len(blocks), BLOCKS_TOGETHER):
        group = [
            np.arange(block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, size))
            for block in blocks[start : start + BLOCKS_TOGETHER]
        ]
        groups.append(generator.permutation(np.concatenate(group)))
    return np.concatenate(groups) if groups else np.arange(0)


def batch_indices(size: int, batch_size: int, shuffle: bool | str, seed: int) -> Iterator[NDArray[np.int64]]:
    """Row numbers of the samples of each mini-batch; the last one may be smaller."""
    if batch_size < 1:
        raise RepdynError(f"batch_size: {batch_size} is not a number of samples; expected 1 or more")
    if shuffle == "blocks":
        order = block_shuffle(size, seed)
    elif shuffle is True:
        order = np.random.default_rng(seed).permutation(size)
    elif shuffle is False:
        order = np.arange(size)
    else:
        raise RepdynError(f"shuffle: {shuffle!r} is not an order; expected True, False or 'blocks'")
    for start in range(0, size, batch_size):
        yield order[start : start + batch_size]


def all_batches(
    columns: Mapping[str, VectorColumn | TokenColumn],
    size: int,
    batch_size: int,
    shuffle: bool | str,
    seed: int,
    remote: bool,
) -> Iterator[Batch]:
    """Mini-batches of columns; see :meth:`repdyn.RepresentationPaths.batches`."""
    if remote:
        order = "blocks" if shuffle is True else shuffle
        return read_ahead(columns, batch_indices(size, STRETCH, order, seed), batch_size)
    return read_batches(columns, batch_indices(size, batch_size, shuffle, seed))


def read_batches(
    columns: Mapping[str, VectorColumn | TokenColumn], orders: Iterator[Index]
) -> Iterator[Batch]:
    """Read mini-batches of columns in the given order, as float32 tensors."""
    for index in orders:
        yield _batch(columns, gather(columns, index), index)


def read_ahead(
    columns: Mapping[str, VectorColumn | TokenColumn], stretches: Iterator[Index], batch_size: int
) -> Iterator[Batch]:
    """Read mini-batches of slow storage: many batches per request, with the next request in the background.

    Parameters
    ----------
    columns
        Columns to read.
    stretches
        Row numbers of each request.
    batch_size
        Samples in a batch; the last one may be smaller.
    """
    if batch_size < 1:
        raise RepdynError(f"batch_size: {batch_size} is not a number of samples; expected 1 or more")
    rest, left = np.arange(0), gather(columns, np.arange(0))
    with ThreadPoolExecutor(1, thread_name_prefix="repdyn-fetch") as pool:
        wanted = next(stretches, None)
        ahead = None if wanted is None else pool.submit(gather, columns, wanted)
        while ahead is not None and wanted is not None:
            arrays = ahead.result()
            following = next(stretches, None)
            ahead = None if following is None else pool.submit(gather, columns, following)
            index = np.concatenate([rest, wanted])
            arrays = {point: _joined(left[point], array) for point, array in arrays.items()}
            whole = len(index) if following is None else len(index) // batch_size * batch_size
            for start in range(0, whole, batch_size):
                part = slice(start, min(start + batch_size, whole))
                yield _batch(columns, {p: array[part] for p, array in arrays.items()}, index[part])
            rest, left = index[whole:], {p: array[whole:] for p, array in arrays.items()}
            wanted = following


def sample_indices(size: int, seed: int) -> Index:
    """Sorted row numbers of at most 1200 random samples, for a plot."""
    if size <= _SAMPLES_PLOTTED:
        return np.arange(size)
    return np.sort(np.random.default_rng(seed).choice(size, _SAMPLES_PLOTTED, replace=False))


def _batch(
    columns: Mapping[str, VectorColumn | TokenColumn], arrays: dict[str, NDArray[Any]], index: Index
) -> Batch:
    """A mini-batch of gathered arrays as float32 tensors, with token masks."""
    # torch is slow to import, and inspecting a store does not need it.
    import torch

    masks = {}
    for point, column in columns.items():
        if isinstance(column, TokenColumn):
            lengths = column.shown_lengths()[index]
            longest = int(lengths.max()) if len(lengths) else 0
            arrays[point] = arrays[point][:, :longest]
            masks[point] = torch.from_numpy(np.arange(longest) < lengths[:, None])
    # Gathered arrays are new memory, so tensors may share it.
    tensors = {p: torch.from_numpy(array.astype(np.float32, copy=False)) for p, array in arrays.items()}
    return Batch(tensors, index, masks)


def _joined(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    """Two arrays ``(n, …)`` in one; tokens are padded to the longer length."""
    if len(first) == 0:
        return second
    if first.ndim == 3 and first.shape[1] != second.shape[1]:
        longest = max(first.shape[1], second.shape[1])
        first, second = (np.pad(a, ((0, 0), (0, longest - a.shape[1]), (0, 0))) for a in (first, second))
    return np.concatenate([first, second])


class Block(dict[str, NDArray[Any]]):
    """Consecutive samples, ``{point: (n, D)}``, or ``(n, T, D)`` for points with tokens.

    Attributes
    ----------
    rows
        Row numbers of the samples in the paths.
    masks
        For points with tokens, whether each is real: ``{point: (n, T) bool}``.
    """

    def __init__(
        self, arrays: Mapping[str, NDArray[Any]], rows: range, masks: Mapping[str, NDArray[np.bool_]]
    ) -> None:
        super().__init__(arrays)
        self.rows = rows
        self.masks = dict(masks)


class Blocks(Iterator[Block]):
    """Consecutive blocks of columns, in order; ``len`` is their number. See ``RepresentationPaths.iterate``.

    Parameters
    ----------
    columns
        Columns to read.
    size
        Number of samples.
    rows
        Samples in a block; ``None`` for about 100 MB.
    remote
        Whether to fetch the next block in the background.
    """

    def __init__(
        self, columns: Mapping[str, VectorColumn | TokenColumn], size: int, rows: int | None, remote: bool
    ) -> None:
        rows = default_rows(columns) if rows is None else rows
        if rows < 1:
            raise RepdynError(f"size: {rows} is not a number of samples; expected 1 or more")
        self._ranges = [range(start, min(start + rows, size)) for start in range(0, size, rows)]
        self._blocks = (_ahead if remote else _in_turn)(columns, self._ranges)

    def __len__(self) -> int:
        return len(self._ranges)

    def __next__(self) -> Block:
        return next(self._blocks)


def default_rows(columns: Mapping[str, VectorColumn | TokenColumn]) -> int:
    """Default number of samples in a block: 2048, or fewer if these exceed 128 MiB in float32."""
    width = 0
    for column in columns.values():
        tokens = 1 if isinstance(column, VectorColumn) else max(1, column.shape[1])
        width += column.width * tokens
    return max(1, min(_BLOCK_SAMPLES, _BLOCK_BYTES // (4 * max(width, 1))))


def _in_turn(columns: Mapping[str, VectorColumn | TokenColumn], ranges: Sequence[range]) -> Iterator[Block]:
    """Read blocks one after the other."""
    for rows in ranges:
        yield _block(columns, rows)


def _ahead(columns: Mapping[str, VectorColumn | TokenColumn], ranges: Sequence[range]) -> Iterator[Block]:
    """Read each block in a background thread while the previous one is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="repdyn-fetch") as pool:
        ahead = pool.submit(_block, columns, ranges[0])
        for following in ranges[1:]:
            block = ahead.result()
            ahead = pool.submit(_block, columns, following)
            yield block
        yield ahead.result()


def _block(columns: Mapping[str, VectorColumn | TokenColumn], rows: range) -> Block:
    """Read one block of consecutive samples, with token masks."""
    index = np.arange(rows.start, rows.stop)
    masks = {}
    for name, column in columns.items():
        if isinstance(column, TokenColumn):
            lengths = column.shown_lengths()[index]
            masks[name] = np.arange(int(lengths.max(initial=0))) < lengths[:, None]
    return Block(gather(columns, index), rows, masks)


def drawn_rows(size: int, most: int, seed: int) -> NDArray[np.int64] | None:
    """Sorted row numbers of ``most`` of ``size`` samples, drawn at random; ``None`` if ``size <= most``.

    Examples
    --------
    >>> drawn_rows(10, 10, seed=0) is None
    True
    >>> len(drawn_rows(10, 4, seed=0))
    4
    """
    if size <= most:
        return None
    return np.sort(np.random.default_rng(seed).choice(size, most, replace=False)).astype(np.int64)
