"""Control models of a Koopman autoencoder: the simplest models that could explain its figures.

Every control is linear in fixed features. It is fitted by ridge regression on the training paths, and a
held-out part of them chooses the penalty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.devices import double, to
from repdyn.errors import RepdynError
from repdyn.koopman.frames import PointFrames
from repdyn.koopman.settings import ControlSettings
from repdyn.koopman.states import frame_rows, lifted_bytes, read_points, survey
from repdyn.linalg import ridge
from repdyn.paths import RepresentationPaths, nearby
from repdyn.progress import track
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows

__all__ = ["CONTROLS", "Controls", "controls", "held_out_rows", "ridge_by_validation"]

CONTROLS = ("identity", "affine", "shared affine", "per-step affine", "random features")

_SETTINGS = ControlSettings()


@dataclass(frozen=True, eq=False)
class Controls(Mapping[str, Any]):
    """Fitted controls: a mapping from a control's name to its prediction function.

    Each value maps first-point representations ``(N, D_0)`` to a list of predictions, one array
    ``(N, D_l)`` for each later point, in order of depth. ``identity`` is present only where all points
    have the same width.

    Attributes
    ----------
    points
        The points of the path.
    penalties
        The chosen ridge penalties, relative to the mean eigenvalue of ``X'X``: for each control a tuple with
        one value for each later point (a single value for the shared map).
    """

    points: tuple[str, ...]
    penalties: dict[str, tuple[float, ...]]
    _frames: PointFrames
    _shared: PointFrames
    _maps: dict[str, list[Tensor]]
    _features: tuple[Tensor, Tensor]
    _names: tuple[str, ...]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return lambda x: self.predict(name, x)

    def predict(self, name: str, x: NDArray[Any]) -> list[NDArray[np.float64]]:
        """Predictions of all later points from the first, by control ``name``.

        Parameters
        ----------
        name
            A key of this mapping.
        x
            First-point representations, shape ``(N, D_0)``.

        Returns
        -------
        list of ndarray
            One array ``(N, D_l)``, float64, for each later point.
        """
        if name == "identity":
            return [as_array(x, dtype=np.float64)] * (len(self.points) - 1)
        maps = self._maps[name]
        frames = self._shared if name == "shared affine" else self._frames
        u = frames.lift(torch.as_tensor(as_array(x, dtype=np.float64)), 0)
        if name == "affine":
            lifted = [u @ a for a in maps]
        elif name == "random features":
            z = _relu_features(u, *self._features)
            lifted = [z @ a[:-1] + a[-1] for a in maps]
        else:
            lifted = []
            for step in range(len(self.points) - 1):
                u = _advanced(u, maps[step % len(maps)])
                lifted.append(u)
        return [as_array(frames.lower(v, number)) for number, v in enumerate(lifted, 1)]

    @property
    def relative(self) -> bool:
        """Whether the shared map is one map only in frames that differ between points."""
        return self._shared.relative

    def step(self, name: str, x: NDArray[Any], number: int) -> NDArray[np.float64]:
        """Prediction of the next point from true representations at point ``number``.

        Parameters
        ----------
        name
            ``"shared affine"`` or ``"per-step affine"``.
        x
            Representations at point ``number``, shape ``(N, D)``.
        number
            Number of the point, in order of depth.
        """
        maps = self._maps[name]
        frames = self._shared if name == "shared affine" else self._frames
        u = frames.lift(torch.as_tensor(as_array(x, dtype=np.float64)), number)
        after: NDArray[np.float64] = as_array(
            frames.lower(_advanced(u, maps[number % len(maps)]), number + 1)
        )
        return after

    def __repr__(self) -> str:
        lines = [f"Controls over {len(self.points)} points"]
        for name in self._names:
            chosen = ", ".join(f"{p:.0e}" for p in self.penalties.get(name, ()))
            lines.append(f"  {name}" + (f": penalty {chosen}" if chosen else ""))
        return "\n".join(lines)


def controls(paths: RepresentationPaths, *, seed: int = 0) -> Controls:
    """Fit the controls of a Koopman autoencoder to training paths.

    All controls use fixed frames (centered, one scale per point, rotated onto the last
    point). With rows ``u_l``:

    ==================  ==========================================================
    ``identity``        ``x_l = x_0``, unchanged
    ``affine``          ``u_l = u_0 A_l``, one map from the first point to each
    ``shared affine``   ``u_l = u_0 K^l``, one map for every step (dynamic mode decomposition)
    ``per-step affine`` ``u_l = u_0 K_1 K_2 … K_l``
    ``random features`` ``u_l = [u_0, relu(u_0 W + b)] A_l`` (extended dynamic mode decomposition)
    ==================  ==========================================================

    Parameters
    ----------
    paths
        Training paths.
    seed
        Seed of the held-out part and of the random features.

    Returns
    -------
    Controls
        Maps each name to a function from the first point to all later points.

    Raises
    ------
    RepdynError
        On one point only, a constant point, or values that are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((50, 3))
    >>> from repdyn.paths import RepresentationPaths
    >>> fitted = controls(RepresentationPaths.from_arrays({"a": x, "b": 2 * x, "c": 4 * x}))
    >>> bool(np.allclose(fitted["affine"](x)[1], 4 * x, atol=1e-3))
    True

    References
    ----------
    Williams, Kevrekidis and Rowley (2015), extended dynamic mode decomposition; Aswani and Jabari (2026),
    arXiv 2605.07556, whose identity and endpoint baselines these are.
    """
    if len(paths.points) < 2:
        raise RepdynError(f"controls: the path has one point, {paths.points[0]!r}; at least two are needed")
    paths = nearby(paths)
    if 2 * lifted_bytes(paths, PointFrames(paths.widths).width) > _SETTINGS.held_bytes:
        return _streamed(paths, seed)
    states = read_points(paths)
    widths = {point: x.shape[1] for point, x in zip(paths.points, states)}
    frames = to(PointFrames(widths), None, torch.float64).fit(states)
    lifted = [frames.lift(double(x), number) for number, x in enumerate(states)]
    generator = torch.Generator().manual_seed(seed)
    held_out = held_out_rows(len(lifted[0]), generator, groups_of_equal_rows(as_array(states[0])))
    features = _draw_features(lifted[0].shape[1], generator)

    maps: dict[str, list[Tensor]] = {}
    penalties: dict[str, tuple[float, ...]] = {}
    maps["affine"], penalties["affine"] = ridge_by_validation(lifted[0], lifted[1:], held_out)
    shared = frames
    if len(set(widths.values())) == 1:
        shared = to(PointFrames(widths, common=True), None, torch.float64).fit(states)
    together = _Steps(shared), _Steps(shared)
    for part, rows in zip(together, (~held_out, held_out)):
        part.add([shared.lift(double(x[rows]), number) for number, x in enumerate(states)])
    maps["shared affine"], penalties["shared affine"] = _Steps.solve(*together)
    each = [ridge_by_validation(u, [v], held_out) for u, v in pairwise(lifted)]
    maps["per-step affine"] = [solution[0] for solution, _ in each]
    penalties["per-step affine"] = tuple(chosen[0] for _, chosen in each)
    z = _relu_features(lifted[0], *features)
    center = z.mean(dim=0)
    fitted, penalties["random features"] = ridge_by_validation(z - center, lifted[1:], held_out)
    maps["random features"] = [torch.cat([a, -(center @ a)[None]]) for a in fitted]
    equal = len(set(widths.values())) == 1
    names = CONTROLS if equal else CONTROLS[1:]
    return Controls(paths.points, penalties, frames, shared, maps, features, names)


def _streamed(paths: RepresentationPaths, seed: int) -> Controls:
    """Fit the controls from sums over paths that are read in parts."""
    summary = survey(paths)
    frames = to(PointFrames(paths.widths), None, torch.float64).fit_to(
        summary.moments, frame_rows(paths), len(paths)
    )
    generator = torch.Generator().manual_seed(seed)
    held_out = held_out_rows(len(paths), generator, summary.groups)
    features = _draw_features(frames.width, generator)
    parts = [_Sums(len(paths.points)), _Sums(len(paths.points))]
    shared = frames
    if len(set(paths.widths.values())) == 1:
        shared = to(PointFrames(paths.widths, common=True), None, torch.float64)
        shared.fit_to(summary.moments, frame_rows(paths), len(paths))
    together = _Steps(shared), _Steps(shared)
    for block in track(paths.iterate(), "fitting controls"):
        states = [torch.from_numpy(block[point].astype(np.float64)) for point in paths.points]
        lifted = [frames.lift(x, number) for number, x in enumerate(states)]
        out = held_out[block.rows.start : block.rows.stop]
        for part, own, rows in zip(parts, together, (~out, out)):
            part.add([u[rows] for u in lifted], _relu_features(lifted[0][rows], *features))
            own.add([shared.lift(x[rows], number) for number, x in enumerate(states)])
    fit, validation = parts
    width, steps = frames.width, len(paths.points) - 1
    maps: dict[str, list[Tensor]] = {}
    penalties: dict[str, tuple[float, ...]] = {}
    maps["affine"], penalties["affine"] = ridge_by_sums(*(part.affine(width) for part in parts))
    maps["shared affine"], penalties["shared affine"] = _Steps.solve(*together)
    each = [ridge_by_sums(fit.step(number, width), validation.step(number, width)) for number in range(steps)]
    maps["per-step affine"] = [solution[0] for solution, _ in each]
    penalties["per-step affine"] = tuple(chosen[0] for _, chosen in each)
    center = (fit.features + validation.features) / (fit.rows + validation.rows)
    fitted, penalties["random features"] = ridge_by_sums(*(part.centered(center, width) for part in parts))
    maps["random features"] = [torch.cat([a, -(center @ a)[None]]) for a in fitted]
    equal = len(set(paths.widths.values())) == 1
    names = CONTROLS if equal else CONTROLS[1:]
    return Controls(paths.points, penalties, frames, shared, maps, features, names)


def _advanced(u: Tensor, step: Tensor) -> Tensor:
    """Rows ``(n, w)`` after a map ``(w, w)``, or one with an intercept, ``(w + 1, w)``."""
    return u @ step if len(step) == u.shape[1] else u @ step[:-1] + step[-1]


@dataclass(frozen=True, eq=False)
class Products:
    """Sums for a ridge regression of targets ``y`` on inputs ``x``: ``X'X``, each ``X'Y``, number of rows."""

    gram: Tensor
    cross: list[Tensor]
    rows: int


class _Sums:
    """Sums of products of lifted points and features over a part of the samples."""

    def __init__(self, points: int) -> None:
        self.rows = 0
        self.features: Any = 0.0  # Σ z, of features z whose first columns are the first point
        self._later: Any = 0.0  # Σ u_l, side by side
        self._square: Any = 0.0  # Σ z z'
        self._cross: Any = 0.0  # Σ z u_l', side by side
        self._own: list[Any] = [0.0] * points  # Σ u_l u_l'
        self._next: list[Any] = [0.0] * points  # Σ u_l u_{l+1}'

    def add(self, lifted: list[Tensor], z: Tensor) -> None:
        """Include lifted points, each ``(n, width)``, and features ``(n, width + features)``."""
        later = torch.cat(lifted[1:], dim=1)
        self.rows += len(z)
        self.features = self.features + z.sum(dim=0)
        self._later = self._later + later.sum(dim=0)
        self._square = self._square + z.T @ z
        self._cross = self._cross + z.T @ later
        for number in range(1, len(lifted) - 1):  # the features start with the first point
            self._own[number] = self._own[number] + lifted[number].T @ lifted[number]
            self._next[number] = self._next[number] + lifted[number].T @ lifted[number + 1]

    def affine(self, width: int) -> Products:
        """Products for maps from the first point to each later one."""
        return Products(
            self._square[:width, :width], list(self._cross[:width].split(width, dim=1)), self.rows
        )

    def step(self, number: int, width: int) -> Products:
        """Products for a map from point ``number`` to the next."""
        if number == 0:
            first = self.affine(width)
            return Products(first.gram, first.cross[:1], self.rows)
        return Products(self._own[number], [self._next[number]], self.rows)

    def centered(self, center: Tensor, width: int) -> Products:
        """Products for maps from centered features to each later point."""
        between = torch.outer(self.features, center)
        gram = self._square - between - between.T + self.rows * torch.outer(center, center)
        cross = self._cross - torch.outer(center, self._later)
        return Products(gram, list(cross.split(width, dim=1)), self.rows)


class _Steps:
    """Sums for one linear map of all steps over a part of the samples; every step counts alike.

    Each step has its own intercept, so that the movement of the mean over depth does not count.
    """

    def __init__(self, frames: PointFrames) -> None:
        self.frames = frames
        self.rows = 0
        self.gram: Any = 0.0  # Σ [u_l, 1]'[u_l, 1] of each step, in units of the variance of point l
        self.cross: Any = 0.0  # Σ [u_l, 1]' u_{l+1} of each step

    def add(self, lifted: list[Tensor]) -> None:
        """Include points lifted into the frames, each ``(n, width)``."""
        self.rows += len(lifted[0]) * (len(lifted) - 1)
        z, scale = torch.stack(lifted), self.frames.variance[:-1, None, None].sqrt()
        before, after = z[:-1] / scale, z[1:] / scale
        own = torch.cat([before, (1 / scale).expand_as(before[..., :1])], dim=2)
        self.gram = self.gram + own.mT @ own
        self.cross = self.cross + own.mT @ after

    def centered(self, start: Tensor, end: Tensor) -> Products:
        """Products about means ``(steps, 1, width)`` before and after each step."""
        count, before, after = self.gram[:, -1:, -1:], self.gram[:, -1:, :-1], self.cross[:, -1:]
        gram = self.gram[:, :-1, :-1] - before.mT @ start - start.mT @ before + count * (start.mT @ start)
        cross = self.cross[:, :-1] - before.mT @ end - start.mT @ after + count * (start.mT @ end)
        return Products(gram.sum(dim=0), [cross.sum(dim=0)], self.rows)

    @staticmethod
    def solve(fit: _Steps, validation: _Steps) -> tuple[list[Tensor], tuple[float, ...]]:
        """The map of each step with its intercept as last row, ``(width + 1, width)``, and the penalty."""
        count = fit.gram[:, -1:, -1:] + validation.gram[:, -1:, -1:]
        start = (fit.gram + validation.gram)[:, -1:, :-1] / count
        end = (fit.cross + validation.cross)[:, -1:] / count
        (solution,), chosen = ridge_by_sums(*(part.centered(start, end) for part in (fit, validation)))
        return [torch.cat([solution, own]) for own in end - start @ solution], chosen


def ridge_by_sums(fit: Products, validation: Products) -> tuple[list[Tensor], tuple[float, ...]]:
    """:func:`ridge_by_validation` from the products of the fitted rows and of the held-out rows."""
    values, basis = torch.linalg.eigh(fit.gram)
    values = values.clamp_min(0.0)
    if fit.rows < len(values):  # the other directions have no variance
        # Directions below rounding have no coefficient: the inverse would amplify noise.
        kept = values > values[-1] * 1e-12
        kept[: len(values) - fit.rows] = False
        values, basis = values[kept], basis[:, kept]
    square = basis.T @ validation.gram @ basis
    chosen = []
    for to_fit, to_validate in zip(fit.cross, validation.cross):
        moments = basis.T @ to_fit
        chosen.append(_best_penalty(values, square, moments, ((basis.T @ to_validate) * moments).sum(dim=1)))
    gram, rows = fit.gram + validation.gram, fit.rows + validation.rows
    unit = float(gram.trace()) / min(rows, len(gram))
    maps = []
    for penalty, one, other in zip(chosen, fit.cross, validation.cross):
        shrunk = gram.clone()
        shrunk.diagonal().add_(penalty * unit)
        maps.append(torch.linalg.solve(shrunk, one + other))
    return maps, tuple(chosen)


def _best_penalty(values: Tensor, square: Tensor, moments: Tensor, linear: Tensor) -> float:
    """The penalty with the least error on held-out rows, relative to the mean eigenvalue.

    ``|P diag(d) M - Y|^2 = d' (P'P ∘ MM') d - 2 d' diag(P'Y M') + const``: after two products, every penalty
    costs one quadratic form.

    Parameters
    ----------
    values
        Eigenvalues of ``X'X`` on the fitted rows, shape ``(r,)``.
    square
        ``P'P`` of the held-out rows projected onto its eigenvectors, shape ``(r, r)``.
    moments
        ``M``, projected ``X'Y`` of the fitted rows, shape ``(r, q)``.
    linear
        ``diag(P'Y M')``, shape ``(r,)``.
    """
    quadratic = square * (moments @ moments.T)
    errors = []
    for penalty in _SETTINGS.penalties:
        shrunk = 1 / (values + penalty * values.mean())
        errors.append(float(shrunk @ quadratic @ shrunk - 2 * shrunk @ linear))
    return float(_SETTINGS.penalties[int(np.argmin(errors))])


def ridge_by_validation(
    x: Tensor, targets: list[Tensor], held_out: Tensor
) -> tuple[list[Tensor], tuple[float, ...]]:
    """Ridge maps from one input to several targets, each with its own penalty.

    One eigendecomposition of ``X'X`` (of ``XX'`` with fewer rows than columns) serves all penalties and
    targets. The final map is fitted on all rows with the chosen penalty. scikit-learn's ``RidgeCV``
    does this for leave-one-out only, which leaves copies of a row on both sides.

    Parameters
    ----------
    x
        Inputs, centered, shape ``(n, p)``, float64.
    targets
        Each of shape ``(n, q)``, centered.
    held_out
        Boolean, shape ``(n,)``: the rows that choose the penalty.

    Returns
    -------
    tuple
        The maps ``(p, q)`` and the penalties, relative to the mean eigenvalue.
    """
    fit, validation = x[~held_out], x[held_out]
    basis, values = _spectrum(fit)
    projected = validation @ basis
    square = projected.T @ projected
    chosen = []
    for y in targets:
        moments = basis.T @ (fit.T @ y[~held_out])
        linear = ((projected.T @ y[held_out]) * moments).sum(dim=1)
        chosen.append(_best_penalty(values, square, moments, linear))
    # Targets with the same penalty share one solve.
    unit = float(x.square().sum()) / min(x.shape)
    maps = [torch.empty(0)] * len(targets)
    for penalty in set(chosen):
        members = [number for number, own in enumerate(chosen) if own == penalty]
        solved = ridge(x, torch.cat([targets[number] for number in members], dim=1), penalty * unit)
        for number, part in zip(members, torch.split(solved, [targets[n].shape[1] for n in members], dim=1)):
            maps[number] = part
    return maps, tuple(chosen)


def _spectrum(x: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors ``(p, r)`` of ``X'X`` with positive eigenvalues, and these, of rows ``(n, p)``."""
    rows, columns = x.shape
    if columns <= rows:
        values, vectors = torch.linalg.eigh(x.T @ x)
        return vectors, values.clamp_min(0.0)
    values, vectors = torch.linalg.eigh(x @ x.T)
    kept = values > values[-1] * 1e-12
    values, vectors = values[kept], vectors[:, kept]
    return x.T @ vectors / values.sqrt(), values


