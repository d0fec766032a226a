"""Whole chunks only: a killed, failed or contradicted writer loses nothing that was complete."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repdyn.errors import RepdynError
from repdyn.paths import PathsWriter, RepresentationPaths, open_paths

SIZE, WIDTHS = 300, {"stem": 4, "head": 2}


def start(out: Path, **changes: Any) -> PathsWriter:
    given: dict[str, Any] = {
        "points": ("stem", "head"),
        "widths": WIDTHS,
        "size": SIZE,
        "meta": {"model": "tiny", "digest": "abc", "pooling": "mean", "device": "cpu"},
    }
    return PathsWriter.open(out, **{**given, **changes})


def values(rows: range) -> dict[str, Any]:
    whole = np.arange(SIZE * 4, dtype="float32").reshape(SIZE, 4)
    return {"stem": whole[rows.start : rows.stop], "head": -whole[rows.start : rows.stop, :2]}


def write(writer: PathsWriter, rows: range) -> None:
    writer.write_chunk(rows.start, values(rows), [f"s{i}" for i in rows], np.array(rows) % 3)


def listing(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_missing_ranges_are_whole_chunks_that_cover_all(tmp_path: Path) -> None:
    writer = start(tmp_path / "a.paths")
    ranges = writer.missing
    assert len(ranges) > 2
    assert all(len(rows) == writer.chunk_rows for rows in ranges[:-1])
    assert [i for rows in ranges for i in rows] == list(range(SIZE))


def test_chunks_in_any_order_by_several_writers(tmp_path: Path) -> None:
    first, second = start(tmp_path / "a.paths"), start(tmp_path / "a.paths")
    for number, rows in enumerate(reversed(first.missing)):
        write((first, second)[number % 2], rows)
    paths = second.finish()
    np.testing.assert_array_equal(np.asarray(paths["stem"]), values(range(SIZE))["stem"])
    np.testing.assert_array_equal(np.asarray(paths["head"]), values(range(SIZE))["head"])
    np.testing.assert_array_equal(paths.labels, np.arange(SIZE) % 3)
    assert paths.ids.tolist() == [f"s{i}" for i in range(SIZE)]


def test_resumes_where_it_stopped(tmp_path: Path) -> None:
    writer = start(tmp_path / "a.paths")
    done, *rest = writer.missing
    write(writer, done)
    before = listing(tmp_path / "a.paths")
    with pytest.raises(RepdynError, match=r"unfinished, 64 of 300.*again"):
        open_paths(tmp_path / "a.paths")
    with pytest.raises(RepdynError, match="236 of 300 samples are still missing"):
        writer.finish()
    # Another device or library does not make another trace.
    again = start(tmp_path / "a.paths", meta={**writer.layout.meta, "device": "cuda", "versions": {}})
    assert again.missing == rest
    for rows in rest:
        write(again, rows)
    assert len(again.finish()) == SIZE
    assert start(tmp_path / "a.paths").missing == []
    assert len(start(tmp_path / "a.paths").finish()) == SIZE
    assert before["paths/c/0/0"] == (tmp_path / "a.paths/paths/c/0/0").read_bytes()


@pytest.mark.parametrize("gone", ["paths/c/1/0", "ids/c/1", "labels/c/1"])
@pytest.mark.parametrize("harm", ["removed", "truncated"])
def test_a_damaged_chunk_is_told_and_written_again(tmp_path: Path, gone: str, harm: str) -> None:
    out = tmp_path / "a.paths"
    writer = start(out)
    for rows in writer.missing:
        write(writer, rows)
    writer.finish()
    if harm == "removed":
        (out / gone).unlink()
    else:
        os.truncate(out / gone, 3)
    with pytest.raises(RepdynError, match=r"chunk 1 \(samples 64 to 127\) is missing or truncated"):
        open_paths(out)
    again = start(out)
    assert again.missing == [range(64, 128)]
    write(again, range(64, 128))
    np.testing.assert_array_equal(np.asarray(again.finish()["stem"]), values(range(SIZE))["stem"])


WRITE_SLOWLY = """
import sys
import numpy as np
from repdyn.paths import PathsWriter
writer = PathsWriter.open(sys.argv[1], points=["a"], widths={"a": 4096}, size=4096, meta={"digest": "abc"})
for rows in writer.missing:
    array = np.repeat(np.array(rows, "float32")[:, None], 4096, axis=1)
    writer.write_chunk(rows.start, {"a": array}, [str(i) for i in rows])
