"""A TransformerBridge of TransformerLens is read as the model inside it, with the changes of the bridge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import repdyn
from tests.tiny_models import WORDS, tiny_llama

sources = pytest.importorskip("transformer_lens.model_bridge.sources", reason="pip install transformer-lens")

LENGTHS = np.array([7, 4, 7, 2])
IDS = np.random.default_rng(0).integers(1, WORDS, (4, 7)) * (np.arange(7) < LENGTHS[:, None])
TEXTS = {"input_ids": torch.tensor(IDS), "attention_mask": torch.tensor((IDS > 0).astype(int))}
WHOLE = torch.tensor(IDS[LENGTHS == 7])


def bridge() -> Any:
    model = tiny_llama(3)
    return sources.build_bridge_from_module(model, "LlamaForCausalLM", hf_config=model.config)


def test_padded_texts_have_the_paths_of_the_bare_model() -> None:
    paths, bare = repdyn.trace(bridge(), TEXTS), repdyn.trace(tiny_llama(3), TEXTS)
    assert paths.points == bare.points == ("layers.0", "layers.1", "layers.2", "last_hidden_state")
    for point in bare.points:
        np.testing.assert_allclose(paths[point], bare[point], atol=1e-5)
    np.testing.assert_allclose(paths.logits, bare.logits, atol=1e-5)


@pytest.mark.parametrize("change", ["none", "folded weights", "hook"])
def test_paths_are_what_the_bridge_caches(change: str) -> None:
    model = bridge()
    if change == "folded weights":
        model.enable_compatibility_mode()
    if change == "hook":
        model.add_hook("blocks.1.hook_out", lambda x, hook: 2 * x)
    with torch.no_grad():
        logits, cache = model.run_with_cache(WHOLE)
    paths = repdyn.trace(model, WHOLE)
    for block in range(3):
        expected = cache[f"blocks.{block}.hook_out"][:, -1]
        np.testing.assert_allclose(paths[f"layers.{block}"], expected, atol=1e-6)
    np.testing.assert_allclose(paths.logits, logits[:, -1], atol=1e-5)
