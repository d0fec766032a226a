"""``points="all"`` and patterns: all that can be read is read, the rest is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from torch import nn

import repdyn
from repdyn.errors import RepdynError

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


class Listed(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(3, 4)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2))
        self.told = Told()
        self.spare = nn.Linear(4, 2)

    def forward(self, x):
        x = x + self.table(torch.arange(3)).sum(dim=0)
        for block in self.blocks:
            x = block(x)
        self.told(x)
        return x


class Told(nn.Module):
    def forward(self, x):
        return "no tensor"


def by_hooks(model, inputs):
    """What plain hooks see: the outputs that are tensors with one row for each sample."""
    seen = {}
    for name, part in model.named_modules():
        part.register_forward_hook(lambda _, __, out, name=name: seen.update({name or "output": out}))
    with torch.no_grad():
        model(inputs)
    return {n: x for n, x in seen.items() if isinstance(x, torch.Tensor) and x.shape[:1] == (len(inputs),)}


@pytest.mark.parametrize("points", ["all", ["all"]])
def test_all_points_are_what_hooks_see(points):
    model = Listed().eval()
    paths = repdyn.trace(model, X, points=points)
    expected = by_hooks(model, X)
    assert set(paths.points) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(np.asarray(paths[name]), value, rtol=1e-6)
    told = {"blocks": "never called", "spare": "never called"}
    assert paths.meta["left_out"] == told | {"table": "cannot be read", "told": "cannot be read"}


def test_nothing_is_left_out_of_a_model_that_can_be_read_whole():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    assert "left_out" not in repdyn.trace(model, X, points="all").meta


def test_a_pattern_leaves_out_and_a_name_does_not():
    paths = repdyn.trace(Listed(), X, points="**")
    assert paths.meta["left_out"]["blocks"] == "never called"
    with pytest.raises(RepdynError, match="'spare': the module is never called"):
        repdyn.trace(Listed(), X, points=["all", "spare"])
    with pytest.raises(RepdynError, match=r"none of 1 can be read \('told': told: returns a str"):
        repdyn.trace(Listed(), X, points=["tol?"])


@pytest.mark.filterwarnings("ignore")
def test_a_language_model_with_tables_of_positions(tmp_path):
    sizes = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.DPRConfig(**sizes, intermediate_size=24, max_position_embeddings=64)
    model = transformers.DPRContextEncoder(config).eval()
    rows = [np.arange(5, 9), np.arange(3, 10), np.arange(8, 12)]
    paths = repdyn.trace(model, rows, points="all", out=tmp_path / "x.paths", batch_size=2)
    layer = "ctx_encoder.bert_model.encoder.layer"
    assert {f"{layer}.0", f"{layer}.1"} <= set(paths.points)
    assert paths.meta["left_out"][layer] == "never called"
    assert "ctx_encoder.bert_model.embeddings.position_embeddings" in paths.meta["left_out"]
    alone = repdyn.trace(model, rows, points=[f"{layer}.1"])
    np.testing.assert_allclose(np.asarray(paths[f"{layer}.1"]), np.asarray(alone[f"{layer}.1"]), atol=1e-6)
    # Batches of one sample leave out the same, so that a trace goes on whatever its batches are.
    again = repdyn.trace(model, rows, points="all", out=tmp_path / "x.paths", batch_size=1)
    assert again.points == paths.points
