"""Births, deaths and mergers of planted attractors are seen when they happen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from repdyn.errors import RepdynError
from repdyn.fields import AttractorHistory, AttractorTracker, LatentField
from repdyn.views.tracking import tracking


def memory(*patterns: float) -> LatentField:
    """One attractor near each number."""
    points = torch.tensor(patterns)[:, None]
    return LatentField(lambda z: torch.softmax(-4 * (z - points.T.to(z)) ** 2, dim=1) @ points.to(z))


def starts() -> Tensor:
    return torch.linspace(-5, 5.1, 61)[:, None]  # none on the ridge between two


def test_births_deaths_and_mergers(tmp_path: Path) -> None:
    tracker = AttractorTracker(starts())
    tracker.update(0, memory(-4.0, 4.0))
    tracker.update(10, memory(-3.8, 0.0, 3.9))  # one is born between two that move
    tracker.update(20, memory(-3.8, 3.9))  # and falls to one of them
    history = tracker.history()
    np.testing.assert_array_equal(history.counts()[:, 0], [2, 3, 2])
    assert history.counts()[1].tolist() == [3, 1, 0, 0]
    assert history.counts()[2].tolist() == [2, 0, 0, 1]
    assert set(history.identity[0].tolist()) == set(history.identity[2].tolist())
    merger = history.events[-1]
    assert merger[:2] == (20, "merger")
    assert merger[2] == 2
    np.testing.assert_allclose(history.shares().sum(axis=1), 1)
    assert "merger" in repr(history)
    history.save(tmp_path / "a.history")
    again = AttractorHistory.load(tmp_path / "a.history")
    assert (repr(again), again.to_dict()) == (repr(history), history.to_dict())
    assert again.events == history.events
    np.testing.assert_array_equal(again.attractors[1].points, history.attractors[1].points)
    np.testing.assert_array_equal(again.identity[1], history.identity[1])


def test_an_attractor_that_nothing_follows_has_died() -> None:
    tracker = AttractorTracker(starts())
    tracker.update(0, memory(-4.0, 4.0))
    tracker.update(1, LatentField(lambda z: torch.where(z > 0, 3 * z, memory(-4.0)(z))))
    events = [event[1] for event in tracker.history().events]
    assert events == ["birth", "birth", "death"]


def test_codes_are_taken_anew_at_each_checkpoint() -> None:
    tracker = AttractorTracker(torch.linspace(1, 2, 5)[:, None])
    for step, sign in enumerate((1.0, -1.0)):
        field = LatentField.from_autoencoder(lambda x, s=sign: s * x.tanh() + 0.0, lambda z: 3 * z.abs())
        tracker.update(step, field)
    signs = [np.sign(found.points[0, 0]) for found in tracker.history().attractors]
    assert signs == [1.0, -1.0]


def test_steps_must_come_in_order_and_there_must_be_some() -> None:
    tracker = AttractorTracker(starts())
    with pytest.raises(RepdynError, match="no checkpoint"):
        tracker.history()
    tracker.update(5, memory(0.0))
    with pytest.raises(RepdynError, match="after the last checkpoint, 5"):
        tracker.update(5, memory(0.0))


def test_the_picture_names_the_largest_and_bands_the_rest() -> None:
    tracker = AttractorTracker(starts())
    tracker.update(0, memory(*np.linspace(-5, 5, 11).tolist()))
    tracker.update(1, memory(-4.0, 4.0))
    figure = tracker.history().plot()
    names = [trace.name for trace in figure.data]
    assert sum(name.startswith("attractor ") for name in names) == 8
    assert any("smaller ones" in name for name in names)
    assert figure.layout.meta["alt"]
    with pytest.raises(RepdynError, match="shares"):
        tracking([0, 1], np.ones((3, 2)), np.ones((2, 4)))
