"""Texts of several lengths give what each gives alone; heads that stand beside the classifier's name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

import repdyn
from repdyn_adapters.shared import quietly

_BODY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_TEXT = {**_BODY, "vocab_size": 60, "max_position_embeddings": 64, "pad_token_id": 0}
_TWO = {
    "d_model": 32,
    **{f"{side}_{part}": 2 for side in ("encoder", "decoder") for part in ("layers", "attention_heads")},
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}
_FSMT = {"src_vocab_size": 60, "tgt_vocab_size": 60, "langs": ["en", "de"], "max_position_embeddings": 64}

FAMILIES = {
    "ConvBertModel": {**_TEXT, "embedding_size": 32},
    "NystromformerModel": _TEXT,
    "YosoModel": _TEXT,
    "MraModel": _TEXT,
    "ModernBertModel": _TEXT,
    "FSMTModel": {**_TWO, **_FSMT, "pad_token_id": 1},
    "PegasusXModel": {**_TWO, "vocab_size": 60, "block_size": 16, "num_global_tokens": 4},
}
TEXTS = [[5, 6, 7, 8], list(range(9, 18)), [20, 21], [30, 31, 32, 33]]


def build(name, **sizes):
    cls = getattr(transformers, name)
    with torch.random.fork_rng(), quietly():
        torch.manual_seed(0)
        module = cls(cls.config_class(**sizes)).eval()
        for weight in module.parameters():  # larger than at the start of training, so that leaks are seen
            weight.data.mul_(4 if weight.ndim > 1 else 1)
    return module


@pytest.mark.parametrize("name", FAMILIES)
def test_a_text_among_longer_ones_is_what_it_is_alone(name):
    """Convolutions, averages over stretches and hashes let the padding of others into a text."""
    module = build(name, **FAMILIES[name])
    together = repdyn.trace(module, TEXTS, pool="mean", batch_size=4)
    for number, text in enumerate(TEXTS):
        alone = repdyn.trace(module, [text], pool="mean")
        for point in together.points:
            row = np.asarray(together[point])[number]
            np.testing.assert_allclose(
                row, np.asarray(alone[point])[0], atol=1e-4 * max(1, np.abs(row).max())
            )


def test_a_convolution_over_text_is_the_models_own():
    module = build("ConvBertModel", **FAMILIES["ConvBertModel"])
    found = repdyn.trace(module, TEXTS, pool="mean")
    for number, text in enumerate(TEXTS):
        with torch.no_grad():
            own = module(input_ids=torch.tensor([text])).last_hidden_state.mean(1)[0]
        np.testing.assert_allclose(np.asarray(found[found.points[-1]])[number], own, atol=1e-5)


PICTURES = {
    "HGNetV2ForImageClassification": {},
    "TextNetForImageClassification": {},
    "RegNetForImageClassification": {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "groups_width": 8},
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_layer_beside_the_pooling_named_classifier_is_the_head(name):
    module = build(name, **PICTURES[name], num_labels=5)
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        own = module(x).logits.numpy()
    np.testing.assert_allclose(
        np.asarray(repdyn.trace(module, x).logits), own, rtol=1e-4, atol=1e-5 * np.abs(own).max()
    )


def test_sound_is_classified_by_whispers_encoder():
    sizes = {**_TWO, "vocab_size": 60, "max_source_positions": 50, "num_mel_bins": 8, "num_labels": 5}
    module = build("WhisperForAudioClassification", **sizes, pad_token_id=0, decoder_start_token_id=1)
    x = torch.randn(3, 8, 100, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        own = module(x).logits.numpy()
    np.testing.assert_allclose(np.asarray(repdyn.trace(module, x).logits), own, rtol=1e-4, atol=1e-5)
