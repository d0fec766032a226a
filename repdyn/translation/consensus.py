"""What many rough maps have in common: the part of each that is right adds up, errors of their own do not."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["consensus_weights"]

Floats = NDArray[np.float64]

DIRECTIONS = 6
"""Principal directions of the proposals that are searched: what they share may be an error, too."""

STEPS = 50
"""Of each ascent; most have converged after ten."""

SAME = 0.95
"""Cosine from which on two ascents have ended at one direction."""


def consensus_weights(maps: ArrayLike) -> Floats:
    r"""Weights under which rough maps of one thing add up to better ones, likeliest first.

    A proposal is :math:`M_k = c_k T + E_k`: a truth T common to all, of which most have next to nothing and
    none less, and an error of its own. The leading eigenvectors of the Gram matrix
    :math:`G_{kl} = \langle M_k, M_l \rangle` span the weights of T as soon as :math:`\sum_k c_k^2` exceeds
    what errors give by chance; no single proposal needs to stand out. But errors are shared, too, so that T
    comes first, or second, or mixed with them. It is told by its sign: weights of what few have found and the
    others have missed are skewed. Directions of the highest skewness within the span are therefore sought
    from every side,

    .. math:: w \leftarrow P\, \max(w, 0)^2 / \lVert P\, \max(w, 0)^2 \rVert,

    with P the projection on the span.

    Parameters
    ----------
    maps
        One row per map, shape ``(K, F)``.

    Returns
    -------
    (M, K) array
        Unit rows, distinct, by falling :math:`\lVert \sum_k w_k M_k \rVert`; M is at most twelve.

    References
    ----------
    Singer, A. (2011). Angular synchronization by eigenvectors and semidefinite programming. Applied and
    Computational Harmonic Analysis 30(1). Hyvärinen, A. and Oja, E. (1997). A fast fixed-point algorithm for
    independent component analysis. Neural Computation 9(7).
    """
    rows = np.asarray(maps, dtype=np.float32)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    gram = np.asarray(rows @ rows.T, dtype=np.float64)
    _, vectors = np.linalg.eigh(gram)
    span = vectors[:, ::-1][:, :DIRECTIONS]
    found: list[Floats] = []
    for start in np.concatenate([span.T, -span.T]):
        w = start
        for _ in range(STEPS):
            w = span @ (span.T @ np.maximum(w, 0) ** 2)
            w = w / max(float(np.linalg.norm(w)), 1e-12)
        if w.any() and all(abs(float(w @ other)) < SAME for other in found):
            found.append(w)
    return np.array(sorted(found, key=lambda w: -float(w @ gram @ w)))
