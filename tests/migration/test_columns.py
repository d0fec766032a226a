"""Stored vectors are translated row by row whatever the format, and a killed run continues where it was."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from repdyn.errors import RepdynError
from repdyn.migration import Migration, columns
from repdyn.migration.plan import MIGRATE
from repdyn.translation import LinearTranslation

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

X = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch) -> None:
    monkeypatch.setattr(columns, "ROWS", 8)


def plan(seed: int = 0, unit: bool = False) -> Migration:
    generator = np.random.default_rng(seed)
    t = LinearTranslation(
        generator.normal(size=(4, 3)), generator.normal(size=4), np.ones(3), verdict="found"
    )
    return Migration(MIGRATE, "given", "found", t, "affine", {}, 0, 0, unit, {})


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_matrix_keeps_its_type(tmp_path: Path, dtype) -> None:
    np.save(tmp_path / "a.npy", X.astype(dtype))
    assert plan().apply(tmp_path / "a.npy", tmp_path / "b.npy") == 50
    made = np.load(tmp_path / "b.npy")
    assert made.dtype == dtype
    np.testing.assert_allclose(made, plan()(X), atol=0.02 if dtype == np.float16 else 1e-5)
    assert sorted(os.listdir(tmp_path)) == ["a.npy", "b.npy"]


def test_unit_vectors_stay_so(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", X)
    plan(unit=True).apply(tmp_path / "a.npy", tmp_path / "b.npy")
    made = np.load(tmp_path / "b.npy")
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(made, plan(unit=True)(X), atol=1e-5)


@pytest.mark.parametrize("ending", ["parquet", "arrow", "feather"])
def test_a_table_gets_a_column_and_keeps_all_others(tmp_path: Path, ending: str) -> None:
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 4)
    table = pa.table({"id": range(50), "v": fixed, "text": ["t"] * 50})
    if ending == "parquet":
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=11)  # blocks do not fit row groups
    else:
        with pa.ipc.new_file(str(tmp_path / f"a.{ending}"), table.schema) as writer:
            writer.write_table(table, max_chunksize=11)
    assert plan().apply(f"{tmp_path / 'a'}.{ending}#v", tmp_path / f"b.{ending}", "v2") == 50
    made = (
        pq.read_table(tmp_path / "b.parquet")
        if ending == "parquet"
        else pa.ipc.open_file(str(tmp_path / f"b.{ending}")).read_all()
    )
    assert made.column_names == ["id", "v", "text", "v2"]
    np.testing.assert_allclose(np.array(made["v2"].to_pylist()), plan()(X), atol=1e-5)
    np.testing.assert_array_equal(np.array(made["v"].to_pylist(), np.float32), X)
    assert made["id"].to_pylist() == list(range(50))
    with pytest.raises(RepdynError, match="has a column 'text' already"):
        plan().apply(f"{tmp_path / 'a'}.{ending}#v", tmp_path / f"c.{ending}", "text")


def counted(monkeypatch, fail_at: int | None = None) -> list[int]:
    """Blocks that were translated; the run dies in the one given."""
    seen: list[int] = []
    whole = Migration._in_single_precision

    def counting(self):
        apply = whole(self)

        def count(x):
            if len(x) == 8 or len(x) == 2:  # and not the probe of four
                if len(seen) == fail_at:
                    raise KeyboardInterrupt
                seen.append(len(x))
            return apply(x)

        return count

    monkeypatch.setattr(Migration, "_in_single_precision", counting)
    return seen


@pytest.mark.parametrize("ending", ["npy", "parquet"])
def test_an_interrupted_run_continues(tmp_path: Path, monkeypatch, ending: str) -> None:
    np.save(tmp_path / "a.npy", X)
    pq.write_table(pa.table({"v": list(X)}), tmp_path / "a.parquet")
    source, out = tmp_path / f"a.{ending}", tmp_path / f"b.{ending}"
    with monkeypatch.context() as patch:
        seen = counted(patch, fail_at=3)
        with pytest.raises(KeyboardInterrupt):
            plan().apply(source, out)
        assert len(seen) == 3
    assert not out.exists()
    with monkeypatch.context() as patch:
        seen = counted(patch)
        assert plan().apply(source, out) == 50
        assert len(seen) == 7 - 3
    vectors = np.load(out) if ending == "npy" else np.array(pq.read_table(out)["v_migrated"].to_pylist())
    np.testing.assert_allclose(vectors, plan()(X), atol=1e-5)
    assert not list(tmp_path.glob(".*"))


def test_blocks_of_another_map_or_another_file_are_not_used(tmp_path: Path, monkeypatch) -> None:
    np.save(tmp_path / "a.npy", X)
    for change in ("map", "file"):
        with monkeypatch.context() as patch:
            counted(patch, fail_at=3)
            with pytest.raises(KeyboardInterrupt):
                plan().apply(tmp_path / "a.npy", tmp_path / "b.npy")
        if change == "file":
            np.save(tmp_path / "a.npy", X[::-1].copy())
        other = plan(seed=1 if change == "map" else 0)
        other.apply(tmp_path / "a.npy", tmp_path / "b.npy")
        np.testing.assert_allclose(np.load(tmp_path / "b.npy"), other(np.load(tmp_path / "a.npy")), atol=1e-5)
        (tmp_path / "b.npy").unlink()


KILLED = """
import os, sys
import numpy as np
sys.path.insert(0, {tests!r})
from repdyn.migration import columns, Migration
from repdyn.translation import LinearTranslation
columns.ROWS = 8
g = np.random.default_rng(0)
t = LinearTranslation(g.normal(size=(4, 3)), g.normal(size=4), np.ones(3), verdict="found")
plan = Migration("migrate", "given", "found", t, "affine", {{}}, 0, 0, False, {{}})
whole, seen = Migration._in_single_precision, []
def dying(self):
    apply = whole(self)
    def count(x):
        seen.append(0)
        if len(seen) == 5:
            os.kill(os.getpid(), 9)
        return apply(x)
    return count
