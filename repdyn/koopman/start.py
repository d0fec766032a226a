"""The closed-form start of a fit: observables, decoder and operator by linear algebra, without a gradient.

Linear observables are principal components. Nonlinear ones are the combinations of the encoder's hidden units
that add most to a linear prediction of the last point from the first (reduced-rank regression). Operators are
solved for on these observables by ridge regression, whose penalty the validation part chooses.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from repdyn.devices import CPU, as_given, double, to, widest
from repdyn.koopman.frames import Lift, principal_axes
from repdyn.koopman.operators import Direct, Generator, LowRank, Operator, PerStep, Piecewise, advance
from repdyn.koopman.settings import FitSettings
from repdyn.koopman.states import States
from repdyn.linalg import ridge
from repdyn.reading import as_array

__all__ = ["Solved", "logarithm", "start"]

_DEFAULT = FitSettings()
_EXPONENTS = (-24, 5)  # penalties of direct maps, in half powers of ten of the mean eigenvalue
_SMALLEST = 1e-6  # modulus below which the logarithm of an eigenvalue is cut off


@dataclass(eq=False)
class Solved:
    """Direct maps with an encoder and a decoder of their own, solved for in closed form.

    Attributes
    ----------
    operator, encoder, decoder
        The modules.
    left
        Unexplained variance of the validation part, mean over depths.
    complete
        Solves anew with the validation part, once nothing is left to be chosen by it.
    """

    operator: Direct
    encoder: Lift
    decoder: Lift
    left: float
    complete: Callable[[], None]


def rows_to_start(points: int, settings: FitSettings = _DEFAULT) -> int:
    """The most samples that the closed-form solution is fitted on, so that it costs the same at any size."""
    return max(1, settings.start_rows // points)


@torch.no_grad()
def start(
    encoder: Lift,
    decoder: Lift,
    operators: Sequence[Operator],
    states: States,
    fit_rows: Tensor,
    validation_rows: Tensor,
    generator: torch.Generator,
    settings: FitSettings = _DEFAULT,
    widths: Sequence[int] = (),
    supervise: str = "all",
) -> tuple[float, Solved | None]:
    """Set the modules to their closed-form solution.

    Parameters
    ----------
    encoder, decoder
        Set in place to principal components, with networks near zero, from where gradients improve them.
    operators
        Set in place; solved for on these observables, except direct maps.
    states
        Lifted representations.
    fit_rows, validation_rows
        Samples to solve on, and samples that choose penalties and the width of the encoder of direct maps.
    generator
        Draws the hidden units and the rows.
    settings
        Tuned numbers.
    widths
        Widths of the encoder's hidden layer to choose from, in increasing order; default: as it is.
    supervise
        ``"last"``: only the first and the last point are used.

    Returns
    -------
    tuple
        The least unexplained variance of the validation part by an operator, and the solution by direct maps,
        if they are among the operators.
    """
    most = rows_to_start(states.points, settings)
    chosen = fit_rows[to(torch.randperm(len(fit_rows), generator=generator)[:most], fit_rows.device)]
    unseen = validation_rows[:most]
    both = _all_points(states, torch.cat([chosen, unseen]))
    u, judged = both[:, : len(chosen)], both[:, len(chosen) :]
    unit = exact(states.variance).clamp_min(torch.finfo(torch.float32).tiny)
    if supervise == "last":
        u, judged, unit = (torch.stack([own[0], own[-1]]) for own in (u, judged, unit))
    observables = encoder.linear.out_features
    # The rest is for nonlinear observables, also where states are wider than all observables together.
    linear = min(observables, states.width, settings.max_linear)
    axes = principal_axes((u / unit.sqrt()[:, None, None]).flatten(0, 1), linear)
    weight = torch.zeros(states.width, observables, dtype=axes.dtype, device=axes.device)
    weight[:, :linear] = axes
    solved = None
    for operator in operators:
        if isinstance(operator, Direct):
            own = copy.deepcopy(encoder), copy.deepcopy(decoder)
            for module, linear_part in zip(own, (weight, weight.T)):
                module.start(as_given(linear_part, encoder.linear.weight), 0.0)
            solved = _direct(operator, *own, u, judged, unit, axes, generator, settings, widths)
    if encoder.network is not None and widths:
        encoder.narrow(widths[0])
    encoder.start(as_given(weight, encoder.linear.weight), settings.start_scale)
    decoder.start(as_given(weight.T, encoder.linear.weight), settings.start_scale)
    z, z_judged = (_encoded(encoder, part) for part in (u, judged))
    left = [
        _solve(operator, z, z_judged, judged, decoder, unit, settings)
        for operator in operators
        if not isinstance(operator, Direct)
    ]
    return min(left, default=float("inf")), solved


def _direct(
    operator: Direct,
    encoder: Lift,
    decoder: Lift,
    u: Tensor,
    judged: Tensor,
    unit: Tensor,
    axes: Tensor,
    generator: torch.Generator,
    settings: FitSettings,
    widths: Sequence[int],
) -> Solved:
    """Direct maps on principal components and on the hidden units that add most to their prediction."""
    found = None
    linear = axes.shape[1]
    if encoder.network is not None and encoder.linear.out_features > linear:
        found = _Units(
            encoder, u, judged, generator, settings, widths, every=linear == encoder.linear.in_features
        )
        found.observe(encoder, linear, u, settings.added)
    elif encoder.network is not None and widths:
        encoder.narrow(widths[0])
    solve_direct(operator, _encoded(encoder, u), _encoded(encoder, judged))
    z_judged = _encoded(encoder, judged)
    left = _left(operator, z_judged, judged, decoder, unit)
    if found is not None:
        kept = operator.weight.clone(), operator.drift.clone()
        found.direct(operator, axes)
        reached = _left(operator, z_judged, judged, decoder, unit)
        if reached > left:
            operator.weight, operator.drift = kept
            found = None
        left = min(reached, left)

    @torch.no_grad()
    def complete() -> None:
        solve_direct(operator, _encoded(encoder, u), _encoded(encoder, judged), every=True)
        if found is not None:
            found.use_all()
            found.direct(operator, axes)

    return Solved(operator, encoder, decoder, left, complete)


def exact(x: Tensor) -> Tensor:
    """A tensor in float64, on its device or, where that has no float64, on the CPU."""
    return double(x if widest(x.device) == torch.float64 else to(x, CPU))


def _all_points(states: States, rows: Tensor) -> Tensor:
    """All points of samples, ``(points, n, width)``, float64."""
    depths = torch.arange(states.points, device=rows.device).repeat_interleave(len(rows))
    return exact(states.at(rows.repeat(states.points), depths)).view(states.points, len(rows), states.width)


def _encoded(encoder: Lift, u: Tensor) -> Tensor:
    """Observables of states ``(points, n, width)`` in float64, point by point."""
    return torch.stack([exact(encoder(as_given(x, encoder.linear.weight))) for x in u])


class _Units:
    """Hidden units of random directions, and the ridge regression of later points on them and the first.

    Parameters
    ----------
    encoder
        Its hidden layers are drawn, and narrowed to the width that predicts the last point best.
    u, judged
        States to solve on and to choose by, ``(points, n, width)``.
    generator, settings, widths
        As in :func:`start`.
    every
        Whether all later points are regressed, as :meth:`direct` needs them; else the last alone.
    """

    def __init__(
        self,
        encoder: Lift,
        u: Tensor,
        judged: Tensor,
        generator: torch.Generator,
        settings: FitSettings,
        widths: Sequence[int],
        every: bool,
    ) -> None:
        assert encoder.network is not None
        first = encoder.network[0]
        assert isinstance(first, nn.Linear)
        self.mean = u[0].mean(dim=0)
        spread = (u[0] - self.mean).square().sum(dim=1).mean().sqrt()
        self.size = spread.clamp_min(torch.finfo(torch.float32).tiny)
        # Kinks lie within the data of the first point, in directions and with slopes of more than one size.
        count, inputs = first.out_features, first.in_features
        draw = to(torch.randn(count, inputs, generator=generator, dtype=torch.float64), self.mean.device)
        part = to(torch.rand(count, 1, generator=generator, dtype=torch.float64), self.mean.device)
        places = to(torch.randn(count, generator=generator, dtype=torch.float64), self.mean.device)
        self.means = u[1:].mean(dim=1, keepdim=True)
        centered = u[1:] - self.means
        # A point that does not vary would be divided by zero.
        self.scale = centered.square().sum(dim=-1).mean(dim=1).sqrt().clamp_min(1e-12)[:, None, None]
        y, y_judged = (
            ((own[1:] - self.means) / self.scale).permute(1, 0, 2).flatten(1) for own in (u, judged)
        )
        last = slice(-inputs, None)
        self.every = every
        if not every:
            y, y_judged = y[:, last], y_judged[:, last]

        def placed(slopes: tuple[float, float], units: int) -> tuple[Tensor, Tensor]:
            """Set the first layer; inputs of the regression, with so many units, of both parts."""
            low, high = slopes
            weight = draw * low * (high / low) ** part / self.size
            first.weight.copy_(weight)
            first.bias.copy_(places - weight @ self.mean)
            assert encoder.network is not None
            hidden = encoder.network[:-1]
            features, unseen = (exact(hidden(as_given(x[0], first.weight)))[:, :units] for x in (u, judged))
            self.center = features.mean(dim=0)
            self.spread = features.var(dim=0, correction=0).sum().sqrt().clamp_min(1e-12)
            x, x_judged = (
                torch.cat([(own[0] - self.mean) / self.size, (values - self.center) / self.spread], dim=1)
                for own, values in ((u, features), (judged, unseen))
            )
            return x, x_judged

        errors = []
        for slopes in settings.slopes:  # a few units suffice to choose
            x, x_judged = placed(slopes, min((*widths, count)))
            errors.append(
                _validated(x.T @ x, x.T @ y[:, last], x_judged, y_judged[:, last], x.shape[1], settings)[0]
            )
        x, x_judged = placed(settings.slopes[int(np.argmin(errors))], count)
        gram, cross = x.T @ x, x.T @ y
        found = []
        for width in widths or (count,):
            error, penalty = _validated(
                gram, cross[:, last], x_judged, y_judged[:, last], inputs + width, settings
            )
            found.append((error, width, penalty))
        least = min(error for error, _, _ in found)
        _, self.width, penalty = next(one for one in found if one[0] <= least * (1 + settings.narrower))
        if self.width < count:
            encoder.narrow(self.width)
        self.center = self.center[: self.width]
        total = inputs + self.width
        unseen = x_judged[:, :total]
        self.sums = gram[:total, :total], cross[:total]
        self.unseen = unseen.T @ unseen, unseen.T @ y_judged
        self.penalty, self.inputs, self.features = penalty, inputs, x[:, inputs:total]
        self.solution = self._solved(*self.sums)

    def _solved(self, gram: Tensor, cross: Tensor) -> Tensor:
        """The ridge solution of products of inputs with inputs and with targets."""
        shrunk = gram.clone()
        shrunk.diagonal().add_(self.penalty * float(gram.trace()) / len(gram))
        return torch.cholesky_solve(cross, torch.linalg.cholesky(shrunk))

    def use_all(self) -> None:
        """Solve anew with the validation part, when nothing is left to be chosen by it."""
        gram, cross = (one + other for one, other in zip(self.sums, self.unseen))
        self.solution = self._solved(gram, cross)

    def observe(self, encoder: Lift, linear: int, u: Tensor, added_variance: float) -> None:
        """Set observables from number ``linear`` on to the combinations that add most to the predictions.

        Together they have ``added_variance`` over all points of the states ``u``: a combination that is found
        at the first point may be large at the others.
        """
        assert encoder.network is not None
        final = encoder.network[-1]
        assert isinstance(final, nn.Linear)
        wanted = final.out_features - linear
        # The last point matters most. Where it has fewer coordinates than there are observables, all do.
        own = slice(-self.inputs, None) if self.inputs >= wanted else slice(None)
        effect = self.solution[self.inputs :, own]
        added = self.features @ effect
        _, directions = torch.linalg.eigh(added.T @ added)
        kept = directions.flip(1)[:, :wanted]
        self.combined = effect @ kept
        last = linear + kept.shape[1]
        final.weight[:last], final.bias[:last] = 0, 0
        weight = self.combined / self.spread
        hidden = encoder.network[:-1]
        values = torch.stack([exact(hidden(as_given(x, final.weight))) @ weight for x in u])
        spread = values.flatten(0, 1).std(dim=0, correction=0)
        size = torch.where(
            spread > 0, (added_variance / len(spread)) ** 0.5 / spread, torch.ones_like(spread)
        )
        self.combined, weight = self.combined * size, weight * size
        final.weight[linear:last] = as_given(weight.T, final.weight)
        final.bias[linear:last] = -as_given(self.center @ weight, final.bias)

    def direct(self, operator: Direct, axes: Tensor) -> None:
        """Set the linear observables that direct maps reach to the predictions of the regression."""
        if not self.every:  # the linear observables do not span the states
            return
        linear, observed = axes.shape[1], self.features @ self.combined
        maps = (
            self.solution.view(len(self.solution), -1, self.inputs).movedim(1, 0) * self.scale
        )  # (steps, F, width)
        coefficients = torch.linalg.lstsq(
            observed, (self.features @ maps[:, self.inputs :]).movedim(0, 1).flatten(1)
        ).solution.view(self.combined.shape[1], -1, self.inputs)
        last = linear + observed.shape[1]
        weight, drift = exact(operator.weight).clone(), exact(operator.drift).clone()
        weight[:, :, :linear] = 0
        weight[:, :linear, :linear] = axes.T @ (maps[:, : self.inputs] / self.size) @ axes
        weight[:, linear:last, :linear] = coefficients.movedim(1, 0) @ axes
        # Observables of the first point are zero where the regression is centered.
        start = self.mean @ axes
        drift[:, :linear] = (self.means[:, 0] @ axes) - start @ weight[:, :linear, :linear]
        operator.weight, operator.drift = as_given(weight, operator.weight), as_given(drift, operator.drift)


def _validated(
    gram: Tensor, cross: Tensor, x: Tensor, y: Tensor, count: int, settings: FitSettings
) -> tuple[float, float]:
    """Ridge regression on the first ``count`` inputs: error on unseen rows ``(x, y)``, and best penalty."""
    gram, cross, x = gram[:count, :count], cross[:count], x[:, :count]
    unit = float(gram.trace()) / count

    def solved(exponent: float) -> tuple[float, float]:
        shrunk = gram.clone()
        shrunk.diagonal().add_(10.0**exponent * unit)
        solution = torch.cholesky_solve(cross, torch.linalg.cholesky(shrunk))
        return float((x @ solution - y).square().sum()), 10.0**exponent

    low, high = settings.penalties
    tried = {exponent: solved(exponent) for exponent in np.arange(low, high + 0.5).tolist()}
    best = min(tried, key=lambda exponent: tried[exponent][0])
    return min((tried[best], solved(best - 0.5), solved(best + 0.5)), key=lambda one: one[0])


def _solve(
    operator: Operator,
    z: Tensor,
    z_judged: Tensor,
    judged: Tensor,
    decoder: Lift,
    unit: Tensor,
    settings: FitSettings,
) -> float:
    """Solve for an operator; the unexplained variance it leaves on the validation part, mean over depths."""

    def left() -> float:
        return _left(operator, z_judged, judged, decoder, unit)

    if not isinstance(operator, Generator | PerStep | Piecewise | LowRank):
        return left()
    scale = unit.sqrt()[:, None, None]
    best: tuple[float, dict[str, Tensor]] | None = None
    # One candidate of many observables: eigenvectors of large matrices take seconds.
    penalties = settings.start_penalties if z.shape[-1] <= settings.trained else settings.start_penalties[-1:]
    for penalty in penalties:
        if isinstance(operator, PerStep):
            for number in range(operator.count):
                of = slice(number, number + 2) if len(z) > operator.count else slice(None)
                g, c = _generator_of(z[of], scale[of][:1], penalty, operator.count // (len(z) - 1))
                operator.weight[number], operator.drift[number] = (
                    as_given(g, operator.weight),
                    as_given(c[0], operator.drift),
                )
        elif isinstance(operator, Piecewise):
            for number, (a, b) in enumerate(operator.spans):
                g, c = _generator_of(z[a : b + 1], scale[a:b], penalty)
                operator.weight[number], operator.drift[a:b] = (
                    as_given(g, operator.weight),
                    as_given(c, operator.drift),
                )
        else:
            g, c = _generator_of(z, scale[:-1], penalty, operator.count // (len(z) - 1))
            operator.weight.copy_(g)
            operator.drift.copy_(c)
        error = left()
        if best is None or error < best[0]:
            best = error, {name: value.clone() for name, value in operator.state_dict().items()}
    assert best is not None
    operator.load_state_dict(best[1])
    return best[0]


def _left(operator: Operator, z_judged: Tensor, judged: Tensor, decoder: Lift, unit: Tensor) -> float:
    """Unexplained variance of the validation part, mean over depths."""
    flows = exact(operator.from_first())[-(len(judged) - 1) :]
    found = [exact(decoder(as_given(advance(z_judged[0], flow), operator.weight))) for flow in flows]
    errors = [
        float((x - true).square().sum(dim=1).mean() / own)
        for x, true, own in zip(found, judged[1:], unit[1:])
    ]
    return float(np.mean(errors)) if np.isfinite(errors).all() else float("inf")


def _generator_of(z: Tensor, scale: Tensor, penalty: float, steps: int = 1) -> tuple[Tensor, Tensor]:
    """Generator ``(d, d)`` and drifts ``(steps, d)`` that best advance observables ``(points, n, d)``.

    They count alike: each is divided by the scale of the state that it starts from, ``(steps, 1, 1)``. If the
    points are ``steps`` apart, the root of the map is taken.
    """
    means = z.mean(dim=1, keepdim=True)
    x, y = (((z - means)[part] / scale).flatten(0, 1) for part in (slice(None, -1), slice(1, None)))
    mean_eigenvalue = float(x.square().sum()) / min(x.shape)
    # Directions without variance keep their place: the identity is the map that changes least.
    step = torch.eye(x.shape[1], dtype=x.dtype, device=x.device) + ridge(
        x, y - x, penalty * mean_eigenvalue or 1.0
    ).to(x.dtype)
    generator, integral = logarithm(step)
    generator = generator / steps
    moved = (means[1:] - means[:-1] @ torch.linalg.matrix_exp(generator * steps))[:, 0]
    # ∫ expm(s G) ds over all steps is their number times the mean that ``logarithm`` gives.
    return generator, moved @ torch.linalg.pinv(integral * steps, rtol=1e-9)


def logarithm(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Real part ``G`` of the principal logarithm, and ``∫ expm(s G) ds`` over a unit of time.

    Where the matrix has no eigenvalue on the closed negative real axis, ``expm(G)`` is the matrix. Else it
    differs from it by the sign of these eigenvalues.

    Parameters
    ----------
    matrix
        Shape ``(d, d)``, float64.
    """
    values, vectors = np.linalg.eig(as_array(matrix, np.float64))
    small = np.abs(values) < _SMALLEST
    # The half turn of a negative real eigenvalue is left out, so that the generator is real.
    angles = np.where(values.imag == 0, 0.0, np.angle(values))
    logs = np.log(np.where(small, _SMALLEST, np.abs(values))) + 1j * angles
    flat = np.abs(logs) < 1e-12
    means = np.where(flat, 1.0, np.expm1(logs) / np.where(flat, 1.0, logs))
    try:
        back = np.linalg.inv(vectors)
    except np.linalg.LinAlgError:  # defective
        back = np.linalg.pinv(vectors)
    generator, integral = (((vectors * own) @ back).real for own in (logs, means))
    return as_given(np.ascontiguousarray(generator), matrix), as_given(np.ascontiguousarray(integral), matrix)


