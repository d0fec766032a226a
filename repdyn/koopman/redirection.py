"""The edit of an operator itself: the least change of a linear map that sends some rows elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["edit_operator", "reweighted"]

_PRESERVE = 1e-4  # ridge on what is kept, relative to its mean eigenvalue
_WIDE = 30.0  # times the median size of coordinates: wider ones are brought to it for the ridge
_HEAVIEST = 20.0  # that a row becomes, in times its first weight


def edit_operator(
    harmful: Tensor,
    clean: Tensor,
    matrix: Tensor,
    destination: Tensor,
    strength: float | Tensor = 10.0,
    keep: float | Tensor = 1.0,
) -> Tensor:
    """Least change of a linear map that sends some rows elsewhere and keeps the others.

    ``T' = T + (C'KC + r I + H'WH)^-1 H'W(Y - H T)`` with the weights ``K`` and ``W`` on the diagonal: it
    minimises ``|K^(1/2) (C T' - C T)|^2 + r |T' - T|^2 + |W^(1/2) (H T' - Y)|^2``. This is
    the batched rank-one edit with equality relaxed (EMMET), pushed through so that the system solved is
    ``d x d`` for any number of rows.

    ``r`` is one number, so that a coordinate thousands of times as wide as the rest would freeze these. A
    coordinate over 30 times as wide as the median one (root mean square) is divided for the computation.

    Parameters
    ----------
    harmful, clean
        Observables ``H`` and ``C`` at the first point, shapes ``(h, d)`` and ``(c, d)``.
    matrix
        ``T``, shape ``(d, d)``.
    destination
        ``Y``, where harmful rows shall arrive, shape ``(h, d)`` or ``(d,)``.
    strength
        ``W``: a harmful row weighs as much as so many clean ones; one number or one for each, ``(h,)``.
    keep
        ``K``, weights of the clean rows likewise.

    Returns
    -------
    Tensor
        ``T'``, shape ``(d, d)``, float64.

    References
    ----------
    Gupta, Sajnani and Anumanchipalli (2024), A unified framework for model editing, arXiv 2403.14236.
    """
    harmful, clean, matrix, destination = (t.double() for t in (harmful, clean, matrix, destination))
    size = (keep * clean.T**2).mean(dim=1).sqrt()
    middle = size[size > 0].median() if (size > 0).any() else size.new_ones(())
    scale = torch.where(size > _WIDE * middle, size / middle, 1.0)
    harmful, clean, matrix = harmful / scale, clean / scale, matrix * scale[:, None]
    kept = (clean.T * keep) @ clean
    kept.diagonal().add_(_PRESERVE * kept.diagonal().mean())
    weighted = harmful.T * strength
    change: Tensor = torch.linalg.solve(
        kept + weighted @ harmful, weighted @ (destination - harmful @ matrix)
    )
    return (matrix + change) / scale[:, None]


def reweighted(
    z: Tensor,
    harmful: NDArray[np.bool_],
    clean: NDArray[np.bool_],
    matrix: Tensor,
    destination: Tensor,
    strength: float,
    amiss: Callable[[Tensor], Tensor],
) -> Iterator[Tensor]:
    """Edits of ever more careful rows: :func:`edit_operator`, then those that it left amiss weigh more.

    Least squares spends its freedom on the many rows that are far from any border. Weighing anew, by how
    far on the wrong side a row ended, spends it where classes part, as boosting and support vectors do.

    Parameters
    ----------
    z
        Observables, shape ``(n, d)``.
    harmful, clean
        Rows to redirect and to keep, shape ``(n,)``.
    matrix, destination, strength
        As in :func:`edit_operator`.
    amiss
        From edited observables ``(n, d)`` to how far amiss each row is, 0 to 1, shape ``(n,)``.

    Yields
    ------
    Tensor
        ``T'``, shape ``(d, d)``: the first with equal weights.
    """
    weight = torch.ones(len(z), dtype=torch.float64)
    while True:
        edited = edit_operator(
            z[harmful], z[clean], matrix, destination, strength * weight[harmful], weight[clean]
        )
        yield edited
        weight = (weight * (1 + 2 * amiss(z @ edited))).clamp(max=_HEAVIEST)
