"""Models of transformers whose blocks, class tokens and heads are of kinds of their own."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import repdyn
from repdyn.errors import RepdynError
from repdyn_adapters.shared import quietly
from repdyn_adapters.transformers import TransformersAdapter

_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
_SAM = {
    "output_channels": 16,
    "mlp_dim": 48,
    "window_size": 2,
    "global_attn_indexes": [1],
    "num_pos_feats": 8,
}
_VITDET = {"pretrain_image_size": 32, "window_block_indices": [0], "window_size": 2}

VISION = {
    "SamVisionModel": ({**_SIZES, **_SAM, "image_size": 32, "patch_size": 8}, 32, (1, 2)),
    "VitDetModel": ({**_SIZES, **_VITDET, "image_size": 32, "patch_size": 8}, 32, (2, 3)),
    "DINOv3ConvNextModel": ({**_STAGES, "image_size": 64}, 64, (2, 3)),
    "PvtModel": ({**_STAGES, "num_attention_heads": [1, 2, 2, 4], "image_size": 64}, 64, 1),
    "PvtV2Model": ({**_STAGES, "num_attention_heads": [1, 2, 2, 4], "image_size": 64}, 64, 1),
    "GLPNModel": ({**_STAGES, "num_attention_heads": [1, 2, 2, 4]}, 64, 1),
    "Swin2SRModel": ({"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}, 16, 1),
}
"""Configuration, side of the pictures, and the axes of positions of the first block, by their code."""


def build(name, sizes):
    cls = getattr(transformers, name)
    with torch.random.fork_rng(), quietly():
        torch.manual_seed(0)
        return cls(cls.config_class(**sizes)).eval()


def pictures(side, count=3):
    return np.random.default_rng(0).normal(size=(count, 3, side, side)).astype(np.float32)


@pytest.mark.parametrize("name", VISION)
def test_default_points_are_the_means_over_places(name):
    sizes, side, axes = VISION[name]
    module, x = build(name, sizes), pictures(side)
    found = repdyn.trace(module, x, batch_size=2)
    kept = {}
    handle = module.get_submodule(found.points[0]).register_forward_hook(
        lambda _, __, value: kept.update(value=repdyn.tracing.hooks.unwrap(value))
    )
    with torch.no_grad():
        module(torch.from_numpy(x))
    handle.remove()
    own = kept["value"].mean(axes)
    np.testing.assert_allclose(np.asarray(found[found.points[0]]), own, rtol=1e-3, atol=1e-5)


def test_a_class_token_of_the_last_stage_counts_there_alone():
    sizes, side, _ = VISION["PvtModel"]
    module, x = build("PvtModel", sizes), pictures(side)
    found = repdyn.trace(module, x)
    with torch.no_grad():
        own = module(torch.from_numpy(x)).last_hidden_state
    assert own.shape[1] == 2 * 2 + 1  # a class token and four places
    np.testing.assert_allclose(
        np.asarray(found["last_hidden_state"]), own[:, 1:].mean(1), rtol=1e-3, atol=1e-5
    )


def test_the_pooler_of_dinov3_convnext_is_the_last_point():
    sizes, side, _ = VISION["DINOv3ConvNextModel"]
    module, x = build("DINOv3ConvNextModel", sizes), pictures(side)
    with torch.no_grad():
        own = module(torch.from_numpy(x)).pooler_output
    np.testing.assert_allclose(np.asarray(repdyn.trace(module, x)["pooled"]), own, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("name", "last"), [("vit_tiny_patch16_224", "cls"), ("resnet18", "gap")])
def test_models_of_timm_inside_of_transformers(name, last):
    with torch.random.fork_rng(), quietly():
        torch.manual_seed(0)
        config = transformers.TimmWrapperConfig(architecture=name)
        module = transformers.TimmWrapperModel(config).eval()
    x = pictures(224, 2)
    found = repdyn.trace(module, x)
    with torch.no_grad():
        own = module.timm_model.forward_features(torch.from_numpy(x))
    own = own[:, 0] if last == "cls" else own.mean((2, 3))
    np.testing.assert_allclose(np.asarray(found[found.points[-1]]), own, rtol=1e-3, atol=1e-5)


def test_the_text_tower_of_siglip_ends_in_its_own_pooler():
    text = {**_SIZES, "intermediate_size": 24, "vocab_size": 60, "max_position_embeddings": 40}
    vision = {**_SIZES, "intermediate_size": 24, "image_size": 16, "patch_size": 8}
    with torch.random.fork_rng(), quietly():
        torch.manual_seed(0)
        config = transformers.SiglipConfig(text_config=text, vision_config=vision)
        module = transformers.SiglipModel(config).eval()
    rows = [np.random.default_rng(number).integers(5, 58, length) for number, length in enumerate((4, 9, 13))]
    found = repdyn.trace(TransformersAdapter().wrap(module, "#text"), rows)
    for number, row in enumerate(rows):
        with torch.no_grad():
            own = module.text_model(input_ids=torch.as_tensor(row)[None]).pooler_output[0]
        np.testing.assert_allclose(np.asarray(found["pooled"])[number], own, atol=1e-5)


def test_rotary_positions_that_are_cached_leave_a_model_that_can_be_trained():
    sizes = {"conv_dim": [8, 8], "conv_stride": [5, 4], "conv_kernel": [10, 8], "num_feat_extract_layers": 2}
    sizes |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "intermediate_size": 24}
    module = build("Wav2Vec2ConformerModel", {**_SIZES, **sizes, "position_embeddings_type": "rotary"})
    x = np.random.default_rng(0).normal(size=(3, 800)).astype(np.float32)
    repdyn.trace(module, x)
    module.train()
    module(torch.from_numpy(x)).last_hidden_state.square().sum().backward()
    moved = [p.grad for p in module.encoder.parameters() if p.grad is not None]
    assert moved
    assert all(torch.isfinite(g).all() for g in moved)
    assert any(g.abs().max() > 0 for g in moved)


def test_an_mlp_whose_output_is_added_to_in_place_is_kept_as_it_was():
    sizes = {**_SIZES, "vocab_size": 60, "ffn_hidden_size": 48}
    module = build("FalconForCausalLM", sizes)
    row = np.random.default_rng(0).integers(5, 58, 9)
    found = repdyn.trace(module, [row], points=["h.0.mlp"], pool="none")
    kept = {}
    handle = module.transformer.h[0].mlp.register_forward_hook(
        lambda _, __, value: kept.update(value=value.clone())
    )
    with torch.no_grad():
        module(input_ids=torch.as_tensor(row)[None])
    handle.remove()
    np.testing.assert_allclose(np.asarray(found["h.0.mlp"])[0], kept["value"][0], atol=1e-6)


def test_generators_of_speech_and_of_pictures_end_in_hidden_states():
    sides = {f"{side}_layers": 2 for side in ("encoder", "decoder")}
    sides |= {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
    sides |= {f"{side}_ffn_dim": 24 for side in ("encoder", "decoder")}
    ids = {"pad_token_id": 0, "decoder_start_token_id": 1, "bos_token_id": 1, "eos_token_id": 2}
    limits = {"max_source_positions": 20, "max_target_positions": 20, "num_mel_bins": 16}
    whisper = build(
        "WhisperForConditionalGeneration", {"vocab_size": 60, "d_model": 16, **sides, **ids, **limits}
    )
    x = np.random.default_rng(0).normal(size=(3, 16, 40)).astype(np.float32)
    assert repdyn.trace(whisper, x).widths["last_hidden_state"] == 16
    text = transformers.LlamaConfig(**_SIZES, num_key_value_heads=2, intermediate_size=24, vocab_size=60)
    vision = transformers.CLIPVisionConfig(**_SIZES, intermediate_size=24, image_size=16, patch_size=8)
    llava = build(
        "LlavaForConditionalGeneration",
        {"text_config": text, "vision_config": vision, "image_token_index": 59},
    )
    rows = [np.arange(5, 9), np.arange(7, 16)]
    assert repdyn.trace(llava, rows).widths["last_hidden_state"] == 32


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "streams_last"), [("DeepseekV4ForCausalLM", True), ("Gemma3nForCausalLM", False)]
)
def test_streams_of_a_token_stand_side_by_side(name, streams_last):
    module = load_heads()._build("causal", name)
    row = np.random.default_rng(0).integers(5, 58, 9)
    found = repdyn.trace(module, [row, row[:4]], points=["layers.1"])
    kept = {}
    handle = module.model.layers[1].register_forward_hook(lambda _, __, value: kept.update(value=value))
    with torch.no_grad():
        module(input_ids=torch.as_tensor(row)[None])
    handle.remove()
    own = kept["value"]
    assert own.ndim == 4
    last = own[0, -1].flatten() if streams_last else torch.cat([stream[0, -1] for stream in own])
    np.testing.assert_allclose(np.asarray(found["layers.1"])[0], last, rtol=1e-4, atol=1e-5)


def test_a_classifier_with_a_decoder_is_read_where_its_head_reads():
    heads = load_heads()
    module = heads._build("sequence", "BartForSequenceClassification")
    found = repdyn.trace(module, heads.TEXTS)
    kept = {}
    module.model.decoder.layers[1].register_forward_hook(lambda _, __, value: kept.update(value=value))
    for number, row in enumerate(heads.TEXTS):
        with torch.no_grad():
            own = module(input_ids=torch.as_tensor(row)[None]).logits[0]
        np.testing.assert_allclose(found.logits[number], own, rtol=1e-4, atol=1e-5)
        value = kept["value"][0] if isinstance(kept["value"], tuple) else kept["value"]
        last = np.asarray(found["model.decoder.layers.1"])[number]
        np.testing.assert_allclose(last, value[0, -1], rtol=1e-4, atol=1e-5)


def test_a_head_that_differs_with_the_position_is_none():
    sizes = {**_SIZES, "num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 33}
    sizes |= {"num_codebooks": 4, "backbone_hidden_size": 32, "vocab_size": 60}
    module = build("CsmDepthDecoderForCausalLM", sizes)
    rows = [np.arange(3, 7), np.arange(5, 8)]
    found = repdyn.trace(module, rows)
    assert found.logits is None
    for number, row in enumerate(rows):
        with torch.no_grad():
            own = module.model(input_ids=torch.as_tensor(row)[None]).last_hidden_state[0]
        np.testing.assert_allclose(np.asarray(found["last_hidden_state"])[number], own.mean(0), atol=1e-5)


def load_heads():
    """The benchmark of heads as a module, with what it shares beside it."""
    folder = Path(__file__).parents[2] / "benchmarks"
    if "repdyn_breadth_heads" not in sys.modules:
        spec = importlib.util.spec_from_file_location("repdyn_breadth_heads", folder / "breadth_heads.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["repdyn_breadth_heads"] = module
        sys.path.insert(0, str(folder))
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(folder))
    return sys.modules["repdyn_breadth_heads"]


HEADS = load_heads()

REPRESENTATIVE = {
    "causal": "BertLMHeadModel RobertaForCausalLM RecurrentGemmaForCausalLM FalconH1ForCausalLM "
    "DeepseekV4ForCausalLM HYV4ForCausalLM Gemma3nForCausalLM WhisperForCausalLM BartForCausalLM "
    "BertGenerationDecoder MiMoV2FlashForCausalLM",
    "masked": "BertForMaskedLM FNetForMaskedLM BartForConditionalGeneration IBertForMaskedLM",
    "sequence": "CTRLForSequenceClassification EuroBertForSequenceClassification "
    "GPT2ForSequenceClassification ModernBertDecoderForSequenceClassification "
    "FNetForSequenceClassification BertForSequenceClassification CanineForSequenceClassification "
    "BartForSequenceClassification T5ForSequenceClassification T5GemmaForSequenceClassification",
    "token": "BertForTokenClassification LlamaForTokenClassification FNetForTokenClassification "
    "CanineForTokenClassification T5GemmaForTokenClassification BrosForTokenClassification",
    "question": "BertForQuestionAnswering T5ForQuestionAnswering BigBirdForQuestionAnswering "
    "LongformerForQuestionAnswering LxmertForQuestionAnswering",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("task", "name"), [(task, name) for task, names in REPRESENTATIVE.items() for name in names.split()]
)
def test_heads_give_what_the_models_give(task, name):
    found = HEADS.check(task, name)
    assert found.what == "logits" or (found.what == "states" and task not in ("causal", "sequence")), found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", HEADS.TASKS)
def test_no_head_is_wrong(task):
    assert [found for name in HEADS.classes(task) if (found := HEADS.check(task, name)).what == "wrong"] == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", ["Sequence", "Token"])
def test_the_decoder_of_a_classifier_reads_the_text_again(task):
    name = f"T5GemmaFor{task}Classification"
    module = HEADS._build(task.lower(), name)
    # Of one length: with padding the model itself takes its decoder's state one token later.
    rows = [torch.tensor([7, 8, 9, 3, 4, 2]), torch.tensor([4, 5, 6, 7, 8, 2])]
    found = repdyn.trace(module, [row.numpy() for row in rows])
    point = "score" if task == "Sequence" else "last_hidden_state"
    for number, row in enumerate(rows):
        again = torch.cat([torch.tensor([module.config.decoder.bos_token_id]), row[:-1]])
        with torch.no_grad():
            body = module.model(input_ids=row[None], decoder_input_ids=again[None]).last_hidden_state[0]
            own = module(input_ids=row[None]).logits[0]
        expected = body[-1] if task == "Sequence" else body.mean(0)
        np.testing.assert_allclose(np.asarray(found[point])[number], expected, rtol=1e-4, atol=1e-5)
        if task == "Sequence":
            np.testing.assert_allclose(found.logits[number], own, rtol=1e-4, atol=1e-5)


def save_with_words(name, folder, count=60):
    """A small language model of 60 tokens, beside a tokenizer that knows so many words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(count)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    HEADS._build("causal", name).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="w2", pad_token="w1"
    ).save_pretrained(folder)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("texts", [True, False])
