"""Stores that were made to harm or are damaged: every reader refuses them in one line, and soon."""

from __future__ import annotations

import json
import os
import resource

import numpy as np
import pytest

from repdyn.errors import RepdynError
from repdyn.paths import PathsWriter, RepresentationPaths, inspect_paths, open_paths, verify_paths
from repdyn.paths.storage import Folder
from repdyn.writing import hold

VALUES = [None, True, -1, 0, 1.5, float("inf"), float("nan"), 10**18, 10**400, "x", [], [1], {}, {"a": 1}]


@pytest.fixture
def store(tmp_path):
    x = np.random.default_rng(0).normal(size=(30, 4))
    RepresentationPaths.from_arrays({"a": x, "b": x}, labels=[0, 1] * 15, logits=x).save(tmp_path / "s")
    return tmp_path / "s"


def _try(store) -> None:
    for read in (open_paths, inspect_paths, verify_paths):
        try:
            found = read(store)
            repr(found)
            if read is open_paths:
                np.asarray(found["a"]), found.ids, found.labels, found.logits
        except RepdynError as error:
            assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize("key", ["schema", "complete", "size", "chunk_rows", "dtype", "points", "widths",
                                 "offsets", "tokens", "logits_width", "meta"])  # fmt: skip
def test_attributes_of_any_type_are_refused_or_read(store, key):
    file = store / "zarr.json"
    document = json.loads(file.read_text())
    document["attributes"]["repdyn"].pop("sha256")  # with it, all is refused at once
    for value in VALUES:
        changed = json.loads(json.dumps(document))
        changed["attributes"]["repdyn"][key] = value
        file.write_text(json.dumps(changed))
        _try(store)
        del changed["attributes"]["repdyn"][key]
        file.write_text(json.dumps(changed))
        _try(store)


@pytest.mark.parametrize("name", ["zarr.json", "ids/zarr.json", "paths/zarr.json", "labels/zarr.json"])
def test_json_of_any_form_is_refused_or_read(store, name):
    for text in (
        "[" * 100_000,
        "{}",
        "[]",
        "1",
        '{"attributes": []}',
        '{"attributes": {"repdyn": 1}}',
        "\xff",
    ):
        (store / name).write_text(text, encoding="latin-1")
        _try(store)


@pytest.mark.parametrize("complete", [True, False])
def test_a_size_that_was_made_up_is_told_at_once(store, complete):
    file = store / "zarr.json"
    document = json.loads(file.read_text())
    document["attributes"]["repdyn"].pop("sha256")  # with it, all is refused at once
    for size, rows in ((10**18, 1), (10**18, 10**15)):
        document["attributes"]["repdyn"] |= {"size": size, "chunk_rows": rows, "complete": complete}
        file.write_text(json.dumps(document))
        _try(store)


def test_a_link_at_a_scratch_name_is_not_written_through(tmp_path):
    (tmp_path / "thesis").write_text("years")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / ".zarr.json.part").symlink_to(tmp_path / "thesis")
    Folder(tmp_path / "s").write("zarr.json", b"{}")
    assert (tmp_path / "thesis").read_text() == "years"


def test_what_another_process_is_writing_is_not_swept(tmp_path):
    place = Folder(tmp_path)
    (tmp_path / ".old-abcdefgh.part").write_bytes(b"left by a killed writer")
    (tmp_path / ".new-abcdefgh.part").write_bytes(b"in use")
    held = hold(tmp_path / ".new-abcdefgh.part", wait=True)
    assert held is not None
    place.sweep()
    assert [path.name for path in tmp_path.iterdir()] == [".new-abcdefgh.part"]
    os.close(held)
    place.sweep()
    assert list(tmp_path.iterdir()) == []


def test_too_few_file_descriptors_are_not_told_as_damage(store):
    paths = open_paths(store)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(RepdynError, match="too many files open"):
            open_paths(store)
        with pytest.raises(RepdynError, match="too many files open"):
            np.asarray(paths["a"])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert np.asarray(paths["a"]).shape == (30, 4)


def test_an_unfinished_store_says_that_another_trace_may_be_at_work(tmp_path):
    writer = PathsWriter.open(tmp_path / "s", points=["a"], widths={"a": 2}, size=4, meta={})
    with pytest.raises(RepdynError, match="another trace writes to"):
        writer.finish()
