"""Affine maps between two latent spaces, and closed-form fits of one on paired points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from repdyn.arguments import whole
from repdyn.artifacts import Artifact
from repdyn.errors import RepdynError
from repdyn.linalg import procrustes, ridge_by_leave_one_out, ridge_path
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows
from repdyn.results import Result
from repdyn.translation.coordinates import unit_rows

if TYPE_CHECKING:
    import torch
    from plotly.graph_objects import Figure

    from repdyn.paths.columns import TokenColumn, VectorColumn
    from repdyn.translation.linear.modules import TranslationModule

__all__ = [
    "LinearTranslation",
    "fit_affine",
    "fit_cca",
    "fit_low_rank",
    "fit_orthogonal",
    "fit_ridge",
    "relative_representation",
]

Floats = NDArray[np.float64]

VERDICTS = ("found", "neighborhoods", "ambiguous", "inconclusive", "not found")
"""From best to worst. A chain of translations has the worst verdict of its links."""


@dataclass(frozen=True)
class FitOptions:
    """Settings of the paired fits.

    Attributes
    ----------
    penalties
        Ridge penalties tried, as fractions of the mean variance of a coordinate. The smallest are for
        coordinates with a standard deviation a million times below the largest, as in language models
        (docs/studies/translation.md).
    folds
        Folds of the cross-validation of :func:`fit_affine`. Not studied.
    rank_cutoff
        Singular values below this fraction of the largest are noise in single-precision activations. Not
        studied.
    shrinkage
        Shrinkage of each covariance towards a multiple of the identity in :func:`fit_cca`. Without it, all
        canonical correlations are 1 where there are fewer pairs than columns. Not studied.
    """

    penalties: tuple[float, ...] = (*np.logspace(-14, -6, 5).tolist(), *np.logspace(-5, 1, 13).tolist())
    folds: int = 5
    rank_cutoff: float = 1e-6
    shrinkage: float = 1e-2


OPTIONS = FitOptions()
PENALTIES = np.array(OPTIONS.penalties)


@dataclass(frozen=True, eq=False)
class LinearTranslation(Result, kind="translation"):
    r"""A linear map from one model's latent space to another's, with a verdict.

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
        Without pairs, the expected retrieval as a share of the retrieval of a fit with all pairs. With
        pairs, the agreement of independent fits on disjoint data. NaN where it was not measured.
    verdict
        ``"found"``: items are translated. ``"neighborhoods"``: clusters are translated, single items are
        not. ``"ambiguous"``: a different map fits as well. ``"inconclusive"``: the data do not decide.
        ``"not found"``.
    reason
        One sentence that explains the verdict.
    evidence
        The figures behind the verdict, by name.
    interval
        95 % interval of the confidence; None where it was not measured.

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
    reason: str = "fitted without a test"
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
        """Translate points of shape ``(..., D_a)``.

        Arrays and columns of stored paths give an array; tensors give a differentiable tensor.

        Raises
        ------
        RepdynError
            If the last axis is not of width D_a.
        """
        x = self._vectors(x, 0, "translation")
        m, a, b = (_like(x, part) for part in (self.matrix, self.offset_a, self.offset_b))
        return (x - a) @ m + b

    def push(self, direction: Any) -> Any:
        """Carry directions of A's latent space to B's, without the offsets.

        For steering vectors, differences of class means and decoder rows of a sparse autoencoder.

        Parameters
        ----------
        direction
            Array or tensor of shape ``(..., D_a)``.

        Returns
        -------
        array or tensor
            Shape ``(..., D_b)``; of a tensor, on its device and in its type. The length is scaled as the
            translation scales distances.

        Raises
        ------
        RepdynError
            If the last axis is not of width D_a.

        Examples
        --------
        >>> t = LinearTranslation(2 * np.eye(2), np.zeros(2), np.ones(2))
        >>> t.push(np.array([1.0, 0.0]))
        array([2., 0.])
        """
        direction = self._vectors(direction, 0, "push")
        return direction @ _like(direction, self.matrix)

    def pull(self, weights: Any, bias: Any = 0.0) -> tuple[Any, Any]:
        r"""Carry a linear probe on B's latent space back to A's.

        .. math:: w^\top t(x) + c = (M w)^\top x + c + (\mu_B - \mu_A M)^\top w

        The probe on A gives for x what the probe on B gives for t(x). It needs no sample of A.

        Parameters
        ----------
        weights
            Array or tensor of shape ``(..., D_b)``, one row for each output of the probe (scikit-learn's
            ``coef_``, the weight of a ``torch.nn.Linear``).
        bias
            Shape ``(...)``, or one number.

        Returns
        -------
        weights, bias
            Shapes ``(..., D_a)`` and ``(...)``.

        Raises
        ------
        RepdynError
            If the last axis is not of width D_b.

        Examples
        --------
        >>> t = LinearTranslation(2 * np.eye(2), np.zeros(2), np.ones(2))
        >>> weights, bias = t.pull(np.array([1.0, -3.0]), 0.5)
        >>> weights, float(bias)
        (array([ 2., -6.]), -1.5)
        """
        weights = self._vectors(weights, 1, "pull")
        offset = _like(weights, self.offset_b - self.offset_a @ self.matrix)
        return weights @ _like(weights, self.matrix).T, weights @ offset + bias

    def _vectors(self, vectors: Any, side: int, method: str) -> Any:
        """Vectors of A (side 0) or of B (1), of the right width: an array, or a tensor of a floating type."""
        width, model = self.matrix.shape[side], "AB"[side]
        vectors = vectors if hasattr(vectors, "new_tensor") else np.asarray(vectors)
        if vectors.ndim == 0 or vectors.shape[-1] != width:
            raise RepdynError(
                f"{method}: reads vectors of {model}'s width {width}, got shape {tuple(vectors.shape)}"
            )
        if hasattr(vectors, "new_tensor") and not vectors.is_floating_point():
            vectors = vectors.float()  # an integer type would truncate the matrix
        return vectors

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
        from repdyn.translation.linear.modules import TranslationModule  # loads torch

        return TranslationModule(self.matrix, self.offset_a, self.offset_b)

    @property
    def inverse(self) -> LinearTranslation:
        """The inverse where widths agree, else the Moore-Penrose inverse."""
        back = np.asarray(np.linalg.pinv(self.matrix, rcond=OPTIONS.rank_cutoff), dtype=np.float64)
        return replace(self, matrix=back, offset_a=self.offset_b, offset_b=self.offset_a)

    def __matmul__(self, first: LinearTranslation) -> LinearTranslation:
        """``t @ s`` translates by ``s`` first, then by ``t``; the worse verdict of the two applies."""
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
        from repdyn.views.replication import replication  # loads plotly

        return replication(self.evidence, self.verdict, self.reason)

    @classmethod
    def _upgrade(cls, artifact: Artifact, path: Path) -> Artifact:
        """Version 0.1 spelled a verdict otherwise."""
        return replace(artifact, config=present_words(artifact.config))


