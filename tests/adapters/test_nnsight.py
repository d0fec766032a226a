"""Interventions: identity changes nothing, what is put in is what the rest sees, the model is left alone."""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict
from dataclasses import dataclass

import pytest
import timm
import torch
import transformers as hf
from torch import nn

import repdyn
from repdyn.errors import RepdynError
from repdyn_adapters.shared import quietly
from repdyn_adapters.timm import TimmAdapter
from repdyn_adapters.transformers import TransformersAdapter

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(5, 4, generator=GENERATOR)


def double(x):
    return 2 * x


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


@pytest.fixture
def chain():
    return repdyn.wrap(seeded(lambda: nn.Sequential(*(nn.Linear(4, 4) for _ in range(5)))))


@dataclass
class Output:
    flag: bool
    value: torch.Tensor


class Block(nn.Module):
    """Gives its result in one of the wrappings that libraries use."""

    def __init__(self, wrapping):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.wrapping = wrapping

    def forward(self, x):
        y = self.linear(x)
        return {
            "tensor": y,
            "tuple": (y, None),
            "list": [None, y],
            "dict": {"other": 3, "value": y},
            "ordered": OrderedDict(other=torch.zeros(1), last_hidden_state=y),
            "dataclass": Output(True, y),
            "nested": ((y, x), None),
        }[self.wrapping]


def open_up(value):
    if isinstance(value, dict):
        return value.get("last_hidden_state", value.get("value"))
    if isinstance(value, Output):
        return value.value
    while isinstance(value, (tuple, list)):
        value = next(item for item in value if item is not None)
    return value


class Wrapped(nn.Module):
    def __init__(self, wrapping):
        super().__init__()
        self.blocks = nn.ModuleList(Block(wrapping) for _ in range(3))

    def forward(self, x):
        for block in self.blocks:
            x = open_up(block(x))
        return x


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.idle = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(self.layer(self.layer(x)))


