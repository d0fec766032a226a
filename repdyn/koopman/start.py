"""The closed-form start of a fit: observables, decoder and operator by linear algebra, without a gradient.

Linear observables are principal components. Nonlinear ones are the combinations of the encoder's hidden units
that add most to a linear prediction of the last point from the first (reduced-rank regression). Operators are
solved for on these observables by ridge regression, whose penalty the validation part chooses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from repdyn.devices import double
from repdyn.koopman.controls import ridge_by_validation
from repdyn.koopman.frames import principal_axes
from repdyn.koopman.networks import Lift
from repdyn.koopman.operators import Direct, Generator, LowRank, Operator, PerStep, advance
from repdyn.koopman.settings import FitSettings
from repdyn.koopman.states import States
from repdyn.linalg import ridge
from repdyn.reading import as_array

__all__ = ["logarithm", "solve_direct", "start"]

_DEFAULT = FitSettings()
_SMALLEST = 1e-6  # modulus below which the logarithm of an eigenvalue is cut off


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
) -> Operator:
    """Set the modules to their closed-form solution, and choose among operators.

    Parameters
    ----------
    encoder, decoder
        Set in place.
    operators
        Candidates, set in place. The first is preferred unless another one leaves clearly less unexplained.
    states
        Lifted representations.
    fit_rows, validation_rows
        Samples to solve on, and samples that choose penalties, the encoder's width and the operator.
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
    Operator
        The chosen one.
    """
    most = max(1, settings.start_rows // states.points)
    chosen = fit_rows[torch.randperm(len(fit_rows), generator=generator)[:most].to(fit_rows.device)]
    unseen = validation_rows[:most]
    u, judged = _all_points(states, torch.cat([chosen, unseen])).split([len(chosen), len(unseen)], dim=1)
    unit = double(states.variance).clamp_min(torch.finfo(torch.float32).tiny)
    if supervise == "last":
        u, judged, unit = u[[0, -1]], judged[[0, -1]], unit[[0, -1]]
    observables = encoder.linear.out_features
    linear = min(observables, states.width)
    axes = principal_axes((u / unit.sqrt()[:, None, None]).flatten(0, 1), linear)
    weight = torch.zeros(states.width, observables, dtype=axes.dtype, device=axes.device)
    weight[:, :linear] = axes
    encoder.start(weight.to(encoder.linear.weight.dtype))
    decoder.start(weight.T.to(encoder.linear.weight.dtype))
    if encoder.network is not None and observables > linear:
        _predictive(encoder, u, judged, linear, generator, settings, widths)
    z, z_judged = (_encoded(encoder, part) for part in (u, judged))
    left = [_solve(operator, z, z_judged, judged, decoder, unit, settings) for operator in operators]
    best = int(np.argmin(left))
    return operators[0 if left[0] <= left[best] * (1 + settings.simpler) + settings.exact else best]


def _all_points(states: States, rows: Tensor) -> Tensor:
    """All points of samples, ``(points, n, width)``, float64."""
    depths = torch.arange(states.points, device=rows.device).repeat_interleave(len(rows))
    return double(states.at(rows.repeat(states.points), depths)).view(states.points, len(rows), states.width)


def _encoded(encoder: Lift, u: Tensor) -> Tensor:
    """Observables of states ``(points, n, width)`` in float64, point by point."""
    kind = encoder.linear.weight.dtype
    return torch.stack([double(encoder(x.to(kind))) for x in u])


def _predictive(
    encoder: Lift,
    u: Tensor,
    judged: Tensor,
    linear: int,
    generator: torch.Generator,
    settings: FitSettings,
    widths: Sequence[int],
) -> None:
    """Set the network to the nonlinear observables that add most to a linear prediction of later points."""
    assert encoder.network is not None
    first, final = encoder.network[0], encoder.network[-1]
    assert isinstance(first, nn.Linear)
    assert isinstance(final, nn.Linear)
    mean = u[0].mean(dim=0)
    size = (u[0] - mean).square().sum(dim=1).mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    # Kinks lie within the data of the first point, in directions and with slopes of more than one size.
    draw = torch.randn(first.out_features, first.in_features, generator=generator, dtype=torch.float64)
    slopes = settings.slope ** torch.rand(first.out_features, 1, generator=generator, dtype=torch.float64)
    places = torch.randn(first.out_features, generator=generator, dtype=torch.float64)
    weight = (draw * slopes).to(mean.device) / size
    first.weight.copy_(weight)
    first.bias.copy_(places.to(mean.device) - weight @ mean)
    hidden = encoder.network[:-1]
    features = double(hidden(u[0].to(first.weight.dtype)))
    unseen = double(hidden(judged[0].to(first.weight.dtype)))
    center, spread = features.mean(dim=0), features.var(dim=0, correction=0).sum().sqrt().clamp_min(1e-12)
    features, unseen = (features - center) / spread, (unseen - center) / spread
    wanted = final.out_features - linear
    # The last point matters most. Where it has fewer coordinates than there are observables, all points do.
    targets = u[-1:] if u.shape[-1] >= wanted else u[1:]
    ends = judged[-1:] if u.shape[-1] >= wanted else judged[1:]
    means = targets.mean(dim=1, keepdim=True)
    scale = (targets - means).square().sum(dim=-1).mean(dim=1).sqrt().clamp_min(1e-12)[:, None, None]
    y = ((targets - means) / scale).permute(1, 0, 2).flatten(1)
    y_judged = ((ends - means) / scale).permute(1, 0, 2).flatten(1)
    x = torch.cat([(u[0] - mean) / size, features], dim=1)
    x_judged = torch.cat([(judged[0] - mean) / size, unseen], dim=1)
    gram, cross = x.T @ x, x.T @ y
    inputs, found = u.shape[-1], []
    for width in widths or (first.out_features,):
        error, solution = _validated(gram, cross, x_judged, y_judged, inputs + width, settings)
        found.append((error, width, solution))
    least = min(error for error, _, _ in found)
    _, width, solution = next(one for one in found if one[0] <= least * (1 + settings.narrower))
    if width < first.out_features:
        encoder.narrow(width)
        final = encoder.network[-1]
        assert isinstance(final, nn.Linear)
    added = features[:, :width] @ solution[inputs:]
    _, directions = torch.linalg.eigh(added.T @ added)
    kept = directions.flip(1)[:, :wanted]
    combined = solution[inputs:] @ kept / spread
    last = linear + kept.shape[1]
    final.weight[:last] = 0
    final.weight[linear:last] = combined.T.to(final.weight.dtype)
    final.bias[linear:last] = -(center[:width] @ combined).to(final.bias.dtype)


def _validated(
    gram: Tensor, cross: Tensor, x: Tensor, y: Tensor, count: int, settings: FitSettings
) -> tuple[float, Tensor]:
    """Ridge regression on the first ``count`` inputs: error on unseen rows ``(x, y)``, and the map."""
    gram, cross, x = gram[:count, :count], cross[:count], x[:, :count]
    unit = float(gram.trace()) / count

    def solved(exponent: float) -> tuple[float, Tensor]:
        shrunk = gram.clone()
        shrunk.diagonal().add_(10.0**exponent * unit)
        solution = torch.cholesky_solve(cross, torch.linalg.cholesky(shrunk))
        return float((x @ solution - y).square().sum()), solution

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
        flows = double(operator.from_first())[-(len(judged) - 1) :]
        found = [double(decoder(advance(z_judged[0], flow).to(operator.weight.dtype))) for flow in flows]
        errors = [
            float((x - true).square().sum(dim=1).mean() / own)
            for x, true, own in zip(found, judged[1:], unit[1:])
        ]
        return float(np.mean(errors)) if np.isfinite(errors).all() else float("inf")

    if isinstance(operator, Direct):
        solve_direct(operator, z, z_judged)
        return left()
    if not isinstance(operator, Generator | PerStep | LowRank):
        return left()
    scale = unit.sqrt()[:, None, None]
    best: tuple[float, dict[str, Tensor]] | None = None
    for penalty in settings.start_penalties:
        if isinstance(operator, PerStep):
            for number in range(operator.count):
                of = slice(number, number + 2) if len(z) > operator.count else slice(None)
                g, c = _generator_of(z[of], scale[of][:1], penalty, operator.count // (len(z) - 1))
                operator.weight[number], operator.drift[number] = (
                    g.to(operator.weight),
                    c[0].to(operator.drift),
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
    angles = np.where(values.imag == 0, 0.0, np.angle(values))
    logs = np.log(np.where(small, _SMALLEST, np.abs(values))) + 1j * angles
    flat = np.abs(logs) < 1e-12
    means = np.where(flat, 1.0, np.expm1(logs) / np.where(flat, 1.0, logs))
    try:
        back = np.linalg.inv(vectors)
    except np.linalg.LinAlgError:  # defective
        back = np.linalg.pinv(vectors)
    generator, integral = (((vectors * own) @ back).real for own in (logs, means))
    return torch.from_numpy(np.ascontiguousarray(generator)).to(matrix), torch.from_numpy(
        np.ascontiguousarray(integral)
    ).to(matrix)


def solve_direct(operator: Direct, z: Tensor, z_judged: Tensor) -> None:
    """Solve for the maps from the first point to every later one.

    Parameters
    ----------
    operator
        Set in place.
    z, z_judged
        Observables of every point, ``(points, n, d)``, to solve on and to choose the penalties by.
    """
    both = torch.cat([z, z_judged], dim=1).cpu()
    held_out = torch.arange(both.shape[1]) >= z.shape[1]
    means = both[:, ~held_out].mean(dim=1)
    centered = both - means[:, None]
    maps, _ = ridge_by_validation(centered[0], list(centered[1:]), held_out)
    operator.weight = torch.stack(maps).to(operator.weight)
    operator.drift = torch.stack([mean - means[0] @ own for mean, own in zip(means[1:], maps)]).to(
        operator.drift
    )
