"""polars, duckdb, pandas, LanceDB and datasets read paths through Arrow, each with the numbers of the store.

A store with tokens, texts as labels, ids, logits and points with dots; one in bfloat16; and one of a traced
transformer. Batches are small, so that every reader crosses their borders.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import repdyn
from repdyn.paths import RepresentationPaths, open_paths, tables
from tests.tiny_models import tiny_bert

pa = pytest.importorskip("pyarrow")

SIZE = 30
Columns = dict[str, list[Any]]


def drawn() -> RepresentationPaths:
    generator = np.random.default_rng(0)
    return RepresentationPaths.from_arrays(
        {
            "stem": generator.normal(size=(SIZE, 3)).astype("float32"),
            "words": generator.normal(size=(SIZE, 4, 2)).astype("float32"),
            "blocks.1#b c": generator.normal(size=(SIZE, 2)).astype("float32"),
        },
        labels=[f"klasse {k % 3} é" for k in range(SIZE)],
        ids=[f"bild {k}" for k in range(SIZE)],
        logits=generator.normal(size=(SIZE, 2)),
        masks={"words": np.arange(4) < generator.integers(0, 5, SIZE)[:, None]},
    )


def in_memory(folder: Path) -> RepresentationPaths:
    return drawn()


def stored(folder: Path) -> RepresentationPaths:
    drawn().save(folder / "a.paths")
    return open_paths(folder / "a.paths")


def chosen(folder: Path) -> RepresentationPaths:
    return stored(folder).subset(np.arange(SIZE)[::-2])


def traced(folder: Path) -> RepresentationPaths:
    """Tokens of texts of several lengths, numbered labels."""
    texts = [list(range(1, 2 + k % 5)) for k in range(SIZE)]

    def prepare(rows: list[list[int]]) -> dict[str, torch.Tensor]:
        tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        return {"input_ids": tokens, "attention_mask": (tokens > 0).long()}

    model = repdyn.wrap(tiny_bert(2), prepare=prepare)
    repdyn.trace(model, texts, pool="none", labels=np.arange(SIZE) % 2, out=folder / "t.paths")
    return open_paths(folder / "t.paths")


def in_bfloat16(folder: Path) -> RepresentationPaths:
    model = repdyn.wrap(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)))
    x = torch.randn(SIZE, 3, generator=torch.Generator().manual_seed(0))
    repdyn.trace(model, x, dtype="bfloat16", out=folder / "b.paths")
    return open_paths(folder / "b.paths")


def polars_reads(paths: RepresentationPaths, folder: Path) -> Columns:
    polars = pytest.importorskip("polars", reason="pip install polars")
    return dict(polars.DataFrame(paths).to_dict(as_series=False))


def duckdb_reads(paths: RepresentationPaths, folder: Path) -> Columns:
    duckdb = pytest.importorskip("duckdb", reason="pip install duckdb")
    connection = duckdb.connect()
    connection.register("paths", paths)
    assert connection.sql("select count(*) from paths").fetchall() == [(len(paths),)]
    return dict(connection.sql("select * from paths").to_arrow_table().to_pydict())  # a stream is read anew


def pandas_reads(paths: RepresentationPaths, folder: Path) -> Columns:
    pandas = pytest.importorskip("pandas")
    if not hasattr(pandas.DataFrame, "from_arrow"):
        pytest.skip("pandas.DataFrame.from_arrow is newer than this pandas")
    return {name: list(column) for name, column in pandas.DataFrame.from_arrow(paths).items()}


def lancedb_reads(paths: RepresentationPaths, folder: Path) -> Columns:
    lancedb = pytest.importorskip("lancedb", reason="pip install lancedb")
    reader = pa.RecordBatchReader.from_stream(paths)
    # Lance has no dots in names of columns.
    names = [name.replace(".", "/") for name in reader.schema.names]
    schema = pa.schema([field.with_name(name) for field, name in zip(reader.schema, names)])
    renamed = pa.RecordBatchReader.from_batches(schema, (batch.rename_columns(names) for batch in reader))
    table = lancedb.connect(folder / "lance").create_table("paths", renamed)
    found = table.to_arrow().to_pydict()
    return {name: found[new] for name, new in zip(reader.schema.names, names)}


def datasets_reads(paths: RepresentationPaths, folder: Path) -> Columns:
    datasets = pytest.importorskip("datasets", reason="pip install datasets")
    return dict(datasets.Dataset(pa.table(paths))[:])


@pytest.mark.parametrize("read", [polars_reads, duckdb_reads, pandas_reads, lancedb_reads, datasets_reads])
@pytest.mark.parametrize("make", [in_memory, stored, chosen, traced, in_bfloat16])
def test_values_are_those_of_the_store(
    make: Callable[[Path], RepresentationPaths],
    read: Callable[[RepresentationPaths, Path], Columns],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tables, "_BATCH_BYTES", 500)
    paths = make(tmp_path)
    found = read(paths, tmp_path)
    assert list(found["id"]) == paths.ids.tolist()
    assert ("label" in found) == (paths.labels is not None)
    if paths.labels is not None:
        assert list(found["label"]) == paths.labels.tolist()
    assert bool(paths.tokens) == (make is not in_bfloat16)
    for point in paths.points:
        expected = np.asarray(paths[point])
        assert expected.dtype == np.float32
        if point in paths.tokens:
            for row, mask, vectors in zip(found[point], paths.mask(point), expected):
                own = np.array([list(token) for token in row], np.float32).reshape(-1, expected.shape[2])
                np.testing.assert_array_equal(own, vectors[mask])
        else:
            np.testing.assert_array_equal(np.array([list(row) for row in found[point]], np.float32), expected)
    if paths.logits is not None:
        np.testing.assert_array_equal(np.array([list(row) for row in found["logits"]]), paths.logits)


def test_lancedb_searches_a_store(tmp_path: Path) -> None:
    lancedb = pytest.importorskip("lancedb", reason="pip install lancedb")
    table = lancedb.connect(tmp_path / "lance").create_table(
        "paths", pa.RecordBatchReader.from_stream(RepresentationPaths.from_arrays({"stem": drawn()["stem"]}))
    )
    found = table.search(np.asarray(drawn()["stem"])[7], vector_column_name="stem").limit(1).to_list()
    assert found[0]["id"] == "7"
    back = RepresentationPaths.from_arrow(table.to_arrow())
    np.testing.assert_array_equal(back["stem"], drawn()["stem"])


@pytest.mark.parametrize("library", ["polars", "pandas", "datasets"])
def test_what_is_in_memory_is_not_copied(library: str) -> None:
    module = pytest.importorskip(library, reason=f"pip install {library}")
    x = np.random.default_rng(0).normal(size=(1000, 8)).astype("float32")
    paths = RepresentationPaths.from_arrays({"stem": x})
    if library == "polars":
        held = module.DataFrame(paths)["stem"].to_numpy(allow_copy=False)
    elif library == "pandas":
        if not hasattr(module.DataFrame, "from_arrow"):
            pytest.skip("pandas.DataFrame.from_arrow is newer than this pandas")
        held = module.DataFrame.from_arrow(paths)["stem"].iloc[3]
    else:
        held = module.Dataset(pa.table(paths)).data.table["stem"].chunk(0).flatten().to_numpy()
    assert np.shares_memory(held, x)
