"""What the breadth run goes through: small configurations of transformers families.

Shared by ``benchmarks/breadth.py``, which writes the table in the documentation, and the tests.
"""

from __future__ import annotations

from typing import Any

Cases = dict[str, tuple[str, dict[str, Any]]]

_LAYERS = {"hidden_size": 32, "num_hidden_layers": 2}
_BODY = {**_LAYERS, "num_attention_heads": 4}
_TEXT = {"vocab_size": 60, "max_position_embeddings": 40}
_BLOCKS = {**_BODY, "intermediate_size": 48}
SMALL = {**_BLOCKS, **_TEXT}
_GROUPED = {**SMALL, "num_key_value_heads": 2}
_PICTURE = {**_BLOCKS, "image_size": 32, "patch_size": 8}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, "vocab_size": 60}
_T5 = {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 48, "d_kv": 8, "vocab_size": 60}
_BART = {
    "d_model": 32,
    **{f"{side}_layers": 2 for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": 4 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 48 for side in ("encoder", "decoder")},
    "vocab_size": 60,
}
_WAVE = {
    **_BLOCKS,
    "conv_dim": [16, 16],
    "conv_stride": [5, 4],
    "conv_kernel": [10, 8],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}
_STAGES = {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 2, 1]}

_SPECIAL = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "cls_token_id": 3, "sep_token_id": 4}

TEXT_ENCODERS: Cases = {
    "bert": ("BertModel", SMALL),
    "roberta": ("RobertaModel", SMALL),
    "xlm-roberta": ("XLMRobertaModel", SMALL),
    "camembert": ("CamembertModel", SMALL),
    "distilbert": ("DistilBertModel", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, **_TEXT}),
    "albert": ("AlbertModel", {**SMALL, "embedding_size": 16}),
    "electra": ("ElectraModel", {**SMALL, "embedding_size": 16}),
    "mpnet": ("MPNetModel", SMALL),
    "deberta": ("DebertaModel", SMALL),
    "deberta-v2": ("DebertaV2Model", SMALL),
    "modernbert": ("ModernBertModel", {**SMALL, **_SPECIAL}),
    "xlnet": ("XLNetModel", {"vocab_size": 60, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}),
    "longformer": ("LongformerModel", {**SMALL, "attention_window": 4}),
    "nomic": ("NomicBertModel", SMALL),
}
"""Text encoders."""

