"""The reader beside plain hooks, autograd and the trace; what it costs in passes, and how it is left."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import repdyn
from repdyn.errors import RepdynError
from repdyn.tracing import Point, passes
from repdyn.tracing.passes import pack, unpack

X = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
PICTURES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def mlp(head=None):
    return repdyn.wrap(
        seeded(lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 5), nn.ReLU(inplace=True))),
        head=head,
        points=["0", "2", "3"],
    )


def convolutions():
    return repdyn.wrap(
        seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 7, 3), nn.Flatten(2)))
    )


class Texts(nn.Module):
    """Token ids with a mask of padding: an embedding, and a block that mixes channels."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.block = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.block(self.table(ids))


def texts(**changes):
    model = repdyn.wrap(seeded(Texts), prepare=padded)
    points = {"block": Point("block", "NLC", mask="mask"), "table": Point("table", "NLC", mask="mask")}
    return repdyn.TracedModel(
        name="texts",
        module=model.module,
        points=points,
        default_points=("table", "block"),
        prepare=padded,
        **changes,
    )


def padded(samples):
    longest = max(map(len, samples))
    ids, mask = torch.zeros(len(samples), longest, dtype=torch.long), torch.zeros(len(samples), longest)
    for row, sample in enumerate(samples):
        ids[row, : len(sample)] = torch.as_tensor(sample)
        mask[row, : len(sample)] = 1
    return {"ids": ids, "mask": mask}


def hooked(module: nn.Module, names, call) -> dict[str, Tensor]:
    """What plain forward hooks see."""
    seen, parts = {}, dict(module.named_modules())
    handles = [
        parts[name].register_forward_hook(lambda _m, _a, out, name=name: seen.update({name: out.clone()}))
        for name in names
    ]
    call()
    for handle in handles:
        handle.remove()
    return seen


def passes_of(module: nn.Module):
    counted = []
    next(part for part in module.modules() if not list(part.children())).register_forward_pre_hook(
        lambda *_: counted.append(1)
    )
    return counted


def test_a_batch_gives_what_plain_hooks_see_in_one_pass():
    model = mlp()
    counted = passes_of(model.module)
    with model.reader() as read:
        found = [read(X[:4]), read.prepared(X[4:9].clone()), read(list(X[9:].numpy()))]
    assert len(counted) == 3
    for rows, one in zip((X[:4], X[4:9], X[9:]), found, strict=True):
        expected = hooked(model.module, model.default_points, lambda rows=rows: model.module(rows.clone()))
        assert list(one) == ["0", "2", "3"]
        for name, value in expected.items():
            torch.testing.assert_close(one[name], value, rtol=0, atol=0)


def test_pictures_are_pooled_and_the_trace_stores_the_same_bits():
    model = convolutions()
    seen = hooked(model.module, ["0", "2"], lambda: model.module(PICTURES))
    found = model.read(PICTURES, points=["0", "2"])
    paths = repdyn.trace(model, PICTURES, points=["0", "2"])
    for name, value in seen.items():
        torch.testing.assert_close(found[name], value.mean((2, 3)), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found[name].numpy(), np.asarray(paths[name]))


def test_tokens_are_masked_or_kept_with_their_mask():
    samples = [[1, 2, 3], [4], [5, 6]]
    model = texts()
    table = model.module.table.weight
    means = torch.stack([table[sample].mean(0) for sample in samples])
    torch.testing.assert_close(model.read(samples, pool="mean")["table"], means.detach())
    found = model.read(samples, points="table", pool="none")
    assert found.masks["table"].tolist() == [[True] * 3, [True, False, False], [True, True, False]]
    torch.testing.assert_close(found["table"][2, :2], table[samples[2]].detach())
    paths = repdyn.trace(model, samples, points="table", pool="none")
    np.testing.assert_array_equal(np.asarray(paths["table"])[2, :2], found["table"][2, :2].numpy())


