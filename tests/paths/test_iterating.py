"""Reading from beginning to end: what zarr and NumPy give, and each byte of a remote store once."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from repdyn.errors import RepdynError
from repdyn.ood import PathDetector
from repdyn.paths import RepresentationPaths, open_paths

SIZE = 300


@pytest.fixture
def url() -> Any:
    yield "memory://bucket/a.paths"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Every part of an object that the file system was asked for: its name and its bytes."""
    found: list[tuple[str, int]] = []
    cat = MemoryFileSystem.cat_file

    def counted(self: Any, path: str, start: Any = None, end: Any = None, **options: Any) -> bytes:
        data = cat(self, path, start=start, end=end, **options)
        found.append((path, len(data)))
        return data

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    return found


def of_the_packed_rows(found: list[tuple[str, int]]) -> int:
    return sum(count for name, count in found if "/paths/c/" in name)


def known(dtype: str = "float32") -> RepresentationPaths:
    generator = np.random.default_rng(0)
    return RepresentationPaths.from_arrays(
        {
            "stem": generator.normal(size=(SIZE, 3)).astype(dtype),
            "words": generator.normal(size=(SIZE, 5, 2)).astype(dtype),
            "head": generator.normal(size=(SIZE, 4)).astype(dtype),
        },
        logits=generator.normal(size=(SIZE, 6)),
        masks={"words": np.arange(5) < generator.integers(0, 6, SIZE)[:, None]},
    )


def many(size: int, points: int, width: int, seed: int = 0) -> RepresentationPaths:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(points, size, width)).astype("float32")
    return RepresentationPaths.from_arrays({f"block {k}": own for k, own in enumerate(x)})


@pytest.mark.parametrize("size", [1, 77, 300, 4000])
@pytest.mark.parametrize("where", ["memory", "folder", "url"])
def test_blocks_hold_all_samples_in_order(size: int, where: str, url: str, tmp_path: Any) -> None:
    expected = known()
    paths = expected
    if where != "memory":
        place = str(tmp_path / "a.paths") if where == "folder" else url
        expected.save(place)
        paths = open_paths(place)
    blocks = list(paths.iterate(("head", "words", "logits", "stem"), size))
    assert [list(block) for block in blocks] == [["head", "words", "logits", "stem"]] * len(blocks)
    assert [row for block in blocks for row in block.rows] == list(range(SIZE))
    assert {len(block.rows) for block in blocks[:-1]} <= {size}
    for point in ("head", "stem"):
        np.testing.assert_array_equal(np.concatenate([b[point] for b in blocks]), np.asarray(expected[point]))
    np.testing.assert_array_equal(np.concatenate([b["logits"] for b in blocks]), expected.logits)
    tokens = [own[mask] for b in blocks for own, mask in zip(b["words"], b.masks["words"])]
    whole = [own[mask] for own, mask in zip(np.asarray(expected["words"]), expected.mask("words"))]
    for own, other in zip(tokens, whole, strict=True):
        np.testing.assert_array_equal(own, other)


def test_a_subset_is_read_in_its_own_order(tmp_path: Any) -> None:
    expected = known()
    expected.save(tmp_path / "a.paths")
    chosen = np.random.default_rng(1).permutation(SIZE)[:50]
    blocks = list(open_paths(tmp_path / "a.paths").subset(chosen).iterate(("stem",), 7))
    np.testing.assert_array_equal(
        np.concatenate([b["stem"] for b in blocks]), np.asarray(expected["stem"])[chosen]
    )


def test_what_zarr_reads(tmp_path: Any) -> None:
    zarr = pytest.importorskip("zarr")
    known("float16").save(tmp_path / "a.paths")
    packed = zarr.open_group(tmp_path / "a.paths", mode="r")["paths"][:]
    blocks = list(open_paths(tmp_path / "a.paths").iterate(("stem", "head"), 64))
    np.testing.assert_array_equal(np.concatenate([np.hstack(list(b.values())) for b in blocks]), packed)
    assert blocks[0]["stem"].dtype == np.float16


