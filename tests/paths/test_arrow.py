"""Other libraries read paths through Arrow, and their tables become paths, with the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from repdyn.errors import NotFiniteError, RepdynError
from repdyn.paths import RepresentationPaths, as_paths, open_paths, tables

pa = pytest.importorskip("pyarrow")

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(40, 2)).astype(np.float32)


def made() -> RepresentationPaths:
    return RepresentationPaths.from_arrays(
        {"stem": X, "head": Y},
        ["ab"[k % 2] for k in range(40)],
        [f"s{k}" for k in range(40)],
        meta={"model": "tiny"},
    )


def test_a_stream_holds_every_row_once(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tables, "_BATCH_BYTES", 140)  # seven rows
    made().save(tmp_path / "a.paths")
    for paths in (made(), open_paths(tmp_path / "a.paths"), made().subset(np.arange(40))):
        batches = list(pa.RecordBatchReader.from_stream(paths))
        assert len(batches) == 6
        table = pa.Table.from_batches(batches)
        assert table.column_names == ["id", "label", "stem", "head"]
        np.testing.assert_array_equal(np.array(table["stem"].to_pylist(), np.float32), X)
        np.testing.assert_array_equal(np.array(table["head"].to_pylist(), np.float32), Y)
        assert table["id"].to_pylist() == made().ids.tolist()
    turned = pa.table(made().subset([5, 3]))
    assert turned["id"].to_pylist() == ["s5", "s3"]
    np.testing.assert_array_equal(np.array(turned["stem"].to_pylist(), np.float32), X[[5, 3]])


def test_vectors_in_memory_are_not_copied() -> None:
    paths = RepresentationPaths.from_arrays({"stem": X})
    table = pa.table(paths)
    values = table["stem"].chunk(0).flatten().to_numpy()
    assert np.shares_memory(values, X)
    back = RepresentationPaths.from_arrow(table)
    assert np.shares_memory(back["stem"], X)


def test_tokens_and_bfloat16_are_streamed() -> None:
    mask = np.arange(4) < np.array([1, 3, 4])[:, None]
    words = np.random.default_rng(2).normal(size=(3, 4, 2))
    paths = RepresentationPaths.from_arrays({"words": words}, masks={"words": mask})
    rows = pa.table(paths)["words"].to_pylist()
    assert [len(row) for row in rows] == [1, 3, 4]
    np.testing.assert_array_equal(rows[1], words[1][:3])


def test_a_table_becomes_paths() -> None:
    table = pa.table({"key": range(40), "x": list(X), "wide": list(Y), "topic": ["a"] * 40, "n": range(40)})
    paths = RepresentationPaths.from_arrow(table, ids="key", labels="topic")
    assert paths.points == ("x", "wide")
    assert paths.ids[7] == "7"
    assert set(paths.labels.tolist()) == {"a"}
    np.testing.assert_array_equal(paths["x"], X)
    assert RepresentationPaths.from_arrow(table, points=["wide"]).points == ("wide",)
    chunked = pa.concat_tables([table.slice(0, 13), table.slice(13)])
    np.testing.assert_array_equal(RepresentationPaths.from_arrow(chunked)["x"], X)
    again = RepresentationPaths.from_arrow(made())  # paths are such a table
    assert again.meta["model"] == "tiny"
    assert again.labels.tolist() == made().labels.tolist()
    assert as_paths(table).points == ("x", "wide")
    with pytest.raises(RepdynError, match="no column 'z'; nearest"):
        RepresentationPaths.from_arrow(table, points=["z"])
    with pytest.raises(RepdynError, match="only n int64"):
        RepresentationPaths.from_arrow(pa.table({"n": [1]}))
    with pytest.raises(RepdynError, match="has no Arrow stream"):
        RepresentationPaths.from_arrow(X)
    with pytest.raises(RepdynError, match="row 1 has no vector at 'v'"):
        RepresentationPaths.from_arrow(pa.table({"v": [[1.0], None]}))
    with pytest.raises(NotFiniteError):
        RepresentationPaths.from_arrow(pa.table({"v": [[1.0], [float("nan")]]}))


def test_polars_reads_a_store_and_is_read(tmp_path: Path) -> None:
    polars = pytest.importorskip("polars", reason="pip install polars")
    made().save(tmp_path / "a.paths")
    frame = polars.DataFrame(open_paths(tmp_path / "a.paths"))
    assert frame.shape == (40, 4)
    np.testing.assert_array_equal(frame["stem"].to_numpy(), X)
    chosen = frame.filter(polars.col("label") == "a")
    paths = RepresentationPaths.from_arrow(chosen)
    np.testing.assert_array_equal(paths["stem"], X[::2])


def test_duckdb_queries_a_store(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb", reason="pip install duckdb")
    made().save(tmp_path / "a.paths")
    stored = open_paths(tmp_path / "a.paths")
    connection = duckdb.connect()
    connection.register("stored", pa.RecordBatchReader.from_stream(stored))
    found = connection.execute(
        "select label, count(*) n from stored group by label order by label"
    ).fetchall()
    assert found == [("a", 20), ("b", 20)]
    connection.register("stored", pa.RecordBatchReader.from_stream(stored))
    table = connection.sql("select id, stem from stored where label = 'b'").to_arrow_table()
    np.testing.assert_array_equal(RepresentationPaths.from_arrow(table)["stem"], X[1::2])


def test_pandas_reads_a_stream() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pa.table(made()).to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    np.testing.assert_array_equal(np.stack(frame["stem"]), X)
    np.testing.assert_array_equal(np.asarray(as_paths(pandas.DataFrame(X))["vectors"]), X)


def test_datasets_of_hugging_face_are_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="pip install datasets")
    own = datasets.Dataset.from_dict({"id": list(range(40)), "embedding": X.tolist(), "label": [0, 1] * 20})
    own.save_to_disk(str(tmp_path / "d"))
    loaded = datasets.load_from_disk(str(tmp_path / "d"))
    paths = RepresentationPaths.from_arrow(loaded.with_format("arrow")[:])
    np.testing.assert_allclose(paths["embedding"], X)
    assert paths.labels.tolist() == [0, 1] * 20
    # The file that it writes is a stream of Arrow.
    file = next((tmp_path / "d").glob("*.arrow"))
    np.testing.assert_allclose(open_paths(f"{file}#embedding")["embedding"], X)
