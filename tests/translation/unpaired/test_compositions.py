"""Samples that lack clusters, and the bootstrap of clusters."""

import numpy as np
import pytest

from repdyn.translation.coordinates import unit_rows
from repdyn.translation.unpaired.rivals import Composition, Rival, across_compositions

WIDTH = 6


def cloud(count: int, seed: int, centers: np.ndarray, noise: float = 0.2) -> np.ndarray:
    generator = np.random.default_rng(seed)
    rows = centers[generator.integers(len(centers), size=count)]
    return (rows + noise * generator.normal(size=rows.shape) * np.linspace(1.5, 0.5, WIDTH)).astype(
        np.float32
    )


def rival(m: np.ndarray) -> Rival:
    return Rival([m.astype(np.float32)], 1.0, 0.0, 0.0, "planned")


@pytest.fixture(scope="module")
def planted() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two samples of twelve random clusters, one of them turned; and the turn."""
    centers = np.random.default_rng(0).normal(size=(12, WIDTH))
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(WIDTH, WIDTH)))[0].astype(np.float32)
    return cloud(1500, 2, centers) @ turn.T, cloud(1500, 3, centers), turn


def of(a: np.ndarray, b: np.ndarray, own: np.ndarray, others: list[np.ndarray]) -> Composition:
    return across_compositions([a], [b], rival(own), [rival(m) for m in others], seed=0)


def test_the_true_map_stays_where_clusters_are_left_out_and_leads_a_wrong_one(planted) -> None:
    a, b, turn = planted
    wrong = np.linalg.qr(np.random.default_rng(5).normal(size=(WIDTH, WIDTH)))[0]
    right = of(a, b, turn, [wrong])
    assert right.stability > 0.7
    assert right.lead > 3
    assert of(a, b, wrong, [turn]).lead < -3


def test_the_lead_is_the_log_ratio_over_its_bootstrap_error() -> None:
    """Clusters far apart: the delta method gives the standard error of a ratio of sums over clusters."""
    generator = np.random.default_rng(0)
    centers = unit_rows(generator.normal(size=(16, WIDTH)).astype(np.float32))
    a = (np.repeat(centers, 60, 0) + 0.01 * generator.normal(size=(960, WIDTH))).astype(np.float32)
    a = a[generator.permutation(len(a))]
    b = a[generator.permutation(len(a))] + 0.01 * generator.normal(size=a.shape).astype(np.float32)
    nearly = np.linalg.qr(np.eye(WIDTH) + 0.1 * generator.normal(size=(WIDTH, WIDTH)))[0].astype(np.float32)
    got = of(a, b, np.eye(WIDTH, dtype=np.float32), [nearly]).lead
    labels = (unit_rows(a) @ centers.T).argmax(1), (unit_rows(b) @ centers.T).argmax(1)
    terms = []
    for axis in (0, 1):  # from A to B, from B to A
        means, counts = [], np.bincount(labels[axis], minlength=16)
        for m in (np.eye(WIDTH), nearly):
            distance = 1 - (unit_rows(a @ m) @ unit_rows(b).T).max(1 - axis)
            means.append(np.bincount(labels[axis], weights=distance, minlength=16))
        own, other = means
        ratio = np.log(other.sum() / own.sum())
        influence = other / other.sum() - own / own.sum()
        terms.append((ratio, float((influence**2).sum())))
        assert counts.min() > 0
    expected = (terms[0][0] + terms[1][0]) / np.sqrt(terms[0][1] + terms[1][1])
    assert got == pytest.approx(expected, rel=0.35)


def test_no_different_map_is_an_infinite_lead(planted) -> None:
    a, b, turn = planted
    assert of(a, b, turn, []).lead == float("inf")
