"""Whether a head gives what the model itself gives: every language class of transformers, made small.

The table has all classes that transformers lists as causal, masked, sequence, token and question
models. Each is made from a tiny configuration, with biases and norms that are not trivial, and reads
texts of different lengths in one padded batch. The logits must be those that the model itself gives for
every text alone. For classes with outputs for every token, the model's own head is applied to the last
point and must give the model's own outputs.

    python benchmarks/breadth_heads.py [CLASS ...]
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import transformers
from breadth_cases_transformers import KINDS
from harness import table
from transformers.models.auto import modeling_auto

import repdyn
from repdyn.tracing.hooks import left_as_found
from repdyn_adapters.shared import quietly
from repdyn_adapters.transformers import FINAL, TransformersAdapter, _shell

TASKS = {
    "causal": "CAUSAL_LM",
    "masked": "MASKED_LM",
    "sequence": "SEQUENCE_CLASSIFICATION",
    "token": "TOKEN_CLASSIFICATION",
    "question": "QUESTION_ANSWERING",
}
"""Kinds of models, and what transformers calls their lists."""

TEXTS = [
    np.append(np.random.default_rng(number).integers(5, 58, length), 2)
    for number, length in enumerate((3, 8, 12))
]
"""The last token ends a text: some classifiers look at that one."""

QUESTIONS = [np.insert(row, 2, [2, 2]) for row in TEXTS]
"""Texts with the three separators that Longformer requires between a question and its context."""

LARGEST = 3e7
"""Weights of a class above which its default configuration was not made small."""

_SIZES = {
    **{"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64, "head_dim": 8},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "num_labels": 3},
    **{"n_embd": 16, "n_layer": 2, "n_head": 2, "d_model": 16, "n_layers": 2, "n_heads": 2},
}

_SIDES = {
    f"{side}_{what}": size
    for side in ("encoder", "decoder")
    for what, size in (("layers", 2), ("attention_heads", 2), ("ffn_dim", 24))
}

_EXPERTS = {
    **{"n_routed_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    **{"n_shared_experts": 1, "n_group": 1, "topk_group": 1},
}
_LATENT_ATTENTION = {
    **{"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4},
    **{"v_head_dim": 8, "head_dim": 4, "num_key_value_heads": 2},
}
_GEMMA = {
    **{"vocab_size_per_layer_input": 60, "hidden_size_per_layer_input": 4, "per_layer_config": {}},
    **{"num_kv_shared_layers": 0, "layer_types": ["sliding_attention", "full_attention"]},
}
_DRAFTER = {
    **{**_SIZES, **_GEMMA, "model_type": "gemma4_text", "num_kv_shared_layers": 2},
    **{"vocab_size_per_layer_input": 0, "hidden_size_per_layer_input": 0},
}
_QWEN = {**_SIZES, "model_type": "qwen2"}
_PICTURES = {
    **{"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"image_size": 32, "patch_size": 16, "model_type": "siglip_vision_model"},
}
_DENSE_THEN_SPARSE = {"mlp_layer_types": ["dense", "sparse"]}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}

_OWN_SIZES: dict[str, dict[str, Any]] = {
    "squeezebert": {"embedding_size": 16},
    "bamba": {"mamba_n_heads": 4, "mamba_d_head": 8},
    "granitemoehybrid": {"mamba_n_heads": 4, "mamba_d_head": 8},
    "deepseek_v2": {**_EXPERTS, **_LATENT_ATTENTION, "topk_method": "greedy"},
    "axk1": {**_EXPERTS, **_LATENT_ATTENTION, **_DENSE_THEN_SPARSE},
    "youtu": _LATENT_ATTENTION,
    "mistral4": {**_EXPERTS, **_LATENT_ATTENTION, "head_dim": 8},
    "blt": {"encoder_hash_byte_group_vocab": 100},
    "blt_local_encoder": {"hidden_size_global": 16},
    "blt_local_decoder": {"hidden_size_global": 16},
    "codegen": {"rotary_dim": 4},
    "cohere_compass_text": {
        "layer_types": ["full_attention"] * 2,
        "rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE},
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 1, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 16, "ffn_hidden_size": 24},
    },
    "dots1": _EXPERTS,
    "dots3_note_text": {
        **{**_EXPERTS, **_LATENT_ATTENTION, **_DENSE_THEN_SPARSE},
        **{"layer_types": ["indexed_attention", "sliding_attention"], "per_layer_config": {}},
        **{"head_dim": 8, "swa_head_dim": 8, "swa_qk_nope_head_dim": 4, "swa_qk_rope_head_dim": 4},
        **{"index_topk": 8, "index_head_dim": 8, "index_n_heads": 2, "shared_experts_intermediate_size": 24},
    },
    "gemma3": {"vision_config": _PICTURES},
    "gemma3n_text": {**_GEMMA, "laurel_rank": 4, "activation_sparsity_pattern": [0.0, 0.0]},
    "gemma3n_vision": {"architecture": "test_efficientnet"},
    "gemma3n_audio": {"conf_num_hidden_layers": 1, "conf_num_attention_heads": 2},
    "gemma4_text": _GEMMA,
    "gemma4_vision": {"position_embedding_size": 64},
    "gemma4_audio": {"output_proj_dims": 16},
    "gemma4_unified_text": _GEMMA,
    "gemma4_unified_vision": {"mm_embed_dim": 16, "mm_posemb_size": 16, "output_proj_dims": 16},
    "gemma4_unified_audio": {"audio_embed_dim": 16},
    "got_ocr2": {"text_config": _QWEN},
    "got_ocr2_vision": {
        **{"output_channels": 8, "image_size": 64, "patch_size": 16, "window_size": 2},
        **{"global_attn_indexes": [1], "mlp_dim": 24},
    },
    "inkling_text": {
        **{**_EXPERTS, **_DENSE_THEN_SPARSE, "layer_types": ["hybrid_sliding", "hybrid"]},
        **{"swa_num_attention_heads": 2, "swa_num_key_value_heads": 2, "swa_head_dim": 8},
        **{"d_rel": 4, "rel_extent": 64},
    },
    "lfm2_moe": {**_EXPERTS, "layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "longcat_flash": {
        **{**_EXPERTS, **_LATENT_ATTENTION, "num_layers": 1, "ffn_hidden_size": 24},
        **{"expert_ffn_hidden_size": 24, "zero_expert_num": 2, "moe_topk": 2},
    },
    "mimo_v2_flash": {
        **{**_EXPERTS, **_DENSE_THEN_SPARSE, "head_dim": 24, "v_head_dim": 8},
        # Layers with a window have twice as many heads of keys.
        **{"num_attention_heads": 2, "num_key_value_heads": 1},
        "layer_types": ["full_attention", "sliding_attention"],
    },
    "moss_transcribe_diarize": {"text_config": {**_QWEN, "model_type": "qwen3"}},
    "musicgen_decoder": {"num_codebooks": 1, "ffn_dim": 24},
    "musicgen_melody_decoder": {"num_codebooks": 1, "ffn_dim": 24},
    "prophetnet": {
        **{"num_encoder_layers": 2, "num_decoder_layers": 2, "num_hidden_layers": None},
        **{"num_encoder_attention_heads": 2, "num_decoder_attention_heads": 2, "num_attention_heads": None},
        **{"encoder_ffn_dim": 24, "decoder_ffn_dim": 24},
    },
    "reformer": {
        **{"attn_layers": ["local", "lsh"], "num_hidden_layers": None, "axial_pos_embds": False},
        **{"attention_head_size": 8, "feed_forward_size": 24},
        **{"local_attn_chunk_length": 16, "lsh_attn_chunk_length": 16},
    },
    "zamba": {
        **{"layers_block_type": ["linear_attention", "hybrid"] * 2, "num_hidden_layers": 4},
        **{"attention_hidden_size": 32, "attention_head_dim": 16, "mamba_dt_rank": 4},
    },
    "zamba2": {
        **{"layers_block_type": ["linear_attention", "hybrid"], "hybrid_layer_ids": [1]},
        **{"n_mamba_heads": 2, "mamba_headdim": 16, "attention_hidden_size": 32, "attention_head_dim": 16},
        **{"adapter_rank": 4, "chunk_size": 16},
    },
    "funnel": {
        **{"block_sizes": [1, 1], "d_head": 8, "d_inner": 24, "num_decoder_layers": 1},
        **{"num_hidden_layers": None, "n_layers": None, "n_layer": None},
    },
    "luke": {"entity_vocab_size": 10, "entity_emb_size": 8},
    "mobilebert": {"embedding_size": 8, "intra_bottleneck_size": 8},
    "modernvbert": {"text_config": {**_SIZES, "model_type": "modernbert"}, "vision_config": _PICTURES},
    "ultravbert": {"text_config": {**_SIZES, "model_type": "ultrabert"}, "vision_config": _PICTURES},
    "neomme": {
        **{"embedding_rank": 8, "embedding_dim": 8, "per_layer_config": {}},
        **{"layer_types": ["sliding_attention", "full_attention"]},
        "rope_parameters": {"sliding_attention": _ROPE, "full_attention": _ROPE},
    },
    "perceiver": {
        **{"num_latents": 4, "d_latents": 16, "num_self_attends_per_block": 2},
        **{"num_self_attention_heads": 2, "num_cross_attention_heads": 2},
    },
    "layoutlmv3": {"hidden_size": 24, "coordinate_size": 4, "shape_size": 4, "input_size": 32},
    "qwen3_5_text": {
        **{"layer_types": ["linear_attention", "full_attention"], "linear_key_head_dim": 8},
        **{"linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 2},
    },
    "qwen3_5_vision": {"depth": 1, "num_heads": 2, "out_hidden_size": 16, "num_position_embeddings": 16},
    "t5gemma2_encoder": {"vision_config": _PICTURES},
    "qwen3_asr": {
        "audio_config": {
            **{"model_type": "qwen3_asr_encoder", "d_model": 16, "encoder_layers": 1, "output_dim": 16},
            **{"encoder_attention_heads": 2, "encoder_ffn_dim": 24, "downsample_hidden_size": 8},
            **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24},
        },
        "text_config": {**_QWEN, "model_type": "qwen3"},
    },
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "lilt": {"channel_shrink_ratio": 2, "hidden_size": 24},
    "lxmert": {
        **{"l_layers": 1, "x_layers": 1, "r_layers": 1, "visual_feat_dim": 8, "num_qa_labels": 3},
        **{"num_hidden_layers": None, "num_labels": None},
    },
    "bros": {"hidden_size": 64, "dim_bbox_projection": 32},
    "gemma4_assistant": {"text_config": _DRAFTER, "backbone_hidden_size": 16},
    "gemma4_unified_assistant": {
        "text_config": {**_DRAFTER, "model_type": "gemma4_unified_text"},
        "backbone_hidden_size": 16,
    },
}
"""Sizes of the parts that only one family has; None where the family refuses a size of that name."""


@dataclass(frozen=True)
class Found:
    """What was found for one class.

    ``what`` is ``"logits"``, ``"states"``, ``"refused"``, ``"wrong"`` or ``"not built"``.
    """

    task: str
    name: str
    what: str
    reason: str = ""


def _boxes(inputs: Any) -> dict[str, Any]:
    """Where each token stands on its page."""
    return {"bbox": torch.rand(*inputs["input_ids"].shape, 4, generator=torch.Generator().manual_seed(0))}


def _regions(inputs: Any) -> dict[str, Any]:
    """Features and places of three regions of a picture."""
    generator, count = torch.Generator().manual_seed(0), len(inputs["input_ids"])
    return {
        "visual_feats": torch.rand(count, 3, 8, generator=generator),
        "visual_pos": torch.rand(count, 3, 4, generator=generator),
    }


FURTHER: dict[str, Callable[[Any], dict[str, Any]]] = {"bros": _boxes, "lxmert": _regions}
"""Inputs beside the text that a user gives through ``prepare``."""


def classes(task: str) -> list[str]:
    """The names of all classes of a task."""
    listed = getattr(modeling_auto, f"MODEL_FOR_{TASKS[task]}_MAPPING_NAMES")
    return sorted(set(listed.values()))


def check(task: str, name: str) -> Found:
    """Build one class, trace it, and compare."""
    try:
        module = _build(task, name)
        model = _traced(module)
        _answers(module, model.prepare(_texts(name)[:1]))
    except Exception as error:  # a configuration that cannot be made small by the usual names
        return Found(task, name, "not built", _short(error))
    try:
        return _compare(task, name, module, model)
    except repdyn.RepdynError as error:
        return Found(task, name, "refused", _short(error))


def _texts(name: str) -> list[Any]:
    return QUESTIONS if name == "LongformerForQuestionAnswering" else TEXTS


def _traced(module: Any) -> Any:
    """The traceable model, with the further inputs that its family requires."""
    model = TransformersAdapter().wrap(module)
    further = FURTHER.get(module.config.model_type)
    if further is None:
        return model

    def prepare(samples: Any) -> dict[str, Any]:
        inputs = model.prepare(samples)
        return {**inputs, **further(inputs)}

    return replace(model, prepare=prepare)


def _compare(task: str, name: str, module: Any, model: Any) -> Found:
    paths = repdyn.trace(model, _texts(name))
    if paths.logits is not None:
        alone = [_own(module, row) for row in TEXTS]
        worst = max(_apart(found, own) for found, own in zip(paths.logits, alone, strict=True))
        if worst >= 1e-4:
            padded = [_own_padded(module, k) for k in range(len(TEXTS))]
            if max(_apart(found, own) for found, own in zip(paths.logits, padded, strict=True)) < 1e-4:
                return Found(task, name, "logits", f"the model itself differs by {worst:.1e} where padded")
        return Found(task, name, "logits" if worst < 1e-4 else "wrong", f"{worst:.1e}")
    body = next((name for name, part in module.named_children() if part is module.base_model), None)
    whole = model.module is module and model.points[FINAL].module != body
    if model.final != FINAL:
        return Found(task, name, "states", "its last point is no state of tokens: not compared")
    texts = _texts(name)[:1]
    states = repdyn.trace(model, texts, points=[FINAL], pool="none")
    last, inputs = torch.as_tensor(np.asarray(states[FINAL])[:1]), model.prepare(texts)
    if _shell(module) is not None and not whole:
        shell, given = _shell(module)
        given.hidden = last
        try:
            found = _answers(shell, inputs)
        except IndexError:  # Lxmert's head reads a state beside that of the tokens
            with left_as_found(module):
                worst = _apart(last.numpy(), module.base_model(**inputs)[0].numpy())
            return Found(task, name, "states" if worst < 1e-4 else "wrong", f"{worst:.1e}")
    elif model.points[FINAL].reads == "input":  # without a body of its own: what its last layer gives
        with torch.no_grad():
            found = module.get_submodule(model.points[FINAL].module)(last).numpy()
        found = found[..., 0] if task == "question" else found
    else:
        return Found(task, name, "states", "without a body of its own: not compared")
    # Longformer pads to whole windows; its answers there belong to no token.
    own = _answers(module, inputs)[:, : found.shape[1]] if found.ndim > 1 else _answers(module, inputs)
    worst = _apart(found, own)
    return Found(task, name, "states" if worst < 1e-4 else "wrong", f"{worst:.1e}")


def _answers(module: Any, inputs: Any) -> Any:
    """All logits that a model gives, or where answers begin."""
    takes = inspect.signature(module.forward).parameters
    if "use_cache" not in takes:  # prepared for the body; some classifiers pass their own
        inputs = {name: value for name, value in inputs.items() if name != "use_cache"}
    with left_as_found(module):
        own = module(**inputs)
    found = next(own[key] for key in ("logits", "start_logits", "question_answering_score") if key in own)
    return found.detach().float().numpy()


def _own(module: Any, row: Any) -> Any:
    ids = torch.as_tensor(row)[None]
    takes = inspect.signature(module.forward).parameters
    more: dict[str, Any] = {"use_cache": False} if "use_cache" in takes else {}
    if "attention_mask" in takes:
        more["attention_mask"] = torch.ones_like(ids)
    with left_as_found(module):
        logits = module(input_ids=ids, **more).logits[0]
    return (logits if logits.ndim == 1 else logits[-1]).float().numpy()


def _own_padded(module: Any, number: int) -> Any:
    """The model's own logits at the last token of a text, in one padded batch with all texts."""
    lengths = [len(row) for row in TEXTS]
    ids, mask = (torch.zeros(len(TEXTS), max(lengths), dtype=torch.long) for _ in range(2))
    for k, row in enumerate(TEXTS):
        ids[k, : len(row)], mask[k, : len(row)] = torch.as_tensor(row), 1
    more = {"use_cache": False} if "use_cache" in inspect.signature(module.forward).parameters else {}
    with left_as_found(module):
        logits = module(input_ids=ids, attention_mask=mask, **more).logits[number]
    return (logits if logits.ndim == 1 else logits[lengths[number] - 1]).float().numpy()


