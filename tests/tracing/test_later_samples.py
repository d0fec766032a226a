"""A sample that fails is named wherever it stands, not only where it comes first."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import repdyn
from repdyn.errors import RepdynError

X = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)


def test_a_later_sample_that_the_model_cannot_take():
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    ids = np.ones((9, 2), np.int64)
    ids[6] = 7
    with pytest.raises(RepdynError, match=r"sample 6 \(id 'f'\).*IndexError"):
        repdyn.trace(model, ids, ids=list("jklmnofpq"), batch_size=4)


def test_a_later_sample_that_cannot_be_prepared():
    def prepare(rows):
        if any(row[0] == 100 for row in rows):
            raise KeyError("no such word")
        return torch.from_numpy(np.stack(rows))

    x = X.copy()
    x[7, 0] = 100
    with pytest.raises(RepdynError, match=r"sample 7 .*no such word"):
        repdyn.trace(repdyn.wrap(nn.Linear(4, 2), prepare), x, batch_size=3)


def test_a_later_sample_that_cannot_be_read():
    class Rows(Dataset):
        def __len__(self):
            return 9

        def __getitem__(self, number):
            if number == 5:
                raise OSError("unreadable")
            return X[number]

    with pytest.raises(RepdynError, match=r"sample 5 .*unreadable"):
        repdyn.trace(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), Rows(), batch_size=4)


class Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.step = nn.Linear(4, 4)

    def forward(self, x):
        for _ in range(2 if x.mean() < 10 else 3):
            x = self.step(x)
        return x


def test_more_calls_than_for_the_first_sample_are_not_dropped():
    x = X.copy()
    x[4] += 100
    model = repdyn.wrap(Loop(), points=["step"])
    with pytest.raises(RepdynError, match=r"sample 4 .*called more often"):
        repdyn.trace(model, x, batch_size=1)
    assert repdyn.trace(model, x, points=["step#1"], batch_size=1).points == ("step#1",)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([2**63 + 1] * 9, np.uint64), "does not fit into int64"),
        (["a"] * 8 + [float("nan")], "sample 8 is missing"),
        ([None] + ["a"] * 8, "sample 0 is missing"),
        (np.ones(9) * 0.5, "give integers or strings"),
    ],
)
def test_labels_are_refused_before_anything_runs(labels, message):
    class Never(nn.Module):
        def forward(self, x):
            raise AssertionError("the model ran")

    with pytest.raises(RepdynError, match=message):
        repdyn.trace(nn.Sequential(nn.Linear(4, 4), Never()), X, labels=labels)


def test_a_model_in_float64_is_given_float64():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).double()
    x = np.random.default_rng(1).normal(size=(5, 4))
    found = repdyn.trace(model, x, dtype="float64")
    with torch.no_grad():
        np.testing.assert_allclose(np.asarray(found["1"]), model(torch.from_numpy(x)), rtol=1e-12)


class Twice(nn.Module):
    """The only point runs once for the first sample, and again for one that is large."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.step = nn.Linear(4, 4)

    def forward(self, x):
        x = self.step(self.first(x))
        return self.step(x) if x.abs().mean() > 10 else x


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_last_point_that_runs_again_later_is_not_dropped(batch_size):
    x = X.copy()
    x[4] += 1e4
    model = repdyn.wrap(Twice(), points=["step"])
    with pytest.raises(RepdynError, match=r"sample [345] .*called more often"):
        repdyn.trace(model, x, batch_size=batch_size)
    # A call that is asked for by its number is there for all, and the rest of the pass is not needed.
    looped = nn.Sequential(nn.Linear(4, 4))
    assert repdyn.trace(looped, x, points=["0"]).points == ("0",)


class Rows(Dataset):
    def __len__(self):
        return 9

    def __getitem__(self, number):
        if number == 5:
            raise OSError("unreadable")
        return torch.from_numpy(X[number])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_a_loader_cannot_read_is_named(workers):
    loader = torch.utils.data.DataLoader(Rows(), batch_size=4, num_workers=workers)
    with pytest.raises(RepdynError, match=r"^sample 5 \(id '5'\): OSError: unreadable") as caught:
        repdyn.trace(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), loader, batch_size=4)
    assert "\n" not in str(caught.value)


def roberta():
    import transformers

    from repdyn_adapters.shared import quietly
    from repdyn_adapters.transformers import TransformersAdapter

    sizes = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.RobertaConfig(**sizes, intermediate_size=24, max_position_embeddings=14)
    with torch.random.fork_rng(), quietly():
        torch.manual_seed(0)
        return TransformersAdapter().wrap(transformers.RobertaModel(config).eval())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.full(13, 7), r"sample 3 .*13 token ids; the model has 12 positions"),
        (np.array([7, 60]), r"sample 3 .*token ids from 7 to 60; expected 0 to 59"),
        (np.array([-1, 7]), r"sample 3 .*token ids from -1 to 7"),
        (None, r"sample 3 .*NoneType"),
        (np.zeros(0, int), r"sample 3 .*shape \(0,\)"),
    ],
)
def test_a_later_text_that_is_no_input_of_the_model(bad, message):
    rows = [np.arange(5, 5 + length) for length in (4, 9, 6)] + [bad, np.arange(5, 8)]
    with pytest.raises(RepdynError, match=message) as caught:
        repdyn.trace(roberta(), rows, batch_size=2)
    assert "\n" not in str(caught.value)
    # Twelve are not too many: positions begin after that of padding.
    assert len(repdyn.trace(roberta(), [np.full(12, 7), *rows[:3]])) == 4


def test_a_file_name_that_is_no_unicode_is_an_id_like_others(tmp_path):
    name = "caf\udce9.png"  # what Python makes of a latin-1 name
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    with pytest.raises(RepdynError, match="sample 1") as caught:
        repdyn.trace(model, np.stack([X[0], np.full(4, np.nan, np.float32)]), ids=["a", name])
    assert "\n" not in str(caught.value)
    assert repdyn.trace(model, X[:2], ids=["a", name]).ids.tolist() == ["a", name]


def test_sparse_buffers_are_hashed_and_traced(tmp_path):
    class Graph(nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.register_buffer("edges", (torch.eye(4) * weight).to_sparse())
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return self.layer(torch.sparse.mm(self.edges, x.T).T)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Graph(2.0)
    paths = repdyn.trace(module, X, points=["layer"], out=tmp_path / "a.paths")
    with torch.no_grad():
        own = module.layer(torch.from_numpy(2 * X)).numpy()
    np.testing.assert_allclose(np.asarray(paths["layer"]), own, rtol=1e-5, atol=1e-6)
    other = Graph(3.0)
    other.layer = module.layer
    with pytest.raises(RepdynError, match="holds another trace"):
        repdyn.trace(other, X, points=["layer"], out=tmp_path / "a.paths")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_scripted_modules_are_refused_in_one_line():
    plain = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).eval()
    for module in (torch.jit.trace(plain, torch.zeros(2, 4)), nn.Sequential(torch.jit.script(plain))):
        with pytest.raises(RepdynError, match=r"scripted \(torch.jit\)"):
            repdyn.trace(module, X)
