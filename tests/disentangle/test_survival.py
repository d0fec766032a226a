"""Every gradient is finite, on sequences made to break it, from every seed."""

from __future__ import annotations

import warnings

import pytest
import torch

from repdyn.disentangle import SKD, SSMSKD, LossWeights
from repdyn.disentangle.models import StructuredKoopman
from repdyn.disentangle.sequences import Sequences, read_sequences
from repdyn.disentangle.training import batch_losses
from tests.disentangle.planted import hard_sequences

KINDS = ("near-static", "constant", "all the same", "nothing", "impulse", "exploding", "alternating", "noise")

MODELS = ("SKD", "SSMSKD", "SSMSKD with all losses")


def _model(name: str) -> StructuredKoopman:
    if name == "SKD":
        return SKD(static_dim=3, latent_dim=6, hidden=6)
    # The gradient of a sum is finite only if that of each loss is: both that may be added are added at once.
    added = {"SSMSKD": {}, "SSMSKD with all losses": {"constancy": 1.0, "motion": 1.0}}
    return SSMSKD(latent_dim=6, hidden=6, weights=LossWeights(**added[name]))


def _train(model: StructuredKoopman, batch: Sequences, steps: int, seed: int) -> bool:
    """Whether every gradient of so many steps is finite; nothing is clipped."""
    model.build(batch.frame, None, seed)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        losses = batch_losses(model, batch, generator)
        optimiser.zero_grad()
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        if not all(p.grad is None or p.grad.isfinite().all() for p in model.parameters()):
            return False
        optimiser.step()
    return all(p.isfinite().all() for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", KINDS)
def test_hundreds_of_steps_on_hard_sequences(name: str, kind: str) -> None:
    batch = read_sequences(hard_sequences(kind, count=4))
    assert _train(_model(name), batch, steps=200, seed=0)


@pytest.mark.slow
def test_a_hundred_of_a_hundred_seeds_survive() -> None:
    batch = read_sequences(hard_sequences("near-static", count=4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        survived = [
            _train(_model(name), batch, steps=10, seed=seed)
            for seed in range(100)
            for name in ("SKD", "SSMSKD")
        ]
    assert sum(survived) == 200


@pytest.mark.parametrize("name", MODELS)
def test_a_few_steps_on_near_static_sequences(name: str) -> None:
    assert _train(_model(name), read_sequences(hard_sequences("near-static", count=4)), steps=20, seed=1)
