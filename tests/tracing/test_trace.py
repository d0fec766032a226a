"""The streaming loop: order, resume, refusals, and a model that is left as it was found."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import repdyn
from repdyn.errors import RepdynError
from repdyn.paths import PathsWriter
from repdyn.paths.layout import read_layout
from repdyn.progress import listening
from repdyn.tracing.samples import SHORT
from repdyn.tracing.stream import PREPARED_AHEAD

RNG = np.random.default_rng(0)
X = RNG.normal(size=(11, 6)).astype(np.float32)


def mlp():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 5), nn.Dropout(), nn.Linear(5, 3))


def test_known_values():
    module = mlp().eval()
    paths = repdyn.trace(module, X, labels=np.arange(11) % 2, ids=[f"s{i}" for i in range(11)], batch_size=4)
    assert paths.points == ("0", "2", "4")
    with torch.inference_mode():
        first = module[0](torch.from_numpy(X))
    np.testing.assert_array_equal(np.asarray(paths["0"])[:4], first.numpy()[:4])
    np.testing.assert_allclose(np.asarray(paths["0"]), first.numpy(), rtol=1e-6)
    np.testing.assert_array_equal(paths.labels, np.arange(11) % 2)
    assert paths.ids[3] == "s3"
    assert paths.meta["digest"] == repdyn.wrap(module).digest
    assert len(paths.meta["digest"]) == 64


def test_the_model_is_left_as_it_was_found():
    module = mlp().train()
    module[3].eval()
    before = copy.deepcopy(module.state_dict())
    state = torch.get_rng_state()
    attributes = set(vars(module[0]))
    repdyn.trace(module, X)
    with pytest.raises(RepdynError):
        repdyn.trace(module, np.full((2, 6), np.nan, dtype=np.float32))
    assert [part.training for part in module] == [True, True, True, False, True]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert set(vars(module[0])) == attributes
    assert all(weight.requires_grad for weight in module.parameters())


def test_inputs_of_many_kinds_give_the_same():
    module = mlp()
    expected = np.asarray(repdyn.trace(module, X)["4"])
    labels = torch.arange(11)
    for inputs in (
        torch.from_numpy(X),
        list(X),
        (row for row in X),
        [torch.from_numpy(row) for row in X],
        X.astype(np.float64),
    ):
        np.testing.assert_array_equal(np.asarray(repdyn.trace(module, inputs)["4"]), expected)
    paths = repdyn.trace(module, TensorDataset(torch.from_numpy(X), labels))
    np.testing.assert_array_equal(np.asarray(paths["4"]), expected)
    np.testing.assert_array_equal(paths.labels, labels)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_its_samples_labels_and_workers(workers):
    """Not its batches: the trace makes its own, and only the order of the data set makes sense."""
    loader = DataLoader(TensorDataset(torch.from_numpy(X), torch.arange(11)), 3, num_workers=workers)
    paths = repdyn.trace(mlp(), loader, batch_size=4)
    expected = repdyn.trace(mlp(), X, batch_size=4)
    np.testing.assert_array_equal(np.asarray(paths["4"]), np.asarray(expected["4"]))
    np.testing.assert_array_equal(paths.labels, np.arange(11))


def test_labels_beside_a_data_set_spare_reading_it_twice():
    class Rows(Dataset):
        targets = tuple(range(11))
        reads = 0

        def __len__(self):
            return 11

        def __getitem__(self, number):
            self.reads += 1
            return X[number], self.targets[number]

    rows = Rows()
    paths = repdyn.trace(mlp(), rows)
    np.testing.assert_array_equal(paths.labels, np.arange(11))
    assert rows.reads <= 11 + 3  # the first one also to see what it gives, to learn the points, to plan


@pytest.mark.parametrize("kept", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("computed", [None, "bfloat16", "float16"])
def test_stored_and_computed_in_types_chosen_apart(kept, computed):
    module = mlp()
    exact = repdyn.trace(module, X)
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    paths = repdyn.trace(module, X, dtype=kept, compute_dtype=computed)
    values = np.asarray(paths["4"])
    assert values.dtype == (np.float32 if kept == "bfloat16" else kept)
    coarse = {"float16": 2e-3, "bfloat16": 2e-2}
    away = np.abs(values - np.asarray(exact["4"])).max()
    bound = max(coarse.get(str(kind), 1e-6) for kind in (kept, computed))
    assert away < 2 * bound
    if kept in coarse or computed is not None:
        assert away > bound / 1000  # it did make a difference
    if kept == "bfloat16" or computed == "bfloat16":  # and the last 16 bits are gone
        held = torch.from_numpy(values.astype(np.float32))
        assert torch.equal(held, held.bfloat16().float())
    assert all(torch.equal(before[name], weight) for name, weight in module.state_dict().items())
    assert all(weight.dtype == torch.float32 for weight in module.parameters())
    assert paths.meta.get("compute_dtype") == computed


def test_bfloat16_on_disk_is_what_it_is_in_memory(tmp_path):
    memory = repdyn.trace(mlp(), X, dtype="bfloat16")
    disk = repdyn.trace(mlp(), X, dtype="bfloat16", out=tmp_path / "a.paths")
    for name in memory.points:
        np.testing.assert_array_equal(np.asarray(disk[name]), np.asarray(memory[name]))
    assert disk.meta["rounded_to"] == "bfloat16"


def test_a_model_in_half_precision_runs_in_it():
    half = mlp().bfloat16()
    paths = repdyn.trace(half, X)
    with torch.inference_mode():
        expected = half.eval()(torch.from_numpy(X).bfloat16()).float().numpy()
    np.testing.assert_allclose(np.asarray(paths["4"]), expected, rtol=2e-2, atol=1e-2)
    assert np.asarray(paths["4"]).dtype == np.float32
    assert next(half.parameters()).dtype == torch.bfloat16


def test_further_words_are_kept():
    assert repdyn.trace(mlp(), X, meta={"skipped": {"a": "broken"}}).meta["skipped"] == {"a": "broken"}


def test_texts_are_sorted_for_the_model_and_put_back():
    seen = []

    def prepare(texts):
        seen.append([len(text) for text in texts])
        return torch.tensor([[float(len(text))] for text in texts])

    texts = ["x" * int(length) for length in RNG.integers(1, 50, 300)]
    module = nn.Sequential(nn.Identity(), nn.Linear(1, 1))
    model = repdyn.wrap(module, prepare=prepare, points=["0"])
    paths = repdyn.trace(model, texts, batch_size=16)
    np.testing.assert_array_equal(np.asarray(paths["0"])[:, 0], [len(text) for text in texts])
    assert all(max(batch) - min(batch) <= 8 for batch in seen)


def token_model(seen):
    """Texts of digits; as long to the model as they say, whatever their characters."""

    def prepare(texts):
        longest = max(map(int, texts))
        seen.append([int(text) for text in texts])
        mask = torch.arange(longest) < torch.tensor([int(text) for text in texts])[:, None]
        return {"x": torch.where(mask, 1.0, torch.nan).unsqueeze(-1), "mask": mask}

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Identity()

        def forward(self, x, mask):
            return self.block(x * mask.sum(1, keepdim=True).unsqueeze(-1))

    model = repdyn.wrap(Masked(), prepare=prepare, points={"block": "NLC"})
    points = {"block": dataclasses.replace(model.points["block"], mask="mask")}
    return dataclasses.replace(
        model, points=points, pooling="mean", lengths=lambda texts: [int(text) for text in texts]
    )


def test_batches_are_of_nearly_equal_tokens_and_short_samples_share_them():
    lengths = RNG.integers(1, 300, 500)
    texts = [str(length).zfill(int(RNG.integers(3, 30))) for length in lengths]
    seen = []
    paths = repdyn.trace(token_model(seen), texts, batch_size=4)
    np.testing.assert_array_equal(np.asarray(paths["block"])[:, 0], lengths)
    batches = seen  # nothing is run but the batches
    assert sorted(length for batch in batches for length in batch) == sorted(lengths)
    assert max(max(batch) * len(batch) for batch in batches) <= 4 * 300
    assert all(len(batch) >= 4 or batch is batches[-1] for batch in batches)
    assert all(max(batch) * len(batch) <= 4 * SHORT for batch in batches if len(batch) > 4)
    assert any(len(batch) > 4 for batch in batches)
    padding = sum(max(batch) * len(batch) - sum(batch) for batch in batches) / lengths.sum()
    assert padding < 0.05


def test_a_few_long_texts_among_short_ones_are_not_mostly_padding():
    lengths = np.concatenate([np.full(5, 700), np.full(3, 200), RNG.integers(3, 12, 300)])
    seen = []
    paths = repdyn.trace(token_model(seen), [str(n) for n in RNG.permutation(lengths)], batch_size=32)
    assert len(paths) == len(lengths)
    assert sorted(length for batch in seen for length in batch) == sorted(lengths)
    assert sum(max(batch) * len(batch) for batch in seen) < 2 * lengths.sum()
    assert all(min(batch) >= max(batch) / 2 for batch in seen if max(batch) > SHORT)
    assert len(seen) < 6  # the short ones still share theirs


def test_few_batches_are_alive_at_once_whatever_the_number_of_samples(tmp_path):
    """Inputs are let go as the model goes on, and so is what was read of them, once its chunk is written."""
    alive, most, parts = set(), [0, 0], set()

    def prepare(rows):
        batch = torch.from_numpy(np.stack(rows))
        alive.add(id(batch))
        weakref.finalize(batch, alive.discard, id(batch))
        most[0] = max(most[0], len(alive))
        return batch

    def own(tokens):
        pooled = tokens.values[:, 0].clone()
        parts.add(id(pooled))
        weakref.finalize(pooled, parts.discard, id(pooled))
        most[1] = max(most[1], len(parts))
        return pooled

    wide = repdyn.wrap(nn.Sequential(nn.Linear(6, 2000)), prepare, points={"0": "N*C"})
    x = np.random.default_rng(0).normal(size=(4000, 1, 6)).astype(np.float32)
    repdyn.trace(wide, x, pool=own, batch_size=16, out=tmp_path / "a.paths")
    assert most[0] <= PREPARED_AHEAD + 2
    assert most[1] <= 4 * (256 // 16)  # of 250 batches; a chunk of this store has 256 rows


def test_the_disk_is_written_to_while_the_model_reads_on(tmp_path, monkeypatch):
    """The second chunk is being read before the first one is on disk."""
    reading, order = threading.Event(), []
    write = PathsWriter.write_chunk

    def slow(self, start, *args, **kwargs):
        if start == 0:
            order.append(reading.wait(30))
        order.append(threading.current_thread() is threading.main_thread())
        write(self, start, *args, **kwargs)

    monkeypatch.setattr(PathsWriter, "write_chunk", slow)

    def prepare(rows):
        if rows[-1][0] >= 110:
            reading.set()
        return torch.from_numpy(np.stack(rows))

    x = np.arange(300, dtype=np.float32)[:, None].repeat(6, 1)
    paths = repdyn.trace(repdyn.wrap(mlp(), prepare), x, out=tmp_path / "a.paths", batch_size=16)
    assert order[0] is True
    assert not any(order[1:2])
    np.testing.assert_array_equal(
        np.asarray(paths["0"]), np.asarray(repdyn.trace(mlp(), x, batch_size=16)["0"])
    )


def test_a_write_that_fails_is_not_lost_in_its_thread(tmp_path, monkeypatch):
    def full(self, start, *args, **kwargs):
        raise RepdynError("the disk is full")

    monkeypatch.setattr(PathsWriter, "write_chunk", full)
    with pytest.raises(RepdynError, match="disk is full"):
        repdyn.trace(mlp(), X, out=tmp_path / "a.paths")


def test_not_finite_names_point_and_sample():
    bad = X.copy()
    bad[7, 2] = np.inf
    with pytest.raises(RepdynError, match=r"point '0' .* sample 7 \(id 'g'\)"):
        repdyn.trace(mlp(), bad, ids=list("hibcdefgajk"), batch_size=3)


def test_overflow_of_the_stored_type_is_not_silent():
    with pytest.raises(RepdynError, match="float32"):
        repdyn.trace(mlp(), X * 1e7, dtype="float16")
    half = repdyn.trace(mlp(), X, dtype="float16")
    assert np.asarray(half["0"]).dtype == np.float16


class Odd(nn.Module):
    """A shared layer, an unused one, a tuple, and windows folded into the samples' axis."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(6, 6)
        self.unused = nn.Linear(6, 6)
        self.windows = nn.Linear(3, 3)
        self.rnn = nn.LSTM(6, 4, batch_first=True)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        x = self.shared(self.shared(self.shared(x)))
        x = self.windows(x.reshape(-1, 3)).reshape(-1, 6)
        return self.rnn(x[:, None])


