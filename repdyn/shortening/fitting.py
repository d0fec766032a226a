"""Maps of single tokens, fitted in closed form to what enters and what leaves a run of blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from repdyn import devices
from repdyn.errors import RepdynError
from repdyn.koopman.frames import wide_coordinates
from repdyn.shortening.blocks import Block, PointwiseMap, with_inputs
from repdyn.shortening.settings import ShortenSettings
from repdyn.tracing import TracedModel
from repdyn.tracing.reduction import WHOLE
from repdyn.tracing.samples import as_samples, batches

__all__ = ["Fitted", "Kind", "fit_map", "read_tokens"]


@dataclass(frozen=True)
class Kind:
    """A kind of map.

    Attributes
    ----------
    lifted
        Whether it has hidden units.
    relative
        Whether errors count relative to the size of a token, as for a network that normalizes its tokens.
    """

    lifted: bool
    relative: bool

    def __str__(self) -> str:
        return (
            f"{'lifted' if self.lifted else 'affine'}, {'relative' if self.relative else 'absolute'} errors"
        )


@torch.no_grad()
def read_tokens(
    model: TracedModel,
    ends: Mapping[str, Block],
    samples: Sequence[Any],
    generator: torch.Generator,
    settings: ShortenSettings,
) -> dict[str, Tensor]:
    """Tokens that enter or leave some blocks, one tensor ``(tokens, width)`` for each name, in float32.

    Parameters
    ----------
    model
        The model.
    ends
        Names of blocks, or ``NAME:input``, and the block of each. Blocks of one run have equally many tokens;
        tokens of padding are left out.
    samples
        What the model reads.
    generator
        Draws the tokens where there are too many.
    settings
        Bytes that are held.
    """
    names = list(ends)
    held: dict[str, list[Tensor]] = {name: [] for name in names}
    size = sum(4 * block.width for block in ends.values())
    most = max(1, settings.held_bytes // size)
    count, share = 0, 1.0
    source = as_samples(samples)
    plan = batches(source, range(len(source)), settings.batch, model.lengths, model.padded)
    with with_inputs(model, [block.point for block in ends.values()]).reader(names, WHOLE) as read:
        for index in plan:
            inputs = model.prepare(source.take(index))
            reading = read.prepared(inputs, len(index))
            drawn: dict[int, Tensor] = {}
            for name, block in ends.items():
                rows = _rows(model, block, reading[name], inputs)
                if len(rows) not in drawn:
                    drawn[len(rows)] = torch.rand(len(rows), generator=generator) < share
                held[name].append(devices.to(rows[devices.to(drawn[len(rows)], rows.device)].float(), "cpu"))
            count += int(next(iter(drawn.values())).sum())
            while count > most:  # half of the tokens, and from now on half as many of each batch
                share /= 2
                kept = torch.rand(count, generator=generator) < 0.5
                held = {
                    name: [torch.cat(parts)[kept[: sum(map(len, parts))]]] for name, parts in held.items()
                }
                count = len(held[names[0]][0])
    found = {name: torch.cat(parts) for name, parts in held.items()}
    for name, rows in found.items():
        if not torch.isfinite(rows).all():
            raise RepdynError(f"shorten: {name!r} of {model.name} is not finite for some of the samples")
    return found


def _rows(model: TracedModel, block: Block, value: Tensor, inputs: Any) -> Tensor:
    """The tokens ``(n, width)`` of an output that are not padding."""
    rows = value.movedim(block.axis, -1)
    mask = model.points[block.point].mask
    marked = None
    if callable(mask):
        marked = mask(inputs)
    elif mask is not None and isinstance(inputs, Mapping) and mask in inputs:
        marked = inputs[mask]
    if marked is not None and marked.shape == rows.shape[:-1]:
        return rows[devices.to(marked, rows.device).bool()]
    return rows.flatten(0, -2)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A map, and the unexplained share of the variance of unseen tokens."""

    map: PointwiseMap
    unexplained: float


