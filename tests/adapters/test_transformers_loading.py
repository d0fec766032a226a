"""How transformers loads a model is how it is traced: device maps, quantised blocks, passed-on options."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModel, BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

import repdyn
from repdyn.errors import RepdynError

IDS = [torch.arange(5, 5 + length) for length in (3, 7, 4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = BertConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, vocab_size=99
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(found := tmp_path_factory.mktemp("model"))
    return found


def arrays(paths):
    return {name: np.asarray(paths[name]) for name in paths.points}


def test_a_model_that_does_not_fit_into_memory_gives_the_same(folder, tmp_path):
    """Most of it stays on disk until its turn comes, as accelerate's device map says."""
    pytest.importorskip("accelerate")  # which transformers needs for any device map
    expected = repdyn.load(f"hf:{folder}")
    device_map = {
        "embeddings": "cpu",
        "encoder.layer.0": "cpu",
        "encoder.layer.1": "disk",
        "encoder.layer.2": "disk",
        "pooler": "disk",
    }
    offloaded = repdyn.load(f"hf:{folder}", device_map=device_map, offload_folder=str(tmp_path))
    assert any(weight.device.type == "meta" for weight in offloaded.module.parameters())
    assert offloaded.device.type == "cpu"
    found = arrays(repdyn.trace(offloaded, IDS))
    for name, values in arrays(repdyn.trace(expected, IDS)).items():
        np.testing.assert_array_equal(found[name], values)
    assert offloaded.digest == expected.digest


def test_a_model_whose_blocks_hold_integers(folder):
    """Eight-bit linear layers, as quantised checkpoints have: traced as they are, near the exact ones."""
    exact = repdyn.trace(repdyn.load(f"hf:{folder}"), IDS)
    module = AutoModel.from_pretrained(folder)
    for layer in module.encoder.layer:
        for part in layer.modules():
            for name, child in list(part.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(part, name, EightBit(child))
    paths = repdyn.trace(module, IDS)
    assert paths.points == exact.points
    for name in paths.points:
        away = np.abs(np.asarray(paths[name]) - np.asarray(exact[name])).max()
        assert 0 < away < 0.1


def test_a_gguf_file_is_the_model_it_was_written_from(tmp_path):
    pytest.importorskip("gguf")  # which transformers needs to read such files
    pytest.importorskip("accelerate")
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=60, max_position_embeddings=64, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
    write_gguf(model, tmp_path / "tiny.gguf")
    expected = repdyn.trace(model, IDS)
    loaded = repdyn.load(f"hf:{tmp_path / 'tiny.gguf'}")
    found = repdyn.trace(loaded, IDS)
    assert found.points == expected.points
    for name in found.points:
        np.testing.assert_allclose(np.asarray(found[name]), np.asarray(expected[name]), atol=1e-5)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-5)


def write_gguf(model, path):
    """A Llama in llama.cpp's format, in float32; its rotary pairs are interleaved."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size)
    names = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
        "model.layers": "blk", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    for name, weight in model.state_dict().items():
        values, heads = weight.numpy(), 0
        if "q_proj" in name or "k_proj" in name:
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            split = values.reshape(heads, 2, values.shape[0] // heads // 2, values.shape[1])
            values = np.ascontiguousarray(split.swapaxes(1, 2).reshape(values.shape))
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class EightBit(nn.Module):
    """A linear layer whose weights are integers and a scale per row."""

    def __init__(self, linear):
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("weight", (linear.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", linear.bias.detach())

    def forward(self, x):
        return nn.functional.linear(x, self.weight * self.scale, self.bias)


def test_options_reach_from_pretrained(folder, monkeypatch):
    model = repdyn.load(f"hf:{folder}", dtype=torch.bfloat16)
    assert next(model.module.parameters()).dtype == torch.bfloat16
    given = {}
    real = AutoModel.from_pretrained

    def watched(name, **options):
        given.update(options)
        options.pop("quantization_config")
        return real(name, **options)

    monkeypatch.setattr(AutoModel, "from_pretrained", watched)
    repdyn.load(f"hf:{folder}", quantization_config="theirs")
    assert given["quantization_config"] == "theirs"
    assert given["trust_remote_code"] is False
    with pytest.raises(RepdynError, match="takes no device_map"):
        repdyn.load("packaged:all-MiniLM-L6-v2", device_map="auto")
