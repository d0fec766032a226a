from __future__ import annotations

import json

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def stored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    z = generator.normal(size=(500, 8))
    a, b = z @ generator.normal(size=(8, 10)), z @ generator.normal(size=(8, 12))
    pq.write_table(pa.table({"id": range(500), "v": list(a.astype(np.float32))}), "old.parquet")
    pq.write_table(pa.table({"id": range(100, 400), "v": list(b[100:400].astype(np.float32))}), "new.parquet")
    return a, b


def test_an_index_is_migrated_beside_its_old_vectors(command, stored, monkeypatch) -> None:
    _, b = stored
    status, out, err = command(
        "migrate", "old.parquet#v", "new.parquet#v", "--pairs", 200, "--out", "m.parquet", "--json", "-"
    )
    assert status == 0, err
    told = json.loads(out)["migrate"]
    assert told["decision"] == "migrate"
    assert told["vectors"] == 500
    made = pq.read_table("m.parquet")
    assert made.column_names == ["id", "v", "v_migrated"]
    np.testing.assert_allclose(np.array(made["v_migrated"].to_pylist()), b, atol=0.2)
    assert command("migrate", "old.parquet#v", "new.parquet#v", "--out", "m.parquet")[0] == 2  # it is there
    # The decision is read again, and not made again.
    monkeypatch.setattr("repdyn.migration.migrate", lambda *_, **__: pytest.fail("it decided again"))
    again = ("migrate", "old.parquet#v", "new.parquet#v", "--pairs", 200, "--out", "m.parquet", "--force")
    assert command(*again)[0] == 0
    assert command("report", "m.parquet.migration", "--out", "r.html")[0] == 0


def test_a_migration_that_loses_is_not_written(command, stored) -> None:
    noise = np.random.default_rng(1).normal(size=(300, 12)).astype(np.float32)
    pq.write_table(pa.table({"id": range(100, 400), "v": list(noise)}), "noise.parquet")
    words = ("migrate", "old.parquet#v", "noise.parquet#v", "--pairs", 200, "--out", "m.parquet")
    status, out, _ = command(*words)
    assert status == 1
    assert "Migration: embed again" in out
    assert "not written" in out
    assert not __import__("os").path.exists("m.parquet")
    assert command(*words, "--anyway")[0] == 0
    assert pq.read_table("m.parquet").num_rows == 500