def test_tokens_that_the_model_lacks_are_told_before_it_runs(tmp_path, texts):
    save_with_words("LlamaForCausalLM", tmp_path, 80)
    model = repdyn.load(f"hf:{tmp_path}")
    lengths = []
    model.module.register_forward_pre_hook(
        lambda _, __, given: lengths.append(int(given["input_ids"].max())), with_kwargs=True
    )
    samples = ["w7 w8", "w4 w5", "w6 w75"] if texts else [[7, 8], [4, 5], [6, 75]]
    with pytest.raises(RepdynError, match=r"sample 2 .*token ids from 6 to 75; expected 0 to 59"):
        repdyn.trace(model, samples, batch_size=1)
    assert lengths
    assert max(lengths) < 60


@pytest.mark.filterwarnings("ignore")
def test_a_decoder_in_a_wrapper_reads_texts(tmp_path):
    save_with_words("BartForCausalLM", tmp_path)
    found = repdyn.trace(f"hf:{tmp_path}", ["w7 w8 w9", "w4 w5 w6 w7 w8"])
    module = transformers.BartForCausalLM.from_pretrained(tmp_path).eval()
    for number, row in enumerate(([7, 8, 9], [4, 5, 6, 7, 8])):
        with torch.no_grad():
            own = module(input_ids=torch.tensor([row])).logits[0, -1]
        np.testing.assert_allclose(found.logits[number], own, rtol=1e-4, atol=1e-5)
