"""Swaps: exchange or replace parts of latents, and decode.

:func:`swap` exchanges parts pair by pair, :func:`swap_grid` gives each sequence the parts of every other.
:func:`exchange` and :func:`resample` work on latents alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from repdyn.artifacts import Artifact
from repdyn.disentangle.factors import Factors
from repdyn.errors import RepdynError
from repdyn.results import Result

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = [
    "Decomposition", "Swap", "SwapGrid", "describe_factors", "exchange", "pictures", "resample", "swap",
    "swap_grid",
]  # fmt: skip


class Decomposition(Protocol):
    """A model that splits sequences into parts and decodes latents."""

    def factors(self, sequences: Any) -> Factors:
        """Parts of sequences."""

    def decode(self, z: Any) -> Any:
        """Sequences from latents ``(N, T, k)``."""


def swap(model: Decomposition, first: Any, second: Any, factors: str | Sequence[int] = "static") -> Swap:
    """Exchange parts of two sets of sequences, pair by pair, and decode both.

    Parameters
    ----------
    model
        A fitted model.
    first, second
        The same number of sequences in each, all of one length.
    factors
        ``"static"``, ``"dynamic"``, or numbers of single static factors.

    Returns
    -------
    Swap

    Raises
    ------
    RepdynError
        If numbers or lengths differ, or a factor does not exist.
    """
    a, b = model.factors(first), model.factors(second)
    if a.mask.shape != b.mask.shape or not (a.mask.all() and b.mask.all()):
        raise RepdynError(
            f"the two sets have shapes {a.mask.shape} and {b.mask.shape} (sequences, frames); a swap needs "
            "as many sequences in each, all of one length"
        )
    new_a, new_b = exchange(a, b, factors)
    # A swap is compared with reconstructions, not with the data: the decoder's error is in both.
    decoded = [model.decode(z) for z in (new_a, new_b, a.latents, b.latents)]
    chosen = factors if isinstance(factors, str) else tuple(factors)
    return Swap(decoded[0], decoded[1], (decoded[2], decoded[3]), chosen)


def swap_grid(model: Decomposition, sequences: Any, factors: str | Sequence[int] = "static") -> SwapGrid:
    """Decode every sequence with the chosen parts of every other.

    Parameters
    ----------
    model
        A fitted model.
    sequences
        A few of one length. The grid has the square of their number.
    factors
        ``"static"``, ``"dynamic"``, or numbers of single static factors.

    Returns
    -------
    SwapGrid

    Raises
    ------
    RepdynError
        If lengths differ, or a factor does not exist.
    """
    parts = model.factors(sequences)
    if not parts.mask.all():
        raise RepdynError("sequences of different lengths cannot exchange parts; select those of one length")
    source, target = (index.ravel() for index in np.indices((len(parts), len(parts))))
    latents, _ = exchange(parts.take(target), parts.take(source), factors)
    decoded = model.decode(latents)
    chosen = factors if isinstance(factors, str) else tuple(factors)
    return SwapGrid(decoded.reshape(len(parts), len(parts), *decoded.shape[1:]), chosen)


@dataclass(frozen=True, eq=False, repr=False)
class Swap(Result, kind="swap"):
    """Two sets of sequences that have exchanged parts, decoded.

    Attributes
    ----------
    first
        Sequences of the first set with parts of the second, shape ``(N, T, …)``.
    second
        Sequences of the second set with parts of the first.
    originals
        Reconstructions of both sets without a swap.
    factors
        The exchanged parts.
    """

    first: NDArray[np.float32]
    second: NDArray[np.float32]
    originals: tuple[NDArray[np.float32], NDArray[np.float32]]
    factors: str | tuple[int, ...]

    def plot(self, row: int = 0) -> go.Figure:
        """One pair of clips before and after, played together."""
        from repdyn.views.swaps import swaps

        shown = (self.originals[0], self.first, self.originals[1], self.second)
        clips = pictures(np.stack([clip[row] for clip in shown]))
        parts = describe_factors(self.factors)
        caption = f"Reconstructions of two clips, and the same after a swap of their {parts}."
        return swaps(clips.reshape(2, 2, *clips.shape[1:]), ("A", "B"), ("itself", "swapped"), caption)

    def to_dict(self) -> dict[str, Any]:
        """The exchanged parts, and the root mean square change of the sequences."""
        moved = [
            float(np.sqrt(((a - b) ** 2).mean())) for a, b in zip((self.first, self.second), self.originals)
        ]
        return {
            "factors": list(self.factors) if isinstance(self.factors, tuple) else self.factors,
            "moved": moved,
        }

    def __post_init__(self) -> None:
        """Check that all four sets have one shape; a damaged result is refused here."""
        shapes = {clips.shape for clips in (self.first, self.second, *self.originals)}
        if len(shapes) > 1:
            raise ValueError(f"expected sets of one shape, got {sorted(shapes)}")

    @classmethod
    def _upgrade(cls, artifact: Artifact, path: Path) -> Artifact:
        """Version 0.1 named the originals."""
        originals = [{"tensor": "original_first"}, {"tensor": "original_second"}]
        return replace(artifact, config={**artifact.config, "originals": originals})

    def __repr__(self) -> str:
        moved = self.to_dict()["moved"]
        return (
            f"Swap of {self.factors} between {len(self.first)} pairs of sequences\n"
            f"  root mean square change {moved[0]:.3g} and {moved[1]:.3g}"
        )


@dataclass(frozen=True, eq=False, repr=False)
class SwapGrid(Result, kind="swap_grid"):
    """Decoded sequences, each with the parts of every other.

    Attributes
    ----------
    decoded
        Shape ``(n, n, T, …)``: at ``[i, j]`` sequence j with the parts of sequence i. The diagonal holds the
        reconstructions.
    factors
        The parts that come from sequence i.
    """

    decoded: NDArray[np.float32]
    factors: str | tuple[int, ...]

    def plot(self) -> go.Figure:
        """The grid, with all clips played together."""
        from repdyn.views.swaps import swaps

        numbers = range(1, len(self.decoded) + 1)
        caption = (
            f"The {describe_factors(self.factors)} comes from the clip of the row, the rest from that of the "
            "column. The diagonal shows the reconstructions."
        )
        return swaps(
            pictures(self.decoded), [f"from {n}" for n in numbers], [f"rest of {n}" for n in numbers], caption
        )

    def to_dict(self) -> dict[str, Any]:
        """The exchanged parts, the number of sequences, and their root mean square change."""
        own = np.einsum("ii...->i...", self.decoded)
        moved = float(np.sqrt(((self.decoded - own[None]) ** 2).mean()))
        factors = list(self.factors) if isinstance(self.factors, tuple) else self.factors
        return {"factors": factors, "sequences": len(self.decoded), "moved": moved}

    def __post_init__(self) -> None:
        """Check that the grid is square; a damaged result is refused here."""
        if self.decoded.ndim < 3 or self.decoded.shape[0] != self.decoded.shape[1]:
            raise ValueError(f"expected a square grid of sequences, got shape {self.decoded.shape}")

    def __repr__(self) -> str:
        figures, parts = self.to_dict(), describe_factors(self.factors)
        return (
            f"SwapGrid of {figures['sequences']} sequences, each with the {parts} of every other\n"
            f"  root mean square change {figures['moved']:.3g}"
        )


def exchange(
    a: Factors, b: Factors, factors: str | Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Latents of ``a`` with the chosen parts of ``b``, and of ``b`` with those of ``a``."""
    of_a, of_b = a.part(factors), b.part(factors)
    return a.latents - of_a + of_b, b.latents - of_b + of_a