@torch.no_grad()
def solve_direct(operator: Direct, z: Tensor, z_judged: Tensor, every: bool = False) -> None:
    """Solve for the maps from the first point to every later one.

    Parameters
    ----------
    operator
        Set in place.
    z, z_judged
        Observables of every point, ``(points, n, d)``, to solve on and to choose the penalties by.
    every
        Whether to solve on both, once the penalties are chosen.
    """
    # Points are centered one at a time: a centered copy of all of them would double the memory of a fit.
    middle = z.mean(dim=1)
    means = torch.cat([z, z_judged], dim=1).mean(dim=1) if every else middle
    x, judged = z[0] - middle[0], z_judged[0] - middle[0]
    values, basis = torch.linalg.eigh(x.T @ x)
    values = values.clamp_min(0.0)
    unseen = judged @ basis
    unit = values.sum() / min(x.shape)
    unit = unit if unit > 0 else torch.ones_like(unit)
    for number in range(len(z) - 1):
        y, true = (own[number + 1] - middle[number + 1] for own in (z, z_judged))
        moments = basis.T @ (x.T @ y)
        tried = [10.0 ** (0.5 * k) for k in range(*_EXPONENTS)]
        errors = [
            float((unseen @ (moments / (values + p * unit)[:, None]) - true).square().sum()) for p in tried
        ]
        penalty = tried[int(np.argmin(errors))]
        if every:
            own, end = (torch.cat([z[k], z_judged[k]]) - means[k] for k in (0, number + 1))
            size = float(own.square().sum()) / min(own.shape)
            found = as_given(ridge(own, end, penalty * size or 1.0), y)
        else:
            found = basis @ (moments / (values + penalty * unit)[:, None])
        operator.weight[number] = as_given(found, operator.weight)
        operator.drift[number] = as_given(means[number + 1] - means[0] @ found, operator.drift)
