"""Affine maps between two latent spaces, and the closed-form ways to fit one on paired points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.errors import RepdynError
from repdyn.linalg import procrustes, ridge_by_leave_one_out, ridge_path
from repdyn.reading import as_array
from repdyn.results import Result

if TYPE_CHECKING:
    import torch
    from plotly.graph_objects import Figure

    from repdyn.paths.columns import TokenColumn, VectorColumn
    from repdyn.translation.modules import TranslationModule

__all__ = ["LinearTranslation", "fit_affine", "fit_orthogonal", "fit_ridge"]

Floats = NDArray[np.float64]

VERDICTS = ("found", "neighbourhoods", "ambiguous", "inconclusive", "not found")
"""From best to worst; a chain of translations is as good as its worst link."""

PENALTIES = np.concatenate([np.logspace(-14, -6, 5), np.logspace(-5, 1, 13)])
"""Ridge penalties tried, as fractions of the mean variance of a coordinate. The smallest serve coordinates
that are a million times narrower than the widest, as language models have them."""

FOLDS = 5

RANK_CUTOFF = 1e-6
"""Singular values below this fraction of the largest carry no signal in single-precision activations."""


@dataclass(frozen=True, eq=False)
class LinearTranslation(Result, kind="translation"):
    r"""A linear map from one model's latent space to another's, with what is known about its truth.

    .. math:: t(x) = (x - \mu_A) M + \mu_B

    Attributes
    ----------
    matrix
        M, shape ``(D_a, D_b)``.
    offset_a
        Subtracted before the matrix, shape ``(D_a,)``.
    offset_b
        Added after it, shape ``(D_b,)``.
    confidence
        Without pairs, the retrieval to expect as a share of what a fit with all pairs reaches. With pairs,
        the agreement of independent fits on disjoint data. NaN where none was measured.
    verdict
        ``"found"``: items are translated. ``"neighbourhoods"``: clusters are, single items are not.
        ``"ambiguous"``: a different map fits as well. ``"inconclusive"``: too little is known.
        ``"not found"``.
    reason
        One sentence: why that verdict.
    evidence
        The figures behind the verdict, by name.
    interval
        95 % interval of the confidence; None where none was measured.

    Examples
    --------
    >>> import numpy as np
    >>> t = LinearTranslation(2 * np.eye(2), np.zeros(2), np.ones(2))
    >>> t(np.array([[1.0, 2.0]]))
    array([[3., 5.]])
    >>> t.inverse(t(np.array([[1.0, 2.0]])))
    array([[1., 2.]])
    """

    matrix: Floats
    offset_a: Floats
    offset_b: Floats
    confidence: float = float("nan")
    verdict: str = "inconclusive"
    reason: str = "fitted without a test of its truth"
    evidence: Mapping[str, float] = field(default_factory=dict)
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        shape = np.shape(self.matrix)
        if len(shape) != 2 or np.shape(self.offset_a) != shape[:1] or np.shape(self.offset_b) != shape[1:]:
            raise RepdynError(
                f"LinearTranslation: a matrix of shape (D_a, D_b) goes with offsets (D_a,) and (D_b,), got "
                f"{shape}, {np.shape(self.offset_a)} and {np.shape(self.offset_b)}"
            )
        if self.verdict not in VERDICTS:
            raise RepdynError(f"LinearTranslation: verdict must be one of {VERDICTS}, got {self.verdict!r}")
        if not all(np.isfinite(a).all() for a in (self.matrix, self.offset_a, self.offset_b)):
            raise RepdynError("LinearTranslation: the matrix and both offsets must be finite")

    def __repr__(self) -> str:
        a, b = self.matrix.shape
        return (
            f"LinearTranslation({a} -> {b}, verdict={self.verdict!r}, confidence={self.confidence:.3f})\n"
            f"  {self.reason}"
        )

    @overload
    def __call__(self, x: NDArray[Any] | VectorColumn | TokenColumn) -> NDArray[Any]: ...
    @overload
    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...
    def __call__(self, x: Any) -> Any:
        """Translate points of shape ``(..., D_a)``: arrays, or a column of paths on disk, give an array.

        Tensors stay differentiable tensors.

        Raises
        ------
        RepdynError
            If the last axis is not of width D_a.
        """
        if x.shape[-1] != len(self.offset_a):
            raise RepdynError(
                f"translation: reads points of width {len(self.offset_a)}, got shape {tuple(x.shape)}"
            )
        if hasattr(x, "new_tensor"):  # a tensor, without importing torch to ask
            if not x.is_floating_point():  # integers would truncate the matrix
                x = x.float()
            m, a, b = (x.new_tensor(part) for part in (self.matrix, self.offset_a, self.offset_b))
            return (x - a) @ m + b
        return (np.asarray(x) - self.offset_a) @ self.matrix + self.offset_b

    def as_module(self) -> TranslationModule:
        """The translation as a ``torch.nn.Module``, to run between two models.

        Returns
        -------
        TranslationModule
            From ``(..., D_a)`` to ``(..., D_b)``, on the device and in the type of its input. Its buffers
            (``matrix``, ``offset_a``, ``offset_b``, in float32) move with ``.to(device)`` and are saved in
            ``state_dict``; it has no parameters.

        Examples
        --------
        >>> import torch
        >>> t = LinearTranslation(2 * np.eye(2), np.zeros(2), np.ones(2)).as_module()
        >>> t(torch.ones(1, 2, dtype=torch.bfloat16))
        tensor([[3., 3.]], dtype=torch.bfloat16)
        """
        from repdyn.translation.modules import TranslationModule  # torch loads only when it is asked for

        return TranslationModule(self)

    @property
    def inverse(self) -> LinearTranslation:
        """The map back: the inverse where widths agree, else the Moore-Penrose inverse."""
        back = np.asarray(np.linalg.pinv(self.matrix, rcond=RANK_CUTOFF), dtype=np.float64)
        return replace(self, matrix=back, offset_a=self.offset_b, offset_b=self.offset_a)

    def __matmul__(self, first: LinearTranslation) -> LinearTranslation:
        """``t @ s`` translates by ``s`` first, then by ``t``; as credible as the worse of the two."""
        if first.matrix.shape[1] != self.matrix.shape[0]:
            raise RepdynError(
                f"t @ s: s ends in width {first.matrix.shape[1]}, t starts at {self.matrix.shape[0]}"
            )
        worse = max(self, first, key=lambda t: VERDICTS.index(t.verdict))
        doubtful = min(self, first, key=lambda t: -np.inf if np.isnan(t.confidence) else t.confidence)
        return LinearTranslation(
            first.matrix @ self.matrix,
            first.offset_a,
            (first.offset_b - self.offset_a) @ self.matrix + self.offset_b,
            doubtful.confidence,
            worse.verdict,
            f"composed of two translations; the less certain one: {worse.reason}",
            interval=doubtful.interval,
        )

    def to_dict(self) -> dict[str, Any]:
        """Verdict, reason and figures for ``--json``; the matrix goes with :meth:`save`."""
        return {
            "shape": list(self.matrix.shape),
            "verdict": self.verdict,
            "confidence": self.confidence,
            "interval": None if self.interval is None else list(self.interval),
            "reason": self.reason,
            "evidence": dict(self.evidence),
        }

    def plot(self) -> Figure:
        """The figures behind the verdict, as bars."""
        from repdyn.views.replication import replication  # plotly loads only when a picture is asked for

        return replication(self.evidence, self.verdict, self.reason)


def fit_orthogonal(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> LinearTranslation:
    r"""Orthogonal Procrustes with centring and one scale; widths may differ.

    .. math:: \min_{Q,\,s} \sum_i w_i \lVert s (x_i - \bar x) Q - (y_i - \bar y) \rVert^2,
              \qquad Q^\top Q = I \text{ or } Q Q^\top = I

    Parameters
    ----------
    x, y
        Paired rows, shapes ``(N, D_a)`` and ``(N, D_b)``.
    weights
        Non-negative, shape ``(N,)``; equal where not given.

    Returns
    -------
    LinearTranslation

    Raises
    ------
    RepdynError
        On arrays that are not paired, not finite, or fewer than two rows.

    References
    ----------
    Schönemann, P. (1966). A generalized solution of the orthogonal Procrustes problem. Psychometrika 31.
    """
    a, b, w = checked_pairs(x, y, weights)
    mean_a, mean_b = w @ a, w @ b
    rotation, scale = procrustes(a - mean_a, b - mean_b, w)
    return LinearTranslation(scale * rotation, mean_a, mean_b)


def fit_ridge(x: ArrayLike, y: ArrayLike) -> LinearTranslation:
    r"""Ridge regression with the penalty chosen by leave-one-out error in closed form.

    .. math:: \min_M \sum_i \lVert (x_i - \bar x) M - (y_i - \bar y) \rVert^2 + \lambda \lVert M \rVert^2

    Parameters
    ----------
    x, y
        Paired rows, shapes ``(N, D_a)`` and ``(N, D_b)``.

    Returns
    -------
    LinearTranslation

    Raises
    ------
    RepdynError
        As in :func:`fit_orthogonal`.

    References
    ----------
    Hoerl, A., and Kennard, R. (1970). Ridge regression. Technometrics 12(1).
    Allen, D. (1974). The relationship between variable selection and data augmentation. Technometrics 16(1).
    """
    a, b, w = checked_pairs(x, y, None)
    mean_a, mean_b = w @ a, w @ b
    return LinearTranslation(ridge_by_leave_one_out(a - mean_a, b - mean_b, PENALTIES), mean_a, mean_b)


def fit_affine(x: ArrayLike, y: ArrayLike) -> LinearTranslation:
    r"""The orthogonal map, corrected by ridge on what it leaves: shrinks to Procrustes, not to zero.

    .. math:: M = sQ + \arg\min_R \sum_i \lVert (x_i - \bar x) R - r_i \rVert^2 + \lambda \lVert R \rVert^2,
              \qquad r_i = (y_i - \bar y) - s (x_i - \bar x) Q

    With few pairs it is nearly :func:`fit_orthogonal`, with many nearly least squares.

    Parameters
    ----------
    x, y
        Paired rows, shapes ``(N, D_a)`` and ``(N, D_b)``.

    Returns
    -------
    LinearTranslation

    Raises
    ------
    RepdynError
        As in :func:`fit_orthogonal`.
    """
    a, b, _ = checked_pairs(x, y, None)
    base = fit_orthogonal(a, b)
    penalty = _correction_penalty(a, b)
    if not np.isfinite(penalty):
        return base
    correction = ridge_path(a - base.offset_a, b - base(a), np.array([penalty]))[0]
    return LinearTranslation(base.matrix + correction, base.offset_a, base.offset_b)


def _correction_penalty(a: Floats, b: Floats) -> float:
    """By cross-validation of the whole fit: leave-one-out of the correction alone forgets that the
    orthogonal part was fitted to the same pairs. Infinite where no correction helps."""
    folds = min(FOLDS, len(a) // 2)
    if folds < 2:
        return float("inf")
    part = np.arange(len(a)) % folds
    errors = np.zeros(len(PENALTIES) + 1)
    for fold in range(folds):
        fit, held = part != fold, part == fold
        base = fit_orthogonal(a[fit], b[fit])
        moved, left = a[held] - base.offset_a, b[held] - base(a[held])
        errors[-1] += (left**2).sum()
        for k, matrix in enumerate(ridge_path(a[fit] - base.offset_a, b[fit] - base(a[fit]), PENALTIES)):
            errors[k] += ((left - moved @ matrix) ** 2).sum()
    return float([*PENALTIES, np.inf][int(errors.argmin())])


def checked_pairs(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None) -> tuple[Floats, Floats, Floats]:
    """Paired rows and weights that sum to one, or a clear error."""
    a, b = as_array(x, np.float64), as_array(y, np.float64)
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b) or len(a) < 2:
        raise RepdynError(f"paired fit: x and y need one N >= 2, got {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise RepdynError("paired fit: x and y must be finite")
    w = np.ones(len(a)) if weights is None else as_array(weights, np.float64)
    if w.shape != (len(a),) or not np.isfinite(w).all() or (w < 0).any() or w.sum() <= 0:
        raise RepdynError(f"paired fit: weights must be {len(a)} non-negative numbers, got shape {w.shape}")
    return a, b, w / w.sum()