def held_out_rows(rows: int, generator: torch.Generator, groups: NDArray[np.int64] | None = None) -> Tensor:
    """A random fifth of the rows, as a boolean tensor ``(rows,)``; whole groups if groups are given."""
    distinct = rows if groups is None else int(groups.max(initial=-1)) + 1
    if distinct < 2:
        raise RepdynError(f"controls: {distinct} different sample is too few; at least two are needed")
    count = max(1, round(_SETTINGS.held_out * distinct))
    mask = torch.zeros(distinct, dtype=torch.bool)
    mask[torch.randperm(distinct, generator=generator)[:count]] = True
    return mask if groups is None else mask[torch.from_numpy(groups)]


def _draw_features(width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weights ``(width, features)`` and biases ``(features,)`` of random ReLU features, float64."""
    # The input has total variance one, so weights of variance one give projections of unit variance. Biases
    # of the same size place the kinks within the data.
    weight = torch.randn(width, _SETTINGS.features, generator=generator, dtype=torch.float64)
    bias = torch.randn(_SETTINGS.features, generator=generator, dtype=torch.float64)
    return weight, bias


def _relu_features(u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """State ``(n, width)`` and random features side by side, ``(n, width + features)``."""
    # Division by the root of their number gives features and state equal weight in the ridge penalty.
    return torch.cat([u, torch.relu(u @ weight + bias) / weight.shape[1] ** 0.5], dim=1)
