import numpy as np
import pytest

from repdyn.translation.unpaired.proposals import consensus_weights


def planted_maps(count: int, share: float, strength: float, seed: int, width: int = 900):
    """Unit rows of noise, some of which hold a little of one direction, and that direction."""
    generator = np.random.default_rng(seed)
    truth = generator.normal(size=width)
    truth /= np.linalg.norm(truth)
    noise = generator.normal(size=(count, width)) / np.sqrt(width)
    holds = generator.random(count) < share
    return noise + strength * holds[:, None] * truth, truth, holds


def cosines(maps: np.ndarray, truth: np.ndarray) -> np.ndarray:
    means = consensus_weights(maps) @ maps
    return means @ truth / np.linalg.norm(means, axis=1)


@pytest.mark.parametrize("seed", range(5))
def test_a_little_in_a_few_adds_up(seed: int) -> None:
    maps, truth, _ = planted_maps(100, 0.3, 0.5, seed)
    assert (maps @ truth).max() < 0.7
    assert cosines(maps, truth).max() > 0.85


def test_a_shared_error_that_is_stronger_does_not_hide_it() -> None:
    maps, truth, _ = planted_maps(100, 0.3, 0.5, seed=0)
    error = np.random.default_rng(9).normal(size=maps.shape[1])
    error /= np.linalg.norm(error)
    maps = maps + 0.6 * (np.random.default_rng(8).random(100) < 0.5)[:, None] * error
    assert cosines(maps, error).max() > 0.85
    assert cosines(maps, truth).max() > 0.7


def test_weights_are_distinct_unit_rows_strongest_first() -> None:
    maps, _, holds = planted_maps(80, 0.4, 0.6, seed=3)
    weights = consensus_weights(maps)
    np.testing.assert_allclose(np.linalg.norm(weights, axis=1), 1)
    assert np.abs(np.triu(weights @ weights.T, 1)).max() < 0.95
    strength = np.linalg.norm(weights @ (maps / np.linalg.norm(maps, axis=1, keepdims=True)), axis=1)
    assert (np.diff(strength) <= 1e-6).all()
    best = weights[np.abs(weights @ holds).argmax()]
    assert best[holds].mean() > best[~holds].mean()


def test_maps_that_share_nothing_have_no_strong_consensus() -> None:
    maps, truth, _ = planted_maps(100, 0.0, 0.0, seed=1)
    assert np.abs(cosines(maps, truth)).max() < 0.2


def test_one_map_is_its_own_consensus() -> None:
    row = np.random.default_rng(0).normal(size=(1, 30))
    np.testing.assert_allclose(consensus_weights(row), [[1.0]])


def test_turning_all_maps_changes_no_weight() -> None:
    maps, _, _ = planted_maps(40, 0.4, 0.7, seed=2, width=60)
    turn, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(60, 60)))
    here, there = consensus_weights(maps), consensus_weights(maps @ turn)
    np.testing.assert_allclose(np.abs(here @ there.T).max(1), 1, atol=1e-3)
