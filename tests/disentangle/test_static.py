"""Static projectors and the differentiable mode."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repdyn.disentangle.spectral import static_mode, static_modes


def _operators(seed: int, count: int = 5, width: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, width, dtype=torch.float64, generator=generator) / 2


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_projectors_commute_with_the_operator_and_have_their_trace(seed: int, size: int) -> None:
    operators = _operators(seed)
    projectors = static_modes(operators, size).projectors
    scale = 1 + np.linalg.norm(projectors, axis=(1, 2)).max()
    assert np.trace(projectors, axis1=1, axis2=2) == pytest.approx(np.full(5, float(size)), abs=1e-7 * scale)
    assert np.abs(projectors @ operators.numpy() - operators.numpy() @ projectors).max() < 1e-7 * scale


def test_modes_are_eigenvectors() -> None:
    values = torch.tensor([0.2, 0.97, -0.4, 1.1], dtype=torch.float64)
    basis = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    operator = basis @ torch.diag(values) @ torch.linalg.inv(basis)
    found = static_modes(operator[None], 2)
    for mode, value in enumerate((0.97, 1.1)):
        right = found.right[0, :, mode]
        assert operator.numpy() @ right == pytest.approx(value * right, abs=1e-8)
    assert found.factor[0].tolist() == [0, 1]


def test_a_pair_across_the_cut_is_one_factor_of_half_its_projector() -> None:
    operator = torch.tensor([[[0.9, 0.3, 0.0], [-0.3, 0.9, 0.0], [0.0, 0.0, 0.1]]], dtype=torch.float64)
    found = static_modes(operator, 1)
    assert found.projectors[0] == pytest.approx(np.diag([0.5, 0.5, 0]), abs=1e-10)
    assert set(found.factor[0]) == {0}


def test_nilpotent_and_defective_operators_are_read() -> None:
    jordan = torch.diag(torch.ones(4), 1).double()
    both = torch.stack([jordan, jordan + torch.eye(5, dtype=torch.float64)])
    for size in (1, 3, 5):
        assert np.isfinite(static_modes(both, size).projectors).all()


def test_the_differentiable_mode_is_the_eigenvector() -> None:
    generator = torch.Generator().manual_seed(4)
    basis = torch.randn(8, 5, 5, dtype=torch.float64, generator=generator)
    values = torch.tensor([1.0, 0.6, 0.3, -0.5, 0.0], dtype=torch.float64)
    operators = basis @ torch.diag(values) @ torch.linalg.inv(basis)
    right, left, value = static_mode(operators)
    assert value.numpy() == pytest.approx(np.ones(8), abs=1e-6)
    projector = right[:, :, None] * left[:, None, :]
    expected = static_modes(operators, 1).projectors
    assert np.abs(projector.numpy() - expected).max() < 1e-5 * np.abs(expected).max()


def test_its_gradient_is_the_true_one() -> None:
    operator = torch.diag(torch.tensor([0.98, 0.4, -0.2], dtype=torch.float64))
    operator = operator + 0.1 * torch.randn(
        3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    target = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def readout(matrix: torch.Tensor) -> torch.Tensor:
        right, left, _ = static_mode(matrix[None])
        return (right[0, :, None] * left[0, None, :] * target).sum()

    assert torch.autograd.gradcheck(readout, operator.requires_grad_(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("value", [1.0, 1.0 + 1e-2, 1.0 - 1e-12])
def test_no_real_eigenvalue_makes_it_singular(value: float) -> None:
    operators = (torch.eye(4, dtype=torch.float64) * value)[None].clone()
    operators[0, 0, 3] = 0.5
    operators.requires_grad_()
    right, left, found = static_mode(operators)
    (gradient,) = torch.autograd.grad(right.sum() + left.sum() + found.sum(), operators)
    assert gradient.isfinite().all()
