"""Memories are found where there are some, and not where there are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from repdyn.errors import RepdynError
from repdyn.fields import LatentField, Memorization, Probing, memorization


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


def test_a_field_without_a_decoder_is_refused() -> None:
    with pytest.raises(RepdynError, match="from_autoencoder"):
        memorization(LatentField(lambda z: z), samples(3, 0), samples(3, 1))
