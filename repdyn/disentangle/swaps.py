"""Exchanging and replacing parts of latents."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repdyn.artifacts import load_artifact, refuses_damage, save_artifact
from repdyn.disentangle.factors import Factors
from repdyn.errors import RepdynError

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from repdyn.disentangle.structured import StructuredKoopman

__all__ = ["Swap", "exchange", "pictures", "resample", "swap", "what"]


@dataclass(frozen=True, eq=False, repr=False)
class Swap:
    """Two sets of sequences that have exchanged parts, decoded.

    Attributes
    ----------
    first
        The first set's sequences with the second's parts, shape ``(N, T, …)``.
    second
        The other way round.
    originals
        Both sets as they are reconstructed without a swap.
    factors
        What was exchanged.
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
        caption = f"Two clips as they are reconstructed, and with each other's {what(self.factors)}."
        return swaps(clips.reshape(2, 2, *clips.shape[1:]), ("A", "B"), ("itself", "swapped"), caption)

    def to_dict(self) -> dict[str, Any]:
        """What was exchanged and how far it moved the sequences (root mean square)."""
        moved = [
            float(np.sqrt(((a - b) ** 2).mean())) for a, b in zip((self.first, self.second), self.originals)
        ]
        return {
            "factors": list(self.factors) if isinstance(self.factors, tuple) else self.factors,
            "moved": moved,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a folder, of kind ``"swap"``; ``repdyn report`` draws it."""
        tensors = {"first": self.first, "second": self.second}
        tensors |= {"original_first": self.originals[0], "original_second": self.originals[1]}
        save_artifact(path, "swap", self.to_dict(), tensors)

    @classmethod
    @refuses_damage
    def load(cls, path: str | os.PathLike[str]) -> Swap:
        """Read what :meth:`save` wrote."""
        found = load_artifact(path, "swap")
        try:
            factors, tensors = found.config["factors"], found.tensors
            shapes = {
                tensors[name].shape for name in ("first", "second", "original_first", "original_second")
            }
            if len(shapes) > 1:
                raise RepdynError(f"{path}: this is not a whole swap (of shapes {sorted(shapes)})")
            return cls(
                tensors["first"],
                tensors["second"],
                (tensors["original_first"], tensors["original_second"]),
                factors if isinstance(factors, str) else tuple(factors),
            )
        except (KeyError, TypeError) as error:
            raise RepdynError(f"{path}: this is not a whole swap ({error})") from None

    def __repr__(self) -> str:
        moved = self.to_dict()["moved"]
        return (
            f"Swap of {self.factors} between {len(self.first)} pairs of sequences\n"
            f"  moved by {moved[0]:.3g} and {moved[1]:.3g} (root mean square)"
        )


def swap(model: StructuredKoopman, first: Any, second: Any, factors: str | Sequence[int] = "static") -> Swap:
    """Exchange parts of two sets of sequences, pair by pair, and decode both.

    Parameters
    ----------
    model
        Fitted.
    first, second
        As many sequences in each, of one length.
    factors
        ``"static"``, ``"dynamic"``, or numbers of single static factors.

    Returns
    -------
    Swap

    Raises
    ------
    RepdynError
        If numbers or lengths differ, or there is no such factor.
    """
    a, b = model.factors(first), model.factors(second)
    if a.mask.shape != b.mask.shape or not (a.mask.all() and b.mask.all()):
        raise RepdynError(
            f"the two sets have shapes {a.mask.shape} and {b.mask.shape} (sequences, frames); a swap needs "
            "as many sequences in each, all of one length"
        )
    new_a, new_b = exchange(a, b, factors)
    decoded = [model.decode(z) for z in (new_a, new_b, a.latents, b.latents)]
    chosen = factors if isinstance(factors, str) else tuple(factors)
    return Swap(decoded[0], decoded[1], (decoded[2], decoded[3]), chosen)


def exchange(
    a: Factors, b: Factors, factors: str | Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Latents of ``a`` with the chosen parts of ``b``, and of ``b`` with those of ``a``."""
    of_a, of_b = a.some(factors), b.some(factors)
    return a.latents - of_a + of_b, b.latents - of_b + of_a


def what(factors: str | Sequence[int]) -> str:
    """What was exchanged, in words: ``"static part"``, or the numbers of single factors."""
    return f"{factors} part" if isinstance(factors, str) else f"static factors {list(factors)}"


def pictures(clips: NDArray[np.float32]) -> NDArray[np.float32]:
    """Clips ``(…, T, channels, H, W)`` as a picture draws them, ``(…, T, H, W, 3)``, in [0, 1].

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
    r"""Latents with parts replaced by a random convex mix of two other sequences' same parts.

    :math:`u_1 p_a + u_2 p_b` over :math:`u_1 + u_2`, with uniform u: the published "sample swap". The static
    part, and the dynamic part, each have their own two sequences.

    Parameters
    ----------
    parts
        Of sequences of one length.
    replaced
        ``"static"``, ``"dynamic"``, or numbers of static factors. None: everything but ``kept``.
    kept
        With ``replaced=None``: numbers of static factors that stay (the dynamic part is replaced).
    seed
        Same seed, same draws.
    rows
        Which sequences to start from; default: each once.

    Returns
    -------
    ndarray
        Shape ``(len(rows), T, k)``.

    References
    ----------
    Hason (2024), section on sample swaps.
    """
    if not parts.mask.all():
        raise RepdynError("sequences of differing lengths cannot be mixed; take those of one length")
    if len(parts) < 2:
        raise RepdynError("one sequence has no other to mix with; give at least two")
    generator = np.random.default_rng(seed)
    rows = np.arange(len(parts)) if rows is None else rows
    found = parts.take(rows)
    chosen: list[str | Sequence[int]]
    if replaced is None:
        staying = set(kept or ())
        chosen = [[n for n in range(parts.count) if n not in staying], "dynamic"]
    else:
        chosen = [replaced]
    latents = found.latents
    for part in chosen:
        latents = latents - found.some(part) + _mix(parts, part, rows, generator)
    return latents


def _mix(
    parts: Factors, chosen: str | Sequence[int], rows: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.float32]:
    others = [(rows + generator.integers(1, len(parts), size=len(rows))) % len(parts) for _ in range(2)]
    shares = 1 - generator.random((2, len(rows)))  # in (0, 1], so that they never sum to nothing
    shares = (shares / shares.sum(axis=0)).astype(np.float32)
    source = parts.some(chosen)
    mixed: NDArray[np.float32] = sum(
        share[:, None, None] * source[other] for share, other in zip(shares, others)
    )
    return mixed
