"""Every verb works for somebody who has embeddings in files and no model and no texts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import repdyn

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

SIZE = 240


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Clusters read by A, and by B as a turned copy, as ``.npy`` and as Parquet with ids in another order."""
    where = tmp_path_factory.mktemp("vectors")
    generator = np.random.default_rng(0)
    kind = generator.integers(0, 4, SIZE)
    x = (3 * generator.normal(size=(4, 6))[kind] + generator.normal(size=(SIZE, 6))).astype(np.float32)
    y = (x @ np.linalg.qr(generator.normal(size=(6, 6)))[0]).astype(np.float32)
    np.save(where / "a.npy", x)
    np.savez(where / "a.npz", first=x, second=0.9 * x, third=0.8 * x, label=kind)
    order = generator.permutation(SIZE)
    for name, z in (("a", x), ("b", y[order])):
        keys = np.arange(SIZE) if name == "a" else order
        columns = {"key": keys, "v": list(z), "kind": kind if name == "a" else kind[order]}
        pq.write_table(pa.table(columns), where / f"{name}.parquet")
    far = x[:50] + 40
    far[3, 0] = np.nan
    pq.write_table(pa.table({"v": list(far)}), where / "far.parquet")
    np.save(where / "far.npy", far)
    return where


@pytest.fixture
def run(command, files: Path, monkeypatch):
    monkeypatch.chdir(files)

    def go(*words: str):
        status, out, err = command(*words, "--json", "-")
        assert status == 0, err
        return json.loads(out)

    return go


def test_import_keeps_ids_and_labels(run, files: Path) -> None:
    told = run("paths", "import", "b.parquet#v", "--ids", "key", "--labels", "kind", "--out", "b.paths")
    assert told["import"]["classes"] == 4
    stored = repdyn.open_paths(files / "b.paths")
    table = pq.read_table(files / "b.parquet")
    assert stored.ids.tolist() == [str(key) for key in table["key"].to_pylist()]
    assert stored.labels.tolist() == table["kind"].to_pylist()
    np.testing.assert_array_equal(np.asarray(stored["v"]), np.array(table["v"].to_pylist(), np.float32))


def test_paired_translation_goes_by_ids_and_not_by_rows(run, files: Path) -> None:
    for name in "ab":
        run("paths", "import", f"{name}.parquet#v", "--ids", "key", "--out", f"{name}2.paths")
    told = run("translate", "a2.paths", "b2.paths", "--paired", "--out", "ab", "--held-out", "a.npy", "a.npy")
    assert told["translation"]["verdict"] == "found"
    x = np.load(files / "a.npy")
    y = repdyn.open_paths(files / "b2.paths")
    moved = repdyn.load_result(files / "ab")(x)[y.ids.astype(int)]
    np.testing.assert_allclose(moved, np.asarray(y["v"]), atol=1e-3)


def test_translate_without_a_store(run) -> None:
    told = run("translate", "a.npy", "b.parquet#v", "--out", "unpaired")
    assert told["translation"]["shape"] == [6, 6]


def test_detectors_fit_and_score_files(run, files: Path) -> None:
    run("ood", "fit", "a.parquet#v", "--out", "a.det", "--detector", "path")
    told = run("ood", "score", "a.det", "far.parquet#v", "--out", "far.csv")
    assert told["ood"]["flagged"]["value"] == 1
    rows = {row.split(",")[0]: row.split(",") for row in (files / "far.csv").read_text().splitlines()}
    assert rows["3"][1:3] == ["-1e+30", "1"]  # it is not finite: flagged, and not scored as normal
    assert len(rows) == 51
    run("ood", "fit", "a.npy", "--out", "n.det", "--detector", "path")
    assert run("ood", "score", "n.det", "far.npy")["ood"]["flagged"]["value"] == 1
    assert run("ood", "score", "n.det", "a.npy")["ood"]["flagged"]["value"] < 0.1


def test_topology_and_field_of_a_matrix(run) -> None:
    told = run("topology", "a.npy")
    assert "vectors" in told["topology"]["persistence"]["points"] or told["topology"]["tree"]
    run("field", "a.npy", "a.npy", "--starts", "20", "--max-steps", "50", "--components", "3")
    run("paths", "info", "a.npz#first")
    run("paths", "export", "a.npy", "again.parquet")


def test_koopman_of_several_columns(run) -> None:
    told = run("koopman", "fit", "a.npz#first,second,third", "--out", "a.kae", "--epochs", "1")
    assert told["koopman"]
    run("field", "a.kae", "a.npz#first,second,third", "--starts", "10", "--max-steps", "20")


def test_ids_that_are_there_twice_are_no_pairs(command, files: Path, monkeypatch) -> None:
    monkeypatch.chdir(files)
    x = np.load("a.npy")
    pq.write_table(
        pa.table({"id": ["k"] * 3 + [str(k) for k in range(SIZE - 3)], "v": list(x)}), "twice.parquet"
    )
    status, _, err = command("translate", "a.npy", "twice.parquet#v", "--paired", "--out", "none")
    assert status == 2
    assert "the second has 2 ids that are there already, such as 'k', 3 times" in err


@pytest.mark.parametrize("given", ["none.npy", "a.parquet#w", "a.npy#x", "a.npz#"])
def test_bad_addresses_are_one_line(command, files: Path, monkeypatch, given: str) -> None:
    monkeypatch.chdir(files)
    for words in (
        ("topology", given),
        ("ood", "fit", given, "--out", "x"),
        ("paths", "import", given, "--out", "x"),
    ):
        status, _, err = command(*words)
        assert status == 2, words
        assert len(err.strip().splitlines()) == 1
