"""transformers models give, bit for bit, what ``output_hidden_states`` gives; padding changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers as hf

import repdyn
from repdyn.errors import RepdynError
from repdyn_adapters.transformers import TransformersAdapter

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
WORDS = {"vocab_size": 60, "max_position_embeddings": 40}
RNG = np.random.default_rng(0)
TEXTS = [RNG.integers(5, 60, length) for length in (3, 9, 17)]
SAME = [RNG.integers(5, 60, 11) for _ in range(3)]
PICTURES = RNG.normal(size=(3, 3, 32, 32)).astype(np.float32)


def build(kind, config):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = kind(config).eval()
        for weight in module.parameters():
            if weight.ndim == 1:  # norms of 1 and biases of 0 would hide mistakes
                weight.data.add_(torch.randn_like(weight) * 0.1)
    return module


TEXT_MODELS = {
    "bert": lambda: build(hf.BertModel, hf.BertConfig(**SMALL, **WORDS)),
    "distilbert": lambda: build(
        hf.DistilBertModel,
        hf.DistilBertConfig(dim=32, n_layers=3, n_heads=4, hidden_dim=48, **WORDS),
    ),
    "gpt2": lambda: build(
        hf.GPT2LMHeadModel,
        hf.GPT2Config(
            n_embd=32, n_layer=3, n_head=4, n_positions=40, vocab_size=60, bos_token_id=1, eos_token_id=1
        ),
    ),
    "llama": lambda: build(hf.LlamaForCausalLM, hf.LlamaConfig(**SMALL, **WORDS, num_key_value_heads=2)),
    "bert_classifier": lambda: build(
        hf.BertForSequenceClassification, hf.BertConfig(**SMALL, **WORDS, num_labels=4)
    ),
    "roberta_classifier": lambda: build(
        hf.RobertaForSequenceClassification, hf.RobertaConfig(**SMALL, **WORDS, num_labels=4)
    ),
    "llama_classifier": lambda: build(
        hf.LlamaForSequenceClassification, hf.LlamaConfig(**SMALL, **WORDS, num_labels=4, pad_token_id=0)
    ),
}


@pytest.fixture(scope="module", params=TEXT_MODELS)
def text_model(request):
    return TEXT_MODELS[request.param]()


def hidden_states(module, ids):
    with torch.inference_mode():
        found = module(input_ids=torch.as_tensor(np.stack(ids)), output_hidden_states=True)
    states = [state.numpy() for state in found.hidden_states]
    return states, found.logits.numpy() if "logits" in found else None


def test_blocks_are_the_hidden_states(text_model):
    states, _ = hidden_states(text_model, SAME)
    paths = repdyn.trace(text_model, SAME, pool="none", batch_size=3)
    blocks = [name for name in paths.points if paths.widths[name] == 32 and name != "last_hidden_state"][:3]
    # Where a norm follows the last block, the library's last hidden state is after it.
    whole = 3 if np.array_equal(np.asarray(paths[blocks[2]]), states[3]) else 2
    for number in range(whole):
        np.testing.assert_array_equal(np.asarray(paths[blocks[number]]), states[number + 1])
    if whole == 2:
        name = "score" if "score" in paths.points else "last_hidden_state"
        np.testing.assert_array_equal(np.asarray(paths[name]), states[3])


def test_head_gives_the_models_logits(text_model):
    _, logits = hidden_states(text_model, SAME)
    paths = repdyn.trace(text_model, SAME, batch_size=3)
    if logits is None:
        assert paths.logits is None
        return
    expected = logits[:, -1] if logits.ndim == 3 else logits
    np.testing.assert_allclose(paths.logits, expected, rtol=1e-5, atol=1e-6)
    model = TransformersAdapter().wrap(text_model)
    again = model.head(torch.from_numpy(np.asarray(paths[paths.points[-1]]))).detach().numpy()
    np.testing.assert_allclose(again, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool", ["auto", "mean", "last", "cls", "none"])
def test_padding_changes_no_pooled_value(text_model, pool):
    padded = repdyn.trace(text_model, TEXTS, batch_size=3, pool=pool)
    alone = repdyn.trace(text_model, TEXTS, batch_size=1, pool=pool)
    for name in padded.points:
        np.testing.assert_allclose(np.asarray(padded[name]), np.asarray(alone[name]), rtol=1e-5, atol=2e-6)
    if padded.logits is not None:
        np.testing.assert_allclose(padded.logits, alone.logits, rtol=1e-5, atol=2e-6)


def test_last_is_the_last_real_token():
    module = TEXT_MODELS["gpt2"]()
    paths = repdyn.trace(module, TEXTS, batch_size=3)
    for number, ids in enumerate(TEXTS):
        states, logits = hidden_states(module, [ids])
        np.testing.assert_allclose(np.asarray(paths["h.0"])[number], states[1][0, -1], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(paths.logits[number], logits[0, -1], rtol=1e-5, atol=1e-6)


class Encoded(torch.utils.data.Dataset):
    def __init__(self, encoded) -> None:
        self.encoded = encoded

    def __len__(self) -> int:
        return len(self.encoded["input_ids"])

    def __getitem__(self, number: int) -> dict:
        return {key: values[number] for key, values in self.encoded.items()}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("form", [dict, hf.BatchEncoding, Encoded, lambda given: list(Encoded(given))])
def test_what_a_tokenizer_returns_is_read_without_its_padding(form, side) -> None:
    model = TEXT_MODELS["bert"]()
    ids = torch.randint(3, 60, (4, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 6 + [0], [1] * 7])
    padded = ids * mask
    given = {"input_ids": padded, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    if side == "left":  # each text with its zeros before it
        rows = [torch.cat([row[keep == 0], row[keep == 1]]) for row, keep in zip(padded, mask)]
        given |= {"input_ids": torch.stack(rows), "attention_mask": mask.flip(1)}
    paths = repdyn.trace(model, form(given))
    with torch.no_grad():
        states = model(input_ids=padded, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
    expected = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    np.testing.assert_allclose(paths[paths.points[-1]], expected, atol=1e-5)


def test_other_columns_beside_token_ids_are_refused() -> None:
    model, ids = TEXT_MODELS["bert"](), torch.full((3, 5), 7)
    with pytest.raises(RepdynError, match=r"sample 0 holds input_ids, token_type_ids.*zeros"):
        repdyn.trace(model, {"input_ids": ids, "token_type_ids": torch.ones_like(ids)})
    with pytest.raises(RepdynError, match=r"sample 0 holds input_ids, label.*labels=…"):
        repdyn.trace(model, [{"input_ids": [5, 6], "label": 1}])
    with pytest.raises(RepdynError, match="2, 3 rows"):
        repdyn.trace(model, {"input_ids": ids, "attention_mask": ids[:2]})


def test_tokens_are_ragged():
    paths = repdyn.trace(TEXT_MODELS["bert"](), TEXTS, pool="none")
    assert np.asarray(paths["encoder.layer.0"]).shape == (3, 17, 32)
    np.testing.assert_array_equal(paths.mask("encoder.layer.0").sum(1), [3, 9, 17])


VISION_MODELS = {
    "vit": lambda: build(hf.ViTModel, hf.ViTConfig(**SMALL, image_size=32, patch_size=8)),
    "vit_classifier": lambda: build(
        hf.ViTForImageClassification, hf.ViTConfig(**SMALL, image_size=32, patch_size=8, num_labels=4)
    ),
    "convnext_classifier": lambda: build(
        hf.ConvNextForImageClassification,
        hf.ConvNextConfig(hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 2, 1], num_labels=4, image_size=32),
    ),
}


@pytest.mark.parametrize("name", VISION_MODELS)
def test_vision(name):
    module = VISION_MODELS[name]()
    with torch.inference_mode():
        found = module(pixel_values=torch.from_numpy(PICTURES), output_hidden_states=True)
    whole = repdyn.trace(module, PICTURES, pool="none", batch_size=3)
    pooled = repdyn.trace(module, PICTURES, batch_size=3)
    blocks = [np.asarray(whole[name]) for name in whole.points]
    states = [
        state.flatten(2).transpose(1, 2) if state.ndim == 4 else state for state in found.hidden_states[1:]
    ]
    for state in states:
        assert any(np.array_equal(block, state.numpy()) for block in blocks)
    last = whole.points[-2]
    expected = np.asarray(whole[last])[:, 0] if "vit" in name else np.asarray(whole[last]).mean(1)
    np.testing.assert_allclose(np.asarray(pooled[last]), expected, rtol=1e-5, atol=1e-6)
    if "logits" in found:
        np.testing.assert_array_equal(pooled.logits, found.logits.numpy())


def test_a_point_that_repeats_the_one_before_is_left_out():
    assert repdyn.trace(TEXT_MODELS["bert"](), SAME).points == tuple(f"encoder.layer.{i}" for i in range(3))
    assert repdyn.trace(TEXT_MODELS["gpt2"](), SAME).points[-1] == "last_hidden_state"
    both = repdyn.trace(TEXT_MODELS["bert"](), SAME, points=["embeddings", "blocks"])
    assert both.points == ("embeddings", *(f"encoder.layer.{i}" for i in range(3)))
    named = repdyn.trace(TEXT_MODELS["bert"](), SAME, points=["blocks", "last_hidden_state"])
    assert named.points[-1] == "last_hidden_state"


def test_from_a_folder(tmp_path):
    module = TEXT_MODELS["bert_classifier"]()
    module.save_pretrained(tmp_path)
    model = repdyn.load(f"hf:{tmp_path}")
    assert model.digest == TransformersAdapter().wrap(module).digest
    assert model.head is not None


def test_unknown_names_are_one_line():
    with pytest.raises(RepdynError, match="cannot be loaded") as caught:
        repdyn.load("hf:/nowhere/at-all")
    assert "\n" not in str(caught.value)


def test_text_without_a_tokenizer():
    with pytest.raises(RepdynError, match="no tokenizer"):
        repdyn.trace(TEXT_MODELS["bert"](), ["a text"])


def test_a_store_is_continued_and_merged_however_its_layouts_came_to_be_known(tmp_path):
    module = TEXT_MODELS["llama"]()
    texts = [RNG.integers(5, 60, 5 + n) for n in range(8)]
    whole = repdyn.trace(module, texts, pool="mean", out=tmp_path / "whole.paths")
    again = repdyn.trace(module, texts, pool="mean", out=tmp_path / "whole.paths")  # nothing is left to trace
    parts = []
    for start in (0, 4):
        parts.append(tmp_path / f"{start}.paths")
        ids = [str(n) for n in range(start, start + 4)]
        repdyn.trace(module, texts[start : start + 4], ids=ids, pool="mean", out=parts[-1])
    merged = repdyn.merge_paths(parts, tmp_path / "merged.paths")
    for point in whole.points:
        np.testing.assert_array_equal(np.asarray(again[point]), np.asarray(whole[point]))
        np.testing.assert_allclose(np.asarray(merged[point]), np.asarray(whole[point]), rtol=1e-4, atol=1e-6)
