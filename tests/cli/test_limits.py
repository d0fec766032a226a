"""Files that unpack to far more than they take, and pictures of too many pixels, are refused."""

from __future__ import annotations

import gzip
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from repdyn import limits
from repdyn.cli.data import read_data
from repdyn.errors import RepdynError


@pytest.fixture
def small(monkeypatch):
    """The same rule at a size that a test can write: a megabyte at any rate, then 100 times the file."""
    monkeypatch.setattr(limits, "MOST_BYTES", 2**20)


def _zeros(path, megabytes):
    np.savez_compressed(path, x=np.zeros((megabytes * 2**20 // 8, 1)))


def test_an_npz_bomb_is_refused_before_it_is_unpacked(tmp_path, small):
    _zeros(tmp_path / "bomb.npz", 64)
    packed = (tmp_path / "bomb.npz").stat().st_size
    assert 64 * 2**20 / packed > 500
    tracemalloc.start()
    with pytest.raises(RepdynError, match=r"bomb\.npz: 'x': 0\.1 MiB unpack to more than 64 MiB") as told:
        read_data(f"npz:{tmp_path / 'bomb.npz'}#x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20
    assert "\n" not in str(told.value)


def test_arrays_that_are_compressed_as_data_are_read(tmp_path, small):
    # Thirty times, well above a megabyte: real data of few values.
    x = np.repeat(np.random.default_rng(0).integers(0, 250, (8000, 16)), 8, axis=1).astype(np.float64)
    np.savez_compressed(tmp_path / "real.npz", x=x)
    times = x.nbytes / (tmp_path / "real.npz").stat().st_size
    assert 10 < times < limits.MOST_TIMES
    assert len(read_data(f"npz:{tmp_path / 'real.npz'}#x").inputs) == 8000


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_gzip_bomb_is_refused_while_it_is_read(tmp_path, small, kind):
    row = b"0\n" if kind == "csv" else b'{"text": "0"}\n'
    with gzip.open(tmp_path / f"bomb.{kind}.gz", "wb") as file:
        file.write((b"text\n" if kind == "csv" else b"") + row * (16 * 2**20 // len(row)))
    with pytest.raises(RepdynError, match="unpack to more than") as told:
        list(read_data(f"{kind}:{tmp_path / f'bomb.{kind}.gz'}#text").inputs)
    assert "decompress the file first" in str(told.value)


def test_a_picture_of_169_megapixels_is_not_decoded(tmp_path, command):
    (tmp_path / "in" / "a").mkdir(parents=True)
    Image.new("1", (13_000, 13_000)).save(tmp_path / "in" / "a" / "large.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "in" / "a" / "small.png")
    tracemalloc.start()
    data = read_data(f"images:{tmp_path / 'in'}")
    with pytest.raises((RepdynError, ValueError), match=r"13000 x 13000 pixels, more than 134 million"):
        [data.inputs[k] for k in range(len(data.inputs))]
    assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    tracemalloc.stop()


def test_at_the_border_a_picture_is_read():
    limits.check_pixels(2**14, 2**13)
    with pytest.raises(ValueError, match="more than 134 million"):
        limits.check_pixels(2**14, 2**13 + 1)


@pytest.mark.parametrize("codec", ["none", "zstd"])
@pytest.mark.parametrize("text", ["a" * 5000, None])
def test_a_parquet_bomb_is_refused_before_it_is_unpacked(tmp_path, small, codec, text):
    """One long text, or none at all, repeated: the file keeps it once."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = 20_000 if text else 1_000_000
    table = pyarrow.table({"text": pyarrow.array([text] * rows, pyarrow.string())})
    parquet.write_table(table, tmp_path / "bomb.parquet", compression=codec)
    assert (tmp_path / "bomb.parquet").stat().st_size < 50_000
    with pytest.raises(
        RepdynError, match=r"bomb\.parquet: .* unpack to more than .* decompress the file first"
    ) as told:
        read_data(f"parquet:{tmp_path / 'bomb.parquet'}#text")
    assert "\n" not in str(told.value)


def test_a_parquet_file_of_data_is_read_as_pandas_reads_it(tmp_path, small):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["red", "green", "blue"], 40)) for _ in range(9000)]
    frame = pandas.DataFrame({"text": texts, "label": rng.integers(0, 3, 9000), "rest": 0.0})
    frame["name"] = pandas.Categorical.from_codes(frame["label"], ["x", "y", "z"]).astype(str)
    frame.to_parquet(tmp_path / "a.parquet", row_group_size=4000)
    whole = pandas.read_parquet(tmp_path / "a.parquet")
    for label in ("label", "name"):
        found = read_data(f"parquet:{tmp_path / 'a.parquet'}#text,{label}")
        assert list(found.inputs) == whole["text"].tolist()
        assert found.labels.tolist() == whole[label].tolist()
