"""What is on disk is a plain Zarr v3 group, and anything else is refused in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from repdyn.errors import RepdynError
from repdyn.paths import RepresentationPaths, open_paths, store
from repdyn.paths.layout import decode_strings, encode_strings, rows_per_chunk

SIZE = 200


@pytest.fixture
def out(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    words = generator.normal(size=(SIZE, 5, 2)).astype("float32")
    mask = np.arange(5) < generator.integers(0, 6, SIZE)[:, None]
    RepresentationPaths.from_arrays(
        {
            "stem": generator.normal(size=(SIZE, 3)).astype("float32"),
            "words": words,
            "head": generator.normal(size=(SIZE, 4)).astype("float32"),
        },
        labels=[f"klasse {i % 4} é" for i in range(SIZE)],
        ids=[f"bild {i} ü" for i in range(SIZE)],
        logits=generator.normal(size=(SIZE, 6)),
        meta={"model": "tiny"},
        masks={"words": mask},
    ).save(tmp_path / "a.paths")
    return tmp_path / "a.paths"


@pytest.mark.parametrize("consolidated", [True, False])
def test_zarr_python_reads_the_same(out: Path, consolidated: bool) -> None:
    paths = open_paths(out)
    group = zarr.open_group(out, mode="r", use_consolidated=consolidated)
    known = dict(group.attrs["repdyn"])
    packed = group["paths"][:]
    for point in ("stem", "head"):
        low = known["offsets"][point]
        np.testing.assert_array_equal(packed[:, low : low + known["widths"][point]], np.asarray(paths[point]))
    assert group["ids"][:].tolist() == paths.ids.tolist()
    assert paths.labels is not None
    assert group["labels"][:].tolist() == paths.labels.tolist()
    np.testing.assert_array_equal(group["logits"][:], paths.logits)
    np.testing.assert_array_equal(group["lengths"][:, 0], paths.mask("words").sum(axis=1))
    flat = np.concatenate([group[f"tokens/0/{chunk}"][:] for chunk in range(packed.shape[0] // 64 + 1)])
    np.testing.assert_array_equal(flat, np.asarray(paths["words"])[paths.mask("words")])
    assert known["meta"]["model"] == "tiny"


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_dtype_is_read_by_zarr_python(tmp_path: Path, dtype: str) -> None:
    array = np.random.default_rng(0).normal(size=(150, 7)).astype(dtype)
    RepresentationPaths.from_arrays({"a": array}, labels=np.arange(150) - 70).save(tmp_path / "a")
    group = zarr.open_group(tmp_path / "a", mode="r")
    np.testing.assert_array_equal(group["paths"][:], array)
    np.testing.assert_array_equal(group["labels"][:], np.arange(150) - 70)
    assert group["paths"].dtype == dtype


def test_opening_reads_no_representations(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("read while opening")

    monkeypatch.setattr(np, "memmap", refuse)
    paths = open_paths(out)
    assert len(paths.subset([1, 2])) == 2
    with pytest.raises(AssertionError):
        np.asarray(paths["stem"])


def test_few_files_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_FILES_OPEN", 3)
    array = np.random.default_rng(0).normal(size=(1000, 2))
    RepresentationPaths.from_arrays({"a": array}).save(tmp_path / "a")
    paths = open_paths(tmp_path / "a")
    np.testing.assert_array_equal(paths["a"][::-1], array[::-1])
    np.testing.assert_array_equal(np.asarray(paths["a"]), array)


def test_nothing_is_there(tmp_path: Path) -> None:
    with pytest.raises(RepdynError, match="no store of paths"):
        open_paths(tmp_path / "missing.paths")


def test_foreign_things_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "folder").mkdir()
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange/zarr.json").write_text("[1]")
    zarr.open_group(tmp_path / "group", mode="w").create_array("x", shape=(3,), dtype="f4")
    zarr.create_array(tmp_path / "array", shape=(3,), dtype="f4")
    for name in ("file", "folder", "strange"):
        with pytest.raises(RepdynError, match="is not a store of paths"):
            open_paths(tmp_path / name)
    for name in ("group", "array"):
        with pytest.raises(RepdynError, match="but not of paths"):
            open_paths(tmp_path / name)


def change(out: Path, **values: Any) -> None:
    document = json.loads((out / "zarr.json").read_text())
    document["attributes"]["repdyn"].pop("sha256")  # as in stores of version 0.1
    for key, value in values.items():
        if value is None:
            del document["attributes"]["repdyn"][key]
        else:
            document["attributes"]["repdyn"][key] = value
    (out / "zarr.json").write_text(json.dumps(document))


def test_a_newer_store_is_refused(out: Path) -> None:
    change(out, schema=2)
    with pytest.raises(RepdynError, match=r"newer repdyn \(schema 2.*upgrade"):
        open_paths(out)


@pytest.mark.parametrize("text", [None, "", '{"zarr_format": 3, "node_ty'])
def test_lost_attributes_are_told(out: Path, text: str | None) -> None:
    (out / "zarr.json").unlink()
    if text is not None:
        (out / "zarr.json").write_text(text)
    with pytest.raises(RepdynError, match="lost its attributes"):
        open_paths(out)


@pytest.mark.parametrize(
    "values",
    [
        {"points": None},
        {"widths": {"stem": 3}},
        {"size": "many"},
        {"chunk_rows": 0},
        {"dtype": "f99"},
        {"meta": 3},
    ],
)
def test_damaged_attributes_are_told(out: Path, values: dict[str, Any]) -> None:
    change(out, **values)
    with pytest.raises(RepdynError, match="attributes are damaged"):
        open_paths(out)


@pytest.mark.parametrize("key", ["points", "meta"])
def test_attributes_that_make_sense_but_are_others_are_told(out: Path, key: str) -> None:
    """Points in another order would give each other's values: only the digest tells."""
    document = json.loads((out / "zarr.json").read_text())
    known = document["attributes"]["repdyn"]
    known[key] = known["points"][::-1] if key == "points" else known["meta"] | {"model": "another"}
    (out / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(RepdynError, match="differ from those that were written"):
        open_paths(out)
    known.pop("sha256")
    (out / "zarr.json").write_text(json.dumps(document))
    assert len(open_paths(out).points) == 3


def test_the_digest_of_attributes_does_not_depend_on_their_order(out: Path) -> None:
    document = json.loads((out / "zarr.json").read_text())
    (out / "zarr.json").write_text(json.dumps(document, sort_keys=True, indent=3))
    assert len(open_paths(out)) == 200


def test_logits_that_attributes_do_not_tell_of_are_told(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(30, 4))
    RepresentationPaths.from_arrays({"a": x}, logits=x).save(tmp_path / "s")
    document = json.loads((tmp_path / "s/zarr.json").read_text())
    document["attributes"]["repdyn"]["logits_width"] = None
    document["attributes"]["repdyn"].pop("sha256")
    (tmp_path / "s/zarr.json").write_text(json.dumps(document))
    with pytest.raises(RepdynError, match="has logits that its attributes do not mention"):
        open_paths(tmp_path / "s")


@pytest.mark.parametrize("text", [None, "", "[1]"])
def test_labels_whose_metadata_are_lost_are_no_missing_labels(tmp_path: Path, text: str | None) -> None:
    x = np.random.default_rng(0).normal(size=(30, 4))
    RepresentationPaths.from_arrays({"a": x}, labels=[0, 1] * 15).save(tmp_path / "s")
    (tmp_path / "s/labels/zarr.json").unlink()
    if text is not None:
        (tmp_path / "s/labels/zarr.json").write_text(text)
    with pytest.raises(RepdynError, match=r"labels: has no readable zarr\.json"):
        open_paths(tmp_path / "s")


def test_attributes_that_contradict_the_arrays_are_told(out: Path) -> None:
    change(out, widths={"stem": 3, "words": 2, "head": 5})
    with pytest.raises(RepdynError, match=r"paths: its shape is \[200, 7\], expected \[200, 8\]"):
        open_paths(out)


def test_a_compressed_copy_is_told(out: Path) -> None:
    document = json.loads((out / "paths/zarr.json").read_text())
    document["codecs"].append({"name": "zstd", "configuration": {"level": 1, "checksum": False}})
    (out / "paths/zarr.json").write_text(json.dumps(document))
    with pytest.raises(RepdynError, match=r"codecs.*another program"):
        open_paths(out)


@pytest.mark.parametrize(
    "name",
    [
        "paths/c/1/0",
        "paths/c/3/0",
        "logits/c/0/0",
        "lengths/c/2/0",
        "tokens/0/1/c/0/0",
        "ids/c/0",
        "labels/c/0",
    ],
)
@pytest.mark.parametrize("harm", ["removed", "one byte short", "one byte long"])
def test_missing_and_truncated_chunks_are_told(out: Path, name: str, harm: str) -> None:
    file = out / name
    if harm == "removed":
        file.unlink()
    else:
        os.truncate(file, file.stat().st_size + (1 if harm == "one byte long" else -1))
    strings = name.startswith(("ids", "labels"))
    if harm == "removed" or not strings:
        with pytest.raises(
            RepdynError, match=f"chunk {name.split('/c/')[-1][0] if 'tokens' not in name else 1}"
        ):
            open_paths(out)
    elif harm == "one byte short":
        # How long strings are is known when they are read.
        paths = open_paths(out)
        with pytest.raises(RepdynError, match="truncated or damaged"):
            _ = paths.ids, paths.labels


def test_a_file_that_goes_missing_later_is_told(out: Path) -> None:
    paths = open_paths(out)
    (out / "paths/c/0/0").unlink()
    (out / "ids/c/0").unlink()
    with pytest.raises(RepdynError, match="since the store was opened"):
        np.asarray(paths["stem"])
    with pytest.raises(RepdynError, match="since the store was opened"):
        _ = paths.ids


def test_missing_array_metadata_is_told(out: Path) -> None:
    (out / "paths/zarr.json").unlink()
    with pytest.raises(RepdynError, match=r"paths: has no readable zarr\.json"):
        open_paths(out)


@pytest.mark.parametrize("values", [[], [""], ["a", "", "äöü", "x" * 300, "日本"]])
def test_strings_come_back(values: list[str]) -> None:
    assert decode_strings(encode_strings(values), Path("x")) == values


@pytest.mark.parametrize(
    ("size", "row_bytes", "chunks"),
    [(1, 4, 1), (50, 4, 1), (300, 24, 5), (4000, 7 * 384 * 4, 16), (1_000_000, 12 * 768 * 2, 559)],
)
def test_chunks_are_many_but_not_small(size: int, row_bytes: int, chunks: int) -> None:
    rows = rows_per_chunk(size, row_bytes)
    assert -(-size // rows) == chunks
    assert rows * row_bytes <= 64 * 2**20


def test_chunks_of_very_wide_rows_hold_one_row() -> None:
    assert rows_per_chunk(1000, 10**9) == 1
