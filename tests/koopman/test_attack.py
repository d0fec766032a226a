"""Attacks: what is there is recovered, what is gone is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from repdyn.artifacts import save_artifact
from repdyn.errors import RepdynError
from repdyn.koopman import KoopmanAutoencoder
from repdyn.koopman.attack import AttackReport, _parts, attack, fine_tuned, recovered_by_probe
from repdyn.koopman.edited import EditedKoopman
from repdyn.paths import RepresentationPaths
from repdyn.repeats import groups_of_equal_rows


def _clusters(seed: int) -> RepresentationPaths:
    draw = np.random.default_rng(seed)
    y = draw.integers(3, size=600)
    x = 3 * np.eye(3)[y] + 0.3 * draw.standard_normal((600, 3))
    return RepresentationPaths.from_arrays({"a": x, "b": x * 0.9}, labels=y)


@pytest.fixture(scope="module")
def edited() -> EditedKoopman:
    paths = _clusters(0)
    return KoopmanAutoencoder(6, (8,)).fit(paths, epochs=40, batch_size=64).forget(paths, label=1)


@pytest.fixture(scope="module")
def head() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        layer = nn.Linear(3, 3)
    with torch.no_grad():
        layer.weight.copy_(2 * torch.eye(3))
        layer.bias.zero_()
    return layer


def test_an_invertible_edit_hides_a_class_and_the_attack_says_so(edited, head) -> None:
    paths = _clusters(1)
    blind = RepresentationPaths.from_arrays(
        {"z": np.random.default_rng(2).standard_normal((600, 3))}, labels=paths.labels
    )
    before = head.weight.clone()
    found = attack(edited, paths, 1, head=head, baselines={"blind": (blind, head)})
    assert torch.equal(head.weight, before)
    assert found.figures["not edited"]["head, target"].value > 0.9
    assert found.figures["edited"]["head, target"].value < 0.05
    assert found.figures["edited"]["probe"].low > 0.5
    assert found.verdict == "recoverable"
    assert found.figures["blind"]["probe"].low < 0.5 < found.figures["blind"]["probe"].high + 0.05
    assert found.samples[1] < 12
    assert "class after the edit: recoverable" in repr(found)


def test_a_map_to_nothing_leaves_nothing_to_recover(edited, head) -> None:
    paths = _clusters(1)
    nothing = EditedKoopman(edited.kae, np.zeros_like(edited.matrix), 1.0, 10.0, 1, edited.report)
    found = attack(nothing, paths, 1, head=head)
    assert found.figures["edited"]["probe"].value == pytest.approx(0.5, abs=0.01)
    assert found.verdict != "recoverable"


def test_without_a_head_the_attacker_starts_from_nothing(edited) -> None:
    found = attack(edited, _clusters(1), [1], fraction=0.05)
    assert found.figures["not edited"]["fine-tuned, target"].value > 0.9


def test_fine_tuning_learns_from_few_and_the_probe_is_balanced() -> None:
    draw = np.random.default_rng(0)
    target = np.arange(500) < 25
    noise = draw.standard_normal((500, 2))
    guess = recovered_by_probe(noise[::2], target[::2], noise[1::2], target[1::2], 0)
    assert 0.2 < guess.value < 0.8
    shifted = noise + 8 * target[:, None]
    assert recovered_by_probe(shifted[::2], target[::2], shifted[1::2], target[1::2], 0).value > 0.98
    with torch.random.fork_rng(devices=[]):
        head = nn.Linear(2, 2)
    few = torch.tensor([[3.0, 0.0], [0.0, 3.0]])
    assert torch.equal(fine_tuned(head, few, torch.tensor([0, 1]))(few).argmax(dim=1), torch.tensor([0, 1]))


def test_a_saved_attack_is_the_same_and_is_drawn(edited, head, tmp_path) -> None:
    found = attack(edited, _clusters(1), 1, head=head)
    found.save(tmp_path / "attack")
    assert AttackReport.load(tmp_path / "attack").to_dict() == found.to_dict()
    assert len(found.plot().data) == 8


def test_a_class_of_one_is_trained_on_and_cannot_be_attacked(edited) -> None:
    paths = _clusters(1)
    labels = np.array(paths.labels)
    labels[0] = 9
    arrays = {point: np.asarray(paths[point]) for point in paths.points}
    odd = RepresentationPaths.from_arrays(arrays, labels=labels, meta=paths.meta)
    assert attack(edited, odd, 1).samples == (300, 7, 300)  # trained on: 99 + 100 + 100 and the one
    with pytest.raises(RepdynError, match="forgotten class 3 has a single sample"):
        attack(edited, odd, 9)


def test_equal_rows_lie_on_one_side_and_are_one_sample_of_an_interval(edited, head) -> None:
    paths = _clusters(1)
    once = paths.subset(np.arange(60))
    copied = paths.subset(np.repeat(np.arange(60), 5))
    rows = np.asarray(copied["a"])
    theirs, few, ours = _parts(np.asarray(copied.labels), groups_of_equal_rows(rows), 0.05, 0)
    assert sorted(np.concatenate([theirs, ours]).tolist()) == list(range(300))
    seen = {row.tobytes() for row in rows[theirs]}
    assert not seen & {row.tobytes() for row in rows[ours]}
    assert set(few) <= set(theirs)
    one, five = (attack(edited, x, 1, head=head).figures["edited"]["probe"] for x in (once, copied))
    # Five copies tell no more than one: the width is that of about as many different samples.
    assert five.high - five.low > 0.7 * (one.high - one.low)
    labels = np.where(np.arange(300) < 5, 9, np.asarray(copied.labels))
    arrays = {point: np.asarray(copied[point]) for point in copied.points}
    odd = RepresentationPaths.from_arrays(arrays, labels=labels, meta=copied.meta)
    with pytest.raises(RepdynError, match="has a single sample, or copies of one"):
        attack(edited, odd, 9)


def test_without_repeats_parts_are_a_plain_permutation_of_each_class() -> None:
    code = np.random.default_rng(0).integers(3, size=90)
    draw, expected = np.random.default_rng(4), []
    for one in range(3):
        rows = draw.permutation(np.flatnonzero(code == one))
        expected.append(rows[: len(rows) // 2])
    found = _parts(code, np.arange(90), 0.1, 4)[0]
    np.testing.assert_array_equal(found, np.sort(np.concatenate(expected)))


def test_nonsense_is_refused(edited, head) -> None:
    paths = _clusters(1)
    with pytest.raises(RepdynError, match="fraction"):
        attack(edited, paths, 1, fraction=0.9)
    with pytest.raises(RepdynError, match="no sample with label"):
        attack(edited, paths, 9)
    with pytest.raises(RepdynError, match="same samples"):
        attack(edited, paths, 1, baselines={"x": (paths.subset(np.arange(10)), head)})
    with pytest.raises(RepdynError, match="needs other classes"):
        attack(edited, paths, [0, 1, 2])


def test_the_old_name_of_baselines_works_with_a_warning(edited, head) -> None:
    paths = _clusters(1)
    with pytest.warns(DeprecationWarning, match="beside was renamed baselines"):
        old = attack(edited, paths, 1, head=head, beside={"same": (paths, head)})
    assert old.to_dict() == attack(edited, paths, 1, head=head, baselines={"same": (paths, head)}).to_dict()


def test_an_attack_saved_by_an_earlier_version_has_the_verdict_of_today(tmp_path) -> None:
    def row(low: float, value: float) -> dict[str, dict[str, float]]:
        estimate = {"value": value, "low": low, "high": 0.99, "level": 0.95}
        return dict.fromkeys(("probe", "head, target", "fine-tuned, target", "fine-tuned, others"), estimate)

    for number, (low, value, old, new) in enumerate(
        [
            (0.6, 0.7, "found", "recoverable"),
            (0.4, 0.7, "inconclusive", "inconclusive"),
            (0.3, 0.45, "not found", "not recoverable"),
        ]
    ):
        config = {
            "figures": {"not edited": row(0.8, 0.9), "edited": row(low, value)},
            "fraction": 0.01,
            "samples": [10, 1, 10],
            "verdict": old,
        }
        save_artifact(tmp_path / str(number), "attack", config, {"figures": np.ones((2, 4))})
        assert AttackReport.load(tmp_path / str(number)).verdict == new
