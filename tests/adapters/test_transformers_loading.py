"""How transformers loads a model is how it is traced: device maps, quantised blocks, passed-on options."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModel, BertConfig, BertModel

import repdyn
from repdyn.errors import RepdynError

IDS = [torch.arange(5, 5 + length) for length in (3, 7, 4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = BertConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, vocab_size=99
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(found := tmp_path_factory.mktemp("model"))
    return found


def arrays(paths):
    return {name: np.asarray(paths[name]) for name in paths.points}


def test_a_model_that_does_not_fit_into_memory_gives_the_same(folder, tmp_path):
    """Most of it stays on disk until its turn comes, as accelerate's device map says."""
    pytest.importorskip("accelerate")  # which transformers needs for any device map
    expected = repdyn.load(f"hf:{folder}")
    device_map = {
        "embeddings": "cpu",
        "encoder.layer.0": "cpu",
        "encoder.layer.1": "disk",
        "encoder.layer.2": "disk",
        "pooler": "disk",
    }
    offloaded = repdyn.load(f"hf:{folder}", device_map=device_map, offload_folder=str(tmp_path))
    assert any(weight.device.type == "meta" for weight in offloaded.module.parameters())
    assert offloaded.device.type == "cpu"
    found = arrays(repdyn.trace(offloaded, IDS))
    for name, values in arrays(repdyn.trace(expected, IDS)).items():
        np.testing.assert_array_equal(found[name], values)
    assert offloaded.digest == expected.digest


def test_a_model_whose_blocks_hold_integers(folder):
    """Eight-bit linear layers, as quantised checkpoints have: traced as they are, near the exact ones."""
    exact = repdyn.trace(repdyn.load(f"hf:{folder}"), IDS)
    module = AutoModel.from_pretrained(folder)
    for layer in module.encoder.layer:
        for part in layer.modules():
            for name, child in list(part.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(part, name, EightBit(child))
    paths = repdyn.trace(module, IDS)
    assert paths.points == exact.points
    for name in paths.points:
        away = np.abs(np.asarray(paths[name]) - np.asarray(exact[name])).max()
        assert 0 < away < 0.1


class EightBit(nn.Module):
    """A linear layer whose weights are integers and a scale per row."""

    def __init__(self, linear):
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("weight", (linear.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", linear.bias.detach())

    def forward(self, x):
        return nn.functional.linear(x, self.weight * self.scale, self.bias)


def test_options_reach_from_pretrained(folder, monkeypatch):
    model = repdyn.load(f"hf:{folder}", dtype=torch.bfloat16)
    assert next(model.module.parameters()).dtype == torch.bfloat16
    given = {}
    real = AutoModel.from_pretrained

    def watched(name, **options):
        given.update(options)
        options.pop("quantization_config")
        return real(name, **options)

    monkeypatch.setattr(AutoModel, "from_pretrained", watched)
    repdyn.load(f"hf:{folder}", quantization_config="theirs")
    assert given["quantization_config"] == "theirs"
    assert given["trust_remote_code"] is False
    with pytest.raises(RepdynError, match="takes no device_map"):
        repdyn.load("packaged:all-MiniLM-L6-v2", device_map="auto")
