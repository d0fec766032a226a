"""Autonomy: one map suffices for an autonomous system, and not for one whose steps differ."""

from __future__ import annotations

import numpy as np
import pytest

from repdyn.errors import RepdynError
from repdyn.koopman import Autonomy, autonomy
from repdyn.paths import RepresentationPaths


def _paths(steps: list[np.ndarray], seed: int) -> RepresentationPaths:
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((300, 4)) * [2, 1.5, 1, 0.5]
    states = [x]
    for step in steps:
        states.append(states[-1] @ step + 0.05 * draw.standard_normal(x.shape))
    return RepresentationPaths.from_arrays({f"p{n}": s for n, s in enumerate(states)})


def test_a_system_with_one_step_is_autonomous_and_another_is_not() -> None:
    # Symmetric steps: the frames, which only rotate, then leave a shared map what it was.
    same = [np.diag([1.0, 0.9, 0.8, 0.7])] * 3
    found = autonomy(_paths(same, 1), _paths(same, 0))
    assert found.points == ("p1", "p2", "p3")
    assert max(found.gap) < 1.5
    other = [np.diag([1.0, 0.1, 1.0, 1.0]), np.diag([0.1, 1.0, 3.0, 1.0]), np.diag([1.0, 5.0, 0.2, 1.0])]
    found = autonomy(_paths(other, 1), _paths(other, 0))
    assert max(found.gap) > 3
    assert all(o.value < 0.2 for o in found.own)


def test_saved_drawn_and_refused(tmp_path) -> None:
    paths = _paths([np.eye(4)] * 2, 0)
    found = autonomy(paths, paths)
    found.save(tmp_path / "autonomy")
    assert Autonomy.load(tmp_path / "autonomy").to_dict() == found.to_dict()
    assert "times" in repr(found)
    assert len(found.plot().data) >= 2
    with pytest.raises(RepdynError, match="training paths"):
        autonomy(paths, _paths([np.eye(4)], 0))
