"""Depth as time: where the label is, known by construction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from repdyn.disentangle import SKD, DepthFactors, depth_factors
from repdyn.errors import RepdynError
from repdyn.paths import RepresentationPaths


def staying_label(count: int, seed: int) -> RepresentationPaths:
    """The label's direction stays through depth; two others turn."""
    generator = np.random.default_rng(seed)
    label = generator.integers(2, size=count)
    turning = 3 * generator.standard_normal((count, 2))
    mixing = np.random.default_rng(5).standard_normal((3, 6))
    arrays = {}
    for depth in range(5):
        turn = 1.3 * depth
        rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        hidden = np.column_stack([2.0 * label - 1, turning @ rotation])
        arrays[f"block{depth}"] = (hidden @ mixing).astype(np.float32)
    return RepresentationPaths.from_arrays(arrays, labels=label)


@pytest.fixture(scope="module")
def found() -> DepthFactors:
    train, test = staying_label(160, 0), staying_label(80, 1)
    model = SKD(1, 6, 24).fit(train, epochs=30, learning_rate=1e-2)
    return depth_factors(model, test, train, head=lambda x: np.stack([-x[:, 0], x[:, 0]], axis=1))


def test_every_figure_is_there_with_its_controls(found: DepthFactors) -> None:
    assert set(found.probes) == {"spectral", "random", "mean components"} == set(found.static_share)
    assert all(len(row) == 5 for parts in found.probes.values() for row in parts.values())
    assert 0 <= found.static_share["spectral"].value <= 1
    assert found.verdict in ("found", "not found", "inconclusive")
    assert found.swaps is not None
    assert found.swaps["spectral"]["receiver"].value + found.swaps["spectral"]["donor"].value == (
        pytest.approx(1)
    )
    assert "static parts swapped" in repr(found)


def test_saved_and_read_again(found: DepthFactors, tmp_path: Path) -> None:
    found.save(tmp_path / "d")
    assert DepthFactors.load(tmp_path / "d").to_dict() == found.to_dict()


def test_paths_without_labels_and_models_of_clips_are_refused() -> None:
    train = staying_label(40, 0)
    bare = RepresentationPaths.from_arrays({point: np.asarray(train[point]) for point in train.points})
    model = SKD(1, 3, 6).fit(train, epochs=1)
    with pytest.raises(RepdynError, match="test paths have no labels"):
        depth_factors(model, bare, train)
    x = np.zeros((8, 4, 3), np.float32)
    with pytest.raises(RepdynError, match="not fitted to representation paths"):
        depth_factors(SKD(1, 3, 6).fit(x, epochs=1), train, train)