def test_shared_unused_and_windowed_modules():
    paths = repdyn.trace(Odd(), X, points=["shared", "rnn"])
    assert paths.points == ("shared#0", "shared#1", "shared#2", "rnn")
    assert paths.widths["rnn"] == 4
    only = repdyn.trace(Odd(), X, points=["shared#1"])
    assert only.points == ("shared#1",)
    with pytest.raises(RepdynError, match="never called"):
        repdyn.trace(Odd(), X, points=["unused"])
    with pytest.raises(RepdynError, match=r"'windows'.*no axis is that of the samples"):
        repdyn.trace(Odd(), X, points=["windows"])
    with pytest.raises(RepdynError, match="called 3 times"):
        repdyn.trace(Odd(), X, points=["shared#3"])


def test_the_pass_ends_after_the_last_point():
    module = nn.Sequential(nn.Linear(6, 5), nn.Linear(4, 4))  # the second cannot run
    with pytest.raises(RepdynError, match=r"first sample .*shapes"):
        repdyn.trace(module, X, points=["0"])
    counted = nn.Sequential(nn.Linear(6, 5), Counting())
    repdyn.trace(counted, X, points=["0"], batch_size=2)
    assert counted[1].calls == 1  # in the first sample's pass, which learns what there is


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x


def test_head_gives_logits():
    module = mlp()
    model = repdyn.wrap(module, head=module[4], points=["0", "2"])
    paths = repdyn.trace(model, X)
    with torch.inference_mode():
        expected = module.eval()(torch.from_numpy(X))
    # wrap's last point is the input of nothing but Dropout, the identity here
    np.testing.assert_allclose(paths.logits, expected.numpy(), rtol=1e-5, atol=1e-6)
    assert repdyn.trace(model, X, points=["0"]).logits is None