def test_gradients_flow_to_inputs_and_weights_when_asked_for():
    model, x = convolutions(), PICTURES.clone().requires_grad_()
    with model.reader(["0", "2"], grad=True) as read:
        for _ in range(2):  # the batch that it learns from, and one more
            gradients = torch.autograd.grad(
                read.prepared(x, 6)["2"].square().sum(), [x, model.module[0].weight]
            )
            y = model.module[2](model.module[1](model.module[0](x))).mean((2, 3)).square().sum()
            expected = torch.autograd.grad(y, [x, model.module[0].weight])
            torch.testing.assert_close(gradients, expected)
    assert not model.read(PICTURES)["0"].requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_type_of_the_weights_is_kept_and_inputs_follow_it(dtype):
    model = mlp()
    model.module.to(dtype)
    found = model.read(X, points="0")["0"]
    assert found.dtype == dtype
    torch.testing.assert_close(found, model.module[0](X.to(dtype)), rtol=0, atol=0)


def test_logits_come_along_unless_they_are_too_wide(monkeypatch):
    head = seeded(lambda: nn.Linear(5, 3)).double()  # of another type than what it reads
    model = mlp(head)
    found = model.read(X)
    assert found.logits.dtype == torch.float32
    torch.testing.assert_close(found.logits, head(found["3"].double()).float())
    assert model.read(X, points=["0"]).logits is None
    monkeypatch.setattr("repdyn.tracing.reader.WIDEST_LOGITS", 2)
    assert model.read(X).logits is None


def test_the_head_is_evaluated_as_the_model_is():
    head = seeded(lambda: nn.Sequential(nn.Dropout(0.9), nn.Linear(5, 3))).train()
    found = mlp(head).read(X)
    torch.testing.assert_close(found.logits, head[1](found["3"]))
    assert head.training


def test_a_head_that_is_elsewhere_says_so():
    def head(x):
        raise RuntimeError("Expected all tensors to be on the same device, but found cuda:0 and cpu!")

    with pytest.raises(RepdynError, match=r"head is not on cpu, the device of '3'.*torch.nn.Module"):
        mlp(head).read(X)


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.register_buffer("seen", torch.zeros(1), persistent=False)

    def forward(self, x):
        self.cached = x
        return self.linear(x) + torch.rand(len(x), 6)


def test_the_code_around_keeps_its_gradients_and_its_dice():
    model = repdyn.wrap(nn.Sequential(seeded(Noisy), nn.Dropout())).module.train()
    model = repdyn.wrap(model, points=["0"])
    torch.manual_seed(3)
    expected = torch.rand(5), torch.rand(5)
    torch.manual_seed(3)
    drawn = [torch.rand(5)]
    with model.reader() as read:
        first, second = read(X), read(X)
        drawn.append(torch.rand(5))
        assert torch.is_grad_enabled()
        assert not model.module.training
    for a, b in zip(drawn, expected, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first["0"], second["0"])  # dice of its own, that roll on
    assert model.module.training
    assert not hasattr(model.module[0], "cached")
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.module.modules())


def test_it_is_left_as_it_was_found_when_a_batch_fails():
    model = mlp()
    model.module.train()
    with model.reader() as read:
        read(X)
        with pytest.raises(RuntimeError):
            read.prepared(torch.zeros(2, 7))
        assert not model.module.training

    def failing():
        with model.reader():
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert model.module.training
    assert not any(part._forward_hooks for part in model.module.modules())


