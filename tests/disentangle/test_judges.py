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


def test_clips_of_mixed_length_and_size_are_refused() -> None:
    clips = np.random.default_rng(0).random((6, 4, 1, 8, 8), dtype=np.float32)
    labels = {"a": np.arange(6) % 2}
    lengths = [*clips[:5], clips[5, :3]]
    sizes = [*clips[:5], np.zeros((4, 1, 16, 16), np.float32)]
    with pytest.raises(RepdynError, match="clips have lengths from 3 to 4"):
        Judge((4,)).fit(lengths, labels, epochs=1)
    with pytest.raises(RepdynError, match=r"\(1, 8, 8\), \(1, 16, 16\)\]; expected one shape for all"):
        Judge((4,)).fit(sizes, labels, epochs=1)
    judge = Judge((4,)).fit(clips, labels, epochs=1)
    for read in (judge.predict, judge.predict_frames, lambda x: judge.accuracy(x, labels)):
        with pytest.raises(RepdynError, match="clips have lengths from 3 to 4"):
            read(lengths)
    for other in ((3, 8, 8), (1, 16, 16), (5,)):
        with pytest.raises(RepdynError, match="this Judge was trained on \\(1, 8, 8\\)"):
            judge.predict(np.zeros((2, 4, *other), np.float32))
    # Lists of one length are the same clips.
    assert (judge.predict(list(clips))["a"] == judge.predict(clips)["a"]).all()