"""


@pytest.mark.parametrize("seed", range(3))
def test_kill_9_loses_only_the_chunk_in_flight(tmp_path: Path, seed: int) -> None:
    out = tmp_path / "a.paths"
    with subprocess.Popen([sys.executable, "-c", WRITE_SLOWLY, str(out)]) as process:
        deadline = time.monotonic() + 60
        while len(list(out.glob("ids/c/[0-9]*"))) < 3 and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(0.003 * seed)  # another place within the chunk
        process.send_signal(signal.SIGKILL)
    there = len(list(out.glob("ids/c/[0-9]*")))
    before = {file: file.stat().st_mtime_ns for file in out.glob("ids/c/[0-9]*")}
    writer = PathsWriter.open(out, points=["a"], widths={"a": 4096}, size=4096, meta={"digest": "abc"})
    assert len(writer.missing) == writer.layout.chunks - there
    for rows in writer.missing:
        array = np.repeat(np.array(rows, "float32")[:, None], 4096, axis=1)
        writer.write_chunk(rows.start, {"a": array}, [str(i) for i in rows])
    paths = writer.finish()
    for start_row in range(0, 4096, 512):
        part = paths["a"][start_row : start_row + 512]
        assert (part == np.arange(start_row, start_row + 512)[:, None]).all()
    assert paths.ids.tolist() == [str(i) for i in range(4096)]
    assert all(file.stat().st_mtime_ns == before[file] for file in before)
    assert not list(out.rglob("*.part"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"meta": {"model": "other", "digest": "def"}}, "digest is 'abc' and not 'def'"),
        ({"meta": {"model": "tiny", "digest": "abc", "pooling": "cls"}}, "pooling is 'mean' and not 'cls'"),
        ({"points": ("head", "stem")}, "points is"),
        ({"widths": {"stem": 4, "head": 3}}, "widths is"),
        ({"size": SIZE + 1}, "size is 300 and not 301"),
        ({"dtype": "float16"}, "dtype is 'float32' and not 'float16'"),
        ({"logits_width": 10}, "logits_width is None and not 10"),
        ({"tokens": ["stem"]}, "tokens is"),
    ],
)
def test_refuses_to_continue_something_else(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    out = tmp_path / "a.paths"
    writer = start(out)
    write(writer, writer.missing[0])
    before = listing(out)
    with pytest.raises(RepdynError, match=f"a.paths: holds another trace, its {message}"):
        start(out, **change)
    assert listing(out) == before
    fresh = start(out, resume=False, **change)
    assert len(fresh.missing) == fresh.layout.chunks


@pytest.mark.parametrize("resume", [True, False])
def test_never_touches_what_is_no_store(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("more")
    for name in ("mine", "file"):
        with pytest.raises(RepdynError, match=f"{name}: exists and is not a store"):
            start(tmp_path / name, resume=resume)
        with pytest.raises(RepdynError, match=f"{name}: exists and is not a store"):
            RepresentationPaths.from_arrays({"a": np.ones((2, 2))}).save(tmp_path / name)
    assert sorted(listing(tmp_path)) == ["file", "mine/thesis.tex"]


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    assert start(tmp_path).missing


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call to fill the disk: after so many more files nothing can be written."""

    def fill(files_left: int) -> None:
        sync, left = os.fsync, [files_left]

        def failing(descriptor: int) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", failing)

    return fill


@pytest.mark.parametrize("files_left", [0, 1, 2])
def test_a_full_disk_leaves_the_store_as_it_was(tmp_path: Path, full_disk: Any, files_left: int) -> None:
    out = tmp_path / "a.paths"
    writer = start(out)
    first, second, *_ = writer.missing
    write(writer, first)
    full_disk(files_left)
    with pytest.raises(RepdynError, match="no space left on the disk") as caught:
        write(writer, second)
    assert "\n" not in str(caught.value)
    assert start(out).missing[0] == second
    assert not list(out.rglob("*.part"))


def test_a_full_disk_makes_no_half_store(tmp_path: Path, full_disk: Any) -> None:
    RepresentationPaths.from_arrays({"a": np.ones((200, 2))}).save(tmp_path / "a.paths")
    before = listing(tmp_path)
    for files_left in range(6):
        full_disk(files_left)
        with pytest.raises(RepdynError, match="no space left"):
            RepresentationPaths.from_arrays({"a": np.zeros((200, 3))}).save(tmp_path / "a.paths")
        assert listing(tmp_path) == before
    full_disk(1)
    with pytest.raises(RepdynError, match="no space left"):
        start(tmp_path / "b.paths")
    assert listing(tmp_path) == before


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RepdynError, match="cannot be written"):
        start(tmp_path / "file" / "a.paths")


