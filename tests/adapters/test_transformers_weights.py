"""Weights of hf: folders: under another prefix, of another class, or missing."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import repdyn
from repdyn.errors import RepdynError
from repdyn_adapters.shared import quietly

TEXT = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES = {**TEXT, "intermediate_size": 24}
ROW = np.arange(5, 12)
X = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)


def saved(folder, kind, config):
    with torch.random.fork_rng(), quietly():
        torch.manual_seed(0)
        module = kind(config).eval()
        for parameter in module.parameters():  # initial zeros and ones could not be told from missing ones
            torch.nn.init.normal_(parameter, std=0.2)
        module.save_pretrained(folder)
    return module


def renamed(folder, name):
    """Save the weights of a folder again, under other names; None leaves one out."""
    weights = load_file(folder / "model.safetensors")
    found = {name(key): value.clone() for key, value in weights.items() if name(key) is not None}
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("prefix", ["model.", "encoder.", "net.backbone.", "bert."])
def test_a_body_of_texts_under_a_prefix(tmp_path, prefix):
    module = saved(tmp_path, transformers.BertModel, transformers.BertConfig(**SIZES))
    renamed(tmp_path, lambda key: prefix + key)
    found = repdyn.trace(f"hf:{tmp_path}", [ROW])
    with torch.no_grad():
        own = module(torch.as_tensor(ROW)[None], output_hidden_states=True).hidden_states
    for point, value in zip(found.points, own[1:], strict=True):
        np.testing.assert_allclose(np.asarray(found[point]), value.mean(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "encoder.", "module.", "_orig_mod.", "net.model."])
@pytest.mark.parametrize("tied", [False, True])
def test_a_language_model_under_a_prefix(tmp_path, prefix, tied):
    config = transformers.LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=tied)
    module = saved(tmp_path, transformers.LlamaForCausalLM, config)
    renamed(tmp_path, lambda key: prefix + key)
    found = repdyn.trace(f"hf:{tmp_path}", [ROW])
    with torch.no_grad():
        own = module(torch.as_tensor(ROW)[None]).logits[:, -1]
    np.testing.assert_allclose(found.logits, own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "model.", "net.vit."])
def test_a_classifier_of_pictures_under_a_prefix(tmp_path, prefix):
    sizes = {key: value for key, value in SIZES.items() if key != "vocab_size"}
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=16, num_labels=5)
    module = saved(tmp_path, transformers.ViTForImageClassification, config)
    renamed(tmp_path, lambda key: prefix + key)
    found = repdyn.trace(f"hf:{tmp_path}", X)
    with torch.no_grad():
        own = module(torch.from_numpy(X)).logits
    np.testing.assert_allclose(found.logits, own, rtol=1e-4, atol=1e-5)


def test_the_class_that_the_configuration_names_where_the_usual_one_has_more_parts(tmp_path):
    config = transformers.T5Config(
        vocab_size=60, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    module = saved(tmp_path, transformers.T5EncoderModel, config)
    found = repdyn.trace(f"hf:{tmp_path}", [ROW])
    assert not [point for point in found.points if "decoder" in point]
    with torch.no_grad():
        own = module(torch.as_tensor(ROW)[None]).last_hidden_state.mean(1)
    np.testing.assert_allclose(np.asarray(found[found.points[-1]]), own, rtol=1e-4, atol=1e-5)


def test_a_context_encoder_of_dpr(tmp_path):
    config = transformers.DPRConfig(**SIZES)
    module = saved(tmp_path, transformers.DPRContextEncoder, config)
    name = "ctx_encoder.bert_model.encoder.layer.1"
    found = repdyn.trace(f"hf:{tmp_path}", [ROW], points=name, pool="cls")
    with torch.no_grad():
        own = module(torch.as_tensor(ROW)[None], output_hidden_states=True).hidden_states
    np.testing.assert_allclose(np.asarray(found[name]), own[-1][:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        (lambda key: None if ".layer.1." in key else key, "encoder.layer.1."),
        (lambda key: None if "word_embeddings" in key else key, "embeddings.word_embeddings.weight"),
        (lambda key: None if key.endswith("layer.0.output.LayerNorm.bias") else key, "layer.0.output"),
        (lambda key: "lost" + key, "embeddings"),
    ],
)
def test_missing_weights_are_named(tmp_path, lost, named):
    saved(tmp_path, transformers.BertModel, transformers.BertConfig(**SIZES))
    renamed(tmp_path, lost)
    with pytest.raises(RepdynError, match="checkpoint lacks") as caught:
        repdyn.load(f"hf:{tmp_path}")
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_head_is_named(tmp_path):
    saved(tmp_path, transformers.BertForSequenceClassification, transformers.BertConfig(**SIZES))
    renamed(tmp_path, lambda key: None if key.startswith("classifier") else key)
    with pytest.raises(RepdynError, match="classifier"):
        repdyn.load(f"hf:{tmp_path}")


def test_the_same_weights_under_two_prefixes(tmp_path):
    saved(tmp_path, transformers.BertModel, transformers.BertConfig(**SIZES))
    weights = load_file(tmp_path / "model.safetensors")
    both = {"net." + key: value for key, value in weights.items()}
    both |= {"ema." + key: value + 1 for key, value in weights.items()}
    save_file(both, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RepdynError, match=r"'ema\.…'|'net\.…'"):
        repdyn.load(f"hf:{tmp_path}")


def test_a_body_without_its_pooler_or_its_head(tmp_path):
    """A masked model's folder has no pooler, which no point reads."""
    module = saved(tmp_path, transformers.BertForMaskedLM, transformers.BertConfig(**SIZES))
    found = repdyn.trace(f"hf:{tmp_path}", [ROW])
    with torch.no_grad():
        own = module.bert(torch.as_tensor(ROW)[None]).last_hidden_state.mean(1)
    np.testing.assert_allclose(np.asarray(found[found.points[-1]]), own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "config", "key"),
    [
        (transformers.BertModel, transformers.BertConfig(**SIZES), "num_hidden_layers"),
        (
            transformers.GPT2LMHeadModel,
            transformers.GPT2Config(
                vocab_size=60, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=1
            ),
            "n_layer",
        ),
        (
            transformers.ResNetModel,
            transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1]),
            "depths",
        ),
    ],
)
@pytest.mark.parametrize("number", [10**9, 10**5])
def test_a_configuration_of_a_billion_layers(tmp_path, kind, config, key, number):
    saved(tmp_path, kind, config)
    told = json.loads((tmp_path / "config.json").read_text())
    told[key] = [1, number] if key == "depths" else number
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(RepdynError, match=f"{key} = {number}"):
        repdyn.load(f"hf:{tmp_path}")


def test_more_layers_in_the_configuration_than_in_the_checkpoint(tmp_path):
    saved(tmp_path / "a", transformers.BertModel, transformers.BertConfig(**SIZES))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    told = json.loads((tmp_path / "b" / "config.json").read_text())
    (tmp_path / "b" / "config.json").write_text(json.dumps({**told, "num_hidden_layers": 3}))
    repdyn.load(f"hf:{tmp_path / 'a'}")
    with pytest.raises(RepdynError, match=r"lacks 16 weights.*encoder\.layer\.2\."):
        repdyn.load(f"hf:{tmp_path / 'b'}")