class Bypass(nn.Module):
    """What the first layer gives passes the second by."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        y = self.first(x)
        return self.second(y) + y


def test_functions_in_any_order_see_what_those_before_them_changed(chain):
    layers = chain.module
    expected = layers[4](2 * layers[3](layers[2](layers[1](layers[0](X)) + 1)))
    found = chain.patched({"3": double, "1": lambda x: x + 1})(X)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("wrapping", ["tensor", "tuple", "list", "dict", "ordered", "dataclass", "nested"])
def test_every_wrapping_of_an_output(wrapping):
    model = repdyn.wrap(seeded(lambda: Wrapped(wrapping)))
    blocks = [block.linear for block in model.module.blocks]
    assert torch.equal(model.patched({"blocks.1": double})(X), blocks[2](2 * blocks[1](blocks[0](X))))
    for _ in range(2):
        assert torch.equal(model.run_from("blocks.1", X, X), blocks[2](X))


def test_a_module_called_several_times():
    model = repdyn.wrap(seeded(Shared), points=["layer"])
    layer = model.module.layer
    assert torch.equal(model.patched({"layer#1": double})(X), layer(2 * layer(layer(X))))
    assert torch.equal(model.patched({"layer#0": double})(X), layer(layer(2 * layer(X))))
    assert torch.equal(model.patched({"layer": double})(X), 2 * layer(2 * layer(2 * layer(X))))
    assert torch.equal(model.run_from("layer#1", X, X), layer(X))
    with pytest.raises(RepdynError, match=r"called 3 times; the last is layer#2"):
        model.patched({"layer#3": double})(X)
    with pytest.raises(RepdynError, match=r"called 3 times; name one call, layer#0 … layer#2"):
        model.run_from("layer", X, X)


def test_a_module_that_is_never_called():
    model = repdyn.wrap(Shared())
    for name in ("idle", "idle#0"):
        with pytest.raises(RepdynError, match=f"'{name}': the module is never called"):
            model.patched({name: double})(X)
    with pytest.raises(RepdynError, match="never called"):
        model.run_from("idle", X, X)


def test_gradients_flow(chain):
    x = X.clone().requires_grad_()
    for _ in range(2):  # the first call runs the whole model, the second skips what it can
        (found,) = torch.autograd.grad(chain.run_from("2", x, X).square().sum(), x)
        y = X.clone().requires_grad_()
        (expected,) = torch.autograd.grad(chain.module[4](chain.module[3](y)).square().sum(), y)
        assert torch.equal(found, expected)


def test_what_comes_before_the_point_is_skipped(chain):
    calls = []
    logits = chain.run_from("3", X, X)
    original = nn.Linear.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Linear, "forward", lambda self, x: calls.append(self) or original(self, x))
        again = chain.run_from("3", X, X)
    assert calls == [chain.module[4]]
    assert torch.equal(logits, again)


def test_a_path_around_the_point_is_never_cut():
    model = repdyn.wrap(seeded(Bypass), points=["first", "second"])
    for _ in range(2):
        assert torch.equal(model.run_from("second", X, 3 * X), X + model.module.first(3 * X))


def test_weights_that_changed_are_looked_at_again():
    model = repdyn.wrap(seeded(Bypass), points=["first", "second"])
    with torch.no_grad():
        model.module.first.weight.zero_()
        model.module.first.bias.zero_()
        model.run_from("second", X, X)
        model.module.first.weight.add_(1)
        assert torch.equal(model.run_from("second", X, X), X + model.module.first(X))


def state_of(module):
    return [
        (dict(part.__dict__), part.training, dict(part._forward_hooks), dict(part._forward_pre_hooks))
        for part in module.modules()
    ] + [(weight.requires_grad, weight.grad) for weight in module.parameters()]


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was_found(chain, fails):
    module = chain.module
    module.train()
    module[2].eval()
    module[1].weight.requires_grad_(False)
    module[3].forward = lambda x: 3 * x  # somebody else's patch stays, and is seen
    before, dice = state_of(module), torch.get_rng_state()

    def function(x):
        torch.rand(3)
        if fails:
            raise KeyError("the user's own")
        return x

    if fails:
        with pytest.raises(KeyError, match="the user's own"):
            chain.patched({"1": function})(X)
        with pytest.raises(RuntimeError):
            chain.patched({"1": function})(torch.zeros(5, 7))
    else:
        expected = module(X)
        assert torch.equal(chain.patched({"1": function})(X), expected)
        chain.run_from("1", X, X)
    assert state_of(module) == before
    assert torch.equal(torch.get_rng_state(), dice)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.patched({"9": double}), r"'9'.*nearest"),
        (lambda m: m.patched({"1#x": double}), "'1#x'"),
        (lambda m: m.patched({3: double}), "point 3"),
        (lambda m: m.patched({"1": 3}), "expected a function, got int"),
        (lambda m: m.patched(double), r"expected \{point: function\}"),
        (lambda m: m.patched({"1": lambda x: x[:, :2]})(X), r"shape \(5, 2\), expected .* \(5, 4\)"),
        (lambda m: m.patched({"1": lambda x: x.detach().numpy()})(X), "gave a ndarray"),
        (lambda m: m.run_from("9", X, X), "'9'"),
        (lambda m: m.run_from("1", X), "pass inputs="),
        (lambda m: m.run_from("1", torch.zeros(5, 3), X), r"x has shape \(5, 3\)"),
        (lambda m: m.run_from("1", torch.zeros(4, 4), X), r"x has shape \(4, 4\)"),
        (lambda m: m.patched({"1": double}, remote=True)(X), "only models by name"),
        (lambda m: m.run_from("1", X, remote=True), "need inputs="),
    ],
)
def test_what_cannot_be(chain, call, message):
    with pytest.raises(RepdynError, match=message):
        call(chain)


def test_without_inputs_where_the_point_decides():
    model = TimmAdapter().wrap(seeded(lambda: timm.create_model("test_vit").eval()))
    pictures = torch.randn(2, 3, 160, 160, generator=GENERATOR)
    kept = []
    with torch.inference_mode():
        logits = model.patched({"blocks.2": lambda x: kept.append(x) or x})(pictures)
        assert torch.equal(logits, model.module(pictures))
        for _ in range(2):
            assert torch.equal(model.run_from("blocks.2", kept[0]), logits)
        with pytest.raises(RepdynError, match=r"\(2, 101, 64, 1\).*the model gives \(2, 101, 64\)"):
            model.run_from("blocks.2", kept[0][..., None])
        with pytest.raises(RepdynError, match=r"the model gives \(2, 101, 64\)"):
            model.run_from("blocks.2", kept[0].mean(1))


SMALL = {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 48, "d_kv": 8, "vocab_size": 60}
TEXTS = [torch.arange(5, 9), torch.arange(20, 31)]


def test_without_inputs_where_something_passes_by():
    model = TransformersAdapter().wrap(seeded(lambda: hf.T5Model(hf.T5Config(**SMALL)).eval()))
    kept = {}
    with torch.inference_mode():
        prepared = model.prepare(TEXTS)

        def keep(name):
            return lambda x: kept.setdefault(name, x)

        names = ("encoder.block.1", "decoder.block.0")
        expected = model.patched({name: keep(name) for name in names})(prepared)
        for name in names:
            assert torch.equal(model.run_from(name, kept[name], prepared), expected)
        with pytest.raises(RepdynError, match="another path bypasses it"):
            model.run_from("decoder.block.0", kept["decoder.block.0"])


def test_remote_rehearsed_here(tmp_path):
    """The request is written, read back with all of our own code hidden, and run."""
    import nnsight

    nnsight.register(__name__)  # functions of this module travel as source
    model = folder_model(tmp_path)
    prepared = model.prepare(TEXTS)
    with torch.inference_mode():
        expected = model.patched({"layers.0": double})(prepared)
        assert torch.equal(model.patched({"layers.0": double}, remote="local")(prepared), expected)
        x = torch.randn(2, 11, 32, generator=GENERATOR)
        here = model.run_from("layers.0", x, prepared)
        assert torch.equal(model.run_from("layers.0", x, prepared, remote="local"), here)


def test_remote_builds_the_request(tmp_path, monkeypatch):
    """What would be sent: the model by name, the inputs, the functions as source; never the weights."""
    import nnsight
    from nnsight.intervention.backends.remote import RemoteBackend
    from nnsight.modeling.huggingface import _ID_CACHE
    from nnsight.schema.request import RequestModel

    nnsight.register(__name__)
    model = folder_model(tmp_path)
    prepared = model.prepare(TEXTS)
    monkeypatch.setitem(_ID_CACHE, str(tmp_path), "somebody/small-llama")
    sent = []

    def request(backend, envelope, tracer):
        sent.append((backend.host, envelope, RequestModel.serialize(tracer)))
        return {"kept": model.module(**prepared)}

    monkeypatch.setattr(RemoteBackend, "request", request)
    with torch.inference_mode():
        logits = model.patched({"layers.0": double}, remote="https://models.example")(prepared)
        assert torch.equal(logits, model.patched({})(prepared))
    ((host, envelope, blob),) = sent
    assert host == "https://models.example"
    assert envelope.model_key.startswith("nnsight.modeling.transformers.TransformersModel:")
    assert '"repo_id": "somebody/small-llama"' in envelope.model_key
    assert '"task": "text-generation"' in envelope.model_key
    assert b"return 2 * x" in blob
    assert b"Module:model.model.layers.0" in blob
    assert model.module.layers[0].mlp.up_proj.weight.detach().numpy().tobytes() not in blob
    assert prepared["input_ids"].numpy().tobytes() in blob


def test_nothing_imports_nnsight_before_it_is_asked_for():
    code = "import repdyn, sys; repdyn.wrap; import repdyn_adapters.module; print('nnsight' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def folder_model(folder):
    from tokenizers import Tokenizer, models

    config = hf.LlamaConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        vocab_size=60,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with quietly():
        seeded(lambda: hf.LlamaForCausalLM(config)).save_pretrained(folder)
        words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(60)}, unk_token="w0"))
        hf.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w2", pad_token="w0").save_pretrained(
            folder
        )
        return repdyn.load(f"hf:{folder}")
