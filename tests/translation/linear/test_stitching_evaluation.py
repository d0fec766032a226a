"""Accuracy of stitching: beside what needs no map, and what B would have said itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import repdyn
from repdyn.errors import RepdynError
from repdyn.translation import LinearTranslation, StitchingEvaluation, evaluate_stitching


@pytest.fixture(scope="module")
def known():
    """Two linear bodies over the same clusters, A's a turn of B's; B's head tells the clusters apart."""
    generator = np.random.default_rng(0)
    labels = np.arange(300) % 5
    inputs = torch.as_tensor(4 * np.eye(5)[labels] + generator.normal(size=(300, 5)), dtype=torch.float32)
    turn = torch.as_tensor(np.linalg.qr(generator.normal(size=(5, 5)))[0], dtype=torch.float32)
    bodies = [nn.Sequential(nn.Linear(5, 5, bias=False)) for _ in range(2)]
    head = nn.Linear(5, 5)
    with torch.no_grad():
        bodies[0][0].weight.copy_(turn.T)
        bodies[1][0].weight.copy_(torch.eye(5))
        head.weight.copy_(torch.eye(5))
        head.bias.zero_()
    a, b = repdyn.wrap(bodies[0]), repdyn.wrap(bodies[1], head=head)
    right = LinearTranslation(turn.T.double().numpy(), np.zeros(5), np.zeros(5), verdict="found")
    return a, right, b, inputs, labels


def test_the_right_map_reaches_bs_own_accuracy_and_beats_the_controls(known, tmp_path: Path) -> None:
    found = evaluate_stitching(*known, seed=0)
    assert found.verdict == "found"
    assert found.accuracy["translation"].value == pytest.approx(found.accuracy["B's own"].value, abs=0.01)
    assert found.accuracy["most frequent class"].value == pytest.approx(0.2)
    assert max(found.accuracy[name].value for name in ("identity", "random map")) < 0.7
    found.save(tmp_path / "ab.stitching")
    again = StitchingEvaluation.load(tmp_path / "ab.stitching")
    assert (repr(again), again.to_dict()) == (repr(found), found.to_dict())
    assert "translation" in found.plot().layout.meta["alt"]


def test_a_map_that_confuses_the_classes_is_not_found(known) -> None:
    a, right, b, inputs, labels = known
    wrong = LinearTranslation(np.roll(right.matrix, 1, axis=1), np.zeros(5), np.zeros(5), verdict="found")
    found = evaluate_stitching(a, wrong, b, inputs, labels)
    assert found.verdict == "not found"
    assert found.accuracy["translation"].high < 0.1


def test_labels_must_be_bs_class_numbers(known) -> None:
    a, right, b, inputs, labels = known
    with pytest.raises(RepdynError, match="one class number for each of 300"):
        evaluate_stitching(a, right, b, inputs, labels[:10])
    with pytest.raises(RepdynError, match="one class number for each of 300"):
        evaluate_stitching(a, right, b, inputs, labels.astype(str))
    with pytest.raises(RepdynError, match="has 5 classes, got 0 to 7"):
        evaluate_stitching(a, right, b, inputs, np.where(labels == 4, 7, labels))
    with pytest.raises(RepdynError, match="no head"):
        evaluate_stitching(b, right, a, inputs, labels)
