"""Operators: known answers, primal against dual, gradients on sequences that do not move."""

from __future__ import annotations

import pytest
import torch

from repdyn.disentangle.settings import OPERATORS
from repdyn.disentangle.spectral import batch_operator, one_step, sequence_operators


def _rollout(system: torch.Tensor, count: int, length: int) -> torch.Tensor:
    z = torch.randn(count, len(system), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    frames = [z]
    for _ in range(length - 1):
        frames.append(frames[-1] @ system)
    return torch.stack(frames, dim=1)


def _whole(z: torch.Tensor) -> torch.Tensor:
    return torch.ones(z.shape[:2], dtype=torch.bool)


def test_the_operator_of_a_linear_system_is_that_system() -> None:
    system = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0] * 0.95
    z = _rollout(system, 30, 6)
    assert torch.allclose(batch_operator(z, _whole(z), 1e-10)[0], system, atol=1e-8)
    assert torch.allclose(one_step(z, batch_operator(z, _whole(z), 1e-10)), z, atol=1e-8)


@pytest.mark.parametrize("length", [4, 12])
def test_the_dual_form_is_the_primal_one(length: int) -> None:
    z = torch.randn(5, length, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x, y = z[:, :-1], z[:, 1:]
    primal = torch.linalg.solve(x.mT @ x + OPERATORS.ridge * torch.eye(7, dtype=torch.float64), x.mT @ y)
    assert torch.allclose(sequence_operators(z, _whole(z)), primal, atol=1e-7)


def test_padding_changes_nothing() -> None:
    z = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(2))
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[1, 4:] = False
    dirty = torch.where(mask[..., None], z, torch.full_like(z, 100.0))
    assert torch.allclose(
        sequence_operators(dirty, mask)[1], sequence_operators(z[1:2, :4], mask[1:2, :4])[0]
    )
    assert torch.allclose(batch_operator(dirty, mask), batch_operator(z * mask[..., None], mask))


@pytest.mark.parametrize("noise", [0.0, 1e-8, 1e-5, 1e-2])
def test_gradients_stay_bounded_as_sequences_come_to_rest(noise: float) -> None:
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(4, 1, 15, generator=generator).repeat(1, 8, 1)
    z = (z + noise * torch.randn(4, 8, 15, generator=generator)).requires_grad_()
    for operators in (sequence_operators(z, _whole(z)), batch_operator(z, _whole(z))):
        (gradient,) = torch.autograd.grad(operators.square().sum(), z, retain_graph=True)
        assert gradient.isfinite().all()
        # Without the ridge it grows like one over the noise: 8e5 at 1e-5. With it, it is largest at noise of
        # about the ridge's square root.
        assert float(gradient.norm()) < (1 if noise < OPERATORS.ridge else 1e3)