def _like(vectors: Any, part: Floats) -> Any:
    """A tensor like the vectors where they are one, recognized without importing torch; else the array."""
    return vectors.new_tensor(part) if hasattr(vectors, "new_tensor") else part


def present_words(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of version 0.1 with the verdict and the evidence in their present words."""
    config = dict(config)
    if config.get("verdict") == "neighbourhoods":
        config["verdict"] = "neighborhoods"
    if isinstance(config.get("evidence"), dict) and "settled directions" in config["evidence"]:
        evidence = dict(config["evidence"])
        evidence["agreed directions"] = evidence.pop("settled directions")
        config["evidence"] = evidence
    return config


def fit_orthogonal(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> LinearTranslation:
    r"""Orthogonal Procrustes with centering and one scale; widths may differ.

    .. math:: \min_{Q,\,s} \sum_i w_i \lVert s (x_i - \bar x) Q - (y_i - \bar y) \rVert^2,
              \qquad Q^\top Q = I \text{ or } Q Q^\top = I

    Parameters
    ----------
    x, y
        Paired rows, shapes ``(N, D_a)`` and ``(N, D_b)``.
    weights
        Non-negative, shape ``(N,)``. Default: equal.

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

    Rows with equal x are left out together.

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
    matrix = ridge_by_leave_one_out(a - mean_a, b - mean_b, PENALTIES, groups_of_equal_rows(a))
    return LinearTranslation(matrix, mean_a, mean_b)


def fit_affine(x: ArrayLike, y: ArrayLike) -> LinearTranslation:
    r"""The orthogonal map plus a ridge fit of its residuals: it shrinks to Procrustes, not to zero.

    .. math:: M = sQ + \arg\min_R \sum_i \lVert (x_i - \bar x) R - r_i \rVert^2 + \lambda \lVert R \rVert^2,
              \qquad r_i = (y_i - \bar y) - s (x_i - \bar x) Q

    With few pairs it is close to :func:`fit_orthogonal`, with many close to least squares.

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
    """Penalty of the correction by cross-validation of the whole fit; infinite where no correction helps.

    Leave-one-out of the correction alone would ignore that the orthogonal part is fitted to the same pairs.
    """
    groups = groups_of_equal_rows(a)
    folds = min(OPTIONS.folds, (int(groups.max()) + 1) // 2)
    if folds < 2:
        return float("inf")
    part = groups % folds
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
    """Paired rows ``(N, D_a)`` and ``(N, D_b)`` in float64, and weights ``(N,)`` that sum to one."""
    a, b = as_array(x, np.float64), as_array(y, np.float64)
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b) or len(a) < 2:
        raise RepdynError(f"paired fit: x and y need one N >= 2, got {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise RepdynError("paired fit: x and y must be finite")
    w = np.ones(len(a)) if weights is None else as_array(weights, np.float64)
    if w.shape != (len(a),) or not np.isfinite(w).all() or (w < 0).any() or w.sum() <= 0:
        raise RepdynError(f"paired fit: weights must be {len(a)} non-negative numbers, got shape {w.shape}")
    return a, b, w / w.sum()


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
    rank = whole("fit_low_rank: rank", rank)
    if not 1 <= rank <= min(a.shape[1], b.shape[1]):
        raise RepdynError(f"fit_low_rank: rank={rank}; expected 1 to {min(a.shape[1], b.shape[1])}")
    full = fit_ridge(a, b)
    _, axes = np.linalg.eigh(full.matrix.T @ np.cov(a.T, bias=True).reshape(a.shape[1], -1) @ full.matrix)
    kept = axes[:, ::-1][:, :rank]
    return LinearTranslation(full.matrix @ kept @ kept.T, full.offset_a, full.offset_b)


def fit_cca(x: ArrayLike, y: ArrayLike, rank: int | None = None) -> LinearTranslation:
    r"""Canonical correlation analysis: whiten A, scale canonical variates by correlation, unwhiten as B.

    .. math:: M = \Sigma_A^{-1/2} U_r \rho_r V_r^\top \Sigma_B^{1/2}, \qquad
              \Sigma_A^{-1/2} \Sigma_{AB} \Sigma_B^{-1/2} = U \rho V^\top

    At full rank and without shrinkage this is least squares; the rank keeps what both share.

    Parameters
    ----------
    x, y
        Paired rows, shapes ``(N, D_a)`` and ``(N, D_b)``.
    rank
        Canonical variates to keep; all by default.

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
    rank = width if rank is None else whole("fit_cca: rank", rank)
    if not 1 <= rank <= width:
        raise RepdynError(f"fit_cca: rank={rank}; expected 1 to {width}")
    mean_a, mean_b = a.mean(0), b.mean(0)
    a, b = a - mean_a, b - mean_b
    (whiten_a, _), (whiten_b, unwhiten_b) = (
        _covariance_roots(a.T @ a / len(a)),
        _covariance_roots(b.T @ b / len(b)),
    )
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
    center = fixed.mean(0)
    return np.asarray(unit_rows(points - center) @ unit_rows(fixed - center).T, dtype=np.float64)


def _covariance_roots(covariance: Floats) -> tuple[Floats, Floats]:
    """Inverse square root and square root of a covariance, shrunk."""
    values, axes = np.linalg.eigh(covariance)
    mean = max(float(values.mean()), 1e-300)
    values = np.maximum((1 - OPTIONS.shrinkage) * values + OPTIONS.shrinkage * mean, 1e-12 * mean)
    return (axes / np.sqrt(values)) @ axes.T, (axes * np.sqrt(values)) @ axes.T
