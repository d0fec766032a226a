"""Two models that share their coordinates: a map from the identity, without pairs, or tested by a few."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import expm
from scipy.stats import ortho_group

import repdyn
from repdyn.migration import documents_found
from repdyn.migration.related import map_of_related

WIDTH = 48


def checkpoints(
    seed: int = 0, turned: float = 0.6, size: int = 700
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Old vectors of documents, their new vectors, and new vectors of other documents.

    The new model is the old one after a small rotation of all coordinates, with noise of its own.
    """
    generator = np.random.default_rng(seed)
    # Without clusters, reflections of the principal axes fit as well: no search can find the map.
    old = generator.normal(size=(2 * size, WIDTH)) * 0.95 ** np.arange(WIDTH)
    skew = generator.normal(size=(WIDTH, WIDTH)) * turned
    rotation = expm((skew - skew.T) / np.sqrt(WIDTH))
    new = old @ rotation + 0.02 * generator.normal(size=old.shape)
    return old[:size], new[:size], new[size:]


def test_from_the_identity_hundreds_suffice() -> None:
    old, again, others = checkpoints()
    found = map_of_related(old, others, 0)
    assert found is not None
    center = again.mean(0)

    def cosine(x: np.ndarray) -> float:
        x, y = x - x.mean(0), again - center
        return float(((x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)).mean())

    assert cosine(found(old)) > cosine(old) + 0.1
    rows = np.arange(300)
    assert documents_found(found(old), again[rows], rows).mean() > 0.95
    assert found.verdict == "found"
    assert found.evidence["excess distance"] < found.evidence["excess distance, identity"]
    plan = repdyn.migrate(old, others)
    assert (plan.decision, plan.map, plan.pairs) == ("migrate", "related", 0)
    np.testing.assert_allclose(plan(old), found(old))


def test_the_same_seed_gives_the_same_map() -> None:
    old, _, others = checkpoints(seed=1)
    one, other = (map_of_related(old, others, 3) for _ in range(2))
    assert one is not None
    assert other is not None
    np.testing.assert_array_equal(one.matrix, other.matrix)


@pytest.mark.parametrize("seed", range(3))
def test_models_of_other_coordinates_are_no_relation(seed: int) -> None:
    old, _, others = checkpoints(seed=seed)
    turned = others @ ortho_group.rvs(WIDTH, random_state=seed)
    assert map_of_related(old, turned, 0) is None
    assert map_of_related(old, others[:, ::-1], 0) is None
    assert map_of_related(old, np.random.default_rng(100 + seed).normal(size=others.shape), 0) is None
    assert map_of_related(old, others[:, : WIDTH - 1], 0) is None


def test_few_pairs_test_the_map_and_are_not_fitted() -> None:
    old, again, others = checkpoints(seed=2)
    new = np.concatenate([again[:20], others])
    pairs = np.stack([np.arange(20)] * 2, axis=1)
    plan = repdyn.migrate(old, new, pairs=pairs)
    assert (plan.decision, plan.map, plan.held_out) == ("migrate", "related", 20)
    own = documents_found(plan.translation(old), again[:20], np.arange(20)).mean()
    assert plan.found["related"].value == pytest.approx(own)
    assert plan.found["related"].low >= 0.45
    # Pairs that are none refuse the same map, which does not depend on them.
    wrong = repdyn.migrate(old, new, pairs=np.stack([np.arange(20), np.roll(np.arange(20), 1)], axis=1))
    assert wrong.decision == "embed again"
    assert wrong.found["related"].value < 0.2
    assert "embed 100 stored documents" in wrong.reason
    np.testing.assert_array_equal(wrong.translation.matrix, plan.translation.matrix)


def test_vectors_that_did_not_change_are_kept() -> None:
    old, _, others = checkpoints(seed=3, turned=0.0)
    again = old + 1e-3 * np.random.default_rng(4).normal(size=old.shape)
    new = np.concatenate([again[:40], others])
    plan = repdyn.migrate(old, new, pairs=np.stack([np.arange(40)] * 2, axis=1))
    assert plan.map in ("identity", "related")
    assert plan.found["identity"].value == 1.0
    assert plan.decision != "embed again"


def test_copies_of_a_document_do_not_change_the_map() -> None:
    old, _, others = checkpoints(seed=5)
    one = map_of_related(old, others, 0)
    other = map_of_related(np.concatenate([old, np.repeat(old[:1], 2000, axis=0)]), others, 0)
    assert one is not None
    assert other is not None
    np.testing.assert_allclose(one(old), other(old), atol=1e-4)


def test_an_unclear_margin_refuses_though_pairs_are_found() -> None:
    old, again, others = checkpoints(seed=6, turned=0.8)
    related = map_of_related(old, others, 0)
    assert related is not None
    assert related.evidence["margin of the best different map"] < 0.1
    assert related.verdict == "inconclusive"
    new = np.concatenate([again[:20], others])
    plan = repdyn.migrate(old, new, pairs=np.stack([np.arange(20)] * 2, axis=1))
    assert documents_found(plan.translation(old), again[:20], np.arange(20)).mean() > 0.7  # enough by itself
    assert (plan.decision, plan.map, plan.verdict) == ("embed again", "related", "inconclusive")
    assert "too near to be sure" in plan.reason
    assert repdyn.migrate(old, others).decision == "embed again"
