"""Heads are all that a model computes after its last point, checked against its own logits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import transformers

import repdyn
from repdyn.errors import RepdynError
from repdyn_adapters.shared import quietly
from repdyn_adapters.transformers import TransformersAdapter

SIZES = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ROWS = [np.random.default_rng(number).integers(5, 58, length) for number, length in enumerate((4, 9, 13))]


def build(name, **changes):
    cls = getattr(transformers, name)
    with torch.random.fork_rng(), quietly():
        torch.manual_seed(0)
        module = cls(cls.config_class(**SIZES, **changes)).eval()
        for weight in module.parameters():  # biases and norms that do something
            if weight.ndim == 1:
                weight.data.add_(torch.randn_like(weight) * 0.3)
    return module


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("BertLMHeadModel", {"is_decoder": True}),
        ("RobertaForCausalLM", {"is_decoder": True}),
        ("RoFormerForCausalLM", {"is_decoder": True}),
        ("RemBertForCausalLM", {"is_decoder": True}),
        ("LlamaForCausalLM", {}),
        ("Gemma2ForCausalLM", {"head_dim": 8, "num_key_value_heads": 2}),
        ("BertForSequenceClassification", {}),
        ("RobertaForSequenceClassification", {}),
    ],
)
def test_logits_are_the_models_own(name, changes):
    module = build(name, **changes)
    found = repdyn.trace(module, ROWS)
    for row, logits in zip(ROWS, found.logits, strict=True):
        with torch.no_grad():
            own = module(input_ids=torch.as_tensor(row)[None]).logits[0]
        own = own if own.ndim == 1 else own[-1]
        np.testing.assert_allclose(logits, own, atol=1e-4 * float(own.abs().max()))


def test_a_classifier_whose_padding_ends_texts_takes_the_token_that_the_model_takes():
    config = transformers.GPT2Config(
        vocab_size=60, n_embd=16, n_layer=2, n_head=2, n_positions=32, pad_token_id=2, eos_token_id=2
    )
    with torch.random.fork_rng(), quietly():
        torch.manual_seed(0)
        module = transformers.GPT2ForSequenceClassification(config).eval()
    rows = [np.r_[row, 2] for row in ROWS]
    found = repdyn.trace(module, rows)
    for row, logits in zip(rows, found.logits, strict=True):
        with torch.no_grad():
            own = module(input_ids=torch.as_tensor(row)[None]).logits[0]
        np.testing.assert_allclose(logits, own, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["BertForMaskedLM", "BertForTokenClassification", "BertForQuestionAnswering"]
)
def test_models_that_answer_for_every_token_give_hidden_states(name):
    module = build(name)
    model = TransformersAdapter().wrap(module)
    assert model.head is None
    found = repdyn.trace(model, ROWS[:1], pool="none")
    with torch.no_grad():
        own = module.bert(input_ids=torch.as_tensor(ROWS[0])[None]).last_hidden_state[0]
    np.testing.assert_allclose(np.asarray(found[found.points[-1]])[0], own, atol=1e-5)


def test_a_generator_without_a_body_of_its_own_gives_the_states_before_its_vocabulary():
    config = transformers.T5Config(
        vocab_size=60, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    with torch.random.fork_rng(), quietly():
        torch.manual_seed(0)
        module = transformers.T5ForConditionalGeneration(config).eval()
    found = repdyn.trace(module, ROWS)
    assert found["last_hidden_state"].shape[1] == 16


def test_a_head_that_is_not_the_models_is_refused():
    model = TransformersAdapter().wrap(build("LlamaForCausalLM"))
    with pytest.raises(RepdynError, match="differ from those of the whole model"):
        repdyn.trace(dataclasses.replace(model, head=lambda x: model.head(x) * 2), ROWS)
    with pytest.raises(RepdynError, match="head cannot read"):
        repdyn.trace(dataclasses.replace(model, head=torch.nn.Linear(3, 2)), ROWS)
    assert repdyn.trace(dataclasses.replace(model, head=None), ROWS).logits is None


def test_the_text_tower_of_clip_ends_in_its_own_pooler():
    text = {**SIZES, "projection_dim": 8}
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 16,
        "patch_size": 8,
    }
    with torch.random.fork_rng(), quietly():
        torch.manual_seed(0)
        module = transformers.CLIPModel(
            transformers.CLIPConfig(text_config=text, vision_config=vision)
        ).eval()
    model = TransformersAdapter().wrap(module, "#text")
    rows = [np.r_[row, 59] for row in ROWS]  # what the pooler takes for the end: the highest number
    found = repdyn.trace(model, rows)
    for number, row in enumerate(rows):
        with torch.no_grad():
            own = module.text_model(input_ids=torch.as_tensor(row)[None]).pooler_output[0]
        np.testing.assert_allclose(np.asarray(found["pooled"])[number], own, atol=1e-5)


def test_padded_patches_do_not_count():
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "num_patches": 16,
        "patch_size": 4,
    }
    with torch.random.fork_rng(), quietly():
        torch.manual_seed(0)
        module = transformers.Siglip2VisionModel(transformers.Siglip2VisionConfig(**sizes)).eval()
    model = TransformersAdapter().wrap(module)
    patches = torch.randn(1, 12, 48, generator=torch.Generator().manual_seed(0))

    def prepare(padding):
        padded = torch.nn.functional.pad(patches, (0, 0, 0, padding))
        mask = (torch.arange(12 + padding) < 12).int()[None]
        return {
            "pixel_values": padded,
            "pixel_attention_mask": mask,
            "spatial_shapes": torch.tensor([[3, 4]]),
        }

    whole, padded = (
        repdyn.trace(dataclasses.replace(model, prepare=lambda _, padding=padding: prepare(padding)), [0])
        for padding in (0, 4)
    )
    for point in whole.points:
        np.testing.assert_allclose(np.asarray(padded[point]), np.asarray(whole[point]), atol=1e-5)
