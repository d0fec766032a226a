"""Which axis holds the channels belongs to a point: it is read off the module's own layers."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import nn

import repdyn

X = np.random.default_rng(0).normal(size=(3, 3, 64, 64)).astype(np.float32)


class Mixing(nn.Module):
    """Tokens in, tokens out, with a convolution along them between."""

    def __init__(self):
        super().__init__()
        self.along = nn.Conv1d(6, 6, 3, padding=1)
        self.norm = nn.LayerNorm(6)

    def forward(self, x):
        return self.norm(x + self.along(x.transpose(1, 2)).transpose(1, 2))


def test_a_block_with_a_convolution_that_gives_tokens():
    module = nn.Sequential(Mixing(), Mixing())
    x = np.random.default_rng(0).normal(size=(4, 9, 6)).astype(np.float32)
    found = repdyn.trace(module, x)
    with torch.no_grad():
        own = module(torch.from_numpy(x)).mean(1)
    np.testing.assert_allclose(np.asarray(found["1"]), own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "points", "last"),
    [
        ("convnext_tiny", "stages.0.blocks.0.mlp", False),
        ("convnext_atto", "stages.0.blocks.0", True),
        ("gcvit_xxtiny", "stages.1", True),
    ],
)
def test_points_of_one_family_differ(name, points, last):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = timm.create_model(name).eval()
    x = (
        X
        if "gcvit" not in name
        else np.random.default_rng(0).normal(size=(2, 3, 224, 224)).astype(np.float32)
    )
    found = repdyn.trace(module, x, points=points)
    kept = {}
    handle = module.get_submodule(points).register_forward_hook(lambda _, __, value: kept.update(value=value))
    with torch.no_grad():
        module(torch.from_numpy(x))
    handle.remove()
    own = kept["value"].mean((2, 3) if last else (1, 2))
    np.testing.assert_allclose(np.asarray(found[points]), own, rtol=1e-4, atol=1e-5)
