"""RepresentationPaths: the one data structure, in memory or on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError, nearest_names
from repdyn.paths.arrays import check_points, parts_in_memory
from repdyn.paths.columns import Index, TokenColumn, VectorColumn, compose, equal_rows
from repdyn.paths.creation import save_columns
from repdyn.paths.datasets import parts_of_dataset
from repdyn.paths.projection import project
from repdyn.paths.publishing import StoreOnHub
from repdyn.paths.sampling import (
    Batch,
    Blocks,
    all_batches,
    chosen_indices,
    sample_indices,
    split_indices,
)
from repdyn.paths.summary import summary_html, summary_text
from repdyn.paths.tables import parts_of_table, stream_of
from repdyn.repeats import groups_of_equal_rows

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["LOGITS", "RepresentationPaths", "equal_samples"]

LOGITS = "logits"
"""Name of the model's outputs in :meth:`RepresentationPaths.iterate`, unless a point has it."""


class RepresentationPaths(StoreOnHub):
    """The representation paths :math:`x_0, …, x_L` of N samples through the points of a model.

    Made by :meth:`from_arrays`, by tracing a model, or by opening a store, with the same interface. Data on
    disk are read when they are indexed, through memory maps.

    Attributes
    ----------
    points
        Names of the points, in order of depth.
    widths
        Width of the vectors at each point, ``{point: D}``.
    labels
        ``(N,)`` integers or strings, or ``None``.
    ids
        Ids of the samples, ``(N,)`` strings.
    logits
        The model's own outputs ``(N, C)``, or ``None``.
    meta
        Provenance: model name and digest, pooling, preprocessing, data, seed, versions.
    path
        The store, a URL if it is remote; ``None`` in memory.

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
        columns: Mapping[str, VectorColumn | TokenColumn],
        *,
        logits: VectorColumn | None,
        read_labels: Callable[[], NDArray[Any] | None],
        read_ids: Callable[[], NDArray[np.str_]],
        meta: Mapping[str, Any],
        path: Path | str | None = None,
        index: Index | None = None,
    ) -> None:
        self._columns = dict(columns)
        self._logits = logits
        self._read_labels = read_labels
        self._read_ids = read_ids
        self._index = index
        self._meta = dict(meta)
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
        """Make paths of arrays in memory. Arrays of the right type are not copied.

        Parameters
        ----------
        arrays
            ``{point: (N, D)}`` in order of depth, or ``(N, T, D)`` with tokens. All points get
            the widest floating-point type of the arrays (float32 for integers).
        labels
            ``(N,)`` integers or strings.
        ids
            Ids of the samples, ``(N,)``; default: their row numbers.
        logits
            ``(N, C)``.
        meta
            Provenance, as JSON values.
        masks
            For points with tokens, ``{point: (N, T)}``, true for real tokens; default: all are. Padding is
            not kept: real tokens are moved to the front.

        Raises
        ------
        RepdynError
            If there are no points or no samples, sizes differ, or an entry is not finite.
        """
        return cls(**parts_in_memory(arrays, labels, ids, logits, meta, masks))

    @classmethod
    def from_arrow(
        cls,
        table: Any,
        points: Sequence[str] | None = None,
        ids: str | None = None,
        labels: str | None = None,
    ) -> RepresentationPaths:
        """Make paths of a table of another library, through the Arrow PyCapsule interface.

        Parameters
        ----------
        table
            A table of pyarrow, polars, pandas, duckdb, LanceDB or Hugging Face ``datasets`` (with
            ``dataset.with_format("arrow")[:]``); needs pyarrow.
        points
            Columns of vectors, in order of depth; default: all that hold lists of floating-point numbers.
        ids, labels
            Columns; default: ``id`` or ``ids``, and ``label`` or ``labels``, where there are such.

        Returns
        -------
        RepresentationPaths
            In memory, without a copy of the vectors where the table has them in one piece.

        Raises
        ------
        RepdynError
            If there is no such column, a vector is missing, widths differ, or an entry is not finite.

        Examples
        --------
        >>> import pyarrow
        >>> table = pyarrow.table({"id": ["a", "b"], "vector": [[1.0, 2.0], [3.0, 4.0]]})
        >>> RepresentationPaths.from_arrow(table).widths
        {'vector': 2}
        """
        arrays, own_ids, own_labels, meta = parts_of_table(table, points, ids, labels)
        return cls.from_arrays(arrays, own_labels, own_ids, meta=meta)

    @classmethod
    def from_dataset(
        cls,
        source: Any,
        points: Sequence[str] | None = None,
        ids: str | None = None,
        labels: str | None = None,
    ) -> RepresentationPaths:
        """Make paths of activations that another library wrote as a folder, or of a ``datasets.Dataset``.

        Parameters
        ----------
        source
            A ``datasets.Dataset``, or a folder: of ``Dataset.save_to_disk`` (needs pyarrow), of SAELens
            (``shard_0``, …), of THINGSvision (``features*.npy``, one folder per module) or of vLLM's
            ``ExampleHiddenStatesConnector`` (a safetensors file per request).
        points
            Columns or modules, in order of depth; default: all of them, modules by name. For vLLM, whose
            files do not name the layers, names for all layers; default: ``hidden_states.0``, ….
        ids, labels
            Columns of a data set; default: ``id`` or ``ids``, and ``label`` or ``labels``, where there are
            such. Ids are the lines of THINGSvision's ``file_names.txt``, and vLLM's ids of requests.

        Returns
        -------
        RepresentationPaths
            In memory. Tokens are kept, with a mask of the real ones.

        Raises
        ------
        RepdynError
            If the folder is none of these, a file is damaged, or shapes do not fit together.

        Examples
        --------
        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> (folder / "layer4").mkdir()
        >>> np.save(folder / "layer4" / "features_0-3.npy", np.zeros((3, 2)))
        >>> RepresentationPaths.from_dataset(folder).widths
        {'layer4': 2}
        """
        return cls.from_arrays(**parts_of_dataset(source, points, ids, labels))

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """These paths as a stream of Arrow record batches, for polars, duckdb, pandas and LanceDB.

        Columns as :func:`export_paths` writes them. A store is read batch by batch; needs pyarrow.
        """
        return stream_of(self, requested_schema)

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __contains__(self, point: object) -> bool:
        return point in self._columns

    def __getitem__(self, point: str) -> NDArray[Any] | VectorColumn | TokenColumn:
        """Representations at one point, ``(N, D)``, or ``(N, T, D)`` with tokens.

        An array in memory. From disk, a column that is read when indexed or passed to ``np.asarray``. Padding
        is zero, see :meth:`mask`.
        """
        column = self.column(point)
        return np.asarray(column) if self.path is None else column

    @property
    def meta(self) -> Mapping[str, Any]:
        """Provenance of the paths; read only."""
        return MappingProxyType(self._meta)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the representations."""
        return next(iter(self._columns.values())).dtype

    @cached_property
    def labels(self) -> NDArray[Any] | None:
        """``(N,)`` integers or strings, or ``None``."""
        labels = self._read_labels()
        return labels if labels is None or self._index is None else labels[self._index]

    @cached_property
    def ids(self) -> NDArray[np.str_]:
        """Ids of the samples, ``(N,)``."""
        ids = self._read_ids()
        return ids if self._index is None else ids[self._index]

    @property
    def logits(self) -> NDArray[Any] | None:
        """The model's own outputs ``(N, C)``, or ``None``."""
        return None if self._logits is None else np.asarray(self._logits)

    @property
    def logits_column(self) -> VectorColumn | None:
        """Column of the logits, for reading them in parts, or ``None``."""
        return self._logits

    @property
    def logits_width(self) -> int | None:
        """Number of logits C, or ``None``; without reading them."""
        return None if self._logits is None else self._logits.width

    @property
    def tokens(self) -> tuple[str, ...]:
        """The points with tokens."""
        return tuple(name for name, column in self._columns.items() if isinstance(column, TokenColumn))

    def mask(self, point: str) -> NDArray[np.bool_]:
        """Whether each token at a point is real, ``(N, T)``; the others are padding.

        Raises
        ------
        RepdynError
            If the point was pooled to one vector per sample.
        """
        column = self.column(point)
        if not isinstance(column, TokenColumn):
            raise RepdynError(f"point {point!r}: is pooled to one vector per sample and has no mask")
        return np.asarray(np.arange(column.shape[1]) < column.shown_lengths()[:, None])

    def subset(self, index: ArrayLike | slice) -> RepresentationPaths:
        """Some of the samples, in the order given, without reading or copying data.

        Parameters
        ----------
        index
            Row numbers, one boolean for each sample, or a slice.

        Raises
        ------
        RepdynError
            If a number is out of range or no sample is selected.
        """
        numbers = chosen_indices(index, len(self))
        return RepresentationPaths(
            {name: column.subset(numbers) for name, column in self._columns.items()},
            logits=None if self._logits is None else self._logits.subset(numbers),
            read_labels=self._read_labels,
            read_ids=self._read_ids,
            meta=self.meta,
            path=self.path,
            index=compose(self._index, numbers),
        )

    def tokens_as_samples(self) -> RepresentationPaths:
        """Every real token as a sample of its own, with one vector at each point, without reading any.

        For detectors and fits, which take pooled paths. Points without tokens and logits are left out.

        Returns
        -------
        RepresentationPaths
            The tokens of each sample in order, with its label. The id of token 2 of sample ``"a"`` is
            ``"a:2"``.

        Raises
        ------
        RepdynError
            If no point has tokens, or a sample has different numbers of tokens at two points.

        Notes
        -----
        A causal model gives texts that begin alike equal tokens. They count as repeats of one sample.

        Examples
        --------
        >>> tokens, mask = np.ones((2, 3, 4)), [[True, True, True], [True, False, False]]
        >>> paths = RepresentationPaths.from_arrays({"block": tokens}, ids=["a", "b"], masks={"block": mask})
        >>> paths.tokens_as_samples().ids.tolist()
        ['a:0', 'a:1', 'a:2', 'b:0']
        """
        columns = {name: column for name, column in self._columns.items() if isinstance(column, TokenColumn)}
        if not columns:
            raise RepdynError(
                f"tokens_as_samples: none of the points {', '.join(self.points)} has tokens; trace with "
                'pool="none"'
            )
        first, *others = columns
        lengths = columns[first].shown_lengths()
        for other in others:
            differ = np.flatnonzero(columns[other].shown_lengths() != lengths)
            if len(differ):
                sample, there = differ[0], columns[other].shown_lengths()[differ[0]]
                raise RepdynError(
                    f"tokens_as_samples: sample {str(self.ids[sample])!r} has {lengths[sample]} tokens at "
                    f"{first!r} and {there} at {other!r}; trace points with the same tokens"
                )
        if not lengths.any():
            raise RepdynError("tokens_as_samples: no sample has a token")
        return RepresentationPaths(
            {name: column.flat() for name, column in columns.items()},
            logits=None,
            read_labels=partial(_token_labels, self, lengths),
            read_ids=partial(_token_ids, self, lengths),
            meta={**self.meta, "points": list(columns), "widths": {p: self.widths[p] for p in columns}}
            | {"tokens": [], "samples": "tokens"},
            path=self.path,
        )

    def split(
        self, fractions: Sequence[float] = (0.8, 0.2), seed: int = 0, stratify: bool = True
    ) -> tuple[RepresentationPaths, ...]:
        """Divide the samples at random into parts.

        Equal samples go to one part, because a copy of a training sample is no test of generalization.
        They are detected at the last point, which is read.

        Parameters
        ----------
        fractions
            Shares of the parts, positive, with sum 1.
        seed
            Seed of the random order; the same seed gives the same parts.
        stratify
            Whether each part gets its share of each label, if there are labels.

        Returns
        -------
        tuple of RepresentationPaths
            One for each fraction; the order of the samples is kept.
        """
        parts = split_indices(len(self), fractions, self.labels if stratify else None, seed, self._repeats())
        return tuple(self.subset(part) for part in parts)

    def _repeats(self) -> NDArray[np.int64] | None:
        """Group of equal samples of each sample, ``(N,)``; ``None`` if no two are equal."""
        groups = equal_samples(self)
        return None if int(groups.max()) + 1 == len(self) else groups

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
            Samples in a batch; the last one may be smaller.
        points
            Points to read; default: all.
        shuffle
            ``True``: a uniform permutation; ``"blocks"``: an order that reads neighboring samples together,
            for data much larger than memory; ``False``: the order of the samples. For a remote store ``True``
            means ``"blocks"``, and the next samples are fetched in the background.
        seed
            Seed of the order. Give another one in every epoch.

        Yields
        ------
        Batch
            A dictionary of tensors ``(n, D)`` (or ``(n, T, D)``, padded), with ``index`` and ``masks``.
        """
        names = self.points if points is None else check_points(points)
        columns = {name: self.column(name) for name in names}
        return all_batches(columns, len(self), batch_size, shuffle, seed, isinstance(self.path, str))

    def iterate(self, points: Sequence[str] | None = None, size: int | None = None) -> Blocks:
        """Consecutive blocks of samples, in order, for data that do not fit into memory.

        Every packed row is read once, for all points together. The next block of a remote store is fetched in
        the background.

        Parameters
        ----------
        points
            Points to read; default: all. ``"logits"`` reads the model's outputs, unless a point has
            that name.
        size
            Samples in a block (the last one may be smaller); default: 2048, or fewer for 128 MiB.

        Returns
        -------
        Blocks
            An iterator (``len`` is the number of blocks) of ``{point: array (n, D)}`` in the dtype of the
            paths (``(n, T, D)``, padded, with tokens), with ``rows``, the numbers of the samples, and
            ``masks``.

        Raises
        ------
        RepdynError
            If a point does not exist, there are no logits, or ``size`` is below 1.

        Examples
        --------
        >>> paths = RepresentationPaths.from_arrays({"stem": np.zeros((5, 2)), "head": np.ones((5, 3))})
        >>> [(block.rows, block["head"].shape) for block in paths.iterate(size=4)]
        [(range(0, 4), (4, 3)), (range(4, 5), (1, 3))]
        """
        names = self.points if points is None else check_points(points)
        outputs = {} if self._logits is None or LOGITS in self._columns else {LOGITS: self._logits}
        columns = {name: outputs[name] if name in outputs else self.column(name) for name in names}
        return Blocks(columns, len(self), size, isinstance(self.path, str))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write these paths to a store, atomically; :func:`open_paths` opens it.

        Parameters
        ----------
        path
            A folder or URL. An earlier store of paths is replaced; anything else raises.

        Raises
        ------
        RepdynError
            If ``path`` holds something else or the store of these paths, or the disk is full.
        """
        save_columns(path, self._columns, self.ids, self.labels, self._logits, self.meta, self.path)

    @property
    def is_unchosen(self) -> bool:
        """Whether these are all samples in their order: :meth:`subset` was not called."""
        return self._index is None

    def column(self, point: str) -> VectorColumn | TokenColumn:
        """Column of one point, for reading its representations in parts."""
        if not isinstance(point, str):  # a slice cannot be looked up, an array has no one truth value
            raise RepdynError(
                f"paths[…]: a {type(point).__name__} is not the name of a point; paths.subset(rows) takes "
                f"samples, and the points are {', '.join(map(repr, self.points[:5]))}"
            )
        if point not in self._columns:
            known = nearest_names(str(point), self.points)
            raise RepdynError(f"point {point!r}: is not on these paths; {known}")
        return self._columns[point]

    def plot(self, seed: int = 0) -> go.Figure:
        """Plot the paths of some samples in a plane that all points share.

        Parameters
        ----------
        seed
            Seed of the samples and of the projection.
        """
        from repdyn.views.path_flow import path_flow  # plotly is slow to import

        drawn = self.subset(sample_indices(len(self), seed))
        (block,) = drawn.iterate(size=len(drawn))
        columns = {
            point: TokenColumn.of(x, block.masks[point]) if point in block.masks else VectorColumn.of(x)
            for point, x in block.items()
        }
        projected, explained = project(columns, seed)
        return path_flow(projected, drawn.labels, list(drawn.points), explained, total=len(self))

    def to_dict(self) -> dict[str, Any]:
        """Properties of the paths as plain values, for ``--json``."""
        labels, logits = self.labels, self.logits_column
        return {
            "path": None if self.path is None else str(self.path),
            "size": len(self),
            "points": list(self.points),
            "widths": self.widths,
            "dtype": self.dtype.name,
            "tokens": list(self.tokens),
            "classes": None if labels is None else len(np.unique(labels)),
            "logits_width": None if logits is None else logits.width,
            "meta": dict(self.meta),
        }

    def __repr__(self) -> str:
        return summary_text(self.to_dict())

    def _repr_html_(self) -> str:
        """For notebooks: a row for each point, with its shape, type and bytes; no representation is read."""
        labels = None if self.labels is None else self.labels.dtype
        kind = None if labels is None else "string" if labels.kind in "UST" else labels.name
        return summary_html(self.to_dict(), self._columns, kind)


def equal_samples(paths: RepresentationPaths) -> NDArray[np.int64]:
    """Group of each sample, ``(N,)``; samples that are equal at the last point share a group.

    A dead layer has equal rows for different samples. If two samples are equal, the first point is read too.
    """
    groups: NDArray[np.int64] | None = None
    for point in dict.fromkeys((paths.points[-1], paths.points[0])):
        own = equal_rows(paths.column(point))
        groups = own if groups is None else groups_of_equal_rows(np.stack([groups, own], axis=1), 0)
        if int(groups.max()) + 1 == len(paths):
            break
    assert groups is not None
    return groups


def _token_labels(paths: RepresentationPaths, lengths: Index) -> NDArray[Any] | None:
    """The label of each token's sample."""
    return None if paths.labels is None else np.repeat(paths.labels, lengths)


def _token_ids(paths: RepresentationPaths, lengths: Index) -> NDArray[np.str_]:
    """The id of each token: its sample's and its position."""
    own = np.repeat(paths.ids, lengths)
    positions = np.arange(len(own)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.char.add(np.char.add(own, ":"), positions.astype(np.str_))
