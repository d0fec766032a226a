"""Other maps between two spaces from paired points: of low rank, by canonical correlation, by anchors."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.reading import as_array
from repdyn.translation.coordinates import unit_rows
from repdyn.translation.linear import LinearTranslation, checked_pairs, fit_ridge

__all__ = ["fit_cca", "fit_low_rank", "relative_representation"]

Floats = NDArray[np.float64]

SHRINKAGE = 1e-2
"""Of each covariance towards a multiple of the identity, in canonical correlations: with fewer pairs than
columns every direction is perfectly correlated with another otherwise."""


def fit_low_rank(x: ArrayLike, y: ArrayLike, rank: int) -> LinearTranslation:
    r"""Reduced-rank regression: the ridge map, projected onto the directions of y that it predicts best.

    .. math:: M_r = M V_r V_r^\top, \qquad (X - \bar x) M = U \Sigma V^\top

    Parameters
    ----------
    x, y
        Paired rows, shapes ``(N, D_a)`` and ``(N, D_b)``.
    rank
        From 1 to the smaller width.

    Returns
    -------
    LinearTranslation

    Raises
    ------
    RepdynError
        As in :func:`fit_orthogonal`, and on a rank out of range.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(50, 4))
    >>> int(np.linalg.matrix_rank(fit_low_rank(x, 2 * x, rank=2).matrix))
    2

    References
    ----------
    Izenman, A. (1975). Reduced-rank regression for the multivariate linear model. J. Multivariate Analysis 5.
    """
    a, b, _ = checked_pairs(x, y, None)
    if not 1 <= rank <= min(a.shape[1], b.shape[1]):
        raise RepdynError(f"fit_low_rank: rank={rank}; expected 1 to {min(a.shape[1], b.shape[1])}")
    full = fit_ridge(a, b)
    _, axes = np.linalg.eigh(full.matrix.T @ np.cov(a.T, bias=True).reshape(a.shape[1], -1) @ full.matrix)
    kept = axes[:, ::-1][:, :rank]
    return LinearTranslation(full.matrix @ kept @ kept.T, full.offset_a, full.offset_b)


def fit_cca(x: ArrayLike, y: ArrayLike, rank: int | None = None) -> LinearTranslation:
    r"""Through canonical variates: whiten A, keep what correlates, each by its correlation, unwhiten as B.

    .. math:: M = \Sigma_A^{-1/2} U_r \rho_r V_r^\top \Sigma_B^{1/2}, \qquad
              \Sigma_A^{-1/2} \Sigma_{AB} \Sigma_B^{-1/2} = U \rho V^\top

    At full rank and without shrinkage this is least squares; the rank keeps what both share.

    Parameters
    ----------
    x, y
        Paired rows, shapes ``(N, D_a)`` and ``(N, D_b)``.
    rank
        Canonical variates to keep; all where not given.

    Returns
    -------
    LinearTranslation

    Raises
    ------
    RepdynError
        As in :func:`fit_low_rank`.

    References
    ----------
    Hotelling, H. (1936). Relations between two sets of variates. Biometrika 28.
    """
    a, b, _ = checked_pairs(x, y, None)
    width = min(a.shape[1], b.shape[1])
    rank = width if rank is None else rank
    if not 1 <= rank <= width:
        raise RepdynError(f"fit_cca: rank={rank}; expected 1 to {width}")
    mean_a, mean_b = a.mean(0), b.mean(0)
    a, b = a - mean_a, b - mean_b
    (whiten_a, _), (whiten_b, unwhiten_b) = _roots(a.T @ a / len(a)), _roots(b.T @ b / len(b))
    left, correlations, right = np.linalg.svd(whiten_a @ (a.T @ b / len(a)) @ whiten_b)
    shared = (left[:, :rank] * correlations[:rank]) @ right[:rank]
    return LinearTranslation(whiten_a @ shared @ unwhiten_b, mean_a, mean_b)


def relative_representation(x: ArrayLike, anchors: ArrayLike) -> Floats:
    r"""Describe points by their cosines with anchors; two models' descriptions are compared as they are.

    .. math:: r_{ij} = \cos(x_i - \bar a,\; a_j - \bar a)

    With anchors that are the same inputs in both models, nothing is fitted.

    Parameters
    ----------
    x
        Points ``(N, D)``.
    anchors
        Points ``(M, D)`` of the same model.

    Returns
    -------
    (N, M) array

    Raises
    ------
    RepdynError
        On widths that differ or values that are not finite.

    References
    ----------
    Moschella, L. et al. (2023). Relative representations enable zero-shot latent space communication. ICLR.
    """
    points, fixed = as_array(x, np.float64), as_array(anchors, np.float64)
    if points.ndim != 2 or fixed.ndim != 2 or points.shape[1] != fixed.shape[1] or len(fixed) == 0:
        raise RepdynError(
            f"relative_representation: x and anchors need one width, got {points.shape} and {fixed.shape}"
        )
    if not (np.isfinite(points).all() and np.isfinite(fixed).all()):
        raise RepdynError("relative_representation: x and anchors must be finite")
    centre = fixed.mean(0)
    return np.asarray(unit_rows(points - centre) @ unit_rows(fixed - centre).T, dtype=np.float64)


def _roots(covariance: Floats) -> tuple[Floats, Floats]:
    """Inverse square root and square root of a covariance, shrunk."""
    values, axes = np.linalg.eigh(covariance)
    mean = max(float(values.mean()), 1e-300)
    values = np.maximum((1 - SHRINKAGE) * values + SHRINKAGE * mean, 1e-12 * mean)
    return (axes / np.sqrt(values)) @ axes.T, (axes * np.sqrt(values)) @ axes.T