def test_a_save_cannot_replace_what_it_reads(tmp_path: Path) -> None:
    RepresentationPaths.from_arrays({"a": np.ones((20, 2))}).save(tmp_path / "a.paths")
    with pytest.raises(RepdynError, match="read from"):
        open_paths(tmp_path / "a.paths").subset([1, 2]).save(tmp_path / "a.paths")
    assert len(open_paths(tmp_path / "a.paths")) == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": 5}, "no chunk begins at 5"),
        ({"start": 640}, "no chunk begins at 640"),
        ({"arrays": {"stem": np.zeros((64, 4))}}, r"'head'\] differ"),
        (
            {"arrays": {"stem": np.zeros((64, 3)), "head": np.zeros((64, 2))}},
            r"'stem'.*\(64, 3\).*expected \(64, 4\)",
        ),
        ({"ids": ["a"]}, "ids"),
        ({"labels": [1, 2]}, "labels"),
        ({"logits": np.zeros((64, 3))}, "logits: are given"),
    ],
)
def test_refuses_a_chunk_that_does_not_fit(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    writer = start(tmp_path / "a.paths")
    before = listing(tmp_path)
    rows = writer.missing[0]
    given = {"start": 0, "arrays": values(rows), "ids": [str(i) for i in rows]}
    with pytest.raises(RepdynError, match=message):
        writer.write_chunk(**{**given, **change})
    assert listing(tmp_path) == before


def test_labels_are_of_one_kind(tmp_path: Path) -> None:
    writer = start(tmp_path / "a.paths")
    first, second, *_ = writer.missing
    write(writer, first)
    names = [str(i) for i in second]
    for labels, kind in ((None, "missing"), (names, "string")):
        with pytest.raises(RepdynError, match=f"labels: are {kind} in this chunk but int64"):
            writer.write_chunk(second.start, values(second), names, labels)
    write(writer, second)


def test_non_finite_names_point_and_sample(tmp_path: Path) -> None:
    writer = start(tmp_path / "a.paths")
    before, bad = listing(tmp_path), {k: v.copy() for k, v in values(range(64)).items()}
    bad["head"][33, 1] = np.nan
    with pytest.raises(RepdynError, match="'head', sample 's33'"):
        writer.write_chunk(0, bad, [f"s{i}" for i in range(64)])
    assert listing(tmp_path) == before


def test_values_too_large_for_half_precision_are_told(tmp_path: Path) -> None:
    writer = start(tmp_path / "a.paths", dtype="float16")
    large = {k: v.copy() for k, v in values(range(64)).items()}
    large["stem"][7, 1] = 7e4
    with pytest.raises(RepdynError, match=r"'stem', sample 's7'.*7e\+04.*float32"):
        writer.write_chunk(0, large, [f"s{i}" for i in range(64)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": ("stem", "stem")}, "'stem' is given 2 times"),
        ({"points": ()}, "points"),
        ({"widths": {"stem": 4}}, "None for point 'head'"),
        ({"size": 0}, "size"),
        ({"dtype": "int16"}, "dtype: 'int16'.*float16"),
        ({"dtype": "int8"}, "dtype"),
        ({"tokens": ["words"]}, "'words'"),
        ({"meta": {"a": {1, 2}}}, "meta"),
    ],
)
def test_refuses_to_start(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(RepdynError, match=message):
        start(tmp_path / "a.paths", **change)
    assert not list(tmp_path.iterdir())


def test_tokens_only(tmp_path: Path) -> None:
    writer = start(tmp_path / "a.paths", tokens=("stem", "head"), size=70)
    lengths = np.arange(70) % 4
    for rows in writer.missing:
        ragged = [np.full((lengths[i], 4), i) for i in rows]
        arrays = {"stem": ragged, "head": [np.full((1, 2), -i) for i in rows]}
        writer.write_chunk(rows.start, arrays, [str(i) for i in rows])
    paths = writer.finish()
    assert paths["stem"].shape == (70, 3, 4)
    np.testing.assert_array_equal(paths.mask("stem").sum(axis=1), lengths)
    np.testing.assert_array_equal(paths["stem"][:, 0, 0], np.where(lengths > 0, np.arange(70), 0))
    np.testing.assert_array_equal(paths["head"][:, 0, 0], -np.arange(70))
    file = next((tmp_path / "a.paths/tokens/0/1").glob("c/0/0"))
    os.truncate(file, 16)
    with pytest.raises(RepdynError, match="chunk 1"):
        open_paths(tmp_path / "a.paths")


def test_no_tokens_at_all_in_a_chunk(tmp_path: Path) -> None:
    writer = start(tmp_path / "a.paths", tokens=("head",), size=10)
    stem = np.ones((10, 4))
    writer.write_chunk(0, {"stem": stem, "head": [np.zeros((0, 2))] * 10}, list("abcdefghij"))
    paths = writer.finish()
    assert paths["head"].shape == (10, 0, 2)
    assert paths.mask("head").shape == (10, 0)


def test_an_earlier_store_is_replaced_by_a_save(tmp_path: Path) -> None:
    for size in (500, 20):
        RepresentationPaths.from_arrays({"a": np.full((size, 2), size)}, labels=[size] * size).save(
            tmp_path / "a"
        )
    paths = open_paths(tmp_path / "a")
    assert len(paths) == 20
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
    shutil.rmtree(tmp_path / "a")


def test_the_old_name_of_the_storage_works_with_a_warning(tmp_path: Path) -> None:
    writer = PathsWriter.open(tmp_path / "a.paths", ["a"], {"a": 2}, 3, {})
    with pytest.warns(DeprecationWarning, match="renamed storage"):
        assert writer.place is writer.storage


@pytest.mark.parametrize("labels", [[1, "1", 2], ["a", b"a", "b"], ["1", 1.5, "x"]])
def test_texts_and_numbers_are_not_made_one_class(labels: list[Any]) -> None:
    assert len(set(labels)) > len(np.unique(labels)) or 1.5 in labels  # NumPy would make one class of two
    for given in (labels, tuple(labels), np.array(labels, dtype=object)):
        with pytest.raises(RepdynError, match=r"sample 0 has .* and sample 1"):
            RepresentationPaths.from_arrays({"a": np.eye(3)}, labels=given)