def test_own_pooling():
    def largest(tokens):
        return tokens.values.amax(1)

    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 3))
    pictures = RNG.normal(size=(2, 1, 8, 8)).astype(np.float32)
    paths = repdyn.trace(module, pictures, pool=largest)
    with torch.inference_mode():
        expected = module[0](torch.from_numpy(pictures)).amax((2, 3)).numpy()
    np.testing.assert_array_equal(np.asarray(paths["0"]), expected)
    assert "largest" in paths.meta["pooling"]
    with pytest.raises(RepdynError, match="the function returned shape"):
        repdyn.trace(module, pictures, pool=lambda tokens: tokens.values)


@pytest.mark.parametrize("points", [None, "all"])
@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (
            lambda tokens: tokens.mean(1),
            "the function raised AttributeError: 'Tokens' .* one repdyn.tracing.Tokens",
        ),
        (lambda: None, "the function raised TypeError"),
        (lambda tokens: None, "the function returned NoneType, expected a tensor"),
        (lambda tokens: tokens.values.sum(), r"the function returned shape \(\)"),
    ],
)
def test_a_function_that_fails_to_pool_is_named_and_not_the_model(pool, message, points) -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    given = {} if points is None else {"points": points}
    with pytest.raises(RepdynError, match=f"pool: {message}"):
        repdyn.trace(module, RNG.normal(size=(5, 4)).astype(np.float32), pool=pool, **given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": []}, "no samples"),
        ({"inputs": "one text"}, "a sequence of samples"),
        ({"inputs": 3}, "a sequence of samples"),
        ({"labels": [1, 2]}, "labels: 2 labels for 11 samples"),
        ({"ids": ["a"] * 11}, "'a' occurs twice"),
        ({"points": ["1", "nowhere"]}, "nearest"),
        ({"points": []}, "the list is empty"),
        ({"points": "nothing.*"}, "no point 'nothing"),
        ({"pool": "meen"}, "nearest"),
        ({"dtype": "int8"}, "dtype"),
        ({"dtype": "nonsense"}, "dtype"),
        ({"compute_dtype": "int8"}, "compute_dtype"),
        ({"compute_dtype": "float64"}, "compute_dtype"),
        ({"inputs": [{"x": X[0], "y": 1}]}, "dict of x, y"),
        ({"inputs": ["a text", "another"]}, "prepare="),
        ({"inputs": np.zeros((2, 3), np.float32)}, "cannot be called with the first sample"),
        ({"inputs": DataLoader(TensorDataset(torch.zeros(4, 6)), shuffle=True)}, "shuffles"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"device": "nowhere"}, "device"),
        ({"inputs": [np.zeros(6), np.zeros(5)]}, "different shapes"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message):
    given = {"inputs": X, **arguments}
    with pytest.raises(RepdynError, match=message) as caught:
        repdyn.trace(mlp(), **given)
    assert "\n" not in str(caught.value)


