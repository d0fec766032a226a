"""Breadth over transformers: families from small configurations, with random weights.

Every family is traced with its default points: all of them are read, the batch size and padding change
nothing, the blocks are the library's own hidden states, the head gives the model's own logits.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

import repdyn
from repdyn_adapters.transformers import TransformersAdapter, quietly

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 60,
    "max_position_embeddings": 40,
}
SMALL_PICTURE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "bert": ("BertModel", SMALL),
    "roberta": ("RobertaModel", SMALL),
    "xlm-roberta": ("XLMRobertaModel", SMALL),
    "camembert": ("CamembertModel", SMALL),
    "distilbert": (
        "DistilBertModel",
        {
            "dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 48,
            "vocab_size": 60,
            "max_position_embeddings": 40,
        },
    ),
    "albert": ("AlbertModel", {**SMALL, "embedding_size": 16}),
    "electra": ("ElectraModel", {**SMALL, "embedding_size": 16}),
    "mpnet": ("MPNetModel", SMALL),
    "deberta": ("DebertaModel", SMALL),
    "deberta-v2": ("DebertaV2Model", SMALL),
    "modernbert": (
        "ModernBertModel",
        {
            **SMALL,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": 2,
            "cls_token_id": 3,
            "sep_token_id": 4,
        },
    ),
    "xlnet": ("XLNetModel", {"vocab_size": 60, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}),
    "longformer": ("LongformerModel", {**SMALL, "attention_window": 4}),
    "nomic": ("NomicBertModel", SMALL),
    "gpt2": (
        "GPT2LMHeadModel",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, "vocab_size": 60},
    ),
    "gpt_neo": (
        "GPTNeoForCausalLM",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "vocab_size": 60,
            "max_position_embeddings": 40,
            "attention_types": [[["global", "local"], 1]],
        },
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", SMALL),
    "gptj": (
        "GPTJForCausalLM",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, "vocab_size": 60, "rotary_dim": 4},
    ),
    "opt": (
        "OPTForCausalLM",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 48,
            "vocab_size": 60,
            "max_position_embeddings": 40,
            "word_embed_proj_dim": 32,
        },
    ),
    "bloom": ("BloomForCausalLM", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 60}),
    "falcon": ("FalconForCausalLM", SMALL),
    "llama": ("LlamaForCausalLM", {**SMALL, "num_key_value_heads": 2}),
    "mistral": ("MistralForCausalLM", {**SMALL, "num_key_value_heads": 2}),
    "mixtral": ("MixtralForCausalLM", {**SMALL, "num_key_value_heads": 2, "num_local_experts": 4}),
    "qwen2": ("Qwen2ForCausalLM", {**SMALL, "num_key_value_heads": 2}),
    "qwen3": ("Qwen3ForCausalLM", {**SMALL, "num_key_value_heads": 2, "head_dim": 8}),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        {
            **SMALL,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "num_experts": 4,
            "moe_intermediate_size": 16,
            "num_experts_per_tok": 2,
        },
    ),
    "gemma": ("GemmaForCausalLM", {**SMALL, "num_key_value_heads": 2, "head_dim": 8}),
    "gemma2": ("Gemma2ForCausalLM", {**SMALL, "num_key_value_heads": 2, "head_dim": 8}),
    "gemma3": ("Gemma3ForCausalLM", {**SMALL, "num_key_value_heads": 2, "head_dim": 8}),
    "phi": ("PhiForCausalLM", SMALL),
    "phi3": ("Phi3ForCausalLM", {**SMALL, "num_key_value_heads": 2, "pad_token_id": 0}),
    "cohere": ("CohereForCausalLM", {**SMALL, "num_key_value_heads": 2}),
    "granite": ("GraniteForCausalLM", {**SMALL, "num_key_value_heads": 2, "logits_scaling": 3.0}),
    "olmo2": ("Olmo2ForCausalLM", {**SMALL, "num_key_value_heads": 2}),
    "stablelm": ("StableLmForCausalLM", {**SMALL, "num_key_value_heads": 2}),
    "starcoder2": ("Starcoder2ForCausalLM", {**SMALL, "num_key_value_heads": 2}),
    "smollm3": ("SmolLM3ForCausalLM", {**SMALL, "num_key_value_heads": 2, "pad_token_id": 0}),
    "gpt_oss": (
        "GptOssForCausalLM",
        {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "num_local_experts": 4},
    ),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        {
            **SMALL,
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "kv_lora_rank": 8,
            "q_lora_rank": 8,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
            "first_k_dense_replace": 1,
        },
    ),
    "mamba": (
        "MambaForCausalLM",
        {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 60, "state_size": 4},
    ),
    "mamba2": (
        "Mamba2ForCausalLM",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "vocab_size": 60,
            "state_size": 4,
            "num_heads": 8,
            "head_dim": 8,
            "n_groups": 1,
        },
    ),
    "rwkv": (
        "RwkvForCausalLM",
        {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 60, "attention_hidden_size": 32},
    ),
    "t5": (
        "T5Model",
        {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 48, "d_kv": 8, "vocab_size": 60},
    ),
    "mt5": (
        "MT5Model",
        {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 48, "d_kv": 8, "vocab_size": 60},
    ),
    "bart": (
        "BartModel",
        {
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "vocab_size": 60,
            "max_position_embeddings": 40,
        },
    ),
    "pegasus": (
        "PegasusModel",
        {
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "vocab_size": 60,
            "max_position_embeddings": 40,
        },
    ),
    "marian": (
        "MarianModel",
        {
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "vocab_size": 60,
            "pad_token_id": 59,
            "decoder_start_token_id": 0,
            "max_position_embeddings": 40,
        },
    ),
}

PICTURE = {
    "vit": ("ViTModel", SMALL_PICTURE),
    "deit": ("DeiTModel", SMALL_PICTURE),
    "beit": ("BeitModel", SMALL_PICTURE),
    "dinov2": ("Dinov2Model", SMALL_PICTURE),
    "dinov2_reg": ("Dinov2WithRegistersModel", SMALL_PICTURE),
    "dinov3": ("DINOv3ViTModel", SMALL_PICTURE),
    "siglip_v": ("SiglipVisionModel", SMALL_PICTURE),
    "clip_v": ("CLIPVisionModel", SMALL_PICTURE),
    "vit_mae": ("ViTMAEModel", {**SMALL_PICTURE, "mask_ratio": 0.0}),
    "convnext": ("ConvNextModel", {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 2, 1]}),
    "resnet": (
        "ResNetModel",
        {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 2, 1], "layer_type": "basic"},
    ),
    "swin": (
        "SwinModel",
        {
            "image_size": 32,
            "patch_size": 2,
            "embed_dim": 8,
            "depths": [1, 2],
            "num_heads": [2, 2],
            "window_size": 4,
        },
    ),
    "segformer": (
        "SegformerModel",
        {
            "hidden_sizes": [8, 16],
            "depths": [1, 1],
            "num_encoder_blocks": 2,
            "num_attention_heads": [1, 2],
            "sr_ratios": [2, 1],
            "patch_sizes": [3, 3],
            "strides": [2, 2],
            "mlp_ratios": [2, 2],
        },
    ),
    "mobilenet_v2": ("MobileNetV2Model", {"image_size": 32}),
    "yolos": (
        "YolosModel",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "image_size": [32, 32],
            "patch_size": 8,
            "num_detection_tokens": 3,
        },
    ),
    "dpt": ("DPTModel", {**SMALL_PICTURE, "backbone_out_indices": [0, 1]}),
}

SOUND = {
    "wav2vec2": (
        "Wav2Vec2Model",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "conv_dim": [16, 16],
            "conv_stride": [5, 4],
            "conv_kernel": [10, 8],
            "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 4,
            "num_conv_pos_embedding_groups": 2,
        },
    ),
    "hubert": (
        "HubertModel",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "conv_dim": [16, 16],
            "conv_stride": [5, 4],
            "conv_kernel": [10, 8],
            "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 4,
            "num_conv_pos_embedding_groups": 2,
        },
    ),
    "whisper": (
        "WhisperModel",
        {
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "vocab_size": 60,
            "max_source_positions": 20,
            "max_target_positions": 20,
            "num_mel_bins": 16,
            "pad_token_id": 0,
            "decoder_start_token_id": 1,
        },
    ),
    "ast": (
        "ASTModel",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "num_mel_bins": 32,
            "max_length": 64,
        },
    ),
}
SIGNALS = {"wav2vec2": (3, 800), "hubert": (3, 800), "whisper": (3, 16, 40), "ast": (3, 64, 32)}
RNG = np.random.default_rng(0)
TEXTS = [RNG.integers(5, 58, length) for length in (4, 9, 13)]
PICTURES = RNG.normal(size=(3, 3, 32, 32)).astype(np.float32)
OTHER_STATES = {
    "swin": "its hidden states are those of stages, after they are reduced",
    "vit_mae": "it shuffles patches at random in every pass",
}


def build(kind, changes):
    cls = getattr(transformers, kind)
    with torch.random.fork_rng(), quietly():
        torch.manual_seed(0)
        return cls(cls.config_class(**changes)).eval()


def inputs_of(name):
    if name in TEXT:
        return TEXTS
    return PICTURES if name in PICTURE else RNG.normal(size=SIGNALS[name]).astype(np.float32)


@pytest.fixture(scope="module", params=[*TEXT, *PICTURE, *SOUND])
def family(request):
    name = request.param
    return name, build(*{**TEXT, **PICTURE, **SOUND}[name]), inputs_of(name)


def test_batch_size_and_padding_change_nothing(family):
    _, module, inputs = family
    whole, single = repdyn.trace(module, inputs, batch_size=3), repdyn.trace(module, inputs, batch_size=1)
    assert len(whole.points) >= 2
    for point in whole.points:
        x, y = np.asarray(whole[point]), np.asarray(single[point])
        np.testing.assert_allclose(x, y, atol=1e-5 * max(1, np.abs(x).max()), err_msg=point)


def test_blocks_are_the_librarys_hidden_states(family):
    name, module, inputs = family
    if name in OTHER_STATES:
        pytest.skip(OTHER_STATES[name])
    model = TransformersAdapter().wrap(module)
    paths = repdyn.trace(model, inputs[:1], pool="none")
    with torch.inference_mode():
        found = model.module(**model.prepare(list(inputs[:1])), output_hidden_states=True)
    states = [
        *(getattr(found, "hidden_states", None) or ()),
        *(getattr(found, "encoder_hidden_states", None) or ()),
        *(getattr(found, "decoder_hidden_states", None) or ()),
    ]
    assert states, "the library offers hidden states for every family here"
    offered = [state.flatten(2).transpose(1, 2) if state.ndim == 4 else state for state in states]
    offered = [state[0].numpy() for state in offered]
    read = [np.asarray(paths[point])[0] for point in paths.points]
    equal = [any(x.shape == y.shape and np.array_equal(x, y) for y in offered) for x in read if x.ndim == 2]
    # A norm after the last block, or one applied to the hidden states alone, makes two of them differ.
    assert sum(equal) >= max(1, len(equal) - 2), list(zip(paths.points, equal, strict=False))


@pytest.mark.parametrize(
    "name", [name for name, (kind, _) in TEXT.items() if kind.endswith(("CausalLM", "LMHeadModel"))]
)
def test_the_head_gives_the_next_tokens_logits(name):
    module = build(*TEXT[name])
    paths = repdyn.trace(module, TEXTS, batch_size=3)
    for number, ids in enumerate(TEXTS):
        with torch.inference_mode():
            expected = module(input_ids=torch.as_tensor(ids)[None]).logits[0, -1].numpy()
        np.testing.assert_allclose(paths.logits[number], expected, atol=1e-4)


@pytest.mark.parametrize("tower", ["text", "vision"])
def test_two_towers(tower):
    text = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = transformers.CLIPConfig(
        text_config={**text, "vocab_size": 60, "max_position_embeddings": 40, "eos_token_id": 59},
        vision_config={**text, "image_size": 32, "patch_size": 8},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = transformers.CLIPModel(config).eval()
    model = TransformersAdapter().wrap(module, f"#{tower}")
    paths = repdyn.trace(model, TEXTS if tower == "text" else PICTURES)
    assert len(paths.points) >= 2
    with pytest.raises(repdyn.RepdynError, match="vision, text"):
        TransformersAdapter().wrap(module, "#sound")
