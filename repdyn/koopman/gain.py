"""Sensitivity: how far a unit perturbation at each depth moves the last point, fitted and true.

Between neighboring points every token obeys ``x_(l+1) ≈ x_l A_l + b_l``. A perturbation ``v`` at depth ``l``
then moves the last point by ``v A_l … A_(L-1)``. The maps are fitted to single tokens. Maps of
pooled paths also hold how the words of a text depend on each other, and order the depths wrongly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr
from torch import Tensor, nn

from repdyn.devices import CPU, as_given, double, to
from repdyn.errors import RepdynError
from repdyn.intervals import Estimate, bootstrap
from repdyn.koopman.controls import held_out_rows, ridge_by_validation
from repdyn.koopman.frames import wide_coordinates
from repdyn.koopman.settings import GainSettings
from repdyn.koopman.states import read_points
from repdyn.paths import RepresentationPaths
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows, sums_by_group
from repdyn.results import Result
from repdyn.tracing import TracedModel
from repdyn.tracing.hooks import unwrap
from repdyn.tracing.samples import as_samples

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["Gain", "gain"]

Real = NDArray[np.float64]
_SETTINGS = GainSettings()


@dataclass(frozen=True, eq=False)
class Gain(Result, kind="gain"):
    """How far a unit perturbation at each depth moves the last point, or an output of it.

    Attributes
    ----------
    points
        Where the perturbation is added, in order of depth.
    target
        The last point.
    fitted
        Root mean square move for perturbations in random directions, by the fitted maps, shape ``(points,)``.
    true
        The same by Jacobians of the model, one estimate with a 95 % interval over samples for each point;
        None without inputs.
    rank_correlation
        Spearman's, between both over depths, with an interval over samples; None without inputs.
    strongest
        For each point the unit perturbation that moves the last point most by the fitted maps, ``(width,)``.
        With ``readout`` it is the one that raises this output most: of all perturbations that raise it by a
        given amount, a multiple of it has the least energy.
    strongest_gain
        How far it moves it, by the fitted maps, ``(points,)``.
    unexplained
        Share of the variance of held-out tokens that the map of each step leaves unexplained, ``(points,)``.
    tokens, samples
        Number of tokens that the maps were fitted to, and of samples of the Jacobians.
    """

    points: tuple[str, ...]
    target: str
    fitted: Real
    true: tuple[Estimate, ...] | None
    rank_correlation: Estimate | None
    strongest: tuple[Real, ...]
    strongest_gain: Real
    unexplained: Real
    tokens: int
    samples: int

    figures: ClassVar = (
        "points",
        "target",
        "fitted",
        "true",
        "rank_correlation",
        "strongest_gain",
        "unexplained",
        "tokens",
        "samples",
        "verdict",
    )

    @property
    def verdict(self) -> str:
        """Whether the fitted gains order the depths as the true ones.

        ``"found"`` if the interval of the rank correlation lies above .8, ``"not found"`` if below, else, and
        without inputs, ``"inconclusive"``.
        """
        if self.rank_correlation is None:
            return "inconclusive"
        if self.rank_correlation.low > _SETTINGS.ordered:
            return "found"
        return "not found" if self.rank_correlation.high < _SETTINGS.ordered else "inconclusive"

    def __repr__(self) -> str:
        width = max(map(len, self.points)) + 2
        lines = [f"Gain: how far a unit perturbation moves {self.target!r}, from {self.tokens} tokens"]
        for number, point in enumerate(self.points):
            own = "" if self.true is None else f"   true {self.true[number]}"
            lines.append(
                f"  {point:{width}} fitted {self.fitted[number]:.3f}{own}   strongest "
                f"{self.strongest_gain[number]:.2f}"
            )
        if self.rank_correlation is None:
            lines.append("  not compared with the model; give inputs")
        else:
            lines.append(
                f"  rank correlation over depths {self.rank_correlation} on {self.samples} samples: "
                f"{self.verdict}"
            )
        return "\n".join(lines)

    def plot(self) -> go.Figure:
        """Plot fitted and true gains against depth."""
        # plotly is slow to import and not everyone plots.
        from repdyn.views.dynamics import gain as draw

        series = {"fitted": [{"value": float(v), "low": float(v), "high": float(v)} for v in self.fitted]}
        if self.true is not None:
            series["true"] = [own.to_dict() for own in self.true]
        return draw(self.points, series, self.target, self.verdict)


def gain(
    model: TracedModel,
    paths: RepresentationPaths,
    inputs: Any = None,
    *,
    readout: ArrayLike | None = None,
    seed: int = 0,
) -> Gain:
    """Fit linear dynamics of single tokens, and compare its gains with Jacobians of the model.

    Where a model pools the mean, the perturbation is added at every token; where it pools one token, at that
    one.
    Jacobians are evaluated by products with random directions of the output.

    Parameters
    ----------
    model
        The model that was traced.
    paths
        Paths that keep their tokens: ``repdyn.trace(model, data, pool="none")``. Paths of vectors do for
        models without tokens.
    inputs
        Samples for the Jacobians; default: none, then the fitted gains stand alone.
    readout
        Weights of one output, ``(width of the last point,)``, such as a row of a linear head: gains are then
        of that output. Default: the whole last point.
    seed
        Seed of the held-out tokens, the directions and the intervals.

    Returns
    -------
    Gain

    Raises
    ------
    RepdynError
        If tokens have been pooled, the path has one point, points differ in their tokens, or ``readout`` does
        not fit the last point.

    References
    ----------
    arXiv 2603.12541: gains of low-order linear surrogates of language models.
    """
    if len(paths.points) < 2:
        raise RepdynError(f"gain: the path has one point, {paths.points[0]!r}; at least two are needed")
    flat = _tokens(model, paths)
    names = flat.points
    weights = None if readout is None else as_array(readout, np.float64)
    last = flat.widths[names[-1]]
    if weights is not None and weights.shape != (last,):
        raise RepdynError(
            f"readout must have shape ({last},), the width of {names[-1]!r}, got {weights.shape}"
        )
    steps, unexplained = _step_maps(flat, seed)
    chain = torch.eye(last, dtype=torch.float64) if weights is None else torch.from_numpy(weights)[:, None]
    fitted, strongest, most = [], [], []
    for step in reversed(steps):
        chain = step @ chain
        left, values, right = torch.linalg.svd(chain, full_matrices=False)
        fitted.append(float(values.square().sum() / len(chain)) ** 0.5)
        # A singular vector has no sign; that of one output is the one that raises it.
        sign = 1.0 if weights is None else float(right[0, 0].sign())
        strongest.append(as_array(sign * left[:, 0]).copy())
        most.append(float(values[0]))
    true = correlation = None
    count = 0
    found = np.array(fitted[::-1])
    if inputs is not None:
        squares = _jacobians(model, names, inputs, weights, seed)  # (samples, points)
        count = len(squares)
        # Equal samples count once: their means replace them.
        equal = as_samples(inputs).groups()
        squares = np.stack([sums_by_group(equal, column) for column in squares.T], axis=1)
        squares /= np.bincount(equal)[:, None]
        true = tuple(
            _root(bootstrap(lambda own: float(own.mean()), column, seed=seed)) for column in squares.T
        )
        correlation = bootstrap(
            lambda own: float(spearmanr(found, own.mean(axis=0)).statistic) if len(found) > 1 else 1.0,
            squares,
            seed=seed,
        )
    return Gain(
        names[:-1],
        names[-1],
        found,
        true,
        correlation,
        tuple(strongest[::-1]),
        np.array(most[::-1]),
        unexplained,
        min(len(flat), _SETTINGS.tokens),
        count,
    )


def _root(square: Estimate) -> Estimate:
    return Estimate(*(max(end, 0.0) ** 0.5 for end in (square.value, square.low, square.high)))


def _tokens(model: TracedModel, paths: RepresentationPaths) -> RepresentationPaths:
    """Paths of single tokens, or :class:`RepdynError` where tokens have been pooled."""
    if paths.tokens:
        if len(paths.tokens) < len(paths.points):
            pooled = [point for point in paths.points if point not in paths.tokens]
            raise RepdynError(
                f"gain: points {', '.join(pooled)} have no tokens and others have; trace all of one kind"
            )
        return paths.tokens_as_samples()
    for point in paths.points:
        known = model.points.get(point)
        if known is not None and any(axis in known.layout for axis in "LHW"):
            raise RepdynError(
                f"gain: the tokens of {point!r} have been pooled. Maps of pooled paths do not give the gain "
                'of a perturbation; trace with pool="none"'
            )
    return paths


def _step_maps(paths: RepresentationPaths, seed: int) -> tuple[list[Tensor], Real]:
    """Matrix of each step ``(width, next width)``, and the unexplained share of held-out tokens."""
    if len(paths) > _SETTINGS.tokens:
        drawn = np.random.default_rng(seed).permutation(len(paths))[: _SETTINGS.tokens]
        paths = paths.subset(np.sort(drawn))
    if len(paths) <= max(paths.widths.values()):
        raise RepdynError(
            f"gain: {len(paths)} tokens are too few for maps of points {max(paths.widths.values())} wide; "
            "trace more samples"
        )
    rows = read_points(paths)
    groups = groups_of_equal_rows(as_array(rows[0]))
    held_out = held_out_rows(len(rows[0]), torch.Generator().manual_seed(seed), groups)
    maps, unexplained = [], []
    for one, other in pairwise(rows):
        x, y = double(one), double(other)
        # Errors count relative to the size of a token, as blocks read it normalized. Single tokens of
        # language models are a thousand times larger than the rest.
        square = x.square().sum(dim=1)
        weight = 1 / (square + _SETTINGS.floor * square.mean())
        weight = weight / weight.sum()
        x, y = ((own - weight @ own) * weight.sqrt()[:, None] for own in (x, y))
        scale = wide_coordinates(x.square().sum(dim=0).sqrt())
        same = torch.eye(x.shape[1], dtype=x.dtype) if x.shape[1] == y.shape[1] else None
        target = y if same is None else y - x  # shrunk towards the identity
        part = _part(held_out, seed, groups)
        fitted, _ = ridge_by_validation(x[~held_out] / scale, [target[~held_out]], part)
        error = (x[held_out] / scale) @ fitted[0] - target[held_out]
        unexplained.append(float(error.square().sum() / y[held_out].square().sum()))
        found, _ = ridge_by_validation(x / scale, [target], held_out)
        step = found[0] / scale[:, None]
        maps.append(step if same is None else step + same)
    return maps, np.array(unexplained)


def _part(held_out: Tensor, seed: int, groups: NDArray[np.int64]) -> Tensor:
    """A fifth of the rows that are not held out, to choose the penalty of the map that is judged."""
    own = np.unique(groups[as_array(~held_out)], return_inverse=True)[1]
    return held_out_rows(len(own), torch.Generator().manual_seed(seed), own)


def _jacobians(
    model: TracedModel, names: Sequence[str], inputs: Any, weights: Real | None, seed: int
) -> Real:
    """Mean square move of the output for unit perturbations in random directions, ``(samples, points)``."""
    samples = as_samples(inputs)
    known = [model.points[name] for name in names[:-1]]
    for name, point in zip(names, known):
        if not point.module or point.reads != "output":
            raise RepdynError(f"gain: {name!r} is no output of a module, so that it cannot be perturbed")
    generator = torch.Generator().manual_seed(seed)
    probes = _SETTINGS.probes if weights is None else 1
    found = []
    with model.reader([names[-1]], "auto", grad=True) as read:
        read(samples.take(np.arange(1)))  # the first batch may take several passes
        for start in range(0, len(samples), _SETTINGS.batch):
            index = np.arange(start, min(start + _SETTINGS.batch, len(samples)))
            given = model.prepare(samples.take(index))
            held: dict[str, Tensor] = {}
            handles = [
                model.module.get_submodule(point.module).register_forward_hook(_keeps(held, name))
                for name, point in zip(names, known)
            ]
            try:
                output = read.prepared(given, len(index))[names[-1]]
            finally:
                for handle in handles:
                    handle.remove()
            squares = torch.zeros(len(index), len(known), dtype=torch.float64)
            for number in range(probes):
                if weights is None:
                    along = torch.randn(output.shape, generator=generator)
                    # Of this length, the expected square of the product is the squared norm of the Jacobian.
                    along = along / along.norm(dim=1, keepdim=True) * output.shape[1] ** 0.5
                else:
                    along = torch.as_tensor(weights, dtype=torch.float32).expand(output.shape)
                along = as_given(along, output)
                slopes = torch.autograd.grad(
                    (output * along).sum(),
                    [held[name] for name in names[:-1]],
                    retain_graph=number + 1 < probes,
                    allow_unused=True,
                )
                for column, (slope, name) in enumerate(zip(slopes, names)):
                    if slope is None:
                        raise RepdynError(f"gain: {names[-1]!r} does not depend on {name!r}")
                    own = _pooled_slopes(model, name, to(slope.detach(), CPU, torch.float64), given)
                    squares[:, column] += own.square().mean(dim=1) / probes
            found.append(squares)
    return as_array(torch.cat(found))


def _keeps(held: dict[str, Tensor], name: str) -> Any:
    """A hook that keeps a module's output in the graph."""

    def hook(_: nn.Module, __: Any, output: Any) -> None:
        value = unwrap(output)
        if not value.requires_grad:
            value.requires_grad_(True)
        held[name] = value

    return hook


def _pooled_slopes(model: TracedModel, name: str, slope: Tensor, inputs: Any) -> Tensor:
    """Slopes ``(n, width)`` at the tokens that the model pools, from slopes of all tokens."""
    point = model.points[name]
    if slope.ndim == 2:
        return slope
    tokens = slope.flatten(2).mT if point.layout.startswith("NC") else slope.flatten(1, -2)
    mask = None
    if isinstance(point.mask, str):
        mask = inputs.get(point.mask) if hasattr(inputs, "get") else None
    elif point.mask is not None:
        mask = point.mask(inputs)
    if mask is None or mask.shape != tokens.shape[:2]:
        mask = torch.ones(tokens.shape[:2])
    mask = to(mask, CPU, torch.float64)
    if model.pooling == "last":
        last = (mask * torch.arange(1, mask.shape[1] + 1)).argmax(dim=1)
        return tokens[torch.arange(len(tokens)), last]
    if model.pooling == "cls":
        return tokens[:, 0]
    if model.pooling in ("mean", "gap"):
        return (tokens * mask[..., None]).sum(dim=1)
    raise RepdynError(
        f"gain: {model.name} pools by {model.pooling!r}; a perturbation is defined for mean, gap, cls and "
        "last"
    )