def test_progress_counts_samples():
    seen = []
    with listening(lambda text, done, total: seen.append((done, total))):
        repdyn.trace(mlp(), X, batch_size=4)
    assert seen == [(done, 11) for done in range(12)]


def test_disk_and_memory_agree(tmp_path):
    module = mlp()
    memory = repdyn.trace(module, X, labels=np.arange(11), batch_size=4)
    disk = repdyn.trace(module, X, labels=np.arange(11), batch_size=4, out=tmp_path / "a.paths")
    for name in memory.points:
        np.testing.assert_array_equal(np.asarray(disk[name]), np.asarray(memory[name]))
    np.testing.assert_array_equal(disk.labels, memory.labels)
    tokens = repdyn.wrap(nn.Sequential(nn.Linear(6, 4)), points={"0": "NLC"})
    deep = RNG.normal(size=(5, 3, 6)).astype(np.float32)
    disk = repdyn.trace(tokens, deep, pool="none", out=tmp_path / "b.paths")
    assert np.asarray(disk["0"]).shape == (5, 3, 4)


def test_a_store_of_another_model_is_not_continued(tmp_path):
    out = tmp_path / "a.paths"
    repdyn.trace(mlp(), X, out=out)
    other = mlp()
    other[0].weight.data += 1
    with pytest.raises(RepdynError):
        repdyn.trace(other, X, out=out)
    with pytest.raises(RepdynError):
        repdyn.trace(mlp(), X + 1, out=out)
    repdyn.trace(other, X, out=out, resume=False)


