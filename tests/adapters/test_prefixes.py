"""Checkpoints whose names have a prefix of torch.compile, data parallelism or Lightning; float64 inputs."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file

import repdyn
from repdyn_adapters.shared import quietly

PREFIXES = ["_orig_mod.", "module.", "module._orig_mod.", "model."]
X = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_checkpoints_of_timm(tmp_path, prefix):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = timm.create_model("test_resnet").eval()
    save_file({prefix + key: value for key, value in module.state_dict().items()}, tmp_path / "a.safetensors")
    found = repdyn.trace(f"timm:test_resnet@{tmp_path / 'a.safetensors'}", X)
    with torch.no_grad():
        np.testing.assert_allclose(found.logits, module(torch.from_numpy(X)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prefix", PREFIXES[:3])
def test_folders_of_transformers(tmp_path, prefix):
    sizes = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng(), quietly():
        torch.manual_seed(0)
        module = transformers.BertModel(transformers.BertConfig(**sizes, intermediate_size=24)).eval()
        module.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {prefix + key: value for key, value in weights.items()},
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    row = np.arange(5, 12)
    found = repdyn.trace(f"hf:{tmp_path}", [row])
    with torch.no_grad():
        own = module(input_ids=torch.as_tensor(row)[None]).last_hidden_state.mean(1)
    np.testing.assert_allclose(np.asarray(found[found.points[-1]]), own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_a_model_of_timm_in_float64_is_given_float64(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = timm.create_model("test_resnet").eval().double()
    x = np.random.default_rng(0).normal(size=(2, 3, 64, 64))
    found = repdyn.trace(module, kind(x), dtype="float64")
    with torch.no_grad():
        own = module.forward_head(module.forward_features(torch.from_numpy(x)), pre_logits=True)
    np.testing.assert_allclose(np.asarray(found["pooled"]), own, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("name", "axes"),
    [("vit_tiny_patch16_224", None), ("convnext_atto", (2, 3)), ("mobilenetv3_small_050", (2, 3))],
)
def test_models_of_timm_without_pooling(name, axes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = timm.create_model(name, global_pool="", num_classes=0).eval()
    x = np.random.default_rng(0).normal(size=(2, 3, 224, 224)).astype(np.float32)
    found = repdyn.trace(module, x)
    assert found.logits is None
    with torch.no_grad():
        own = module(torch.from_numpy(x))
    own = own[:, 1:].mean(1) if axes is None else own.mean(axes)
    np.testing.assert_allclose(np.asarray(found["pooled"]), own, rtol=1e-3, atol=1e-5)
