"""Other formats hold the same numbers, as their own libraries read them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from repdyn.cli import main
from repdyn.errors import RepdynError
from repdyn.paths import RepresentationPaths, export_paths, exporting, open_paths

SIZE = 150


def made(dtype: str = "float32", labels: str = "names", logits: bool = True) -> RepresentationPaths:
    generator = np.random.default_rng(0)
    names = np.array(["änt", "bee", "cat"])[np.arange(SIZE) % 3]
    return RepresentationPaths.from_arrays(
        {
            "stem": generator.normal(size=(SIZE, 3)).astype(dtype),
            "words": generator.normal(size=(SIZE, 5, 2)).astype(dtype),
        },
        labels={"names": names, "numbers": np.arange(SIZE) % 3, "none": None}[labels],
        ids=[f"bild\n{i}" for i in range(SIZE)],
        logits=generator.normal(size=(SIZE, 6)) if logits else None,
        meta={"model": "tiny", "digest": "abc"},
        masks={"words": np.arange(5) < generator.integers(0, 6, SIZE)[:, None]},
    )


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "_GROUP_BYTES", 900)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_safetensors(tmp_path: Path, dtype: str) -> None:
    paths = made(dtype)
    paths.save(tmp_path / "a.paths")
    export_paths(open_paths(tmp_path / "a.paths"), tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", framework="np") as file:
        read = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    assert set(read) == {"stem", "words", "words.lengths", "logits", "labels", "ids"}
    np.testing.assert_array_equal(read["stem"], paths["stem"])
    np.testing.assert_array_equal(read["words"], np.asarray(paths["words"])[paths.mask("words")])
    np.testing.assert_array_equal(read["words.lengths"], paths.mask("words").sum(axis=1))
    np.testing.assert_array_equal(read["logits"], paths.logits)
    assert read["stem"].dtype == dtype
    assert paths.labels is not None
    np.testing.assert_array_equal(np.array(json.loads(metadata["classes"]))[read["labels"]], paths.labels)
    assert json.loads(bytes(read["ids"])) == paths.ids.tolist()
    assert json.loads(metadata["repdyn"])["digest"] == "abc"


def test_safetensors_of_numbers_alone(tmp_path: Path) -> None:
    for labels in ("numbers", "none"):
        paths = made(labels=labels, logits=False).subset([5, 2, 100])
        export_paths(paths, tmp_path / "a.safetensors")
        with safe_open(tmp_path / "a.safetensors", framework="np") as file:
            np.testing.assert_array_equal(file.get_tensor("stem"), paths["stem"])
            assert ("labels" in file.keys()) == (labels == "numbers")  # noqa: SIM118
            if labels == "numbers":
                assert file.get_tensor("labels").tolist() == [2, 2, 1]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("labels", ["names", "numbers", "none"])
def test_parquet(tmp_path: Path, dtype: str, labels: str) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow comes with the extra ray")
    paths = made(dtype, labels)
    export_paths(paths, tmp_path / "a.parquet")
    file = parquet.ParquetFile(tmp_path / "a.parquet")
    assert file.num_row_groups > 1
    read = file.read()
    assert read.column("id").to_pylist() == paths.ids.tolist()
    np.testing.assert_array_equal(np.array(read.column("stem").to_pylist(), dtype), paths["stem"])
    np.testing.assert_array_equal(np.array(read.column("logits").to_pylist(), "float32"), paths.logits)
    words = [np.array(sample, dtype).reshape(-1, 2) for sample in read.column("words").to_pylist()]
    assert [len(sample) for sample in words] == paths.mask("words").sum(axis=1).tolist()
    np.testing.assert_array_equal(np.concatenate(words), np.asarray(paths["words"])[paths.mask("words")])
    assert ("label" in read.column_names) == (labels != "none")
    if paths.labels is not None:
        assert read.column("label").to_pylist() == paths.labels.tolist()
    assert json.loads(file.schema_arrow.metadata[b"repdyn"])["digest"] == "abc"


def test_refusals_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RepdynError, match=r"expected \.parquet or \.safetensors"):
        export_paths(made(), tmp_path / "a.csv")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RepdynError, match="pip install pyarrow"):
        export_paths(made(), tmp_path / "a.parquet")
    clash = RepresentationPaths.from_arrays({"ids": np.ones((2, 2))})
    with pytest.raises(RepdynError, match="'ids': its name is reserved"):
        export_paths(clash, tmp_path / "a.safetensors")
    (tmp_path / "file").write_text("")
    with pytest.raises(RepdynError, match="cannot be written"):
        export_paths(made(), tmp_path / "file/a.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_the_verbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["repdyn", "paths", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        told = capsys.readouterr()
        return int(stopped.value.code or 0), told.out + told.err

    one, two = tmp_path / "1.paths", tmp_path / "2.paths"
    made().subset(range(100)).save(one)
    made().subset(range(100, SIZE)).save(two)
    status, text = run("merge", one, two, "--out", tmp_path / "all.paths", "--json", tmp_path / "m.json")
    assert status == 0, text
    assert json.loads((tmp_path / "m.json").read_text())["merge"]["size"] == SIZE
    status, text = run("export", tmp_path / "all.paths", tmp_path / "all.safetensors")
    assert status == 0, text
    assert "150 samples at 2 points" in text
    assert run("merge", one, one, "--out", tmp_path / "twice.paths")[0] == 2
    assert run("export", one, tmp_path / "a.csv")[0] == 2
