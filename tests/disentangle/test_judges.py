"""Judges see what is there, clip by clip and frame by frame."""

from __future__ import annotations

import numpy as np
import pytest

from repdyn.datasets import moving_dsprites
from repdyn.disentangle import Judge
from repdyn.errors import RepdynError


def test_a_judge_learns_colour_and_direction() -> None:
    generator = np.random.default_rng(0)
    bright, rising = generator.integers(2, size=48), generator.integers(2, size=48)
    ramp = np.linspace(0, 0.5, 4)
    clips = np.zeros((48, 4, 3, 8, 8), np.float32)
    clips[:, :, 0] = np.where(rising[:, None], ramp, ramp[::-1])[:, :, None, None]
    clips[:, :, 1] = bright[:, None, None, None]
    judge = Judge((8,)).fit(
        clips,
        {"bright": bright, "rising": rising},
        static=["bright"],
        epochs=40,
        batch_size=16,
        learning_rate=1e-2,
    )
    for estimate in judge.accuracy(clips, {"bright": bright, "rising": rising}).values():
        assert estimate.value > 0.95
    frames = judge.predict_frames(clips)
    assert list(frames) == ["bright"]
    assert (frames["bright"] == bright[:, None]).mean() > 0.95


def test_what_makes_no_sense_is_refused() -> None:
    clips = moving_dsprites(6, size=8).clips
    with pytest.raises(RepdynError, match="not fitted"):
        Judge((4,)).predict(clips)
    with pytest.raises(RepdynError, match="whole numbers from 0"):
        Judge((4,)).fit(clips, {"a": [0, 1]})
    with pytest.raises(RepdynError, match="no labels for"):
        Judge((4,)).fit(clips, {"a": [0, 1, 0, 1, 0, 1]}, static=["b"])
