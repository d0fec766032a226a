"""Transformers small enough for a test, with the same random weights each time."""

from __future__ import annotations

from typing import Any

import torch

WORDS = 40
_SIZES: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "pad_token_id": 0,
}


def tiny_llama(layers: int) -> Any:
    """A ``LlamaForCausalLM``."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**_SIZES, num_hidden_layers=layers, num_key_value_heads=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


def tiny_bert(layers: int) -> Any:
    """A ``BertModel`` without a pooler."""
    from transformers import BertConfig, BertModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BertModel(BertConfig(**_SIZES, num_hidden_layers=layers), add_pooling_layer=False).eval()
