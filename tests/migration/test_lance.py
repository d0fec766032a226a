"""A table of LanceDB gets a column of translated vectors in place, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repdyn.errors import NotFiniteError, RepdynError
from repdyn.migration import Migration, migrate
from repdyn.migration import lance as in_lance
from repdyn.migration.plan import MIGRATE
from repdyn.paths import import_paths, open_paths
from repdyn.translation import LinearTranslation

pa = pytest.importorskip("pyarrow")
lance = pytest.importorskip("lance", reason="pip install pylance")
lancedb = pytest.importorskip("lancedb", reason="pip install lancedb")

X = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
QUERIES = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
"""Queries of the new model, of another width than the stored vectors."""


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch) -> None:
    monkeypatch.setattr(in_lance, "ROWS", 64)


def plan(seed: int = 0) -> Migration:
    generator = np.random.default_rng(seed)
    t = LinearTranslation(
        generator.normal(size=(8, 6)), generator.normal(size=8), np.ones(6), verdict="found"
    )
    return Migration(MIGRATE, "given", "found", t, "affine", {}, 0, 0, False, {})


def rows(ids: Any, x: np.ndarray, empty: np.ndarray | None = None) -> Any:
    mask = None if empty is None else pa.array(empty)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1], mask=mask)
    ids = np.asarray(ids)
    return pa.table({"id": ids, "text": [f"document {i}" for i in ids], "vector": vectors})


def stored(folder: Path, dtype: type = np.float32) -> tuple[Any, str]:
    """A table with several fragments, rows that were deleted, and rows without a vector."""
    table = lancedb.connect(folder).create_table("stored", rows(range(200), X[:200].astype(dtype)))
    table.delete("id % 10 = 3")
    table.add(rows(range(200, 300), X[200:].astype(dtype), np.arange(100) % 7 == 0))
    return table, str(folder / "stored.lance")


def held(folder: Path) -> dict[int, tuple[Any, Any]]:
    """Old and new vector of each row, as LanceDB reads them."""
    table = lancedb.connect(folder).open_table("stored").to_arrow()
    columns = (table["id"], table["vector"], table["vector_new"])
    return {i: (old, new) for i, old, new in zip(*(column.to_pylist() for column in columns))}


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_every_row_has_its_translated_vector_and_the_search_finds_it(tmp_path: Path, dtype) -> None:
    _, address = stored(tmp_path, dtype)
    migration = plan()
    made = migration.apply_to_database(f"{address}#vector", "vector_new")
    assert (made.translated, made.missing, made.left, made.column) == (265, 15, 0, "vector_new")
    assert "'vector_new'" in made.index
    found = held(tmp_path)
    assert len(found) == 280
    wanted = migration(X.astype(dtype)).astype(dtype)
    for i, (old, new) in found.items():
        if i >= 200 and (i - 200) % 7 == 0:
            assert old is None
            assert new is None
            continue
        np.testing.assert_array_equal(old, X[i].astype(dtype))
        np.testing.assert_allclose(new, wanted[i], rtol=2e-3 if dtype == np.float16 else 1e-5, atol=1e-5)
    assert sorted(os.listdir(tmp_path)) == ["stored.lance"]

    table = lancedb.connect(tmp_path).open_table("stored")
    kept = np.array([i for i, (old, _) in found.items() if old is not None])
    new = wanted[kept].astype(np.float64)
    for query in QUERIES:
        hits = table.search(query, vector_column_name="vector_new").limit(3).to_list()
        assert [hit["id"] for hit in hits] == kept[np.argsort(((new - query) ** 2).sum(1))[:3]].tolist()
        assert [hit["text"] for hit in hits] == [f"document {hit['id']}" for hit in hits]


def test_the_whole_way_from_the_command_line(tmp_path: Path, command) -> None:
    import pyarrow.parquet as pq

    rng = np.random.default_rng(2)
    z = rng.normal(size=(1200, 8))
    old, new = (z @ rng.normal(size=(8, width)) for width in (12, 16))
    db = lancedb.connect(tmp_path / "db")
    table = db.create_table("stored", rows(range(1188), old[:1188].astype(np.float32)))
    table.add(rows(range(1188, 1200), old[1188:].astype(np.float32), np.ones(12, bool)))
    pq.write_table(rows(range(0, 900, 3), new[:900:3].astype(np.float32)), tmp_path / "again.parquet")
    arguments = [
        "migrate", f"{tmp_path / 'db' / 'stored.lance'}#vector", f"{tmp_path / 'again.parquet'}#vector",
        "--pairs", "300", "--column", "vector_new", "--out", str(tmp_path / "library"),
    ]  # fmt: skip
    status, text, errors = command(*arguments)
    assert status == 0, errors
    assert "1188 vectors translated" in text.replace("\n", " ")
    assert "12 rows have no vector" in text
    assert (tmp_path / "library.migration").is_dir()
    table = db.open_table("stored")
    hits = [
        table.search(q, vector_column_name="vector_new").distance_type("cosine").limit(1) for q in new[:30]
    ]
    assert np.mean([hit.to_list()[0]["id"] == i for i, hit in enumerate(hits)]) > 0.9


def test_a_whole_block_without_vectors_stays_so(tmp_path: Path) -> None:
    table, address = stored(tmp_path)
    table.add(rows(range(2000, 2200), np.zeros((200, 8), np.float32), np.ones(200, bool)))
    made = plan().apply_to_database(f"{address}#vector", "vector_new")
    assert (made.translated, made.missing) == (265, 215)
    found = held(tmp_path)
    assert all(found[i] == (None, None) for i in range(2000, 2200))
    assert all((old is None) == (new is None) for old, new in found.values())


@pytest.mark.parametrize("change", ["add", "delete", "update"])
def test_a_row_that_changes_meanwhile_is_translated_as_it_is_at_the_end(
    tmp_path: Path, monkeypatch, change: str
) -> None:
    table, address = stored(tmp_path)
    changes = {
        "add": lambda: table.add(rows([1000], X[:1])),
        "delete": lambda: table.delete("id = 7"),
        "update": lambda: table.update(where="id = 9", values={"vector": X[0].tolist()}),
    }
    once = [changes[change]]
    migration = plan()
    opened = in_lance.lance_dataset

    def meanwhile(path: Path) -> Any:
        if once:
            once.pop()()
        return opened(path)

    monkeypatch.setattr(in_lance, "lance_dataset", meanwhile)
    made = migration.apply_to_database(f"{address}#vector", "vector_new")
    found = held(tmp_path)
    assert not once
    assert made.translated == {"add": 266, "delete": 264, "update": 265}[change]
    assert (7 in found) == (change != "delete")
    for old, new in found.values():
        assert (old is None) == (new is None)
        if old is not None:
            np.testing.assert_allclose(new, migration(np.array([old]))[0], rtol=1e-4, atol=1e-5)


def test_a_table_that_never_rests_is_left_as_it_was(tmp_path: Path, monkeypatch) -> None:
    table, address = stored(tmp_path)
    opened = in_lance.lance_dataset

    def meanwhile(path: Path) -> Any:
        table.add(rows([1000], X[:1]))
        return opened(path)

    monkeypatch.setattr(in_lance, "lance_dataset", meanwhile)
    with pytest.raises(RepdynError, match=r"others wrote to the table .* nothing was added.*again"):
        plan().apply_to_database(f"{address}#vector", "vector_new")
    assert lancedb.connect(tmp_path).open_table("stored").schema.names == ["id", "text", "vector"]
    monkeypatch.setattr(in_lance, "lance_dataset", opened)
    assert plan().apply_to_database(f"{address}#vector", "vector_new").translated == 268


KILLED = """
import os, sys
from repdyn.migration import Migration, lance

