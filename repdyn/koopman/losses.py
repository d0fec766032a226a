"""The four losses of a Koopman autoencoder, each in units of its target's variance.

A weight then means the same for any width, scale and number of samples: a loss of one is what the mean
of the target would cost.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["isometry", "linearity", "reconstruction", "state", "total_variance"]

_SMALLEST = 1e-12  # keeps the square root of a distance differentiable where two rows coincide


def total_variance(x: Tensor) -> Tensor:
    """Mean squared distance of the rows from their mean, a scalar tensor."""
    return (x - x.mean(dim=0)).square().sum(dim=-1).mean()


def reconstruction(decoded: Tensor, target: Tensor, variance: Tensor | float) -> Tensor:
    """``E |D(E(x)) - x|^2 / var x`` over rows of shape ``(…, w)``.

    Parameters
    ----------
    decoded, target
        What the autoencoder returns and what it was given.
    variance
        The target's total variance, a number or one for each row.
    """
    return _relative(decoded, target, variance)


def state(decoded: Tensor, target: Tensor, variance: Tensor | float) -> Tensor:
    """``E |D(K^t E(x_0)) - x_t|^2 / var x_t``: the future state, decoded from the propagated observables.

    Parameters
    ----------
    decoded, target
        The decoded prediction and the true representation at its depth.
    variance
        The target's total variance, a number or one for each row.
    """
    return _relative(decoded, target, variance)


def linearity(propagated: Tensor, encoded: Tensor) -> Tensor:
    """``E |K^t E(x_0) - E(x_t)|^2 / var E(x_t)``: the same future, compared in observable space.

    The variance is a unit and passes no gradient; the encoder cannot lower the loss by spreading out.
    """
    variance = total_variance(encoded.detach()).clamp_min(_SMALLEST)
    return (propagated - encoded).square().sum(dim=-1).mean() / variance


def isometry(x: Tensor, encoded: Tensor) -> Tensor:
    """Mean squared error of pairwise distances, on as many random pairs as there are rows.

    ``E (|z_i - z_j| - |x_i - x_j|)^2 / E |x_i - x_j|^2``, with ``j`` the row after ``i``: rows of a
    shuffled batch are random pairs, so the cost is O(B) instead of O(B^2). A pair's mean squared distance
    is twice the target's variance.

    Parameters
    ----------
    x, encoded
        Shapes ``(…, B, w)`` and ``(…, B, d)``; leading axes are batches of their own, and averaged.

    References
    ----------
    The published code compares distances of pairs (the poster prints norms), over all pairs.
    """
    true = (x - x.roll(1, dims=-2)).square().sum(dim=-1)
    found = (encoded - encoded.roll(1, dims=-2)).square().sum(dim=-1)
    error = torch.sqrt(found + _SMALLEST) - torch.sqrt(true + _SMALLEST)
    return (error.square().mean(dim=-1) / true.mean(dim=-1).clamp_min(_SMALLEST)).mean()


def _relative(found: Tensor, target: Tensor, variance: Tensor | float) -> Tensor:
    return ((found - target).square().sum(dim=-1) / variance).mean()