def fit_map(
    fit: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    block: Block,
    kind: Kind,
    generator: torch.Generator,
    settings: ShortenSettings,
    every: bool = False,
) -> Fitted:
    """Ridge regression of what leaves a run on what enters it.

    Parameters
    ----------
    fit, validation
        Tokens ``(n, width)`` that enter and leave, to fit on and to choose the penalty by.
    block
        The first block of the run.
    kind
        Kind of the map.
    generator
        Draws the hidden units.
    settings
        Tuned numbers.
    every
        Whether to fit to both parts, once the penalty is chosen.
    """
    width = block.width
    map_ = PointwiseMap(
        width, settings.units * width if kind.lifted else 0, block.axis, block.packed, kind.relative
    )
    x, y = fit
    if kind.lifted:
        _draw_units(map_, x, generator, settings)
    weights = [_weights(own[1], kind) for own in (fit, validation)]
    center, scale = _moments(map_, x, weights[0])
    total = float(weights[0].sum())
    # The map predicts the change, not the output: with weights of zero it is the identity.
    offset = (weights[0] @ (devices.double(y) - devices.double(x))) / total

    def sums(part: tuple[Tensor, Tensor], weight: Tensor) -> tuple[Tensor, Tensor, float, float]:
        """Weighted products of inputs, of inputs and changes, and squares of changes and of outputs."""
        gram = cross = torch.zeros((), dtype=torch.float64)
        square = spread = 0.0
        middle = (weight @ devices.double(part[1])) / weight.sum()
        for one, other, own in _stretches(*part, weight):
            features = (_features(map_, one) - center) / scale
            change = (other - one) - offset
            gram = gram + features.T @ (own[:, None] * features)
            cross = cross + features.T @ (own[:, None] * change)
            square += float((own[:, None] * change.square()).sum())
            spread += float((own[:, None] * (other - middle).square()).sum())
        return gram, cross, square, spread

    gram, cross, *_ = sums(fit, weights[0])
    unseen_gram, unseen_cross, unseen_square, unseen_spread = sums(validation, weights[1])
    # Penalties are relative to the mean eigenvalue, so that they mean the same for any scale.
    unit = float(gram.trace()) / len(gram) or 1.0

    def solved(penalty: float, left: Tensor, right: Tensor) -> Tensor:
        shrunk = left.clone()
        shrunk.diagonal().add_(penalty * unit)
        found: Tensor = torch.cholesky_solve(right, torch.linalg.cholesky(shrunk))
        return found

    best: tuple[float, float, Tensor] | None = None
    for penalty in settings.penalties:
        solution = solved(penalty, gram, cross)
        error = float(
            ((unseen_gram @ solution) * solution).sum() - 2 * (unseen_cross * solution).sum() + unseen_square
        )
        if best is None or error < best[0]:
            best = error, penalty, solution
    assert best is not None
    error, penalty, solution = best
    if every:
        # The penalty is chosen; the samples that chose it can be fitted too.
        solution = solved(penalty, gram + unseen_gram, cross + unseen_cross)
    solution = solution / scale[:, None]
    with torch.no_grad():
        map_.weight.copy_(solution[:width])
        map_.bias.copy_(offset - center @ solution)
        if map_.effect is not None:
            map_.effect.copy_(solution[width:])
    return Fitted(map_.requires_grad_(False).eval(), error / unseen_spread if unseen_spread > 0 else 0.0)


def _weights(y: Tensor, kind: Kind) -> Tensor:
    """Weight of each token, mean one, float64."""
    if not kind.relative:
        return torch.ones(len(y), dtype=torch.float64)
    square = devices.double(y).square().sum(dim=1)
    # A token of zeros would have an infinite weight.
    floor = 1e-6 * square.mean()
    weight: Tensor = 1 / (square + floor if floor > 0 else torch.ones_like(square))
    return weight / weight.mean()


def _stretches(x: Tensor, y: Tensor, weight: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Consecutive parts, in float64."""
    # In parts, because all tokens in float64 would take twice the memory that was allowed.
    for start in range(0, len(x), 8192):
        part = slice(start, start + 8192)
        yield devices.double(x[part]), devices.double(y[part]), weight[part]


@torch.no_grad()
def _features(map_: PointwiseMap, x: Tensor) -> Tensor:
    """Tokens and their hidden units side by side, float64."""
    return torch.cat([x, devices.double(map_.hidden(x.float()))], dim=1) if map_.inner is not None else x


def _moments(map_: PointwiseMap, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean of the features, and the divisor of each."""
    total = square = torch.zeros((), dtype=torch.float64)
    for one, _, own in _stretches(x, x, weight):
        features = _features(map_, one)
        total, square = total + own @ features, square + own @ features.square()
    mean = total / weight.sum()
    spread = (square / weight.sum() - mean.square()).clamp_min(0).sqrt()
    # A constant feature is divided by one: it carries nothing, and zero would give NaN.
    return mean, torch.where(spread > 1e-9 * spread.max(), spread, torch.ones_like(spread))


@torch.no_grad()
def _draw_units(map_: PointwiseMap, x: Tensor, generator: torch.Generator, settings: ShortenSettings) -> None:
    """Random hidden units whose kinks lie within the data."""
    assert map_.inner is not None
    assert map_.shift is not None
    # Enough rows for means and spreads of the coordinates.
    few = devices.double(x[torch.randperm(len(x), generator=generator)[:20_000]])
    read = few / few.norm(dim=1, keepdim=True).clamp_min(1e-12) if map_.normalized else few
    mean = read.mean(dim=0)
    spread = (read - mean).square().mean(dim=0).sqrt()
    divisor = wide_coordinates(spread)
    size = (spread / divisor).square().sum().sqrt().clamp_min(1e-12)
    width, units = map_.inner.shape
    low, high = settings.slopes
    slopes = low * (high / low) ** torch.rand(units, generator=generator, dtype=torch.float64)
    inner = torch.randn(width, units, generator=generator, dtype=torch.float64) * slopes / size
    inner = inner / divisor[:, None]
    map_.inner.copy_(inner)
    map_.shift.copy_(torch.randn(units, generator=generator, dtype=torch.float64) - mean @ inner)