SCRIPT = textwrap.dedent(
    """
    import os, sys, time
    import numpy as np, torch
    from torch import nn
    import repdyn

    prepared = []

    def run(out):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layer = nn.Sequential(nn.Linear(4, 60_000))

        def prepare(rows):
            time.sleep(float(os.environ.get("SLOW", 0)))  # no setting of the function, which is hashed
            prepared.append(len(rows))
            return torch.from_numpy(np.stack(rows))

        x = np.random.default_rng(0).normal(size=(640, 4)).astype("float32")
        return repdyn.trace(repdyn.wrap(layer, prepare), x, out=out, batch_size=20)

    if __name__ == "__main__":
        run(sys.argv[1])
    """
)


def test_a_killed_trace_goes_on_where_it_was(tmp_path, monkeypatch):
    """Every chunk written before ``kill -9`` is kept; the rest is traced once more, to the same values."""
    (tmp_path / "killed_trace.py").write_text(SCRIPT)
    out = tmp_path / "a.paths"
    victim = subprocess.Popen(
        [sys.executable, str(tmp_path / "killed_trace.py"), str(out)], env={**os.environ, "SLOW": "0.1"}
    )
    try:
        deadline = time.monotonic() + 120
        while not list(out.glob("ids/c/[0-9]*")) and victim.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    assert victim.returncode == -signal.SIGKILL
    kept = 640 - sum(map(len, missing(out)))
    assert 0 < kept < 640
    monkeypatch.syspath_prepend(tmp_path)
    killed_trace = importlib.import_module("killed_trace")
    resumed = killed_trace.run(out)
    # One sample goes ahead to learn the points; then only what was lost is prepared again.
    assert sum(killed_trace.prepared) == 1 + 640 - kept
    whole = killed_trace.run(tmp_path / "b.paths")
    np.testing.assert_array_equal(np.asarray(resumed["0"]), np.asarray(whole["0"]))


def missing(out):
    layout = read_layout(out)
    return PathsWriter(out, layout).missing


def test_an_interrupted_trace_keeps_whole_chunks(tmp_path):
    """An error in the middle leaves a store that the next trace completes."""
    wide = nn.Sequential(nn.Linear(6, 120_000))
    x = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    bad = x.copy()
    bad[299] = np.nan
    ids = [f"s{number}" for number in range(300)]

    class Rows(torch.utils.data.Dataset):
        def __init__(self, rows):
            self.rows = rows

        def __len__(self):
            return 300

        def __getitem__(self, number):
            return self.rows[number]

    with pytest.raises(RepdynError, match="sample 299"):
        repdyn.trace(wide, Rows(bad), ids=ids, out=tmp_path / "a.paths")
    assert 0 < sum(map(len, missing(tmp_path / "a.paths"))) < 300
    paths = repdyn.trace(wide, Rows(x), ids=ids, out=tmp_path / "a.paths")
    with torch.inference_mode():
        expected = wide(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(np.asarray(paths["0"]), expected, rtol=1e-4, atol=1e-5)