def describe_factors(factors: str | Sequence[int]) -> str:
    """Words for the chosen parts: ``"static part"``, or the numbers of single factors."""
    return f"{factors} part" if isinstance(factors, str) else f"static factors {list(factors)}"


def pictures(clips: NDArray[np.float32]) -> NDArray[np.float32]:
    """Clips ``(…, T, channels, H, W)`` as pictures ``(…, T, H, W, 3)`` in [0, 1].

    Raises
    ------
    RepdynError
        If they are sequences of vectors, or have another number of channels than one or three.
    """
    if clips.ndim < 5 or clips.shape[-3] not in (1, 3):
        raise RepdynError(
            f"only clips of one or three channels can be drawn; these have shape {clips.shape[1:]}"
        )
    shown: NDArray[np.float32] = np.moveaxis(clips, -3, -1).clip(0, 1)
    return shown.repeat(3, axis=-1) if shown.shape[-1] == 1 else shown


def resample(
    parts: Factors,
    replaced: str | Sequence[int] | None = "static",
    *,
    kept: Sequence[int] | None = None,
    seed: int = 0,
    rows: NDArray[np.int64] | None = None,
) -> NDArray[np.float32]:
    r"""Latents whose parts are replaced by random convex mixes of the same parts of two other sequences.

    The mix is :math:`(u_1 p_a + u_2 p_b) / (u_1 + u_2)` with uniform u: the published "sample swap". The
    static and the dynamic part are drawn from different pairs of sequences.

    Parameters
    ----------
    parts
        Parts of sequences of one length.
    replaced
        ``"static"``, ``"dynamic"``, or numbers of static factors. None: everything but ``kept``.
    kept
        With ``replaced=None``: numbers of static factors that are kept. The dynamic part is replaced.
    seed
        Of the draws.
    rows
        Indices of the sequences to start from; default: all.

    Returns
    -------
    ndarray
        Shape ``(len(rows), T, k)``.

    References
    ----------
    Hason (2024), section on sample swaps.
    """
    if not parts.mask.all():
        raise RepdynError("sequences of different lengths cannot be mixed; select those of one length")
    if len(parts) < 2:
        raise RepdynError("mixing needs at least two sequences, got one")
    generator = np.random.default_rng(seed)
    rows = np.arange(len(parts)) if rows is None else rows
    selected = parts.take(rows)
    chosen: list[str | Sequence[int]]
    if replaced is None:
        unchanged = set(kept or ())
        chosen = [[n for n in range(parts.count) if n not in unchanged], "dynamic"]
    else:
        chosen = [replaced]
    latents = selected.latents
    for part in chosen:
        latents = latents - selected.part(part) + _mix(parts, part, rows, generator)
    return latents


def _mix(
    parts: Factors, chosen: str | Sequence[int], rows: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.float32]:
    """Convex mixes ``(len(rows), T, k)`` of the chosen part of two random other sequences each."""
    others = [(rows + generator.integers(1, len(parts), size=len(rows))) % len(parts) for _ in range(2)]
    shares = 1 - generator.random((2, len(rows)))  # in (0, 1], so that the sum is not zero
    shares = (shares / shares.sum(axis=0)).astype(np.float32)
    source = parts.part(chosen)
    mixed: NDArray[np.float32] = sum(
        share[:, None, None] * source[other] for share, other in zip(shares, others)
    )
    return mixed
