"""Every clip with every other's parts: a grid whose rows give one part and whose columns the rest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from repdyn.artifacts import load_artifact, refuses_damage, save_artifact
from repdyn.disentangle.swaps import exchange, pictures, what
from repdyn.errors import RepdynError

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from repdyn.disentangle.structured import StructuredKoopman

__all__ = ["SwapGrid", "swap_grid"]


@dataclass(frozen=True, eq=False, repr=False)
class SwapGrid:
    """Sequences with one another's parts, decoded.

    Attributes
    ----------
    decoded
        Shape ``(n, n, T, …)``: at ``[i, j]`` sequence j with the parts of sequence i. On the diagonal each
        is as it is reconstructed.
    factors
        What the rows give.
    """

    decoded: NDArray[np.float32]
    factors: str | tuple[int, ...]

    def plot(self) -> go.Figure:
        """The grid, all of its clips played together."""
        from repdyn.views.swaps import swaps

        numbers = range(1, len(self.decoded) + 1)
        caption = (
            f"Each row gives its clip's {what(self.factors)}, each column all else; on the diagonal a clip "
            "keeps what it has."
        )
        return swaps(
            pictures(self.decoded), [f"from {n}" for n in numbers], [f"rest of {n}" for n in numbers], caption
        )

    def to_dict(self) -> dict[str, Any]:
        """What was exchanged, how many sequences, and how far they moved (root mean square)."""
        own = np.einsum("ii...->i...", self.decoded)
        moved = float(np.sqrt(((self.decoded - own[None]) ** 2).mean()))
        factors = list(self.factors) if isinstance(self.factors, tuple) else self.factors
        return {"factors": factors, "sequences": len(self.decoded), "moved": moved}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a folder, of kind ``"swap_grid"``; ``repdyn report`` draws it."""
        save_artifact(path, "swap_grid", self.to_dict(), {"decoded": self.decoded})

    @classmethod
    @refuses_damage
    def load(cls, path: str | os.PathLike[str]) -> SwapGrid:
        """Read what :meth:`save` wrote."""
        found = load_artifact(path, "swap_grid")
        try:
            factors, decoded = found.config["factors"], found.tensors["decoded"]
            if decoded.ndim < 3 or decoded.shape[0] != decoded.shape[1]:
                raise RepdynError(f"{path}: this is not a whole grid of swaps (of shape {decoded.shape})")
            return cls(found.tensors["decoded"], factors if isinstance(factors, str) else tuple(factors))
        except (KeyError, TypeError) as error:
            raise RepdynError(f"{path}: this is not a whole grid of swaps ({error})") from None

    def __repr__(self) -> str:
        found = self.to_dict()
        return (
            f"SwapGrid of {found['sequences']} sequences, which give one another their {what(self.factors)}\n"
            f"  moved by {found['moved']:.3g} (root mean square)"
        )


def swap_grid(model: StructuredKoopman, sequences: Any, factors: str | Sequence[int] = "static") -> SwapGrid:
    """Give every sequence the chosen parts of every other, and decode.

    Parameters
    ----------
    model
        Fitted.
    sequences
        A few of one length; the grid holds the square of their number.
    factors
        ``"static"``, ``"dynamic"``, or numbers of single static factors.

    Returns
    -------
    SwapGrid

    Raises
    ------
    RepdynError
        If lengths differ, or there is no such factor.
    """
    parts = model.factors(sequences)
    if not parts.mask.all():
        raise RepdynError(
            "sequences of differing lengths cannot give one another parts; take those of one length"
        )
    giving, taking = (index.ravel() for index in np.indices((len(parts), len(parts))))
    latents, _ = exchange(parts.take(taking), parts.take(giving), factors)
    decoded = model.decode(latents)
    chosen = factors if isinstance(factors, str) else tuple(factors)
    return SwapGrid(decoded.reshape(len(parts), len(parts), *decoded.shape[1:]), chosen)
