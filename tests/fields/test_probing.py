"""Dictionaries of attractors against their controls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from repdyn.errors import RepdynError
from repdyn.fields import LatentField, Probing, probe_without_data
from repdyn.fields.recovery import _pursue


def planted(seed: int = 0) -> tuple[LatentField, Tensor, Tensor]:
    """Six attractors in twenty dimensions, and data that are mixtures of two of them."""
    generator = torch.Generator().manual_seed(seed)
    memories = 3 * torch.randn((6, 20), generator=generator)

    def step(z: Tensor) -> Tensor:
        return torch.softmax(2 * z @ memories.T.to(z), dim=1) @ memories.to(z)

    weights = torch.zeros(80, 6)
    for row in weights:
        row[torch.randperm(6, generator=generator)[:2]] = torch.rand(2, generator=generator) + 0.5
    return LatentField(step), memories, weights @ memories


def test_data_made_of_attractors_is_rebuilt_from_them(tmp_path: Path) -> None:
    field, memories, targets = planted()
    found = probe_without_data(field, lambda z: 2 * z, targets, atoms=(1, 2, 4, 64), starts=200)
    assert found.atoms == (1, 2, 4)
    assert len(found.attractors) == len(memories)
    assert found.verdict == "found"
    assert found.error["attractors"][1].value < 0.1
    assert found.error["attractors"][2].value < found.error["random orthogonal"][2].low
    assert found.decoded_error is not None
    assert found.decoded_error["attractors"][1].value == pytest.approx(found.error["attractors"][1].value)
    assert "attractors (6)" in repr(found)
    # Controls have as many atoms to choose from.
    assert set(found.sizes.values()) == {6}
    assert found.plot().layout.meta["caption"].startswith("Verdict: found")
    found.save(tmp_path / "a.probing")
    again = Probing.load(tmp_path / "a.probing")
    assert again.to_dict() == found.to_dict()
    assert again.error == found.error
    assert again.decoded_error == found.decoded_error
    np.testing.assert_array_equal(again.attractors.points, found.attractors.points)


def test_data_that_has_nothing_to_do_with_them_is_not() -> None:
    field, _, _ = planted()
    targets = torch.randn((80, 20), generator=torch.Generator().manual_seed(9))
    assert probe_without_data(field, None, targets, starts=200).verdict == "not found"


def test_without_attractors_the_ends_stand_under_their_own_name() -> None:
    targets = torch.randn((40, 3), generator=torch.Generator().manual_seed(0))
    found = probe_without_data(LatentField(lambda z: z + 0.01), None, targets, starts=20, max_steps=30)
    assert (len(found.attractors), found.verdict) == (0, "not found")
    assert "attractors" not in found.error
    assert found.sizes["ends of iteration"] == found.sizes["random latents"] == 20
    assert found.sizes["random orthogonal"] == 3
    assert found.atoms == (1, 2)
    assert found.plot().layout.meta["caption"].startswith("Verdict: not found")


def test_pursuit_finds_the_atoms_and_gets_better_with_more() -> None:
    generator = np.random.default_rng(0)
    atoms = np.linalg.qr(generator.standard_normal((10, 10)))[0]
    targets = 3 * atoms[[1]] - 2 * atoms[[4]]
    np.testing.assert_allclose(_pursue(5 * atoms, targets, 2), targets, atol=1e-8)
    errors = [np.linalg.norm(targets - _pursue(generator.standard_normal((30, 10)), targets, 1))]
    dictionary = generator.standard_normal((30, 10))
    errors = [float(np.linalg.norm(targets - _pursue(dictionary, targets, k))) for k in range(1, 8)]
    assert errors == sorted(errors, reverse=True)


def test_pursuit_agrees_with_scikit_learn() -> None:
    from sklearn.linear_model import orthogonal_mp

    generator = np.random.default_rng(1)
    dictionary, targets = generator.standard_normal((15, 8)), generator.standard_normal((5, 8))
    unit = dictionary / np.linalg.norm(dictionary, axis=1, keepdims=True)
    weights = orthogonal_mp(unit.T, targets.T, n_nonzero_coefs=3)
    np.testing.assert_allclose(_pursue(dictionary, targets, 3), (unit.T @ weights).T, atol=1e-6)


def test_targets_must_be_rows() -> None:
    with pytest.raises(RepdynError, match="targets"):
        probe_without_data(planted()[0], None, torch.zeros(20))