def test_bfloat16_is_widened(tmp_path: Any) -> None:
    from repdyn.paths import PathsWriter

    x = np.random.default_rng(0).normal(size=(SIZE, 3)).astype(ml_dtypes.bfloat16)
    writer = PathsWriter.open(tmp_path / "a.paths", ["a"], {"a": 3}, SIZE, {}, dtype="bfloat16")
    for rows in writer.missing:
        writer.write_chunk(rows.start, {"a": x[rows.start : rows.stop]}, [str(k) for k in rows])
    found = np.concatenate([block["a"] for block in writer.finish().iterate(size=50)])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, x.astype(np.float32))


@pytest.mark.parametrize("size", [50, 128, 1000])
def test_a_remote_store_is_read_once_for_all_points(
    size: int, url: str, fetched: list[tuple[str, int]]
) -> None:
    many(1000, 13, 24).save(url)
    fetched.clear()
    paths = open_paths(url)
    assert sum(len(block["block 12"]) for block in paths.iterate(size=size)) == 1000
    assert of_the_packed_rows(fetched) == 1000 * 13 * 24 * 4
    fetched.clear()
    paths.subset(np.arange(100, 900)).iterate(("block 0", "block 9"), size).__next__()
    assert (
        of_the_packed_rows(fetched) <= 2 * size * 13 * 24 * 4
    )  # this block and the one that is fetched ahead


def test_widths_are_known_without_reading(url: str, fetched: list[tuple[str, int]]) -> None:
    known().save(url)
    fetched.clear()
    paths = open_paths(url)
    assert paths.logits_width == 6
    assert paths.widths == {"stem": 3, "words": 2, "head": 4}
    assert not [name for name, _ in fetched if "/paths/c/" in name or "/logits/c/" in name]
    assert many(20, 1, 2).logits_width is None


def test_errors_name_what_is_wrong() -> None:
    paths = many(20, 2, 3)
    with pytest.raises(RepdynError, match=r"'logits'.*not on these paths"):
        next(paths.iterate(("logits",)))
    with pytest.raises(RepdynError, match="size: 0"):
        next(paths.iterate(size=0))
    with pytest.raises(RepdynError, match="given 2 times"):
        next(paths.iterate(("block 0", "block 0")))


def test_a_point_may_be_named_logits() -> None:
    paths = RepresentationPaths.from_arrays({"logits": np.ones((20, 2))}, logits=np.zeros((20, 5)))
    assert next(paths.iterate())["logits"].shape == (20, 2)


def test_a_detector_scores_a_remote_store_in_one_pass(url: str, fetched: list[tuple[str, int]]) -> None:
    expected = many(3000, 13, 8)
    expected.save(url)
    detector = PathDetector().fit(expected)
    fetched.clear()
    scores = detector.score_samples(open_paths(url))
    assert sum(count for _, count in fetched) <= 1.1 * 3000 * 13 * 8 * 4
    np.testing.assert_array_equal(scores, detector.score_samples(expected))


@pytest.mark.parametrize("tokens", [False, True])
def test_a_split_of_what_is_not_held_keeps_equal_samples_together(
    tokens: bool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(100, 3, 4) if tokens else (100, 4))[generator.integers(100, size=400)]
    RepresentationPaths.from_arrays({"a": x, "b": 2 * x}).save(tmp_path / "a.paths")
    paths = open_paths(tmp_path / "a.paths")
    expected = [part.ids for part in paths.split(seed=3)]
    monkeypatch.setattr("repdyn.paths.columns._HELD_BYTES", 0)
    monkeypatch.setattr("repdyn.paths.columns._COMPARED_ROWS", 37)
    parts = paths.split(seed=3)
    for part, ids in zip(parts, expected, strict=True):
        np.testing.assert_array_equal(part.ids, ids)
    first, second = ({row.tobytes() for row in np.asarray(part["b"])} for part in parts)
    assert not first & second


def test_a_picture_reads_a_remote_store_once(url: str, fetched: list[tuple[str, int]]) -> None:
    expected = many(1000, 13, 24)
    expected.save(url)
    fetched.clear()
    figure = open_paths(url).plot(seed=1)
    assert of_the_packed_rows(fetched) == 1000 * 13 * 24 * 4
    assert figure.to_dict()["data"] == expected.plot(seed=1).to_dict()["data"]
