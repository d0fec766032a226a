"""Frames: isometries, exactly invertible at the last point."""

from __future__ import annotations

import pytest
import torch

from repdyn.errors import RepdynError
from repdyn.koopman.frames import PointFrames, principal_axes
from repdyn.koopman.settings import FrameSettings


def _states(*widths: int, rows: int = 50) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(rows, width, generator=draw, dtype=torch.float64) + width for width in widths]


@pytest.mark.parametrize("widths", [(4, 4, 4), (3, 8, 5), (80, 5, 60)])
def test_last_point_is_exactly_invertible_and_distances_scale(widths: tuple[int, ...]) -> None:
    states = _states(*widths)
    frames = PointFrames({str(n): w for n, w in enumerate(widths)}).double().fit(states)
    for number, x in enumerate(states):
        u = frames.lift(x, number)
        assert u.shape == (50, max(widths))
        assert torch.allclose(u.mean(dim=0), torch.zeros(max(widths), dtype=u.dtype), atol=1e-10)
        assert torch.allclose(frames.lower(u, number), x, atol=1e-10)
        assert torch.isclose(u.square().sum(1).mean(), torch.ones((), dtype=u.dtype))
    assert torch.allclose(frames.explained[-1], torch.ones((), dtype=torch.float64))


def test_a_rotated_copy_is_brought_onto_the_last_point() -> None:
    (last,) = _states(6)
    rotation = torch.linalg.qr(_states(6, rows=6)[0]).Q
    frames = PointFrames({"a": 6, "b": 6}).double().fit([3 * last @ rotation + 1, last])
    assert torch.allclose(frames.lift(3 * last @ rotation + 1, 0), frames.lift(last, 1), atol=1e-8)


def test_a_very_wide_point_keeps_its_principal_components() -> None:
    states = _states(30, 4, rows=200)
    states[0][:, 4:] *= 0.01
    frames = PointFrames({"a": 30, "b": 4}, FrameSettings(max_width=4)).double().fit(states)
    assert frames.width == 4
    assert 0.99 < frames.explained[0] < 1


def test_a_constant_point_is_named() -> None:
    with pytest.raises(RepdynError, match="'b' is constant"):
        PointFrames({"a": 3, "b": 3}).fit([torch.randn(20, 3), torch.full((20, 3), 7.0)])


@pytest.mark.parametrize("shape", [(40, 6), (5, 12)])
def test_principal_axes_are_orthonormal_and_lead(shape: tuple[int, int]) -> None:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = x - x.mean(dim=0)
    axes = principal_axes(x, 5)
    assert torch.allclose(axes.T @ axes, torch.eye(5, dtype=x.dtype), atol=1e-10)
    best = torch.linalg.svdvals(x)[:5].square().sum()
    assert torch.isclose((x @ axes).square().sum(), best)