def _apart(found: Any, own: Any) -> float:
    return float(np.abs(np.asarray(found) - np.asarray(own)).max() / np.abs(own).max())


def _build(task: str, name: str) -> Any:
    cls = getattr(transformers, name)
    known = [
        case for cases in KINDS.values() for kind, case in cases.values() if _config(kind) is cls.config_class
    ]
    # Copies, because some configurations write into what they are given.
    own = deepcopy({**_SIZES, **_OWN_SIZES.get(cls.config_class.model_type, {})})
    own = {size: value for size, value in own.items() if value is not None}
    errors: list[Exception] = []
    for sizes in (*known, own, {**own, **_SIDES}, _nested(cls.config_class)):
        try:
            config = cls.config_class(**sizes)
            if hasattr(config, "is_decoder"):
                config.is_decoder = task == "causal"
            config.use_cache, config.eos_token_id = False, 2
            if getattr(config, "decoder_start_token_id", None) is None:
                config.decoder_start_token_id = 1
            if task == "question":  # where an answer begins and where it ends
                config.num_labels = 2
            with torch.device("meta"), torch.random.fork_rng(), quietly():
                count = sum(weight.numel() for weight in cls(config).parameters())
            if count > LARGEST:
                raise ValueError(f"{count} weights: its sizes have other names")
            with torch.random.fork_rng(), quietly():
                torch.manual_seed(0)
                module = cls(config).eval()
                for weight in module.parameters():
                    if weight.ndim == 1:
                        weight.data.add_(torch.randn_like(weight) * 0.3)
            return module
        except Exception as error:
            errors.append(error)
    raise errors[-1]


