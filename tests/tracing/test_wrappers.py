"""What is put around a model, torch.compile or data parallelism, changes nothing of what is traced."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import nn

import repdyn


class PeftModel(nn.Module):
    """Stands in for PEFT's class of this name: the model lies two steps inside."""

    def __init__(self, model):
        super().__init__()
        self.base_model = nn.ModuleDict({"model": model})

    def get_base_model(self):
        return self.base_model["model"]


@pytest.mark.parametrize("around", [torch.compile, nn.DataParallel, PeftModel])
def test_wrappers_are_seen_through(around):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = timm.create_model("resnet10t", num_classes=5).eval()
    x = np.random.default_rng(0).normal(size=(3, 3, 64, 64)).astype(np.float32)
    plain, wrapped = repdyn.trace(module, x), repdyn.trace(around(module), x)
    assert wrapped.points == plain.points
    np.testing.assert_array_equal(wrapped.logits, plain.logits)
    for point in plain.points:
        np.testing.assert_array_equal(np.asarray(wrapped[point]), np.asarray(plain[point]))
