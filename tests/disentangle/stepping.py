"""Models of two kinds, and training steps in which every gradient is checked."""

from __future__ import annotations

import torch

from repdyn.disentangle import SKD, SSMSKD, LossWeights
from repdyn.disentangle.losses import dropout_masks
from repdyn.disentangle.models import StructuredKoopman
from repdyn.disentangle.sequences import Sequences
from repdyn.disentangle.training import batch_losses

__all__ = ["MODELS", "model_of", "stays_finite"]

MODELS = ("SKD", "SSMSKD", "SSMSKD with all losses")


def model_of(name: str) -> StructuredKoopman:
    """A small model that is not fitted."""
    if name == "SKD":
        return SKD(static_dim=3, latent_dim=6, hidden=6)
    # The gradient of a sum is finite only if that of each loss is: both that may be added are added at once.
    added = {"SSMSKD": {}, "SSMSKD with all losses": {"constancy": 1.0, "motion": 1.0, "cycle": 1.0}}
    return SSMSKD(latent_dim=6, hidden=6, weights=LossWeights(**added[name]))


def stays_finite(model: StructuredKoopman, batch: Sequences, steps: int, seed: int) -> bool:
    """Whether every gradient of so many steps is finite; nothing is clipped."""
    model.build(batch.frame, None, seed)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        kept = dropout_masks((*batch.mask.shape, model.latent_dim), 1 + model.weights.exchanges, generator)
        losses = batch_losses(model, batch, kept)
        optimizer.zero_grad()
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        if not all(p.grad is None or p.grad.isfinite().all() for p in model.parameters()):
            return False
        optimizer.step()
    return all(p.isfinite().all() for p in model.parameters())