class Forking(nn.Module):
    """Leaves its second part out where all of the input is negative."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        y = self.first(x)
        return y if bool((x < 0).all()) else self.second(y)


def test_a_point_that_a_later_pass_does_not_reach_is_named():
    model = repdyn.wrap(seeded(Forking), points=["first", "second"])
    with model.reader() as read:
        read(X)
        with pytest.raises(RepdynError, match="point 'second'"):
            read(-X.abs())
        assert list(read(X)) == ["first", "second"]  # it goes on
    with pytest.raises(RepdynError, match=r"point 'second'.*never called"):
        model.read(-X.abs(), ["first", "second"])


def test_misuse_is_one_line():
    model = mlp()
    reader = model.reader()
    with pytest.raises(RepdynError, match="closed"):
        reader(X)
    with reader as read:
        read(X)
        with pytest.raises(RepdynError, match=r"prepared\(inputs, count\)"):
            read({"x": X})
        with pytest.raises(RepdynError, match="give at least one"):
            read([])
        with pytest.raises(RepdynError, match="count="):
            read.prepared("text")
    for use in (lambda: reader(X), lambda: reader.prepared(X, 12)):
        with pytest.raises(RepdynError, match="closed"):
            use()
    with pytest.raises(RepdynError, match="no point 'x'"):
        model.reader("x")
    with pytest.raises(RepdynError, match="device 'nowhere'"):
        model.reader(device="nowhere")
    with pytest.raises(RepdynError, match="cannot be called with the first sample"):
        model.read(torch.zeros(2, 7))


def test_a_batch_on_a_device_without_a_copy_says_so():
    with mlp().reader() as read, pytest.raises(RepdynError, match="cannot be moved to cpu"):
        read.prepared(X.to("meta"), 12)


class Waiting(nn.Module):
    """Two passes of two threads run through it at once."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.barrier = nn.Linear(6, 6), threading.Barrier(2, timeout=20)

    def forward(self, x):
        self.barrier.wait()
        return self.linear(x)


def test_readers_of_two_threads_do_not_mix_their_batches():
    module = seeded(Waiting)
    model, found = repdyn.wrap(nn.Sequential(module), points=["0.linear"]), {}

    def run(number: int) -> None:
        with model.reader() as read:
            found[number] = [read(X[number : number + 3])["0.linear"] for _ in range(3)]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, values in found.items():
        for value in values:
            torch.testing.assert_close(value, module.linear(X[number : number + 3]))
    assert set(found) == {0, 1}


def test_a_second_thread_is_refused_by_the_reader_of_the_first():
    module = seeded(Waiting)
    told = []
    with repdyn.wrap(nn.Sequential(module), points=["0.linear"]).reader() as read:

        def other() -> None:
            with pytest.raises(RepdynError, match="another thread"):
                read(X)
            told.append(True)
            module.barrier.wait()

        module.register_forward_pre_hook(lambda *_: threading.Thread(target=other).start())
        read(X[:3])
    assert told == [True]


@pytest.mark.parametrize("pool", ["mean", "none"])
def test_a_batch_from_another_device_is_one_copy_of_the_same_bits(pool, monkeypatch):
    samples = [[k % 8 + 1] * (k % 4 + 1) for k in range(20)]
    model = texts()
    expected = repdyn.trace(model, samples, pool=pool, batch_size=8)
    packed, real = [], passes.pack
    monkeypatch.setattr(passes, "is_away", lambda tensor: True)
    monkeypatch.setattr(passes, "pack", lambda tensors: packed.append(len(tensors)) or real(tensors))
    found = repdyn.trace(model, samples, pool=pool, batch_size=8)
    for point in expected.points:
        np.testing.assert_array_equal(np.asarray(found[point]), np.asarray(expected[point]))
    # Both points at once; with tokens, both masks at once beside them.
    assert packed == [2] * 3 if pool == "mean" else packed == [2, 2] * 3


def test_what_is_packed_comes_back_bit_for_bit():
    rng = np.random.default_rng(0)
    shapes = [(3, 5), (3,), (3, 4, 2), (0, 7), (3, 1)]
    for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.bool):
        given = [torch.as_tensor(rng.normal(size=shape) * 3).to(dtype) for shape in shapes]
        given[2] = given[2].transpose(0, 1)  # a view that is not contiguous
        packed = pack(given)
        assert packed.ndim == 1
        back = unpack(packed, [one.shape for one in given])
        for one, other in zip(given, back, strict=True):
            assert torch.equal(one, other)
            assert one.dtype == other.dtype
            assert other.untyped_storage().data_ptr() == packed.untyped_storage().data_ptr()
