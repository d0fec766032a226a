from pathlib import Path

import numpy as np
import pytest

from repdyn.cli.embeddings import translate_file
from repdyn.errors import RepdynError
from repdyn.translation import LinearTranslation


@pytest.fixture
def t() -> LinearTranslation:
    generator = np.random.default_rng(0)
    return LinearTranslation(generator.normal(size=(4, 3)), generator.normal(size=4), np.ones(3))


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(10, 4)).astype(np.float32)


def test_a_matrix_is_translated_row_by_row(t, x, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("repdyn.cli.embeddings.ROWS", 3)
    np.save(tmp_path / "a.npy", x)
    assert translate_file(t, tmp_path / "a.npy", tmp_path / "b.npy") == 10
    made = np.load(tmp_path / "b.npy")
    assert made.dtype == np.float32
    assert np.allclose(made, t(x), atol=1e-5)


def test_a_column_is_translated_and_the_others_are_kept(t, x, tmp_path: Path, monkeypatch) -> None:
    pa = pytest.importorskip("pyarrow")  # of the ray extra
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("repdyn.cli.embeddings.ROWS", 3)
    table = pa.table({"id": list(range(10)), "vector": list(x), "text": ["a"] * 10})
    pq.write_table(table, tmp_path / "a.parquet")
    assert translate_file(t, tmp_path / "a.parquet", tmp_path / "b.parquet", "vector") == 10
    made = pq.read_table(tmp_path / "b.parquet")
    assert made["id"].to_pylist() == list(range(10))
    assert made["text"].to_pylist() == ["a"] * 10
    assert np.allclose(made["vector"].to_pylist(), t(x), atol=1e-4)
    assert not list(tmp_path.glob("*.partial"))
    with pytest.raises(RepdynError, match="nearest"):
        translate_file(t, tmp_path / "a.parquet", tmp_path / "c.parquet", "vectr")
    ragged = pa.table({"vector": [[1.0, 2.0, 3.0, 4.0], [1.0]]})
    pq.write_table(ragged, tmp_path / "ragged.parquet")
    with pytest.raises(RepdynError, match="widths"):
        translate_file(t, tmp_path / "ragged.parquet", tmp_path / "c.parquet")
    pq.write_table(pa.table({"id": [1]}), tmp_path / "none.parquet")
    with pytest.raises(RepdynError, match="--column"):
        translate_file(t, tmp_path / "none.parquet", tmp_path / "c.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:50])
    with pytest.raises(RepdynError, match="readable Parquet"):
        translate_file(t, tmp_path / "cut.parquet", tmp_path / "c.parquet")


def test_bad_files_are_told(t, x, tmp_path: Path) -> None:
    broken = x.copy()
    broken[6, 2] = np.nan
    np.save(tmp_path / "nan.npy", broken)
    with pytest.raises(RepdynError, match="vector 6 is not finite"):
        translate_file(t, tmp_path / "nan.npy", tmp_path / "b.npy")
    np.save(tmp_path / "whole.npy", np.arange(12).reshape(3, 4))
    with pytest.raises(RepdynError, match="expected floats"):
        translate_file(t, tmp_path / "whole.npy", tmp_path / "b.npy")
    with pytest.raises(RepdynError, match="expected two"):
        translate_file(t, tmp_path / "nan.npy", tmp_path / "b.parquet")
    with pytest.raises(RepdynError, match="no such file"):
        translate_file(t, tmp_path / "x.npy", tmp_path / "b.npy")
    with pytest.raises(RepdynError, match="is the source"):
        translate_file(t, tmp_path / "nan.npy", tmp_path / "nan.npy")
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(RepdynError, match="is not a plain"):
        translate_file(t, tmp_path / "object.npy", tmp_path / "b.npy")
