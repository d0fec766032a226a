"""The decision follows from held-out documents: a map that loses is refused, and the identity is a rival."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

import repdyn
from repdyn.errors import NotFiniteError, RepdynError
from repdyn.migration import Migration, documents_found
from repdyn.paths import RepresentationPaths
from repdyn.translation import LinearTranslation


def two_models(size: int = 400, noise: float = 0.05, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    z = generator.normal(size=(size, 12))
    a = z @ generator.normal(size=(12, 16)) + noise * generator.normal(size=(size, 16))
    b = z @ generator.normal(size=(12, 20)) + noise * generator.normal(size=(size, 20))
    return a, b


def test_documents_are_found_as_by_a_search() -> None:
    generator = np.random.default_rng(0)
    real = generator.normal(size=(60, 5))
    made = real + 0.8 * generator.normal(size=(60, 5))
    rows = generator.permutation(60)[:20]
    search = NearestNeighbors(n_neighbors=1, metric="cosine").fit(made)
    expected = search.kneighbors(real[rows], return_distance=False)[:, 0] == rows
    found = documents_found(made, real[rows], rows)
    assert 0 < expected.sum() < 20
    assert found.tolist() == expected.tolist()
    copies = np.concatenate([made, made])  # a copy is the document
    assert documents_found(copies, real[rows], rows).tolist() == expected.tolist()


def test_a_linear_relation_is_migrated_and_noise_is_refused() -> None:
    a, b = two_models()
    plan = repdyn.migrate(a, b, pairs=300)
    assert plan.decision == "migrate"
    assert plan.verdict == "found"
    assert plan.held_out == 90
    assert plan.found[plan.map].low > 0.6
    cosines = (plan(a) * b).sum(1) / np.linalg.norm(plan(a), axis=1) / np.linalg.norm(b, axis=1)
    assert cosines.mean() > 0.95
    unrelated = np.random.default_rng(1).normal(size=b.shape)
    refused = repdyn.migrate(a, unrelated, pairs=300)
    assert refused.decision == "embed again"
    assert refused.verdict == "not found"
    assert "embed again" in repr(refused)


def test_vectors_that_are_best_as_they_are_are_left() -> None:
    generator = np.random.default_rng(2)
    a = generator.normal(size=(150, 40))
    b = a + 1.2 * generator.normal(size=a.shape)  # another checkpoint of one model; 105 pairs for 40 columns
    plan = repdyn.migrate(a, b, pairs=150)
    assert plan.decision == "keep the vectors"
    assert plan.map == "identity"
    assert plan.found["identity"].value > plan.found["Procrustes"].value
    np.testing.assert_allclose(plan(a), a)


def test_real_pictures_and_their_projection() -> None:
    pixels = load_digits().data
    projected = pixels @ np.random.default_rng(3).normal(size=(64, 30))
    plan = repdyn.migrate(pixels, projected, pairs=500)
    assert plan.decision == "migrate"
    shuffled = repdyn.migrate(
        pixels, projected[np.random.default_rng(4).permutation(len(projected))], pairs=500
    )
    assert shuffled.decision == "embed again"


def test_pairs_go_by_id(tmp_path: Path) -> None:
    a, b = two_models(300)
    order = np.random.default_rng(5).permutation(300)
    old = RepresentationPaths.from_arrays({"v": a}, ids=[f"d{k}" for k in range(300)])
    new = RepresentationPaths.from_arrays({"v": b[order]}, ids=[f"d{k}" for k in order])
    plan = repdyn.migrate(old, new, pairs=250)
    assert plan.decision == "migrate"
    rows = np.column_stack([order, np.arange(300)])
    assert repdyn.migrate(a, b[order], pairs=rows).decision == "migrate"
    assert repdyn.migrate(a, b[order], pairs=250).decision == "embed again"  # by row, which is wrong here
    plan.save(tmp_path / "m")
    again = repdyn.load_result(tmp_path / "m")
    assert isinstance(again, Migration)
    np.testing.assert_array_equal(again(a), plan(a))
    assert str(again.to_dict()) == str(plan.to_dict())
    assert again.plot().data
    json.dumps(plan.to_dict())


def test_lengths_of_one_are_kept() -> None:
    a, b = two_models()
    b /= np.linalg.norm(b, axis=1, keepdims=True)
    plan = repdyn.migrate(a, b, pairs=300)
    assert plan.unit_length
    np.testing.assert_allclose(np.linalg.norm(plan(a), axis=1), 1)


def test_without_pairs_the_verdict_decides() -> None:
    a, b = np.random.default_rng(6).normal(size=(2, 260, 6))
    plan = repdyn.migrate(a, b)  # isotropic noise: every rotation fits
    assert plan.decision == "embed again"
    assert plan.verdict != "found"
    assert plan.pairs == 0
    assert {"excess distance, identity", "excess distance, nearest random map"} == set(plan.evidence)
    assert plan.plot().data


def test_bad_input_is_named() -> None:
    a, b = two_models(120)
    with pytest.raises(RepdynError, match="pairs=500, and 120 documents"):
        repdyn.migrate(a, b, pairs=500)
    with pytest.raises(RepdynError, match="rows beyond"):
        repdyn.migrate(a, b, pairs=[[0, 200]])
    with pytest.raises(RepdynError, match="number or"):
        repdyn.migrate(a, b, pairs=[0.5, 1.0])
    twice = RepresentationPaths.from_arrays({"v": b}, ids=["x"] * 120)
    with pytest.raises(RepdynError, match="new: id 'x' is there 120 times"):
        repdyn.migrate(a, twice, pairs=10)
    with pytest.raises(NotFiniteError):
        repdyn.migrate(a, np.full_like(b, np.inf), pairs=10)


@pytest.mark.parametrize("right", [True, False])
def test_few_pairs_test_the_map_that_did_not_use_them(monkeypatch, right: bool) -> None:
    """The guided map finds each of its own pairs and nothing else, which says nothing against the other."""
    generator = np.random.default_rng(3)
    q = np.linalg.qr(generator.normal(size=(12, 12)))[0]
    x = generator.normal(size=(400, 12))
    y = x @ q + 0.6 * generator.normal(size=x.shape)
    pairs = np.stack([np.arange(10)] * 2, axis=1)

    def searched(a, b, pairs=None, seed=0):
        if pairs is not None and len(pairs):
            matrix = np.linalg.pinv(a[pairs[:, 0]]) @ b[pairs[:, 1]]  # exact on 10 pairs of width 12
            return LinearTranslation(matrix, np.zeros(12), np.zeros(12), verdict="not found")
        matrix = q if right else np.linalg.qr(generator.normal(size=(12, 12)))[0]
        return LinearTranslation(matrix, np.zeros(12), np.zeros(12), verdict="found")

    monkeypatch.setattr("repdyn.migration.plan.translate", searched)
    guided = searched(x, y, pairs)
    assert documents_found(guided(x), y[:10], np.arange(10)).all()
    plan = repdyn.migrate(x, y, pairs=pairs)
    assert plan.decision == ("migrate" if right else "embed again")
    share = documents_found(x @ q, y[:10], np.arange(10)).mean()
    assert 0.45 <= share < 1
    if right:
        np.testing.assert_array_equal(plan.translation.matrix, q)
