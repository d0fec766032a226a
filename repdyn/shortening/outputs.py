"""What a network puts out, and how much of it is lost when a part of the network is replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn import devices
from repdyn.errors import RepdynError
from repdyn.intervals import Estimate, bootstrap_mean, mean_of_groups, ratio_interval
from repdyn.reading import as_array
from repdyn.repeats import sums_by_group
from repdyn.tracing import TracedModel
from repdyn.tracing.samples import as_samples, batches

__all__ = [
    "DIVERGENCE",
    "LOG_PERPLEXITY",
    "UNEXPLAINED",
    "Outputs",
    "loss_between",
    "mean_loss",
    "outputs_of",
    "predicts_tokens",
]

LOG_PERPLEXITY = "increase of the log perplexity"
DIVERGENCE = "divergence of the output"
UNEXPLAINED = "unexplained variance of the output"

Rows = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Outputs:
    """Outputs of a network for some samples.

    Attributes
    ----------
    kind
        The loss that is computed from them: :data:`LOG_PERPLEXITY` for language models, :data:`DIVERGENCE`
        for other models with a head, else :data:`UNEXPLAINED`.
    values
        Logarithms of the class probabilities ``(N, C)``; pooled representations ``(N, D)``; or, of a language
        model, the negative log likelihood of each text and its number of predicted tokens, ``(N, 2)``.
    """

    kind: str
    values: Rows


@torch.no_grad()
def outputs_of(model: TracedModel, samples: Sequence[Any], batch: int) -> Outputs:
    """Run a model on samples.

    Parameters
    ----------
    model
        The model.
    samples
        What the model reads.
    batch
        Samples in a forward pass.
    """
    assert model.final is not None
    kind = UNEXPLAINED if model.head is None else LOG_PERPLEXITY if predicts_tokens(model) else DIVERGENCE
    held = as_samples(samples)
    plan = batches(held, range(len(held)), batch, model.lengths, model.padded)
    parts = []
    pool = "none" if kind == LOG_PERPLEXITY else "auto"
    with replace(model, own_logits=None).reader([model.final], pool) as read:
        for index in plan:
            inputs = model.prepare(held.take(index))
            reading = read.prepared(inputs, len(index))
            final = reading[model.final]
            if kind == LOG_PERPLEXITY:
                parts.append(_likelihoods(model, final, reading.masks.get(model.final), inputs["input_ids"]))
            elif kind == DIVERGENCE:
                assert model.head is not None
                logits = reading.logits if reading.logits is not None else model.head(final)
                parts.append(torch.log_softmax(devices.to(logits, "cpu", torch.float64), dim=-1))
            else:
                parts.append(devices.to(final, "cpu", torch.float64))
    values = as_array(torch.cat(parts)[torch.as_tensor(np.argsort(np.concatenate(plan)))])
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise RepdynError(f"shorten: the output of {model.name} for sample {row} is not finite; leave it out")
    return Outputs(kind, values)


def predicts_tokens(model: TracedModel) -> bool:
    """Whether the head gives the next token: it reads the module's own output at the last token."""
    assert model.final is not None
    return model.pooling == "last" and model.points[model.final].module == ""


def _likelihoods(model: TracedModel, final: Tensor, mask: Tensor | None, ids: Tensor) -> Tensor:
    """Negative log likelihood of each text, and the number of its predicted tokens, ``(n, 2)``."""
    assert model.head is not None
    real = torch.ones(final.shape[:2], dtype=torch.bool) if mask is None else devices.to(mask.bool(), "cpu")
    ids = devices.to(ids, final.device)
    found = []
    for states, kept, own in zip(final, real, ids):
        places = kept.nonzero().squeeze(1)
        if len(places) < 2:
            found.append(torch.zeros(2, dtype=torch.float64))
            continue
        logits = model.head(states[devices.to(places[:-1], states.device)]).float()
        after = devices.to(own[devices.to(places[1:], own.device)], logits.device)
        nll = torch.nn.functional.cross_entropy(logits, after, reduction="sum")
        found.append(torch.tensor([float(nll), len(places) - 1.0], dtype=torch.float64))
    return torch.stack(found)


def loss_between(
    true: Outputs, changed: Outputs, seed: int, groups: NDArray[np.int64] | None = None
) -> tuple[Estimate, Estimate | None]:
    """The loss, and the share of equal decisions if there are any, with 95 % intervals over samples.

    Parameters
    ----------
    true, changed
        Outputs for the same samples.
    seed
        Of the intervals.
    groups
        Group of equal samples that each belongs to, ``(N,)``: a group counts once in the intervals.
    """
    groups = np.arange(len(true.values)) if groups is None else groups
    own, other = true.values, changed.values
    if true.kind == LOG_PERPLEXITY:
        # A diverged network gives likelihoods beyond any use; they stay finite.
        more = sums_by_group(groups, np.minimum(other[:, 0] - own[:, 0], 1e6))
        count = sums_by_group(groups, own[:, 1])
        if not count.sum() > 0:
            return Estimate(0.0, 0.0, 0.0), None
        # A text can become more likely, so that the ratio may be near 0: the interval is that of the mean of
        # its linear part, and not of its logarithm.
        value = float(more.sum() / count.sum())
        return bootstrap_mean(value + (more - value * count) / count.mean(), seed=seed), None
    if true.kind == DIVERGENCE:
        kl = np.maximum((np.exp(own) * (own - other)).sum(axis=1), 0.0)  # below 0 by rounding alone
        same = mean_of_groups(own.argmax(axis=1) == other.argmax(axis=1), groups, seed=seed)
        return ratio_interval(
            sums_by_group(groups, kl), sums_by_group(groups, np.ones(len(kl))), seed=seed
        ), same
    error, spread = np.square(own - other).sum(axis=1), np.square(own - own.mean(axis=0)).sum(axis=1)
    return ratio_interval(sums_by_group(groups, error), sums_by_group(groups, spread), seed=seed), None


def mean_loss(true: Outputs, changed: Outputs) -> float:
    """The loss alone."""
    own, other = true.values, changed.values
    if true.kind == LOG_PERPLEXITY:
        return float((other[:, 0] - own[:, 0]).sum() / max(own[:, 1].sum(), 1.0))
    if true.kind == DIVERGENCE:
        return float((np.exp(own) * (own - other)).sum(axis=1).mean())
    return float(np.square(own - other).sum() / np.square(own - own.mean(axis=0)).sum())