lance.ROWS = 64
plan, count = Migration.load(sys.argv[1]), [0]
moved = plan._in_single_precision()

def dies(x):
    count[0] += 1
    if count[0] == 4:  # the first call is the probe
        os.kill(os.getpid(), 9)
    return moved(x)

Migration._in_single_precision = lambda self: dies
plan.apply_to_database(sys.argv[2], "vector_new")
"""


def test_a_killed_run_leaves_the_table_and_the_next_one_continues(tmp_path: Path, monkeypatch) -> None:
    _, address = stored(tmp_path / "db")
    plan().save(tmp_path / "plan")
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "plan"), f"{address}#vector"])
    assert ended.returncode == -9
    assert lancedb.connect(tmp_path / "db").open_table("stored").schema.names == ["id", "text", "vector"]

    calls = []
    again = plan()
    moved = again._in_single_precision()
    monkeypatch.setattr(
        Migration, "_in_single_precision", lambda self: lambda x: calls.append(len(x)) or moved(x)
    )
    assert again.apply_to_database(f"{address}#vector", "vector_new").translated == 265
    assert calls == [4, 52, 64, 36]  # the probe; of five blocks two were done
    assert sorted(os.listdir(tmp_path / "db")) == ["stored.lance"]


def test_no_column_is_written_twice_and_bad_input_is_named(tmp_path: Path) -> None:
    table, address = stored(tmp_path)
    migration = plan()
    for name, said in (
        ("text", "has a column 'text' already, which is kept"),
        ("a.b", "without dots"),
        ("", "without dots"),
    ):
        with pytest.raises(RepdynError, match=said):
            migration.apply_to_database(f"{address}#vector", name)
    with pytest.raises(RepdynError, match="holds no vectors"):
        migration.apply_to_database(f"{address}#text", "new")
    with pytest.raises(RepdynError, match="vectr"):
        migration.apply_to_database(f"{address}#vectr", "new")
    with pytest.raises(RepdynError, match="use apply_to_database"):
        migration.apply(f"{address}#vector", tmp_path / "b.lance")
    migration.apply_to_database(f"{address}#vector", "vector_new")
    with pytest.raises(RepdynError, match="translated already, by this map"):
        migration.apply_to_database(f"{address}#vector", "vector_new")
    with pytest.raises(RepdynError, match="translated already, by another map"):
        plan(1).apply_to_database(f"{address}#vector", "vector_new")
    with pytest.raises(RepdynError, match="width"):
        plan().apply_to_database(f"{address}#vector_new", "third")  # of 6 coordinates; the map reads 8
    broken = np.vstack([X[:100], np.full((1, 8), np.nan, np.float32)])  # LanceDB itself refuses such rows
    lance.write_dataset(rows(range(101), broken), tmp_path / "nan.lance")
    with pytest.raises(NotFiniteError, match="vector 100 is not finite"):
        migration.apply_to_database(f"{tmp_path / 'nan.lance'}#vector", "new")
    empty = lancedb.connect(tmp_path).create_table("empty", schema=table.schema)
    assert empty.count_rows() == 0
    with pytest.raises(RepdynError, match="has no rows"):
        migration.apply_to_database(f"{tmp_path / 'empty.lance'}#vector", "new")
    varied = pa.table({"v": pa.array([[1.0, 2.0], [3.0]])})
    lancedb.connect(tmp_path).create_table("varied", varied)
    with pytest.raises(RepdynError, match="fixed width"):
        migration.apply_to_database(f"{tmp_path / 'varied.lance'}#v", "new")


def test_a_sample_is_of_rows_with_a_vector_and_holds_the_wanted_ones(tmp_path: Path) -> None:
    _, address = stored(tmp_path)
    file = in_lance.lance_column(f"{address}#vector")
    assert file is not None
    wanted = [str(i) for i in range(150, 170)] + ["207", "none"]  # 153, 163 are deleted, 207 has no vector
    drawn = in_lance.sampled_rows(file, 30, (0, 0), wanted)
    ids = drawn.ids.astype(int)
    assert len(ids) == 18 + 30
    assert set(range(150, 170)) - {153, 163} <= set(ids)
    np.testing.assert_array_equal(drawn["vectors"], X[ids])
    assert in_lance.sampled_rows(file, 30, (0, 0), wanted).ids.tolist() == drawn.ids.tolist()
    assert set(in_lance.sampled_rows(file, 10_000, (0, 0)).ids.astype(int)) == {
        i for i in range(300) if (i >= 200 and (i - 200) % 7) or (i < 200 and i % 10 != 3)
    }
    lancedb.connect(tmp_path).create_table("plain", rows(range(50), X[:50]).drop_columns(["id"]))
    plain = in_lance.lance_column(f"{tmp_path / 'plain.lance'}#vector")
    assert plain is not None
    np.testing.assert_array_equal(in_lance.sampled_rows(plain, 100, (0, 0))["vectors"], X[:50])
    with pytest.raises(RepdynError, match="has no column 'id'"):
        migrate(f"{tmp_path / 'plain.lance'}#vector", f"{address}#vector", pairs=20)
    empty = lancedb.connect(tmp_path).create_table("empty", rows(range(1), X[:1]))
    empty.add(rows(range(1, 9), X[1:9], np.ones(8, bool)))
    empty.delete("id = 0")
    with pytest.raises(RepdynError, match="holds no vectors"):
        migrate(f"{tmp_path / 'empty.lance'}#vector", X)


def test_a_table_is_read_as_paths(tmp_path: Path) -> None:
    lancedb.connect(tmp_path).create_table("stored", rows(range(5, 305), X))
    paths = open_paths(tmp_path / "stored.lance")
    assert paths.points == ("vector",)
    np.testing.assert_array_equal(paths["vector"], X)
    assert paths.ids.tolist() == [str(i) for i in range(5, 305)]
    named = import_paths(f"{tmp_path / 'stored.lance'}#vector", ids="text")
    assert named.ids[0] == "document 5"
    x = np.random.default_rng(3).normal(size=(300, 8))
    decision = migrate(f"{tmp_path / 'stored.lance'}#vector", x, seed=0)
    assert decision.decision != MIGRATE  # unrelated vectors, no pairs

    stored(tmp_path / "other")
    # Of the first 200 rows 180 are left.
    with pytest.raises(RepdynError, match="row 180 has no vector at 'vector'"):
        open_paths(tmp_path / "other" / "stored.lance")


def test_a_damaged_or_foreign_folder_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "a.lance"
    (folder / "_versions").mkdir(parents=True)
    (folder / "_versions" / "1.manifest").write_bytes(b"no manifest")
    with pytest.raises(RepdynError, match=r"a\.lance: is not a readable Lance dataset"):
        open_paths(folder)
    with pytest.raises(RepdynError, match="there is no such"):
        open_paths(tmp_path / "b.lance")
