"""A table of LanceDB goes out as a file, is migrated, comes back, and is searched by its new vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from repdyn.migration import Migration
from repdyn.migration.plan import MIGRATE
from repdyn.translation import LinearTranslation

pa = pytest.importorskip("pyarrow")
feather = pytest.importorskip("pyarrow.feather")
pq = pytest.importorskip("pyarrow.parquet")
lancedb = pytest.importorskip("lancedb", reason="pip install lancedb")

GENERATOR = np.random.default_rng(0)
STORED = GENERATOR.normal(size=(300, 8)).astype(np.float32)
QUERIES = GENERATOR.normal(size=(5, 6)).astype(np.float32)
"""Queries of the new model, of another width than the stored vectors."""


def plan() -> Migration:
    t = LinearTranslation(
        GENERATOR.normal(size=(8, 6)), GENERATOR.normal(size=8), np.ones(6), verdict="found"
    )
    return Migration(MIGRATE, "given", "found", t, "affine", {}, 0, 0, False, {})


@pytest.mark.parametrize("ending", ["parquet", "arrow", "feather"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_table_comes_back_with_a_column_to_search(tmp_path: Path, ending: str, dtype) -> None:
    database = lancedb.connect(tmp_path / "index")
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(STORED.astype(dtype).ravel()), 8)
    rows = pa.table({"id": range(300), "text": [f"document {i}" for i in range(300)], "vector": vectors})
    stored = database.create_table("stored", rows)
    stored.delete("id % 10 = 3")  # the rows that are left lie in fragments with holes
    out = stored.to_arrow()

    address = tmp_path / f"stored.{ending}"
    if ending == "parquet":
        pq.write_table(out, address)
    elif ending == "feather":
        feather.write_feather(out, str(address))
    else:
        with pa.ipc.new_file(str(address), out.schema) as writer:
            writer.write_table(out)
    migration = plan()
    migrated = tmp_path / f"migrated.{ending}"
    assert migration.apply(f"{address}#vector", migrated, "vector_new") == 270

    back = pq.read_table(migrated) if ending == "parquet" else feather.read_table(str(migrated))
    again = database.create_table("migrated", back)
    assert again.schema.field("vector_new").type.list_size == 6
    kept = np.flatnonzero(np.arange(300) % 10 != 3)
    new = migration(STORED[kept].astype(dtype)).astype(dtype).astype(np.float64)
    for query in QUERIES:
        hits = again.search(query, vector_column_name="vector_new").limit(3).to_list()
        nearest = np.argsort(((new - query) ** 2).sum(1))[:3]
        assert [hit["id"] for hit in hits] == kept[nearest].tolist()
        assert [hit["text"] for hit in hits] == [f"document {i}" for i in kept[nearest]]
