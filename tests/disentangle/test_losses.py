"""The losses of our own: known answers, what they do not see, and gradients that stay finite."""

from __future__ import annotations

import pytest
import torch

from repdyn.disentangle.losses import constancy_loss, cycle_loss, exchange_static, motion_loss
from repdyn.disentangle.sequence_autoencoder import SequenceEncoder
from repdyn.disentangle.spectral import operators_of, static_modes

CLIPS = torch.rand(3, 6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
REAL = torch.ones(3, 6, dtype=torch.bool)


def _bar(places: list[int], colour: float = 1.0) -> torch.Tensor:
    """One clip in which a bar of one column stands at these places."""
    clip = torch.zeros(1, len(places), 3, 8, 8)
    for frame, place in enumerate(places):
        clip[0, frame, :, :, place] = colour
    return clip


def test_motion_of_a_sequence_that_moves_as_before_costs_nothing() -> None:
    assert motion_loss(CLIPS, CLIPS, REAL) < 1e-3
    # A background that stays is no motion, and colours that change places are hardly another one.
    assert motion_loss(0.5 + CLIPS / 2, CLIPS, REAL) < 0.02
    assert motion_loss(CLIPS.flip(2), CLIPS, REAL) < 1e-3


def test_motion_elsewhere_costs_all() -> None:
    moves, mask = [0, 1, 2, 3], torch.ones(1, 4, dtype=torch.bool)
    here, there = _bar(moves), _bar([7 - place for place in moves])
    assert motion_loss(there, here, mask) > 0.5
    assert motion_loss(_bar(moves, colour=0.4), here, mask) < 0.02
    assert motion_loss(_bar([0, 0, 0, 0]), here, mask) == 1


def test_motion_in_padding_is_not_seen() -> None:
    mask = torch.tensor([[True, True, True, False]])
    changed = _bar([0, 1, 2, 7])
    assert motion_loss(changed, _bar([0, 1, 2, 3]), mask) < 1e-3


def test_motion_of_vectors_is_that_of_their_coordinates() -> None:
    x = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 5, dtype=torch.bool)
    assert motion_loss(x, x, mask) < 1e-3
    still = x[:, :1].expand_as(x)
    assert motion_loss(still, x, mask) == 1


def test_gradients_are_finite_where_nothing_moves() -> None:
    still = torch.zeros(1, 4, 3, 8, 8, requires_grad=True)
    for donor in (torch.zeros(1, 4, 3, 8, 8), _bar([0, 1, 2, 3])):
        (gradient,) = torch.autograd.grad(motion_loss(still, donor, REAL[:1, :4]), still)
        assert gradient.isfinite().all()


def test_an_exchange_moves_static_parts_on_by_one_sequence() -> None:
    z = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(2))
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[1, 5:] = False
    operators = operators_of(z, mask, "sequence")
    exchanged, shared = exchange_static(z, mask, operators, 1)
    static = z @ torch.from_numpy(static_modes(operators, 1).projectors).float()
    wanted = z - static + static[[2, 0, 1]]
    torch.testing.assert_close(exchanged[shared], wanted[shared])
    assert shared.sum(dim=1).tolist() == [7, 5, 5]


def test_constancy_of_a_static_part_that_stays() -> None:
    z = torch.ones(1, 6, 2) * torch.tensor([2.0, 0.0])
    z[..., 1] = 0.5 ** torch.arange(6)
    mask = torch.ones(1, 6, dtype=torch.bool)
    stays = torch.diag(torch.tensor([1.0, 0.5])).double()[None]
    assert constancy_loss(z, mask, stays) < 1e-9
    fades = torch.diag(torch.tensor([0.5, 1.0])).double()[None]  # the mode is now the part that decays
    assert constancy_loss(z, mask, fades) > 0.3


def test_a_sequence_that_is_encoded_as_it_was_made_has_no_cycle_loss() -> None:
    encoder = SequenceEncoder((3, 8, 8), 4, (4,))
    encoder.train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[1, 4:] = False
    for real in (None, mask):
        latents = encoder(CLIPS, real).detach()
        encoder.load_state_dict(before)
        assert cycle_loss(encoder, CLIPS, latents, real) < 1e-10
        assert cycle_loss(encoder, CLIPS, latents + 0.5, real) == pytest.approx(0.25, rel=1e-4)
    # Padding is not compared.
    changed = latents.clone()
    changed[1, 4:] += 100
    assert cycle_loss(encoder, CLIPS, changed, mask) < 1e-10


def test_the_cycle_loss_teaches_the_decoder_and_leaves_the_encoder_alone() -> None:
    encoder = SequenceEncoder((3, 8, 8), 4, (4,))
    encoder.train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    decoded, exchanged = CLIPS.clone().requires_grad_(), torch.zeros(3, 6, 4, requires_grad=True)
    torch.autograd.backward(cycle_loss(encoder, decoded, exchanged, None))
    assert decoded.grad is not None
    assert decoded.grad.abs().max() > 0
    assert exchanged.grad is None
    assert all(p.grad is None for p in encoder.parameters())
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
