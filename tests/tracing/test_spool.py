"""Streams of samples: generators and streamed data sets that do not fit in memory are traced from a file."""

from __future__ import annotations

import errno
import io
import json
import pickle
import sys
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset

import repdyn
from repdyn.cli.data import read_data
from repdyn.errors import RepdynError
from repdyn.paths import open_paths
from repdyn.tracing import spool
from repdyn.tracing.samples import as_samples
from repdyn.tracing.spool import Spool, gathered

TEXTS = [
    "",
    "a",
    "é" * 100,
    "\ud800 surrogate",
    "line\nline\r\n\0",
    "😀" * 7,
    *(f"text {k}" for k in range(300)),
]


def model() -> Any:
    """Reads the first three characters of a text, or the first three token ids."""

    def prepare(batch: list[Any]) -> torch.Tensor:
        rows = [
            [ord(item) if isinstance(item, str) else item for item in (*text[:3], 0, 0, 0)] for text in batch
        ]
        return torch.tensor([row[:3] for row in rows], dtype=torch.float32)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return repdyn.wrap(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), prepare=prepare)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten bytes fit in memory."""
    monkeypatch.setattr(spool, "IN_MEMORY", 10)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("items", [TEXTS, [[1, 2, 3], [], [2**40], *([k] * (k % 5) for k in range(99))]])
def test_what_is_read_is_what_was_given(items: list[Any]) -> None:
    held = gathered(iter(items))
    assert isinstance(held, Spool)
    assert len(held) == len(items)
    assert list(held) == items
    assert held[-1] == items[-1]
    assert held[2:5] == items[2:5]
    with pytest.raises(IndexError):
        held[len(items)]
    with ThreadPoolExecutor(4) as pool:  # they share no position in the file
        assert list(pool.map(held.__getitem__, range(len(items)))) == items
    assert pickle.loads(pickle.dumps(held)) == items  # noqa: S301 - for a worker process


@pytest.mark.usefixtures("small")
def test_other_items_stay_in_memory() -> None:
    arrays = [np.full(100, k) for k in range(5)]
    assert gathered(iter(arrays)) == arrays
    mixed = ["a", 1, "b" * 100]
    assert gathered(iter(mixed)) == mixed
    floats = [[1.5] * 50, [2.5] * 50]
    assert gathered(iter(floats)) == floats
    with pytest.raises(RepdynError, match="sample 2: is a int, those before it are texts"):
        as_samples(iter(["a" * 20, "b", 3]))


def test_a_stream_is_traced_in_memory_that_does_not_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """80 MB of texts, of which 4 MB and the texts that are sorted together are in memory."""

    def stream() -> Iterator[str]:
        yield from (f"{k} ".ljust(8_000, "x") for k in range(10_000))

    monkeypatch.setattr(spool, "IN_MEMORY", 4_000_000)
    tracemalloc.start()
    try:
        paths = repdyn.trace(model(), stream(), out=tmp_path / "a.paths")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(paths) == 10_000
    assert peak < 60e6
    expected = repdyn.trace(model(), [f"{k} xx" for k in range(10_000)])
    np.testing.assert_array_equal(np.asarray(paths["2"]), np.asarray(expected["2"]))


@pytest.mark.usefixtures("small")
def test_an_interrupted_trace_of_a_stream_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from repdyn.paths import layout

    monkeypatch.setattr(layout, "_ROWS_WANTED", 16)
    whole = repdyn.trace(model(), iter(TEXTS), out=tmp_path / "whole.paths")
    repdyn.trace(model(), iter(TEXTS), out=tmp_path / "a.paths")
    document = json.loads((tmp_path / "a.paths" / "zarr.json").read_text())
    chunk = document["attributes"]["repdyn"]["chunk_rows"]
    assert chunk < len(TEXTS)
    (tmp_path / "a.paths" / "ids" / "c" / "1").unlink()
    again = repdyn.trace(model(), iter(TEXTS), out=tmp_path / "a.paths")
    np.testing.assert_array_equal(np.asarray(again["2"]), np.asarray(whole["2"]))
    (tmp_path / "a.paths" / "ids" / "c" / "1").unlink()
    other = [*TEXTS[:-1], "another end"]
    with pytest.raises(RepdynError, match="sample"):
        repdyn.trace(model(), iter(other), out=tmp_path / "a.paths")


class Streamed(IterableDataset[Any]):
    """As a streamed data set: rows of several columns, and no length."""

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for k in range(10_000):
            self.read += 1
            yield {"text": f"text {k}", "label": k}


def test_rows_of_a_stream_are_refused_before_it_is_read() -> None:
    streamed = Streamed()
    with pytest.raises(
        RepdynError, match=r"dict of text, label; .* of a stream as \(row\['text'\] for row in"
    ):
        repdyn.trace(model(), streamed)
    assert streamed.read < 10
    assert len(repdyn.trace(model(), (row["text"] for row in Streamed()))) == 10_000


@pytest.mark.usefixtures("small")
def test_a_streamed_data_set_of_hugging_face() -> None:
    datasets = pytest.importorskip("datasets", reason="pip install datasets")

    def rows() -> Iterator[dict[str, Any]]:
        yield from ({"text": text, "n": k} for k, text in enumerate(TEXTS[4:]))

    stream = datasets.IterableDataset.from_generator(rows)
    expected = np.asarray(repdyn.trace(model(), TEXTS[4:])["2"])
    found = repdyn.trace(model(), (row["text"] for row in stream))
    np.testing.assert_array_equal(np.asarray(found["2"]), expected)
    with pytest.raises(RepdynError, match="dict of text, n; pass the samples of one"):
        repdyn.trace(model(), stream)
    tokens = [[k % 7, k % 5, k] for k in range(50)]
    encoded = datasets.IterableDataset.from_generator(
        lambda: ({"input_ids": [*ids, 9], "attention_mask": [1, 1, 1, 0]} for ids in tokens)
    )
    assert isinstance(as_samples(encoded).items, Spool)
    found = repdyn.trace(model(), encoded)
    np.testing.assert_array_equal(np.asarray(found["2"]), np.asarray(repdyn.trace(model(), tokens)["2"]))


def test_a_full_disk_is_one_line(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Spool, item: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Spool, "append", full)
    with pytest.raises(RepdynError, match=r"sample 1: no room for the temporary file .*set TMPDIR") as caught:
        as_samples(iter(["a" * 8, "b" * 8]))
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("place", ["a file", "stdin"])
def test_json_lines(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [json.dumps({"text": text, "topic": f"t{k % 3}"}) for k, text in enumerate(TEXTS)]
    data = "\n".join([lines[0], "", *lines[1:], "{broken", json.dumps({"text": 3, "topic": "x"})]).encode()
    address = "jsonl:-#text,topic"
    if place == "a file":
        (tmp_path / "a.jsonl").write_bytes(data)
        address = f"jsonl:{tmp_path / 'a.jsonl'}#text,topic"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    found = read_data(address, skip_bad=True)
    assert isinstance(found.inputs, Spool)
    assert list(found.inputs) == TEXTS
    assert found.labels is not None
    assert found.labels.tolist() == [f"t{k % 3}" for k in range(len(TEXTS))]
    assert list(found.skipped.values()) == ["is not JSON", "has a int in 'text', expected a text"]
    assert list(found.part(5, 0).inputs) == [TEXTS[int(k)] for k in found.part(5, 0).ids or ()]
    paths = repdyn.trace(model(), found.inputs, labels=found.labels, out=tmp_path / "a.paths")
    stored = open_paths(tmp_path / "a.paths")
    np.testing.assert_array_equal(np.asarray(stored["2"]), np.asarray(repdyn.trace(model(), TEXTS)["2"]))
    assert len(paths) == len(TEXTS)


def test_stdin_that_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"text": "\xff\xfe"}')))
    with pytest.raises(RepdynError, match="stdin: is not readable UTF-8"):
        read_data("jsonl:-#text")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(RepdynError, match="holds no sample"):
        read_data("jsonl:-#text")
