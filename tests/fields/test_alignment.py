"""Fields that are one another's rotation align entirely; unrelated ones do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score
from torch import Tensor

from repdyn.errors import RepdynError
from repdyn.fields import FieldAlignment, LatentField, align_fields
from repdyn.fields.alignment import _information


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn((n, d), generator=torch.Generator().manual_seed(seed))


def frame(d: int, seed: int) -> Tensor:
    return torch.linalg.qr(normal(d, d, seed))[0]


def memory(patterns: Tensor) -> LatentField:
    return LatentField(lambda z: 0.5 * z + 0.5 * torch.softmax(3 * z @ patterns.T.to(z), 1) @ patterns.to(z))


def test_a_rotated_and_scaled_field_is_explained_all_along(tmp_path: Path) -> None:
    patterns, turn = frame(6, 0)[:4] * 3, frame(6, 1)
    field_a = memory(patterns)
    field_b = LatentField(lambda z: 2 * field_a(z / 2 @ turn.T.to(z)) @ turn.to(z))
    z = normal(200, 6, 2)
    found = align_fields(field_a, field_b, z, 2 * z @ turn, steps=(0, 1, 4, 16))
    for series in (found.states, found.first_map, found.velocities):
        assert min(estimate.value for estimate in series) > 0.999
    assert max(estimate.value for estimate in found.shuffled) < 0.2
    assert found.verdict == "found"
    assert found.agreement == pytest.approx(1)
    np.testing.assert_allclose(found.overlap, 1)
    assert len(found.pairs) == 4
    assert "found" in repr(found)
    assert len(found.to_dict()["states"]) == 4
    assert found.plot().layout.meta["alt"]
    found.save(tmp_path / "ab.alignment")
    again = FieldAlignment.load(tmp_path / "ab.alignment")
    assert (repr(again), again.to_dict()) == (repr(found), found.to_dict())
    np.testing.assert_array_equal(again.attractors_b.points, found.attractors_b.points)


def test_wider_into_narrower_and_back() -> None:
    patterns = frame(6, 0)[:4] * 3
    inside = torch.zeros(6, 9)
    inside[:, :6] = frame(6, 3)
    field_a, z = memory(patterns), normal(200, 6, 2)
    field_b = LatentField(lambda y: field_a(y @ inside.T.to(y)) @ inside.to(y))
    for pair in ((field_a, field_b, z, z @ inside), (field_b, field_a, z @ inside, z)):
        assert align_fields(*pair, steps=(0, 2)).states[1].value > 0.999


def test_unrelated_samples_share_nothing() -> None:
    field_a, field_b = memory(frame(6, 0)[:4] * 3), memory(frame(6, 5)[:4] * 3)
    found = align_fields(field_a, field_b, normal(300, 6, 2), normal(300, 6, 3), steps=(0, 1))
    assert found.verdict == "not found"
    assert found.states[0].value < 0.1


def test_alignment_that_is_lost_by_iteration_is_said_to_decay() -> None:
    # Same codes, but one field draws all to two points that depend on a direction unknown to the other.
    z = normal(300, 6, 2)
    field_a = LatentField(lambda y: 0.5 * y + 0.5 * y[:, :1].sign() * torch.ones(6).to(y))
    field_b = LatentField(lambda y: 0.5 * y + 0.5 * y[:, 5:].sign() * torch.ones(6).to(y))
    found = align_fields(field_a, field_b, z, z, steps=(0, 4, 32))
    assert found.decays == "yes"
    assert found.states[0].value > 0.999 > 0.5 > found.states[-1].value
    assert found.verdict == "not found"


def test_one_attractor_is_inconclusive() -> None:
    contraction = LatentField(lambda z: 0.5 * z)
    found = align_fields(contraction, contraction, normal(50, 3, 0), normal(50, 3, 0), steps=(0, 1))
    assert found.verdict == "inconclusive"
    assert np.isnan(found.p_value)


def test_samples_must_correspond_and_steps_increase() -> None:
    field = LatentField(lambda z: 0.5 * z)
    with pytest.raises(RepdynError, match="same samples in both"):
        align_fields(field, field, normal(20, 3, 0), normal(21, 3, 0))
    with pytest.raises(RepdynError, match="must increase"):
        align_fields(field, field, normal(20, 3, 0), normal(20, 3, 0), steps=(0, 0))
    with pytest.raises(RepdynError, match="no longer finite"):
        align_fields(
            LatentField(lambda z: z**3 * 1e9), field, normal(20, 3, 0), normal(20, 3, 0), steps=(0, 8)
        )


@pytest.mark.parametrize("classes", [(2, 2), (5, 7), (30, 3)])
def test_information_is_mutual_information_up_to_what_relabelings_keep(classes: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    a, b = (generator.integers(count, size=300) for count in classes)
    apart = [
        mutual_info_score(x, b) - _information(x, b) for x in (a, *(generator.permutation(a) for _ in "abc"))
    ]
    np.testing.assert_allclose(apart, apart[0], atol=1e-12)


def test_unrelated_fields_are_never_found_to_share_basins() -> None:
    verdicts = []
    for seed in range(20):
        field_a, field_b = (memory(frame(6, 2 * seed + k)[:4] * 3) for k in range(2))
        found = align_fields(
            field_a, field_b, normal(80, 6, seed), normal(80, 6, 99 + seed), steps=(0, 1), seed=seed
        )
        verdicts.append(found.verdict)
    assert "found" not in verdicts
