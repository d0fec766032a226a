"""Static and dynamic parts of latents."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from repdyn.disentangle.spectral import static_modes
from repdyn.errors import RepdynError

__all__ = ["Factors", "split"]


@dataclass(frozen=True, eq=False, repr=False)
class Factors:
    """Latents of sequences as the sum of single static factors and a dynamic part.

    Attributes
    ----------
    static, dynamic
        Shape ``(N, T, k)``; they sum to the latents.
    mask
        Which frames are real, shape ``(N, T)``.
    modes
        Static part by mode, shape ``(s, N, T, k)``, if single factors are modes; None if they are latent
        coordinates.
    """

    static: NDArray[np.float32]
    dynamic: NDArray[np.float32]
    mask: NDArray[np.bool_]
    modes: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.static)

    @property
    def count(self) -> int:
        """Number of single static factors."""
        return self.static.shape[2] if self.modes is None else len(self.modes)

    @property
    def latents(self) -> NDArray[np.float32]:
        """Shape ``(N, T, k)``."""
        return self.static + self.dynamic

    def take(self, rows: NDArray[np.int64] | slice) -> Factors:
        """Some of the sequences."""
        modes = None if self.modes is None else self.modes[:, rows]
        return Factors(self.static[rows], self.dynamic[rows], self.mask[rows], modes)

    def part(self, chosen: str | Sequence[int]) -> NDArray[np.float32]:
        """The sum of the chosen parts, shape ``(N, T, k)``.

        Parameters
        ----------
        chosen
            ``"static"``, ``"dynamic"``, or numbers of single static factors (an empty list gives zeros).

        Raises
        ------
        RepdynError
            If there is no such part.
        """
        if isinstance(chosen, str):
            if chosen not in ("static", "dynamic"):
                raise RepdynError(f"factors must be 'static', 'dynamic' or numbers, got {chosen!r}")
            return self.static if chosen == "static" else self.dynamic
        numbers = sorted(set(chosen))
        if numbers and not 0 <= numbers[0] <= numbers[-1] < self.count:
            raise RepdynError(f"factors: expected static factors 0 to {self.count - 1}, got {list(chosen)}")
        if self.modes is not None:
            chosen_modes: NDArray[np.float32] = self.modes[numbers].sum(axis=0)
            return chosen_modes
        kept = np.zeros(self.static.shape[2], dtype=self.static.dtype)
        kept[numbers] = 1
        return self.static * kept

    @property
    def static_share(self) -> float:
        """Variance of the static part, over sequences and time, relative to the sum of both parts."""
        static, dynamic = (x[self.mask].var(axis=0).sum() for x in (self.static, self.dynamic))
        return float(static / max(static + dynamic, np.finfo(np.float32).tiny))

    def some(self, chosen: str | Sequence[int]) -> NDArray[np.float32]:
        """Old name of :meth:`part`."""
        warnings.warn("Factors.some was renamed part", DeprecationWarning, stacklevel=2)
        return self.part(chosen)

    def __repr__(self) -> str:
        kind = "latent coordinates" if self.modes is None else "modes"
        return (
            f"Factors of {len(self)} sequences: {self.count} static factors ({kind}), "
            f"static share of variance {self.static_share:.3f}"
        )


def split(
    z: NDArray[np.float32], mask: NDArray[np.bool_], operators: Tensor, static_dim: int, extraction: str
) -> Factors:
    """Split latents by the static spectral projector of their operator.

    Parameters
    ----------
    z, mask
        Latents ``(N, T, k)`` and which frames are real.
    operators
        ``(N, k, k)``, or ``(1, k, k)`` for all.
    static_dim
        Number of static factors.
    extraction
        ``"eigenvector"`` or ``"coordinate"``.

    Returns
    -------
    Factors
    """
    modes = static_modes(operators, static_dim)
    # In float64: projectors on nearby eigenvalues have large entries that cancel.
    coordinates = z.astype(np.float64) @ modes.right
    static = (coordinates @ modes.left).astype(z.dtype)
    if extraction == "coordinate":
        return Factors(static, z - static, mask)
    by_mode = np.stack(
        [
            ((coordinates * (modes.factor == number)[:, None, :]) @ modes.left).astype(z.dtype)
            for number in range(static_dim)
        ]
    )
    return Factors(static, z - static, mask, by_mode)
