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
