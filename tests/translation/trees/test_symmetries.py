"""Symmetric sets of leaves: several matchings fit equally well, and the verdict says so."""

import numpy as np
import pytest

from repdyn.topology import LevelSetTree
from repdyn.translation import TreeMatch, match_trees

WIDTH = 6


def matched(centres: np.ndarray, noise: float, masses: np.ndarray | None = None) -> TreeMatch:
    """Two samples about the same centres; the second is rotated."""
    generator = np.random.default_rng(3)
    wide = np.zeros((len(centres), WIDTH))
    wide[:, : centres.shape[1]] = centres
    turn = np.linalg.qr(generator.normal(size=(WIDTH, WIDTH)))[0]
    x, y = (
        wide[generator.choice(len(wide), size=1200, p=masses)] + noise * generator.normal(size=(1200, WIDTH))
        for _ in range(2)
    )
    y = y @ turn
    return match_trees(LevelSetTree.fit(x), LevelSetTree.fit(y), x, y, seed=0)


def polygon(corners: int) -> np.ndarray:
    turn = 2 * np.pi * np.arange(corners) / corners
    return np.stack([np.cos(turn), np.sin(turn)], axis=1)


@pytest.mark.slow
def test_a_regular_decagon_is_ambiguous_and_its_turns_are_the_alternatives() -> None:
    match = matched(polygon(10), 0.06)
    assert match.verdict == "ambiguous", match.reason
    assert len(match.alternatives) >= 2
    assert match.alternatives.shape[1] == 10
    assert set(match.alternatives.ravel()) <= set(match.pairs[:, 1])
    # A corner has at least two possible partners, so no pair is likelier than one half.
    assert match.confidence[:10].max() <= 0.5


@pytest.mark.slow
def test_a_cube_is_ambiguous() -> None:
    corners = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)], dtype=float)
    assert matched(corners, 0.1).verdict == "ambiguous"


def test_random_centres_of_unequal_mass_have_no_alternative() -> None:
    centres = np.random.default_rng(99).normal(size=(9, WIDTH))
    match = matched(centres, 0.15, np.arange(1, 10) / 45)
    assert match.verdict == "found", match.reason
    assert not len(match.alternatives)


def test_alternatives_are_saved(tmp_path) -> None:
    match = matched(polygon(6), 0.06)
    match.save(tmp_path / "m")
    loaded = TreeMatch.load(tmp_path / "m")
    assert loaded.verdict == match.verdict == "ambiguous"
    assert np.array_equal(loaded.alternatives, match.alternatives)