_GLOBAL_THEN_LOCAL = [[["global", "local"], 1]]
DECODERS: Cases = {
    "gpt2": ("GPT2LMHeadModel", _GPT),
    "gpt_neo": (
        "GPTNeoForCausalLM",
        {**_TEXT, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": _GLOBAL_THEN_LOCAL},
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", SMALL),
    "gptj": ("GPTJForCausalLM", {**_GPT, "rotary_dim": 4}),
    "opt": ("OPTForCausalLM", {**_BODY, **_TEXT, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "bloom": ("BloomForCausalLM", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 60}),
    "falcon": ("FalconForCausalLM", SMALL),
    "llama": ("LlamaForCausalLM", _GROUPED),
    "mistral": ("MistralForCausalLM", _GROUPED),
    "qwen2": ("Qwen2ForCausalLM", _GROUPED),
    "qwen3": ("Qwen3ForCausalLM", {**_GROUPED, "head_dim": 8}),
    "gemma": ("GemmaForCausalLM", {**_GROUPED, "head_dim": 8}),
    "gemma2": ("Gemma2ForCausalLM", {**_GROUPED, "head_dim": 8}),
    "gemma3": ("Gemma3ForCausalLM", {**_GROUPED, "head_dim": 8}),
    "phi": ("PhiForCausalLM", SMALL),
    "phi3": ("Phi3ForCausalLM", {**_GROUPED, "pad_token_id": 0}),
    "cohere": ("CohereForCausalLM", _GROUPED),
    "granite": ("GraniteForCausalLM", {**_GROUPED, "logits_scaling": 3.0}),
    "olmo2": ("Olmo2ForCausalLM", _GROUPED),
    "stablelm": ("StableLmForCausalLM", _GROUPED),
    "starcoder2": ("Starcoder2ForCausalLM", _GROUPED),
    "smollm3": ("SmolLM3ForCausalLM", {**_GROUPED, "pad_token_id": 0}),
}
"""Causal language models."""

EXPERTS: Cases = {
    "mixtral": ("MixtralForCausalLM", {**_GROUPED, "num_local_experts": 4}),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        {**_GROUPED, "head_dim": 8, "num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2},
    ),
    "gpt_oss": ("GptOssForCausalLM", {**_GROUPED, "head_dim": 8, "num_local_experts": 4}),
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
}
"""Causal language models with a mixture of experts."""

_MAMBA = {**_LAYERS, "vocab_size": 60, "state_size": 4}
STATE_SPACES: Cases = {
    "mamba": ("MambaForCausalLM", _MAMBA),
    "mamba2": ("Mamba2ForCausalLM", {**_MAMBA, "num_heads": 8, "head_dim": 8, "n_groups": 1}),
    "rwkv": ("RwkvForCausalLM", {**_LAYERS, "vocab_size": 60, "attention_hidden_size": 32}),
}
"""State-space and recurrent language models."""

ENCODER_DECODERS: Cases = {
    "t5": ("T5Model", _T5),
    "mt5": ("MT5Model", _T5),
    "bart": ("BartModel", {**_BART, "max_position_embeddings": 40}),
    "pegasus": ("PegasusModel", {**_BART, "max_position_embeddings": 40}),
    "marian": (
        "MarianModel",
        {**_BART, "pad_token_id": 59, "decoder_start_token_id": 0, "max_position_embeddings": 40},
    ),
}
"""Encoder-decoders of text."""

VISION: Cases = {
    "vit": ("ViTModel", _PICTURE),
    "deit": ("DeiTModel", _PICTURE),
    "beit": ("BeitModel", _PICTURE),
    "dinov2": ("Dinov2Model", _PICTURE),
    "dinov2_reg": ("Dinov2WithRegistersModel", _PICTURE),
    "dinov3": ("DINOv3ViTModel", _PICTURE),
    "siglip_v": ("SiglipVisionModel", _PICTURE),
    "clip_v": ("CLIPVisionModel", _PICTURE),
    "vit_mae": ("ViTMAEModel", {**_PICTURE, "mask_ratio": 0.0}),
    "convnext": ("ConvNextModel", _STAGES),
    "resnet": ("ResNetModel", {**_STAGES, "embedding_size": 8, "layer_type": "basic"}),
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
    "yolos": ("YolosModel", {**_PICTURE, "image_size": [32, 32], "num_detection_tokens": 3}),
    "dpt": ("DPTModel", {**_PICTURE, "backbone_out_indices": [0, 1]}),
}
"""Models of pictures."""

AUDIO: Cases = {
    "wav2vec2": ("Wav2Vec2Model", _WAVE),
    "hubert": ("HubertModel", _WAVE),
    "whisper": (
        "WhisperModel",
        {
            **_BART,
            "max_source_positions": 20,
            "max_target_positions": 20,
            "num_mel_bins": 16,
            "pad_token_id": 0,
            "decoder_start_token_id": 1,
        },
    ),
    "ast": ("ASTModel", {**_BLOCKS, "num_mel_bins": 32, "max_length": 64}),
}
"""Models of sound."""

_TOWERS = {"text_config": {**SMALL}, "vision_config": {**_PICTURE}}
TWO_TOWERS: Cases = {
    "clip": ("CLIPModel", _TOWERS),
    "siglip": ("SiglipModel", _TOWERS),
    "chinese_clip": ("ChineseCLIPModel", _TOWERS),
    "altclip": ("AltCLIPModel", _TOWERS),
}
"""Models of pictures and texts; each tower is traced."""

KINDS: dict[str, Cases] = {
    "text encoder": TEXT_ENCODERS,
    "decoder": DECODERS,
    "mixture of experts": EXPERTS,
    "state space": STATE_SPACES,
    "encoder-decoder": ENCODER_DECODERS,
    "vision": VISION,
    "audio": AUDIO,
    "two towers": TWO_TOWERS,
}
"""The families of transformers by what they are."""

SIGNALS = {"wav2vec2": (4, 800), "hubert": (4, 800), "whisper": (4, 16, 40), "ast": (4, 64, 32)}
"""Shapes of the signals or spectra that models of sound are given."""

NO_STATES = {
    "swin": "its hidden states are the outputs of stages after the reduction",
    "vit_mae": "it shuffles patches at random in every pass",
}
"""transformers families whose hidden states are not the outputs of blocks, and why."""