Migration._in_single_precision = dying
plan.apply({source!r}, {out!r})
"""


def test_a_killed_process_loses_at_most_a_block(tmp_path: Path, monkeypatch) -> None:
    np.save(tmp_path / "a.npy", X)
    code = KILLED.format(tests="", source=str(tmp_path / "a.npy"), out=str(tmp_path / "b.npy"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert done.returncode == -9, done.stderr
    seen = counted(monkeypatch)
    assert plan().apply(tmp_path / "a.npy", tmp_path / "b.npy") == 50
    assert len(seen) == 4  # the probe and three blocks were done
    np.testing.assert_allclose(np.load(tmp_path / "b.npy"), plan()(X), atol=1e-5)


def test_nothing_is_replaced_and_bad_input_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", X)
    np.save(tmp_path / "b.npy", X)
    for force in (False, True):
        with pytest.raises(RepdynError, match="never replace"):
            plan().apply(tmp_path / "a.npy", tmp_path / "a.npy", force=force)
    with pytest.raises(RepdynError, match="exists"):
        plan().apply(tmp_path / "a.npy", tmp_path / "b.npy")
    assert plan().apply(tmp_path / "a.npy", tmp_path / "b.npy", force=True) == 50
    with pytest.raises(RepdynError, match="must end in"):
        plan().apply(tmp_path / "a.npy", tmp_path / "c.parquet")
    broken = X.copy()
    broken[21, 1] = np.nan
    np.save(tmp_path / "n.npy", broken)
    with pytest.raises(RepdynError, match="vector 21 is not finite"):
        plan().apply(tmp_path / "n.npy", tmp_path / "c.npy")
    pq.write_table(pa.table({"v": [*list(X[:20]), None]}), tmp_path / "m.parquet")
    with pytest.raises(RepdynError, match="row 20 has no vector at 'v'"):
        plan().apply(tmp_path / "m.parquet", tmp_path / "c.parquet")
    pq.write_table(pa.table({"v": [[1.0] * 5]}), tmp_path / "w.parquet")
    with pytest.raises(RepdynError, match="reads width 4"):
        plan().apply(tmp_path / "w.parquet", tmp_path / "c.parquet")
    pq.write_table(pa.table({"v": list(X), "w": list(X)}), tmp_path / "two.parquet")
    with pytest.raises(RepdynError, match="expected one column"):
        plan().apply(tmp_path / "two.parquet", tmp_path / "c.parquet")
    assert not (tmp_path / "c.parquet").exists()
    assert not (tmp_path / "c.npy").exists()


@pytest.mark.parametrize("ending", ["npy", "parquet"])
def test_blocks_of_a_file_that_was_replaced_with_its_date_are_not_used(tmp_path, monkeypatch, ending) -> None:
    """As by ``cp -p`` or an archive: the same name, size and time, and other vectors in the second block."""
    source, out = tmp_path / f"a.{ending}", tmp_path / f"b.{ending}"

    def write(x) -> None:
        np.save(source, x) if ending == "npy" else pq.write_table(
            pa.table({"v": list(x)}), source, compression="none", use_dictionary=False
        )
        os.utime(source, (10**9, 10**9))

    write(X)
    with monkeypatch.context() as patch:
        counted(patch, fail_at=3)
        with pytest.raises(KeyboardInterrupt):
            plan().apply(source, out)
    other = X.copy()
    other[10] += 1
    write(other)
    with monkeypatch.context() as patch:
        seen = counted(patch)
        plan().apply(source, out)
        assert len(seen) == 7 - 2  # two of the three blocks are those of before
    vectors = np.load(out) if ending == "npy" else np.array(pq.read_table(out)["v_migrated"].to_pylist())
    np.testing.assert_allclose(vectors, plan()(other), atol=1e-5)


def test_blocks_of_another_map_are_not_used_where_the_first_vectors_are_zero(tmp_path, monkeypatch) -> None:
    x = X.copy()
    x[:4] = 0
    np.save(tmp_path / "a.npy", x)
    with monkeypatch.context() as patch:
        counted(patch, fail_at=3)
        with pytest.raises(KeyboardInterrupt):
            plan().apply(tmp_path / "a.npy", tmp_path / "b.npy")
    first = plan()
    turned = replace(first.translation, offset_a=np.zeros(4), offset_b=first(np.zeros((1, 4)))[0])
    turned = replace(turned, matrix=2 * turned.matrix)
    other = replace(first, translation=turned)
    np.testing.assert_allclose(other(x[:4]), first(x[:4]), atol=1e-9)
    other.apply(tmp_path / "a.npy", tmp_path / "b.npy")
    np.testing.assert_allclose(np.load(tmp_path / "b.npy"), other(x), atol=1e-4)
