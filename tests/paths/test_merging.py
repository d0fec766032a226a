"""Several stores as one: nothing is lost, and what does not belong together is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from repdyn.errors import RepdynError
from repdyn.paths import (
    PathsWriter,
    RepresentationPaths,
    inspect_paths,
    merge_paths,
    open_paths,
    verify_paths,
)

SIZES = (100, 30, 70)


def part(number: int, size: int, **changes: Any) -> RepresentationPaths:
    generator = np.random.default_rng(number)
    given: dict[str, Any] = {
        "labels": generator.integers(0, 3, size),
        "ids": [f"{number}-{k}" for k in range(size)],
        "logits": generator.normal(size=(size, 4)),
        "meta": {"model": "tiny", "digest": "abc", "data": f"data {number}", "pooling": "mean"},
        "masks": {"words": np.arange(4) < generator.integers(0, 5, size)[:, None]},
    }
    arrays = {
        "stem": generator.normal(size=(size, 3)).astype(changes.pop("dtype", "float32")),
        "words": generator.normal(size=(size, 4, 2)).astype("float32"),
    }
    return RepresentationPaths.from_arrays(arrays, **{**given, **changes})


@pytest.fixture
def stores(tmp_path: Path) -> list[Path]:
    folders = [tmp_path / f"{number}.paths" for number in range(len(SIZES))]
    for number, (folder, size) in enumerate(zip(folders, SIZES)):
        part(number, size).save(folder)
    return folders


def test_every_sample_once_in_order(stores: list[Path], tmp_path: Path) -> None:
    merged = merge_paths(stores, tmp_path / "all.paths")
    parts = [open_paths(store) for store in stores]
    assert len(merged) == 200
    np.testing.assert_array_equal(merged["stem"][:], np.concatenate([p["stem"][:] for p in parts]))
    start = 0
    for one in parts:
        here = merged.subset(slice(start, start + len(one)))
        np.testing.assert_array_equal(here["words"][:], one["words"][:])
        np.testing.assert_array_equal(here.mask("words"), one.mask("words"))
        np.testing.assert_array_equal(here.labels, one.labels)
        np.testing.assert_array_equal(here.ids, one.ids)
        np.testing.assert_array_equal(here.logits, one.logits)
        start += len(one)
    assert [entry["size"] for entry in merged.meta["merged"]] == list(SIZES)
    assert merged.meta["digest"] == "abc"
    assert verify_paths(tmp_path / "all.paths").sound


def test_bfloat16_stays_bfloat16(tmp_path: Path) -> None:
    """Half the disk of float32, which it is read as; tokens and vectors keep their bits."""
    folders = [tmp_path / "0.paths", tmp_path / "1.paths"]
    whole: dict[str, list[np.ndarray]] = {"stem": [], "words": []}
    for number, folder in enumerate(folders):
        generator = np.random.default_rng(number)
        stem = generator.normal(size=(80, 3)).astype("float32")
        words = [generator.normal(size=(n, 2)).astype("float32") for n in generator.integers(0, 5, 80)]
        writer = PathsWriter.open(
            folder, ["stem", "words"], {"stem": 3, "words": 2}, 80, {}, dtype="bfloat16", tokens=("words",)
        )
        for rows in writer.missing:
            part = slice(rows.start, rows.stop)
            ids = [f"{number}-{k}" for k in rows]
            writer.write_chunk(rows.start, {"stem": stem[part], "words": words[part]}, ids)
        writer.finish()
        whole["stem"].append(np.asarray(open_paths(folder)["stem"]))
        whole["words"] += words
    merged = merge_paths(folders, tmp_path / "all.paths")
    assert inspect_paths(tmp_path / "all.paths").dtype == "bfloat16"
    np.testing.assert_array_equal(np.asarray(merged["stem"]), np.concatenate(whole["stem"]))
    tokens = merged.tokens_as_samples()
    expected = np.concatenate(whole["words"]).astype(ml_dtypes.bfloat16).astype("float32")
    np.testing.assert_array_equal(np.asarray(tokens["words"]), expected)


def test_an_interrupted_merge_goes_on(stores: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "all.paths"
    merge_paths(stores, out)
    whole = (out / "paths/c/1/0").read_bytes()
    kept = (out / "paths/c/0/0").stat().st_mtime_ns
    (out / "ids/c/1").unlink()
    merge_paths(stores, out)
    assert (out / "paths/c/1/0").read_bytes() == whole
    assert (out / "paths/c/0/0").stat().st_mtime_ns == kept
    with pytest.raises(RepdynError, match="holds another trace"):
        merge_paths(stores[:2], out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"meta": {"model": "tiny", "digest": "def"}}, "its digest is 'def', that of .* is 'abc'"),
        ({"meta": {"model": "tiny", "digest": "abc", "pooling": "cls"}}, "its pooling is 'cls'"),
        ({"labels": None}, "its kind of labels is 'None'"),
        ({"logits": None}, "its number of logits is 'None'"),
        ({"dtype": "float64"}, "its dtype is 'float64'"),
        ({"ids": [f"0-{k}" for k in range(30)]}, "holds sample '0-0', which .*0.paths holds too"),
    ],
)
def test_what_does_not_belong_together(
    stores: list[Path], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    part(1, 30, **change).save(stores[1])
    with pytest.raises(RepdynError, match=message):
        merge_paths(stores, tmp_path / "all.paths")
    assert not (tmp_path / "all.paths").exists()


def test_one_is_not_several(stores: list[Path], tmp_path: Path) -> None:
    with pytest.raises(RepdynError, match="takes two or more"):
        merge_paths(stores[:1], tmp_path / "all.paths")
