"""The spectral loss: against eigenvalues, at collisions, and what a step along its gradient does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repdyn.disentangle.spectral import eigenvalue_distances, spectral_loss, static_weights
from repdyn.errors import RepdynError


def _operators(seed: int, count: int = 6, width: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, width, dtype=torch.float64, generator=generator) / width**0.5


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_distances_and_real_parts_are_those_of_the_eigenvalues(seed: int) -> None:
    operators = _operators(seed)
    distance, real = eigenvalue_distances(operators)
    values = torch.linalg.eigvals(operators)
    expected = (values - 1).abs().square().sort(dim=1).values
    assert torch.allclose(distance.sort(dim=1).values, expected, atol=1e-8)
    assert torch.allclose(real.sort(dim=1).values, values.real.sort(dim=1).values, atol=1e-8)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 7))
def test_the_static_set_has_its_size_exactly(seed: int, size: int) -> None:
    distance, _ = eigenvalue_distances(_operators(seed))
    weights = static_weights(distance, size)
    assert torch.allclose(weights.sum(dim=1), torch.full((6,), float(size), dtype=torch.float64))
    assert float(weights.min()) >= 0
    assert float(weights.max()) <= 1
    # Nothing that is not static is nearer to one than what is.
    least = torch.where(weights > 0, distance, torch.full_like(distance, -1)).amax(dim=1)
    assert (torch.where(weights == 0, distance, torch.inf).amin(dim=1) >= least).all()


def test_a_cut_never_divides_a_pair_or_a_near_collision() -> None:
    pair = torch.tensor([[[0.9, 0.3, 0.0], [-0.3, 0.9, 0.0], [0.0, 0.0, 0.1]]], dtype=torch.float64)
    distance, _ = eigenvalue_distances(pair)
    assert sorted(static_weights(distance, 1)[0].tolist()) == [0.0, 0.5, 0.5]
    assert sorted(static_weights(torch.tensor([[0.3, 0.3 + 1e-7, 0.3 - 1e-7, 0.9]]), 2)[0].tolist()) == (
        pytest.approx([0.0, 2 / 3, 2 / 3, 2 / 3])
    )


@pytest.mark.parametrize("gap", [1e-3, 1e-6, 1e-9, 0.0])
def test_gradients_are_finite_and_small_where_eigenvalues_collide(gap: float) -> None:
    operators = torch.tensor([[[0.8, 5.0, 0], [0, 0.8 + gap, 0], [0, 0, 0.1]]], dtype=torch.float64)
    operators.requires_grad_()
    for size in (1, 2):
        (gradient,) = torch.autograd.grad(spectral_loss(operators, size, 0.5), operators)
        assert gradient.isfinite().all()
        assert float(gradient.norm()) < 2  # through eigenvalues: 0.3/gap


def test_an_eigenvalue_of_exactly_one_has_a_gradient_of_zero() -> None:
    operators = torch.eye(4, dtype=torch.float64)[None].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(spectral_loss(operators, 4, 0.5), operators)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_a_step_along_the_gradient_lowers_the_loss_of_non_normal_operators() -> None:
    for seed in range(20):
        operators = _operators(seed).triu() * 3  # strongly non-normal
        operators.requires_grad_()
        before = spectral_loss(operators, 2, 0.5)
        (gradient,) = torch.autograd.grad(before, operators)
        if float(gradient.norm()) < 1e-8:
            continue
        step = 1e-5
        after = spectral_loss(operators.detach() - step * gradient, 2, 0.5)
        # Biorthogonality: the true directional derivative is the squared norm of the bounded gradient.
        assert float((before - after).detach()) / step == pytest.approx(
            float(gradient.square().sum()), rel=1e-3
        )


def test_normal_operators_have_the_true_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(3, 5, 5, dtype=torch.float64, generator=generator)
    operators = (half + half.mT).requires_grad_()
    (ours,) = torch.autograd.grad(spectral_loss(operators, 2, 0.5), operators)
    values = torch.linalg.eigvalsh(operators)
    order = (values - 1).abs().argsort(dim=1)
    static, dynamic = values.gather(1, order[:, :2]), values.gather(1, order[:, 2:])
    loss = (static - 1).square().mean(dim=1) + (dynamic - 0.5).clamp(min=0).mean(dim=1)
    (true,) = torch.autograd.grad(loss.mean(), operators)
    assert torch.allclose((ours + ours.mT) / 2, (true + true.mT) / 2, atol=1e-8)


def test_operators_that_are_not_finite_are_refused() -> None:
    with pytest.raises(RepdynError, match="not finite"):
        spectral_loss(torch.full((1, 2, 2), np.nan), 1, 0.5)
