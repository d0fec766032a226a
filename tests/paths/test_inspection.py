"""What a store says of itself, and what becomes of a flipped byte."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from repdyn.cli import main
from repdyn.errors import RepdynError
from repdyn.paths import PathsWriter, RepresentationPaths, inspect_paths, verify_paths
from repdyn.paths.layout import Layout

SIZE = 200


@pytest.fixture
def out(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    RepresentationPaths.from_arrays(
        {"stem": generator.normal(size=(SIZE, 3)), "words": generator.normal(size=(SIZE, 5, 2))},
        labels=np.arange(SIZE) % 3,
        logits=generator.normal(size=(SIZE, 6)),
        meta={"model": "tiny", "digest": "abc"},
        masks={"words": np.arange(5) < generator.integers(0, 6, SIZE)[:, None]},
    ).save(tmp_path / "a.paths")
    return tmp_path / "a.paths"


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_what_was_written_is_sound(out: Path) -> None:
    found = verify_paths(out)
    assert found.sound
    assert found.files == 4 * 6  # four chunks of: paths, lengths, logits, labels, ids, tokens
    assert found.bytes > SIZE * 3 * 8
    assert "sound, 24 files" in repr(found)


@pytest.mark.parametrize(
    "name",
    [
        "paths/c/1/0",
        "lengths/c/1/0",
        "logits/c/1/0",
        "labels/c/1",
        "ids/c/1",
        "tokens/0/1/c/0/0",
        "checksums/c/1/0",
    ],
)
def test_a_flipped_bit_is_found_and_its_chunk_named(out: Path, name: str) -> None:
    flip(out / name)
    found = verify_paths(out)
    assert not found.sound
    assert {(d.chunk, d.first, d.last) for d in found.damages} == {(1, 64, 127)}
    if not name.startswith("checksums"):
        assert [(d.file, d.what) for d in found.damages] == [(name, "damaged")]
        assert f"chunk 1 (samples 64 to 127): {name} is damaged" in repr(found)


def test_missing_files_are_found(out: Path) -> None:
    (out / "paths/c/2/0").unlink()
    (out / "checksums/c/3/0").unlink()
    found = verify_paths(out)
    assert [(d.chunk, d.file, d.what) for d in found.damages] == [
        (2, "paths/c/2/0", "missing"),
        (3, "checksums/c/3/0", "missing"),
    ]


def test_a_damaged_chunk_is_written_again_once_its_ids_are_removed(tmp_path: Path) -> None:
    def write(chunks: int | None = None) -> PathsWriter:
        writer = PathsWriter.open(tmp_path / "a", points=["p"], widths={"p": 2}, size=SIZE, meta={})
        for rows in writer.missing[:chunks]:
            writer.write_chunk(rows.start, {"p": np.ones((len(rows), 2))}, [str(i) for i in rows])
        return writer

    write().finish()
    flip(tmp_path / "a/paths/c/1/0")
    damage = verify_paths(tmp_path / "a").damages[0]
    (tmp_path / f"a/ids/c/{damage.chunk}").unlink()
    write().finish()
    assert verify_paths(tmp_path / "a").sound


def test_an_unfinished_store_is_verified_as_far_as_it_goes(tmp_path: Path) -> None:
    writer = PathsWriter.open(tmp_path / "a", points=["p"], widths={"p": 2}, size=SIZE, meta={})
    first = writer.missing[0]
    writer.write_chunk(0, {"p": np.ones((len(first), 2))}, [str(i) for i in first])
    assert verify_paths(tmp_path / "a").files == 2
    assert verify_paths(tmp_path / "a").sound
    info = inspect_paths(tmp_path / "a")
    assert (info.there, info.size, info.complete) == (64, SIZE, False)
    assert "unfinished, 64 are written" in repr(info)


def test_checksums_are_a_zarr_array_of_sha256(out: Path) -> None:
    import hashlib

    array = zarr.open_group(out, mode="r")["checksums"]
    column = list(array.attrs["of"]).index("paths")
    assert array.attrs["algorithm"] == "sha256"
    for chunk in range(4):
        known = hashlib.sha256((out / f"paths/c/{chunk}/0").read_bytes()).hexdigest()
        assert array[chunk, column] == f"sha256:{known}"


def test_a_store_without_checksums_is_told(out: Path) -> None:
    import shutil

    shutil.rmtree(out / "checksums")
    assert not inspect_paths(out).checksums
    with pytest.raises(RepdynError, match="has no checksums, because an earlier repdyn"):
        verify_paths(out)


def test_info_reads_no_chunk(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_bytes", lambda file: _metadata_only(file))
    info = inspect_paths(out)
    assert (info.size, info.points, info.tokens) == (SIZE, ("stem", "words"), ("words",))
    assert info.labels == "int64"
    assert info.logits_width == 6
    assert info.checksums
    assert info.complete
    assert json.loads(json.dumps(info.to_dict()))["meta"]["digest"] == "abc"
    assert "digest abc" in repr(info)


def _metadata_only(file: Path) -> bytes:
    assert file.name == "zarr.json"
    with file.open("rb") as opened:
        return opened.read()


def test_verbs(out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["repdyn", "paths", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        told = capsys.readouterr()
        return int(stopped.value.code or 0), told.out + told.err

    figures = out.parent / "figures.json"
    status, text = run("info", out, "--json", figures)
    assert status == 0
    assert "200 samples, complete" in text
    assert json.loads(figures.read_text())["paths"]["chunks"] == 4
    status, text = run("verify", out)
    assert status == 0
    assert "sound" in text
    flip(out / "paths/c/3/0")
    status, text = run("verify", out, "--json", figures)
    assert status == 1
    assert "chunk 3 (samples 192 to 199): paths/c/3/0 is damaged" in text
    assert json.loads(figures.read_text())["verify"]["damages"][0]["chunk"] == 3
    status, text = run("verify", out.parent / "missing")
    assert status == 2
    assert "no store of paths" in text


def test_every_file_of_a_chunk_is_in_the_checksums() -> None:
    layout = Layout(("a", "b"), {"a": 2, "b": 3}, ("b",), 100, 64, "float32", 5)
    named = set(layout.files(0).values())
    fixed = {name for name, _ in layout.fixed_files(0)}
    tokens = {name for name, _ in layout.token_files(0, np.ones((64, 1), np.int64))}
    assert fixed | tokens | {"ids/c/0", "labels/c/0"} == named
