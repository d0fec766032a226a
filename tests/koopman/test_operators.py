"""Operators: the semigroup law, known solutions, both forms of ridge."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repdyn.errors import RepdynError
from repdyn.koopman.operators import Generator, propagator, ridge


@settings(deadline=None, max_examples=20)
@given(s=st.floats(-2, 2), t=st.floats(-2, 2), seed=st.integers(0, 100))
def test_times_add(s: float, t: float, seed: int) -> None:
    g = torch.randn(4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert torch.allclose(propagator(g, s) @ propagator(g, t), propagator(g, s + t), atol=1e-8, rtol=1e-6)


def test_a_rotation_turns_by_the_time() -> None:
    g = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    quarter = propagator(g, torch.pi / 2)
    assert torch.allclose(quarter, torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64), atol=1e-12)


def test_many_times_at_once_equal_each_alone() -> None:
    g = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    times = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    assert torch.allclose(propagator(g, times), torch.stack([propagator(g, float(t)) for t in times]))


def test_generator_starts_at_the_identity_and_has_a_gradient() -> None:
    operator = Generator(3)
    assert torch.equal(operator.matrix(0, 2.5), torch.eye(3))
    operator.steps(2)[1].sum().backward()
    assert operator.weight.grad is not None
    assert bool((operator.weight.grad != 0).all())


@pytest.mark.parametrize(("rows", "columns"), [(30, 5), (5, 30)])
def test_ridge_solves_its_normal_equations(rows: int, columns: int) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, columns, generator=draw, dtype=torch.float64)
    y = torch.randn(rows, 2, generator=draw, dtype=torch.float64)
    a = ridge(x, y, 0.3)
    assert a.dtype == torch.float64
    assert torch.allclose(x.T @ (x @ a) + 0.3 * a, x.T @ y, atol=1e-10)


def test_ridge_survives_a_rank_deficient_system() -> None:
    x = torch.ones(20, 4)
    a = ridge(x, torch.ones(20, 1), 1e-6)
    assert torch.allclose(x.double() @ a, torch.ones(20, 1, dtype=torch.float64), atol=1e-6)


def test_ridge_refuses_no_penalty() -> None:
    with pytest.raises(RepdynError, match="positive"):
        ridge(torch.eye(2), torch.eye(2), 0.0)
