"""Stores behind a URL: the same bytes, read by ranges, opened from one small file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from repdyn.errors import RepdynError
from repdyn.paths import PathsWriter, RepresentationPaths, inspect_paths, open_paths, sampling, verify_paths
from repdyn.paths.columns import fetch_rows
from repdyn.paths.creation import fill_store, plan_layout
from repdyn.paths.layout import Layout, group_metadata, write_json
from repdyn.paths.storage import Folder, Remote, storage_at
from repdyn.paths.store import RemoteChunks

SIZE = 300


@pytest.fixture
def url() -> Any:
    yield "memory://bucket/a.paths"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def known() -> RepresentationPaths:
    generator = np.random.default_rng(0)
    return RepresentationPaths.from_arrays(
        {
            "stem": generator.normal(size=(SIZE, 3)).astype("float32"),
            "words": generator.normal(size=(SIZE, 5, 2)).astype("float32"),
            "head": generator.normal(size=(SIZE, 4)).astype("float32"),
        },
        labels=[f"klasse {i % 4} é" for i in range(SIZE)],
        ids=[f"bild {i}" for i in range(SIZE)],
        logits=generator.normal(size=(SIZE, 6)),
        meta={"model": "tiny", "digest": "abc"},
        masks={"words": np.arange(5) < generator.integers(0, 6, SIZE)[:, None]},
    )


def test_the_same_files_as_in_a_folder(known: RepresentationPaths, url: str, tmp_path: Path) -> None:
    known.save(url)
    known.save(tmp_path / "a.paths")
    there = fsspec.filesystem("memory")
    remote = {name.removeprefix("/bucket/a.paths/"): there.cat_file(name) for name in there.find("/bucket")}
    local = {
        str(file.relative_to(tmp_path / "a.paths")): file.read_bytes()
        for file in (tmp_path / "a.paths").rglob("*")
        if file.is_file()
    }
    assert remote == local


def test_reads_as_from_memory(known: RepresentationPaths, url: str) -> None:
    known.save(url)
    paths = open_paths(url)
    assert paths.path == url
    assert url in repr(paths)
    for point in known.points:
        np.testing.assert_array_equal(np.asarray(paths[point]), np.asarray(known[point]))
    np.testing.assert_array_equal(paths.mask("words"), known.mask("words"))
    np.testing.assert_array_equal(paths.labels, known.labels)
    np.testing.assert_array_equal(paths.ids, known.ids)
    np.testing.assert_array_equal(paths.logits, known.logits)
    index = np.random.default_rng(1).permutation(SIZE)[:50]
    np.testing.assert_array_equal(paths["head"][index], np.asarray(known["head"])[index])
    np.testing.assert_array_equal(paths.subset(index)["stem"][3:9], np.asarray(known["stem"])[index][3:9])
    np.testing.assert_array_equal(paths["stem"][[7, 7, 2]], np.asarray(known["stem"])[[7, 7, 2]])
    assert verify_paths(url).sound
    assert inspect_paths(url).complete
    # Copied back, it is what it was.
    paths.save("memory://bucket/b.paths")
    np.testing.assert_array_equal(open_paths("memory://bucket/b.paths")["head"][:], known["head"])


@pytest.mark.parametrize("shuffle", [True, False, "blocks"])
@pytest.mark.parametrize("batch_size", [32, 77, 1000])
def test_batches_are_the_same_samples(
    known: RepresentationPaths, url: str, monkeypatch: pytest.MonkeyPatch, shuffle: Any, batch_size: int
) -> None:
    monkeypatch.setattr(sampling, "STRETCH", 90)
    monkeypatch.setattr(sampling, "BLOCK_ROWS", 10)
    known.save(url)
    seen = []
    for batch in open_paths(url).batches(batch_size, shuffle=shuffle, seed=3):
        expected = next(iter(known.subset(batch.index).batches(len(batch.index), shuffle=False)))
        assert set(batch) == set(expected)
        for point, tensor in batch.items():
            np.testing.assert_array_equal(tensor.numpy(), expected[point].numpy())
        np.testing.assert_array_equal(batch.masks["words"].numpy(), expected.masks["words"].numpy())
        seen.append(batch.index)
    assert [len(index) for index in seen[:-1]] == [batch_size] * (len(seen) - 1)
    order = np.concatenate(seen)
    np.testing.assert_array_equal(np.sort(order), np.arange(SIZE))
    assert (order[:50] == np.arange(50)).all() == (shuffle is False)
    with pytest.raises(RepdynError, match="batch_size"):
        next(open_paths(url).batches(0))


def test_neighbours_are_fetched_together(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int, int]] = []
    place = storage_at(url)
    assert isinstance(place, Remote)
    whole = np.arange(1000 * 64, dtype="<f4").reshape(1000, 64)
    for chunk in range(10):
        place.write(f"p/{chunk}", whole[chunk * 100 : (chunk + 1) * 100])
    fetch = Remote.fetch

    def counted(self: Remote, ranges: Any) -> list[bytes]:
        asked.extend(ranges)
        return fetch(self, ranges)

    monkeypatch.setattr(Remote, "fetch", counted)
    chunks = RemoteChunks(place, "p/{}", [100] * 10, 64, np.dtype("float32"))
    index = np.array([5, 3, 4, 250, 990, 3])
    np.testing.assert_array_equal(fetch_rows(chunks, 100, index), whole[index])
    assert [name for name, _, _ in asked] == ["p/0", "p/2", "p/9"]
    assert asked[0][1:] == (3 * 256, 6 * 256)
    # What lies close is read over; what lies in several chunks is asked for apart.
    asked.clear()
    np.testing.assert_array_equal(fetch_rows(chunks, 100, np.array([90, 0, 110])), whole[[90, 0, 110]])
    assert [(name, start) for name, start, _ in asked] == [("p/0", 0), ("p/1", 10 * 256)]
    assert fetch_rows(chunks, 100, np.arange(0)).shape == (0, 64)


def test_resumes_and_replaces(known: RepresentationPaths, url: str) -> None:
    def start(**changes: Any) -> PathsWriter:
        given: dict[str, Any] = {"points": ["a"], "widths": {"a": 2}, "size": SIZE, "meta": {"digest": "abc"}}
        return PathsWriter.open(url, **{**given, **changes})

    writer = start()
    first, *rest = writer.missing
    writer.write_chunk(first.start, {"a": np.ones((len(first), 2))}, [str(i) for i in first])
    with pytest.raises(RepdynError, match=r"a.paths: is unfinished, 64 of 300"):
        open_paths(url)
    assert start().missing == rest
    with pytest.raises(RepdynError, match="holds another trace"):
        start(meta={"digest": "def"})
    assert len(start(meta={"digest": "def"}, resume=False).missing) == len(rest) + 1
    known.save(url)
    assert open_paths(url).points == known.points
    with pytest.raises(RepdynError, match="read from"):
        open_paths(url).save(url)


def test_what_is_not_a_store_is_told_and_left_alone(url: str) -> None:
    with pytest.raises(RepdynError, match="there is no store of paths"):
        open_paths(url)
    fsspec.filesystem("memory").pipe_file("/bucket/a.paths/thesis.tex", b"years of work")
    with pytest.raises(RepdynError, match="is not a store of paths"):
        open_paths(url)
    for resume in (True, False):
        with pytest.raises(RepdynError, match="is not a store of paths"):
            PathsWriter.open(url, ["a"], {"a": 2}, 10, {}, resume=resume)
    assert fsspec.filesystem("memory").cat_file("/bucket/a.paths/thesis.tex") == b"years of work"


def test_a_chunk_that_went_missing_or_short_is_told(known: RepresentationPaths, url: str) -> None:
    known.save(url)
    paths = open_paths(url)
    there = fsspec.filesystem("memory")
    there.pipe_file("/bucket/a.paths/paths/c/1/0", there.cat_file("/bucket/a.paths/paths/c/1/0")[:100])
    with pytest.raises(RepdynError, match=r"paths/c/1/0: is truncated"):
        np.asarray(paths["stem"])
    there.rm_file("/bucket/a.paths/paths/c/1/0")
    with pytest.raises(RepdynError, match=r"paths/c/1/0: is missing"):
        np.asarray(paths["stem"])
    there.rm_file("/bucket/a.paths/ids/c/2")
    with pytest.raises(RepdynError, match=r"ids/c/2: is missing"):
        _ = paths.ids
    assert {damage.file for damage in verify_paths(url).damages} == {"paths/c/1/0", "ids/c/2"}


def test_unknown_systems_and_missing_packages_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RepdynError, match=r"nowhere://x: nowhere:// cannot be reached"):
        open_paths("nowhere://x")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(RepdynError, match=r"gs://bucket/a: .*gcsfs.*pip"):
        open_paths("gs://bucket/a")


def test_places() -> None:
    assert isinstance(storage_at("a/b"), Folder)
    assert str(storage_at("file:///a/b")) == "/a/b"
    # What pathlib does to a URL is undone.
    assert str(storage_at(Path("memory://bucket/a.paths"))) == "memory://bucket/a.paths"
    assert str(storage_at(Path("C:/a"))) == "C:/a"


ROWS, POINTS, WIDTH = 5_500_000, 12, 768


@pytest.fixture
def hundred_gigabytes() -> Layout:
    points = [f"blocks.{number}" for number in range(POINTS)]
    layout = plan_layout(points, dict.fromkeys(points, WIDTH), ROWS, {"digest": "abc"}, "float16", None, ())
    assert layout.size * layout.row_width * 2 > 100e9
    return layout


def test_opening_a_hundred_gigabytes_elsewhere_reads_kilobytes(
    hundred_gigabytes: Layout, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = storage_at(url)
    fill_store(place, hundred_gigabytes)
    metadata = hundred_gigabytes.arrays(None)
    write_json(place, "zarr.json", group_metadata(hundred_gigabytes.finished().to_attributes(), metadata))
    read: list[int] = []
    cat_file = MemoryFileSystem.cat_file

    def counted(self: Any, path: str, start: Any = None, end: Any = None, **more: Any) -> bytes:
        found = cat_file(self, path, start, end, **more)
        read.append(len(found))
        return bytes(found)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    paths = open_paths(url)
    assert len(paths) == ROWS
    assert paths["blocks.11"].shape == (ROWS, WIDTH)
    assert sum(read) < 32_000
    assert len(read) == 1  # one request


@pytest.mark.skipif(
    not Path("/proc/self/io").exists(), reason="what a process has read is told by Linux only"
)
def test_opening_a_hundred_gigabytes_here_reads_kilobytes(hundred_gigabytes: Layout, tmp_path: Path) -> None:
    def bytes_read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    out = tmp_path / "a.paths"
    fill_store(Folder(out), hundred_gigabytes)
    finished = hundred_gigabytes.finished().to_attributes()
    write_json(Folder(out), "zarr.json", group_metadata(finished, hundred_gigabytes.arrays(None)))
    for chunk in range(hundred_gigabytes.chunks):
        for name, size in [*hundred_gigabytes.fixed_files(chunk), (f"ids/c/{chunk}", 100)]:
            file = out / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as opened:
                opened.truncate(size)  # sparse: it takes no room
    before = bytes_read()
    paths = open_paths(out)
    taken = bytes_read() - before
    assert len(paths) == ROWS
    assert taken < 32_000
    assert not paths["blocks.3"][ROWS - 5 :].any()


def test_tokens_as_samples(known: RepresentationPaths, url: str) -> None:
    known.save(url)
    rows, there = known.tokens_as_samples(), open_paths(url).tokens_as_samples()
    np.testing.assert_array_equal(np.asarray(there["words"]), rows["words"])
    index = np.random.default_rng(1).permutation(len(rows))[:200]
    np.testing.assert_array_equal(there["words"][index], rows["words"][index])
    assert there.ids.tolist() == rows.ids.tolist()
    for block in there.iterate(size=50):
        np.testing.assert_array_equal(block["words"], rows["words"][block.rows.start : block.rows.stop])
