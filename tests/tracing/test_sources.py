"""What samples may come from: tables, sparse and masked arrays, data sets with odd items, reused buffers."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from scipy import sparse
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import repdyn
from repdyn.errors import RepdynError
from repdyn.paths import RepresentationPaths

X = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)


def mlp():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))


def expected(x):
    with torch.no_grad():
        return mlp()(torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))).numpy()


def last(paths):
    return np.asarray(paths[paths.points[-1]])


class Items(Dataset):
    """A data set whose items a function gives."""

    def __init__(self, item, size=9):
        self.item, self.size = item, size

    def __len__(self):
        return self.size

    def __getitem__(self, number):
        return self.item(number)


class Stream(IterableDataset):
    def __iter__(self):
        return ((torch.from_numpy(row), number) for number, row in enumerate(X))


def through_a_buffer():
    buffer = np.zeros(4, np.float32)
    for row in X:
        buffer[:] = row
        yield buffer


BUFFER = torch.zeros(4)

SOURCES = {
    "table of numbers": lambda: pd.DataFrame(X, columns=list("abcd")),
    "table with numbers as names": lambda: pd.DataFrame(X),
    "sparse matrix": lambda: sparse.csr_matrix(X),
    "foreign byte order": lambda: X.astype(">f4"),
    "long doubles": lambda: X.astype(np.longdouble),
    "generator that fills one buffer": through_a_buffer,
    "data set that fills one buffer": lambda: Items(lambda number: BUFFER.copy_(torch.from_numpy(X[number]))),
    "stream of pairs in a loader": lambda: DataLoader(Stream(), batch_size=2),
}


@pytest.mark.parametrize("source", SOURCES)
def test_rows_are_read_as_they_are(source):
    np.testing.assert_allclose(
        last(repdyn.trace(mlp(), SOURCES[source](), batch_size=4)), expected(X), atol=1e-6
    )


class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = mlp()

    def forward(self, x):
        time.sleep(0.02)  # the next batch is prepared meanwhile
        return self.body(x)


def test_a_function_that_prepares_every_batch_in_one_buffer():
    buffer = torch.zeros(2, 4)

    def prepare(rows):
        for number, row in enumerate(rows):
            buffer[number] = torch.from_numpy(row)
        return buffer[: len(rows)]

    model = repdyn.wrap(Slow(), prepare, points=["body.1"])
    np.testing.assert_allclose(last(repdyn.trace(model, X, batch_size=2)), expected(X), atol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            pd.DataFrame({"text": ["a", "b"], "label": [0, 1]}),
            r"DataFrame with the columns text, label; pass one",
        ),
        (pa.table({"text": ["a", "b"]}), r"Table with the columns text; pass one"),
        (np.ma.masked_array(X, mask=np.eye(9, 4) > 0), r"sample 0 .*are masked"),
        (DataLoader(X, collate_fn=lambda rows: 2 * torch.tensor(np.stack(rows))), "collate_fn of its own"),
        (Items(lambda k: (X[k], k) if k != 5 else None), "sample 5: is a NoneType, the first item a pair"),
        (Items(lambda k: (X[k], k) if k != 5 else X[k]), "sample 5: is a ndarray, the first item a pair"),
        (Items(lambda k: (X[k], 0.5)), r"labels: have dtype float64.*second parts of the items of Items"),
    ],
)
def test_what_is_no_sequence_of_samples_is_refused(inputs, message):
    with pytest.raises(RepdynError, match=message):
        repdyn.trace(mlp(), inputs)


def test_an_item_without_a_label_is_named_where_labels_are_given():
    with pytest.raises(RepdynError, match=r"sample 5 .*is a ndarray"):
        repdyn.trace(mlp(), Items(lambda k: (X[k], k) if k != 5 else X[k]), labels=range(9))


@pytest.mark.parametrize(
    "targets", [list(range(9)), np.arange(9), torch.stack([torch.arange(9)] * 2, 1), {"a": 1, "b": 2}]
)
def test_labels_are_those_of_the_items_where_targets_are_others(targets):
    data = Items(lambda number: (X[number], int(number > 4)))
    data.targets = targets
    assert repdyn.trace(mlp(), data).labels.tolist() == [0] * 5 + [1] * 4


@pytest.mark.parametrize("kind", [int, str])
def test_a_single_item_that_disagrees_with_the_targets_is_named(kind):
    data = Items(lambda number: (X[number], kind(number % 3) if number != 3 else kind(7)))
    data.targets = [kind(number % 3) for number in range(9)]
    with pytest.raises(RepdynError, match=r"sample 3 .*gives the label '?7'?, its targets say"):
        repdyn.trace(mlp(), data)


def test_labels_and_ids_of_every_kind():
    pairs = Items(lambda number: (X[number], torch.tensor([number])))  # of shape (1,)
    assert repdyn.trace(mlp(), pairs).labels.tolist() == list(range(9))
    assert repdyn.trace(mlp(), X, labels=(number % 2 for number in range(9))).labels.tolist() == [
        0,
        1,
    ] * 4 + [0]
    ids = [f"ä{number}".encode() for number in range(9)]
    assert repdyn.trace(mlp(), X, ids=ids).ids[3] == "ä3"
    with pytest.raises(RepdynError, match=r"10{30} does not fit into int64"):
        repdyn.trace(mlp(), X, labels=[10**30] * 9)
    with pytest.raises(RepdynError, match="sample 1 is missing"):
        repdyn.trace(mlp(), X, labels=pd.Series([1, None, 2] * 3, dtype="Int64"))


def test_arrays_that_are_sparse_or_masked_in_paths():
    paths = RepresentationPaths.from_arrays({"a": sparse.csr_matrix(X)})
    np.testing.assert_array_equal(np.asarray(paths["a"]), X)
    with pytest.raises(RepdynError, match="3 of its entries are masked"):
        RepresentationPaths.from_arrays({"a": np.ma.masked_array(X, mask=np.arange(36).reshape(9, 4) < 3)})
    whole = np.ma.masked_array(X, mask=False)
    np.testing.assert_array_equal(np.asarray(RepresentationPaths.from_arrays({"a": whole})["a"]), X)
