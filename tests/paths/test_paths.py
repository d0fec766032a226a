"""RepresentationPaths behaves the same in memory and on disk."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repdyn.errors import RepdynError
from repdyn.paths import RepresentationPaths, open_paths

SIZE = 90


def arrays(size: int = SIZE, seed: int = 0, dtype: str = "float32") -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    return {
        "stem": generator.normal(size=(size, 5)).astype(dtype),
        "blocks.0": generator.normal(size=(size, 3)).astype(dtype),
        "head": generator.normal(size=(size, 4)).astype(dtype),
    }


def tokens(size: int = SIZE, seed: int = 1) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(size, 6, 2)).astype("float32")
    mask = generator.random((size, 6)) < 0.6
    return values, mask


def example() -> RepresentationPaths:
    values, mask = tokens()
    given = {**arrays(), "words": values}
    return RepresentationPaths.from_arrays(
        given,
        labels=np.arange(SIZE) % 7,
        ids=[f"picture {i}.png" for i in range(SIZE)],
        logits=np.random.default_rng(2).normal(size=(SIZE, 7)),
        meta={"model": "tiny", "digest": "abc", "seed": np.int64(3)},
        masks={"words": mask},
    )


@pytest.fixture(scope="module", params=["memory", "disk", "subset of disk"])
def paths(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RepresentationPaths:
    whole, out = example(), tmp_path_factory.mktemp("stores") / "a.paths"
    if request.param == "memory":
        return whole
    if request.param == "disk":
        whole.save(out)
        return open_paths(out)
    # Each sample twice, in another order, of which one each is chosen: the index is composed.
    order = np.random.default_rng(5).permutation(np.repeat(np.arange(SIZE), 2))
    whole.subset(order).save(out)
    return open_paths(out).subset([int(np.flatnonzero(order == sample)[0]) for sample in range(SIZE)])


def same(a: RepresentationPaths, b: RepresentationPaths) -> None:
    assert a.points == b.points
    assert a.widths == b.widths
    assert a.dtype == b.dtype
    assert a.tokens == b.tokens
    assert len(a) == len(b)
    assert dict(a.meta) == dict(b.meta)
    np.testing.assert_array_equal(a.ids, b.ids)
    for mine, theirs in ((a.labels, b.labels), (a.logits, b.logits)):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            np.testing.assert_array_equal(mine, theirs)
            assert mine.dtype.kind == theirs.dtype.kind
    for point in a.points:
        assert a[point].shape == b[point].shape
        np.testing.assert_array_equal(np.asarray(a[point]), np.asarray(b[point]))
    for point in a.tokens:
        np.testing.assert_array_equal(a.mask(point), b.mask(point))


def test_holds_what_was_given(paths: RepresentationPaths) -> None:
    same(paths, example())
    assert paths.points == ("stem", "blocks.0", "head", "words")
    assert paths.widths == {"stem": 5, "blocks.0": 3, "head": 4, "words": 2}
    for point, array in arrays().items():
        np.testing.assert_array_equal(np.asarray(paths[point]), array)
    assert paths.meta["model"] == "tiny"
    assert paths.meta["seed"] == 3
    assert paths.meta["schema"] == 1
    assert paths.meta["versions"]["numpy"] == np.__version__


def test_tokens_are_padded_with_zeros_and_masked(paths: RepresentationPaths) -> None:
    values, mask = tokens()
    read, real = np.asarray(paths["words"]), paths.mask("words")
    assert read.shape == (SIZE, mask.sum(axis=1).max(), 2)
    assert (read[~real] == 0).all()
    for sample in range(SIZE):
        np.testing.assert_array_equal(read[sample][real[sample]], values[sample][mask[sample]])
    with pytest.raises(RepdynError, match=r"'stem'.*pooled"):
        paths.mask("stem")


@pytest.mark.parametrize(
    "key",
    [
        3,
        -1,
        slice(2, 9),
        slice(None, None, -7),
        [4, 4, 0],
        np.array([True, False] * 45),
        (slice(1, 4), 0),
        (5, 1),
        ...,
    ],
    ids=lambda key: str(key)[:20],
)
@pytest.mark.parametrize("point", ["blocks.0", "words"])
def test_indexes_as_numpy_does(paths: RepresentationPaths, point: str, key: Any) -> None:
    np.testing.assert_array_equal(paths[point][key], np.asarray(paths[point])[key])


def test_subset_takes_numbers_booleans_and_slices(paths: RepresentationPaths) -> None:
    whole = example()
    for index in ([5, 2, 2, -1], np.arange(SIZE) % 3 == 0, slice(10, 40, 3)):
        part = paths.subset(index)
        numbers = np.arange(SIZE)[index]
        assert len(part) == len(numbers)
        np.testing.assert_array_equal(np.asarray(part["head"]), np.asarray(whole["head"])[numbers])
        np.testing.assert_array_equal(part.labels, whole.labels[numbers])  # type: ignore[index]
        np.testing.assert_array_equal(part.ids, whole.ids[numbers])
        np.testing.assert_array_equal(part.logits, whole.logits[numbers])  # type: ignore[index]
        np.testing.assert_array_equal(
            part.mask("words").sum(axis=1), whole.mask("words")[numbers].sum(axis=1)
        )
        again = part.subset([1, 0])
        np.testing.assert_array_equal(np.asarray(again["stem"]), np.asarray(whole["stem"])[numbers[[1, 0]]])


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([SIZE], f"no sample {SIZE} among {SIZE}"),
        ([-SIZE - 1], "no sample"),
        ([], "none of the 90"),
        ([True, False], "2 booleans for 90"),
        ([0.5], "dtype float64"),
        ([[1]], "shape \\(1, 1\\)"),
        (np.zeros(SIZE, bool), "none of the 90"),
    ],
)
def test_subset_refuses(paths: RepresentationPaths, index: Any, message: str) -> None:
    with pytest.raises(RepdynError, match=message):
        paths.subset(index)


def test_split_is_the_same_everywhere(paths: RepresentationPaths) -> None:
    for mine, theirs in zip(paths.split((0.5, 0.3, 0.2), seed=4), example().split((0.5, 0.3, 0.2), seed=4)):
        same(mine, theirs)


@pytest.mark.parametrize("shuffle", [True, False, "blocks"])
def test_batches_read_every_sample_once(paths: RepresentationPaths, shuffle: Any) -> None:
    whole, seen = example(), []
    for batch in paths.batches(32, points=["head", "words"], shuffle=shuffle, seed=1):
        assert list(batch) == ["head", "words"]
        assert batch["head"].dtype == torch.float32
        np.testing.assert_array_equal(batch["head"].numpy(), np.asarray(whole["head"])[batch.index])
        longest = batch["words"].shape[1]
        np.testing.assert_array_equal(
            batch["words"].numpy(), np.asarray(whole["words"])[batch.index, :longest]
        )
        np.testing.assert_array_equal(
            batch.masks["words"].numpy(), whole.mask("words")[batch.index, :longest]
        )
        seen.extend(batch.index.tolist())
    assert sorted(seen) == list(range(SIZE))
    assert (seen == list(range(SIZE))) == (shuffle is False)


def test_batches_may_be_written_to_without_harm(paths: RepresentationPaths) -> None:
    before = np.array(paths["stem"])
    for batch in paths.batches(30, shuffle=False):
        batch["stem"].zero_()
    np.testing.assert_array_equal(np.asarray(paths["stem"]), before)


def test_arrays_become_tensors_without_a_warning(paths: RepresentationPaths) -> None:
    for point in paths.points:
        assert torch.from_numpy(np.asarray(paths[point])).shape == paths[point].shape


def test_other_processes_get_the_same(paths: RepresentationPaths) -> None:
    np.asarray(paths["stem"])
    sent = pickle.dumps(paths)
    same(pickle.loads(sent), paths)  # noqa: S301 - our own bytes, as a worker process would get them
    if paths.path is not None:
        assert len(sent) < 20_000


def test_meta_cannot_be_changed(paths: RepresentationPaths) -> None:
    with pytest.raises(TypeError):
        paths.meta["model"] = "another"  # type: ignore[index]


def test_unknown_names_are_met_with_the_nearest(paths: RepresentationPaths) -> None:
    with pytest.raises(RepdynError, match=r"'blocks\.1'.*nearest: 'blocks\.0'"):
        paths["blocks.1"]
    with pytest.raises(RepdynError, match="'steam'"):
        paths.batches(3, points=["steam"])
    assert "stem" in paths
    assert "steam" not in paths


def test_describes_itself_on_one_screen(paths: RepresentationPaths) -> None:
    text = repr(paths)
    assert "90 samples at 4 points, float32" in text
    assert "tiny" in text
    assert "7 classes" in text
    known = paths.to_dict()
    assert (known["size"], known["classes"], known["logits_width"]) == (SIZE, 7, 7)
    deep = RepresentationPaths.from_arrays({f"blocks.{i}": np.zeros((2, 1)) for i in range(80)})
    assert len(repr(deep).splitlines()) < 10
    assert "blocks.79" in repr(deep)
    assert max(map(len, repr(deep).splitlines())) < 400


def test_plots(paths: RepresentationPaths) -> None:
    figure = paths.plot(seed=0)
    assert len(figure.frames) == 4


@given(
    size=st.integers(1, 70),
    widths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
    labels=st.sampled_from(["none", "int", "str"]),
    logits=st.booleans(),
    ragged=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_round_trip(
    tmp_path: Path,
    size: int,
    widths: list[int],
    dtype: str,
    labels: str,
    logits: bool,
    ragged: bool,
    seed: int,
) -> None:
    generator = np.random.default_rng(seed)
    given = {f"p{i}": generator.normal(size=(size, w)).astype(dtype) for i, w in enumerate(widths)}
    masks = {}
    if ragged:
        given["p0"] = generator.normal(size=(size, 4, widths[0])).astype(dtype)
        masks["p0"] = generator.random((size, 4)) < 0.5
    numbers = generator.integers(-3, 3, size)
    known = {"none": None, "int": numbers, "str": [f"cläss {n}" for n in numbers]}[labels]
    before = RepresentationPaths.from_arrays(
        given,
        known,
        [f"ид {i}" for i in range(size)],
        generator.normal(size=(size, 2)) if logits else None,
        masks=masks,
    )
    before.save(tmp_path / "a.paths")
    after = open_paths(tmp_path / "a.paths")
    same(before, after)
    after.save(tmp_path / "b.paths")
    same(before, open_paths(tmp_path / "b.paths"))


def test_one_dtype_the_widest() -> None:
    mixed = RepresentationPaths.from_arrays(
        {"a": np.zeros((2, 1), "float16"), "b": np.zeros((2, 1), "float32")}
    )
    assert mixed.dtype == np.float32
    assert RepresentationPaths.from_arrays({"a": np.zeros((2, 1), int)}).dtype == np.float32
    assert RepresentationPaths.from_arrays({"a": np.zeros((2, 1), ">f8")}).dtype == np.dtype("=f8")


def test_arrays_in_memory_are_not_copied() -> None:
    given = arrays()
    assert np.shares_memory(np.asarray(RepresentationPaths.from_arrays(given)["stem"]), given["stem"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arrays": {}}, "none is given"),
        ({"arrays": {"": np.zeros((2, 2))}}, "not a name"),
        ({"arrays": {"a": np.zeros(4)}}, r"'a'.*shape \(4,\)"),
        ({"arrays": {"a": np.zeros((0, 3))}}, "'a'.*empty"),
        ({"arrays": {"a": np.zeros((3, 0))}}, "'a'.*empty"),
        ({"arrays": {"a": np.array([["x"]])}}, "'a'.*dtype"),
        ({"arrays": {"a": np.zeros((2, 2)), "b": np.zeros((3, 2))}}, "'b'.*3 samples.*'a' has 2"),
        ({"labels": [1, 2]}, r"labels.*\(2,\) for 90"),
        ({"labels": np.zeros(SIZE)}, "labels.*float64"),
        ({"labels": [[1]] * SIZE}, "labels"),
        ({"ids": ["a"]}, "ids"),
        ({"logits": np.zeros((SIZE,))}, "logits"),
        ({"logits": np.full((SIZE, 2), np.nan)}, "'logits', sample '0'"),
        ({"masks": {"stem": np.ones((SIZE, 2), bool)}}, "masks: 'stem'"),
        ({"masks": {"words": np.ones((SIZE, 2), bool)}}, "masks: the mask of 'words'"),
        ({"meta": {"a": object()}}, "meta.*JSON"),
    ],
)
def test_from_arrays_refuses(change: dict[str, Any], message: str) -> None:
    values, mask = tokens()
    given: dict[str, Any] = {"arrays": {**arrays(), "words": values}, "masks": {"words": mask}}
    if "arrays" in change:
        del given["masks"]
    with pytest.raises(RepdynError, match=message):
        RepresentationPaths.from_arrays(**{**given, **change})


@pytest.mark.parametrize("rows", [slice(3), 0, [0, 2], np.array([0, 2]), np.arange(6) < 3])
def test_rows_in_the_place_of_a_point_are_refused_with_the_method_that_takes_them(rows: Any) -> None:
    paths = RepresentationPaths.from_arrays({"x": np.eye(6), "y": np.eye(6)})
    with pytest.raises(RepdynError, match=r"is not the name of a point; paths\.subset\(rows\) .*'x', 'y'"):
        paths[rows]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_names_point_and_sample(value: float) -> None:
    given = arrays()
    given["blocks.0"][17, 2] = value
    given["blocks.0"][30, 0] = value
    with pytest.raises(RepdynError, match=r"'blocks\.0', sample 'picture 17' and 1 more"):
        RepresentationPaths.from_arrays(given, ids=[f"picture {i}" for i in range(SIZE)])


def test_non_finite_padding_is_no_concern_but_a_real_token_is() -> None:
    values, mask = tokens()
    values[~mask] = np.nan
    assert RepresentationPaths.from_arrays({"words": values}, masks={"words": mask}).tokens == ("words",)
    sample, place = np.argwhere(mask)[40]
    values[sample, place, 1] = np.inf
    with pytest.raises(RepdynError, match=f"'words', sample '{sample}'"):
        RepresentationPaths.from_arrays({"words": values}, masks={"words": mask})


def test_import_is_light() -> None:
    code = (
        "import sys, repdyn.paths; "
        "heavy = {'zarr', 'sklearn', 'plotly', 'torch', 'scipy'} & set(sys.modules); "
        "sys.exit(', '.join(heavy) or 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_logits_beyond_float32_are_refused_in_a_sentence() -> None:
    x = np.ones((3, 2))
    with pytest.raises(RepdynError, match=r"sample 1 reach 1e\+39, beyond float32"):
        RepresentationPaths.from_arrays({"a": x}, logits=np.array([[0.0, 1.0], [1e39, 0.0], [0.0, 0.0]]))
    assert RepresentationPaths.from_arrays({"a": x}, logits=np.full((3, 2), 3e38)).logits.max() < np.inf
