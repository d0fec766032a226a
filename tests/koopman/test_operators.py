"""Operators: the semigroup law, known solutions, both forms of ridge."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repdyn.errors import RepdynError
from repdyn.koopman.operators import (
    OPERATORS,
    Generator,
    LeastSquares,
    exponential,
    piecewise_propagator,
    propagator,
    real_power,
)
from repdyn.linalg import ridge


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
    operator = Generator(3, 2)
    assert torch.equal(operator.matrix(0, 2.5), torch.eye(3))
    operator.steps()[1].sum().backward()
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


@settings(deadline=None, max_examples=20)
@given(s=st.floats(0, 3), t=st.floats(0, 3), u=st.floats(0, 3))
def test_depths_compose_in_any_order_where_generators_differ(s: float, t: float, u: float) -> None:
    g = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    both = piecewise_propagator(g, s, t) @ piecewise_propagator(g, t, u)
    assert torch.allclose(both, piecewise_propagator(g, s, u), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["generator", "per_step", "low_rank"])
def test_steps_are_the_operator_between_neighbouring_points(name: str) -> None:
    operator = OPERATORS[name](3, 2)
    for number, parameter in enumerate(operator.parameters()):
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(number))
    first, second = operator.steps()
    assert torch.allclose(first, operator.matrix(0, 1), atol=1e-5)
    assert torch.allclose(first @ second, operator.matrix(0, 2), rtol=1e-4, atol=1e-4)


def test_a_solved_operator_is_the_planted_one_and_passes_a_gradient() -> None:
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(200, 3, generator=draw, dtype=torch.float64).requires_grad_()
    planted = propagator(0.3 * torch.randn(3, 3, generator=draw, dtype=torch.float64), 1.0)
    operator = LeastSquares(3, 2).double()
    operator.solve(z, z @ planted)
    assert torch.allclose(operator.steps()[0], planted, atol=1e-3)
    half = operator.matrix(0, 0.5)
    assert torch.allclose(half @ half, operator.steps()[0], atol=1e-8)
    operator.steps()[0].sum().backward()
    assert z.grad is not None


def test_no_real_root_is_said() -> None:
    reflection = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
    assert real_power(reflection.numpy(), 0.5) is None
    operator = LeastSquares(2, 1).double()
    operator.weight = reflection
    assert torch.equal(operator.matrix(0, 2), torch.eye(2, dtype=torch.float64))
    with pytest.raises(RepdynError, match="no real root"):
        operator.matrix(0, 0.5)


@pytest.mark.parametrize("size", [1, 6, 40])
@pytest.mark.parametrize("scale", [0.0, 0.02, 1.0, 6.0])
def test_exponential_and_its_gradient_are_torchs(size, scale) -> None:
    draw = torch.Generator().manual_seed(size)
    a = scale * torch.randn(2, size, size, generator=draw) / size**0.5
    weight = torch.randn(2, size, size, generator=draw)
    found, true = a.clone().requires_grad_(), a.double().requires_grad_()
    (exponential(found) * weight).sum().backward()
    (torch.linalg.matrix_exp(true) * weight.double()).sum().backward()
    for here, there in ((exponential(a), torch.linalg.matrix_exp(a.double())), (found.grad, true.grad)):
        assert (here.double() - there).norm() <= 1e-5 * there.norm()
