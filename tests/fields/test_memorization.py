"""Memories are found where there are some, and not where there are none."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from repdyn.errors import RepdynError
from repdyn.fields import LatentField, Memorization, Probing, memorization
from repdyn.fields.recovery import _exchange_p_value


def samples(n: int, seed: int) -> Tensor:
    return torch.randn((n, 12), generator=torch.Generator().manual_seed(seed))


def test_a_memory_of_its_training_set_is_found(tmp_path: Path) -> None:
    # Of one length: a shorter pattern would lose to a longer one that points the same way.
    train, test = torch.nn.functional.normalize(samples(8, 0)) * 3, samples(60, 1)

    def recall(x: Tensor) -> Tensor:
        return torch.softmax(3 * x @ train.T.to(x), dim=1) @ train.to(x)

    found = memorization(LatentField.from_autoencoder(recall, lambda z: z), train, test)
    assert found.verdict == "found"
    assert found.coefficient.value > 0.99 > found.null.value
    assert len(found.attractors) == 8
    assert sorted(found.nearest.tolist()) == list(range(8))
    assert found.to_test.value < 0.9
    assert found.preference.low > 0
    assert found.plot().layout.meta["caption"].startswith("Verdict: found")
    found.save(tmp_path / "a.memorization")
    again = Memorization.load(tmp_path / "a.memorization")
    assert again.to_dict() == found.to_dict()
    np.testing.assert_array_equal(again.nearest, found.nearest)
    np.testing.assert_array_equal(again.similarity, found.similarity)
    with pytest.raises(RepdynError, match="memorization"):
        Probing.load(tmp_path / "a.memorization")


def test_attractors_that_are_no_training_sample_are_not_found() -> None:
    train, test = samples(50, 0), samples(60, 1)
    signs = torch.tensor([1.0, -1.0])

    def encode(x: Tensor) -> Tensor:
        return torch.tanh(2 * x[:, :2])

    def decode(z: Tensor) -> Tensor:
        return torch.cat([z, signs.to(z).expand(len(z), 2).repeat(1, 5)], dim=1)

    found = memorization(LatentField.from_autoencoder(encode, decode), train, test)
    assert len(found.attractors) == 4
    assert found.verdict != "found"
    assert found.components <= 2
    assert "null" in repr(found)


def test_prototypes_as_near_to_unseen_samples_are_no_memories() -> None:
    # Attractors at the centres of twenty clusters: near every training sample, and as near to every other.
    centres = 3 * samples(20, 5)
    train, test = (centres.repeat(10, 1) + 0.7 * samples(200, seed) for seed in (0, 1))

    def average(x: Tensor) -> Tensor:
        return torch.softmax(3 * x @ centres.T.to(x), dim=1) @ centres.to(x)

    found = memorization(LatentField.from_autoencoder(average, lambda z: z), train, test)
    assert found.coefficient.low > found.null.high
    assert found.preference.low <= 0 < found.to_test.value
    assert found.verdict != "found"


def test_the_null_is_the_best_cosine_of_unseen_samples() -> None:
    train, test = samples(30, 0), samples(20, 1)
    found = memorization(LatentField.from_autoencoder(lambda x: 0.5 * x, lambda z: z), train, test)
    cosine = torch.nn.functional.cosine_similarity(test[:, None], train[None], dim=2).max(dim=1).values
    np.testing.assert_allclose(found.null_similarity, cosine, atol=1e-5)
    assert found.verdict == "inconclusive"


def planted(seed: int) -> tuple[LatentField, Tensor, Tensor]:
    """Wells, training and unseen samples, all drawn alike: there is no memory."""
    train, test = samples(20, 3 * seed)[:, :6] + 1, samples(20, 3 * seed + 1)[:, :6] + 1
    wells = samples(10, 3 * seed + 2)[:, :6] + 1

    def pull(z: Tensor) -> Tensor:
        near = wells.to(z)[torch.cdist(z, wells.to(z)).argmin(dim=1)]
        return near + 0.3 * (z - near)

    return LatentField.from_autoencoder(lambda x: x, pull), train, test


def test_exchanges_tell_what_an_interval_over_attractors_does_not() -> None:
    generator = np.random.default_rng(0)
    small = []
    for _ in range(60):
        rows = generator.normal(size=(50, 6)) + 1
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        places, bank = rows[:10], rows[10:]
        small.append(_exchange_p_value(places, bank, generator))
    # Uniform where training and unseen samples are alike.
    assert 0.3 < np.mean(small) < 0.7
    assert np.mean(np.array(small) <= 0.1) < 0.25

    # By every exchange of three and three samples, computed one by one.
    cosine = places @ bank[:6].T
    gaps = []
    for chosen in combinations(range(6), 3):
        rest = [k for k in range(6) if k not in chosen]
        gaps.append(float((cosine[:, chosen].max(axis=1) - cosine[:, rest].max(axis=1)).mean()))
    exact = np.mean(np.array(gaps) >= gaps[0] - 1e-12)
    assert _exchange_p_value(places, bank[:6], generator) == pytest.approx(exact, abs=0.04)


def test_wells_set_without_training_data_are_no_memories() -> None:
    assert not any(memorization(*planted(seed), max_steps=60).verdict == "found" for seed in range(10))


def test_sorted_unseen_samples_are_compared_from_all_classes() -> None:
    # Unseen samples sorted by class: those compared with the training samples are of all classes.
    centers = torch.eye(12)[:4] * 6
    train = centers + 0.1 * samples(4, 0)
    test = torch.cat([centers[k] + 0.1 * samples(30, k + 1) for k in range(4)])

    def pull(z: Tensor) -> Tensor:
        near = centers.to(z)[torch.cdist(z, centers.to(z)).argmin(dim=1)]
        return near + 0.3 * (z - near)

    ordered = memorization(LatentField.from_autoencoder(lambda x: x, pull), train, test, max_steps=60, seed=3)
    assert len(ordered.attractors) == 4
    assert ordered.to_test.value > 0.6  # of the first class alone it is about .25


def test_a_field_without_a_decoder_is_refused() -> None:
    with pytest.raises(RepdynError, match="from_autoencoder"):
        memorization(LatentField(lambda z: z), samples(3, 0), samples(3, 1))
