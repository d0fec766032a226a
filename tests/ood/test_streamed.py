"""Detectors fitted to paths that are not held: the same as those fitted to paths that are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from sklearn.covariance import ledoit_wolf

from repdyn.errors import RepdynError
from repdyn.ood import (
    EnergyTrajectoryDetector,
    KNNDetector,
    MixtureDetector,
    PathDetector,
    UnionDetector,
    load_detector,
)
from repdyn.ood.crossfit import cross_fit_points
from repdyn.ood.detector import equal_paths
from repdyn.ood.gaussian import Moments
from repdyn.ood.path_chunks import MultiPassReader
from repdyn.paths import RepresentationPaths, open_paths

SIZE, WIDTH, CLASSES = 600, 12, 4


def planted(kind: str, seed: int = 0, size: int = SIZE) -> RepresentationPaths:
    g = np.random.default_rng(seed)
    labels = (
        np.sort(g.integers(CLASSES, size=size))
        if kind == "sorted classes"
        else g.integers(CLASSES, size=size)
    )
    means = np.random.default_rng(9).normal(size=(3, CLASSES, WIDTH)) * 3
    x = g.normal(size=(3, size, WIDTH)) + means[:, labels] + 2
    if kind == "outlier coordinates":
        x[..., :2] *= 2000
    if kind == "equal rows":
        x[:, 1::3] = x[:, 0::3][:, : len(x[0, 1::3])]
        labels[1::3] = labels[0::3][: len(labels[1::3])]
    if kind == "a dead point":
        x[1] = 5.0
    dtype = "float16" if kind == "float16" else "float64" if kind == "float64" else "float32"
    arrays = {f"block {k}": own.astype(dtype) for k, own in enumerate(x)}
    given = None if kind == "no labels" else labels
    logits = g.normal(size=(size, 5)) if kind == "logits" else None
    return RepresentationPaths.from_arrays(arrays, labels=given, logits=logits)


KINDS = [
    "plain",
    "sorted classes",
    "outlier coordinates",
    "equal rows",
    "float16",
    "float64",
    "no labels",
    "a dead point",
    "logits",
]


@pytest.fixture
def streaming(monkeypatch: pytest.MonkeyPatch) -> Any:
    def begin(rows: int = 77) -> None:
        monkeypatch.setattr("repdyn.ood.path_chunks.HELD", 0)
        monkeypatch.setattr("repdyn.ood.path_chunks.ROWS", rows)
        for module in ("crossfit", "union", "detector"):
            monkeypatch.setattr(f"repdyn.ood.{module}.HELD", 0)

    return begin


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "make",
    [
        PathDetector,
        UnionDetector,
        lambda: KNNDetector(bank=300),
        lambda: MixtureDetector(bank=300),
        lambda: EnergyTrajectoryDetector(bank=300),
    ],
)
def test_scores_are_those_of_a_fit_that_holds_everything(
    kind: str, make: Any, streaming: Any, tmp_path: Any
) -> None:
    paths, new = planted(kind), planted(kind, seed=1, size=90)
    paths.save(tmp_path / "a.paths")
    held = make().fit(paths)
    expected = held.score_samples(new)
    streaming()
    streamed = make().fit(open_paths(tmp_path / "a.paths"))
    found = streamed.score_samples(new)
    close = 2e-2 if make is UnionDetector else 1e-5  # where two scores change ranks, a p-value does by one
    np.testing.assert_allclose(found, expected, rtol=close, atol=close)
    np.testing.assert_allclose(streamed.calibration_scores_, held.calibration_scores_, rtol=close, atol=close)
    assert streamed.points_ == held.points_
    for point, ends in held.lengths_.items():
        np.testing.assert_allclose(streamed.lengths_[point], ends)


@pytest.mark.parametrize("rows", [1, 13, 600])
def test_moments_of_parts_are_those_of_the_whole(rows: int) -> None:
    g = np.random.default_rng(3)
    x = g.normal(size=(200, 6)) @ g.normal(size=(6, 6)) + 50
    labels, fold = g.integers(3, size=200), np.arange(200) % 5
    parts = Moments(x[:rows], labels[:rows], fold[:rows], folds=5, classes=3)
    for start in range(rows, 200, rows):
        part = slice(start, start + rows)
        parts.add(x[part], labels[part], fold[part])
    whole = Moments(x, labels, fold)
    np.testing.assert_allclose(parts.variance, x.var(axis=0).sum())
    for without in (None, 0, 4):
        for classes in (False, True):
            one, other = (m.gaussian(classes=classes, without=without) for m in (parts, whole))
            np.testing.assert_allclose(one.whitener, other.whitener, rtol=1e-8, atol=1e-10)
            np.testing.assert_allclose(one.means, other.means, rtol=1e-8, atol=1e-8)
            np.testing.assert_allclose(one.intensity, other.intensity, rtol=1e-8)
    kept = x[fold != 0]
    _, intensity = ledoit_wolf(kept)
    np.testing.assert_allclose(parts.gaussian(classes=False, without=0).intensity, intensity, rtol=1e-8)


def test_wide_points_are_fitted_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = planted("plain")
    labels = np.unique(np.asarray(paths.labels), return_inverse=True)[1]
    together = cross_fit_points(paths, paths.points, labels, 0)
    read: list[tuple[str, ...]] = []
    whole = MultiPassReader.read
    monkeypatch.setattr(
        MultiPassReader,
        "read",
        lambda self, told, points=None: read.append(points) or whole(self, told, points),
    )
    monkeypatch.setattr("repdyn.ood.crossfit.SUMS", 1)
    alone = cross_fit_points(paths, paths.points, labels, 0)
    assert [points for points in read if points] == [(p,) for p in paths.points for _ in range(2)]
    for point in paths.points:
        np.testing.assert_array_equal(together[point].plain.distances, alone[point].plain.distances)


def test_what_is_not_finite_is_named_by_its_sample(streaming: Any) -> None:
    from repdyn.paths.columns import VectorColumn

    paths = planted("plain")
    x = np.array(paths["block 1"])
    x[333, 2] = np.nan
    bad = RepresentationPaths(
        {
            point: VectorColumn.of(x if point == "block 1" else np.asarray(paths[point]))
            for point in paths.points
        },
        logits=None,
        read_labels=lambda: None,
        read_ids=lambda: np.arange(SIZE).astype(str),
        meta={},
    )
    streaming()
    with pytest.raises(RepdynError, match="'block 1', sample 333"):
        PathDetector().fit(bad)
    detector = PathDetector().fit(paths)
    scores = detector.score_samples(bad)
    assert scores[333] == -1e30
    assert (np.delete(scores, 333) > -1e30).all()
    groups = equal_paths(bad, bad.points)
    np.testing.assert_array_equal(groups, np.arange(SIZE))


def test_samples_equal_at_every_point_are_found_in_parts(streaming: Any) -> None:
    paths = planted("equal rows")
    expected = equal_paths(paths, paths.points)
    assert int(expected.max()) + 1 == SIZE - SIZE // 3
    streaming(50)
    np.testing.assert_array_equal(equal_paths(paths, paths.points), expected)


@pytest.fixture
def url() -> Any:
    yield "memory://bucket/a.paths"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.mark.parametrize("make", [PathDetector, UnionDetector, KNNDetector])
def test_a_fit_and_a_score_fetch_a_remote_store_once_each(
    make: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    g = np.random.default_rng(0)
    x = g.normal(size=(13, 2000, 20)).astype("float32")
    paths = RepresentationPaths.from_arrays({f"block {k}": own for k, own in enumerate(x)})
    paths.save(url)
    fetched: list[int] = []
    cat = MemoryFileSystem.cat_file

    def counted(self: Any, path: str, **options: Any) -> bytes:
        data = cat(self, path, **options)
        fetched.append(len(data))
        return data

    monkeypatch.setattr(
        MemoryFileSystem,
        "cat_file",
        lambda self, path, start=None, end=None: counted(self, path, start=start, end=end),
    )
    store = x.nbytes
    detector = make().fit(open_paths(url))
    assert sum(fetched) <= 1.1 * store
    fetched.clear()
    scores = detector.score_samples(open_paths(url))
    assert sum(fetched) <= 1.1 * store
    np.testing.assert_allclose(scores, make().fit(paths).score_samples(paths), rtol=1e-6)


def test_a_fit_that_does_not_hold_a_remote_store_reads_it_five_times(
    url: str, streaming: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    g = np.random.default_rng(0)
    x = g.normal(size=(13, 2000, 20)).astype("float32")
    paths = RepresentationPaths.from_arrays({f"block {k}": own for k, own in enumerate(x)})
    paths.save(url)
    fetched: list[int] = []
    cat = MemoryFileSystem.cat_file

    def counted(self: Any, path: str, start: Any = None, end: Any = None) -> bytes:
        data = cat(self, path, start=start, end=end)
        fetched.append(len(data))
        return data

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    streaming(500)
    PathDetector().fit(open_paths(url))
    # Twice for equal samples, once for the sums, once for held-out distances; neighbours and their distances.
    assert sum(fetched) <= 1.1 * 6 * x.nbytes


def test_what_was_drawn_is_said(tmp_path: Any) -> None:
    paths = planted("equal rows")
    detector = KNNDetector(bank=100).fit(paths)
    assert "100 of 400 different samples" in repr(detector)
    detector.save(tmp_path / "knn")
    assert repr(load_detector(tmp_path / "knn")) == repr(detector)
    union = UnionDetector().fit(planted("logits"))
    assert "neighbors: all 600 different samples" in repr(union)
    assert "UnionDetector" in repr(union)


@pytest.mark.parametrize("held", [True, False])
def test_logits_are_read_like_a_point(held: bool, streaming: Any) -> None:
    paths = planted("logits")
    if not held:
        streaming()
    detector = PathDetector(points=("block 0", "logits")).fit(paths)
    assert detector.points_ == ("block 0", "logits")
    far = RepresentationPaths.from_arrays(
        {p: np.asarray(paths[p]) for p in paths.points}, logits=-50 + paths.logits
    )
    assert detector.score_samples(far).mean() < detector.score_samples(paths).mean() - 1


def test_tokens_are_refused_before_they_are_read(streaming: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    words = np.random.default_rng(0).normal(size=(60, 4, 3))
    paths = RepresentationPaths.from_arrays({"words": words, "pooled": words.mean(axis=1)})
    monkeypatch.setattr(RepresentationPaths, "iterate", None)
    with pytest.raises(RepdynError, match=r"'words' has shape \(60, 4, 3\)"):
        PathDetector().fit(paths)