def _nested(config_class: Any) -> dict[str, Any]:
    """Sizes of a configuration and of those inside it: of its text, its pictures, its sound."""
    inside = {
        name: _nested(kind)
        for name, kind in getattr(config_class, "sub_configs", {}).items()
        if hasattr(kind, "model_type")
    }
    sizes = {**_SIZES, **inside, **_OWN_SIZES.get(config_class.model_type, {})}
    return {name: size for name, size in sizes.items() if size is not None}


def _config(name: str) -> Any:
    return getattr(transformers, name).config_class


def _short(error: Exception) -> str:
    text = (" ".join(str(error).split()) or type(error).__name__).replace("|", "/")
    return text if len(text) <= 120 else f"{text[:60]} … {text[-60:]}"


def section(found: list[Found]) -> list[str]:
    """The lines of the page: how many of each task, then every class that is not compared, and why."""
    outcomes = ("logits", "states", "wrong", "refused", "not built")
    lines = ["", "## transformers: heads of language models", "", *__doc__.splitlines()[2:7], ""]
    counts = []
    for task in TASKS:
        own = [entry for entry in found if entry.task == task]
        counts.append([task, len(own), *(sum(entry.what == what for entry in own) for what in outcomes)])
    lines += [
        table(["task", "classes", *outcomes], counts),
        "",
        "*Logits*: a trace keeps logits, and they are the model's own. *States*: a trace keeps no logits.",
        "The model's own head, applied to the last point, gives the model's own outputs; this is not",
        "compared for a class without a body of its own. *Refused*: an error of one line. *Not built*: not",
        "checked, because the class needs a library that is not installed, or reads the states of another",
        "model, which a user gives through `prepare`. The reason is the error of the attempt.",
        "",
    ]
    rest = [entry for entry in found if entry.what not in ("logits", "states") or "itself" in entry.reason]
    cells = [[entry.task, f"`{entry.name}`", entry.what, entry.reason] for entry in rest]
    return [*lines, table(["task", "class", "", "reason"], cells)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    for task in TASKS:
        for name in sys.argv[1:] or classes(task):
            if name in classes(task):
                print(check(task, name), flush=True)
