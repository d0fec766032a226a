"""The field itself: velocity, trajectories, derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from repdyn.errors import RepdynError
from repdyn.fields import LatentField, leading_multipliers


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def network(d: int, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(d, 16), nn.Tanh(), nn.Linear(16, d)).eval()


def test_autoencoder_field_encodes_what_was_decoded() -> None:
    encode, decode = nn.Linear(5, 2), nn.Linear(2, 5)
    z = draw(7, 2)
    for field in (
        LatentField.from_autoencoder(encode, decode),
        LatentField.from_autoencoder(lambda x: encode(x), decode),
    ):
        torch.testing.assert_close(field.velocity(z), encode(decode(z)).detach() - z)
        assert not field(z).requires_grad


def test_trajectory_iterates() -> None:
    orbit = LatentField(lambda z: 2 * z).trajectory(torch.ones(3, 2), steps=4)
    torch.testing.assert_close(orbit[:, 0, 0], torch.tensor([1.0, 2, 4, 8, 16]))


@pytest.mark.parametrize("hide", [False, True])
def test_jvp_is_the_jacobian_even_where_the_map_hides_it(hide: bool) -> None:
    f = network(4).double()

    def hidden(z: Tensor) -> Tensor:
        return torch.from_numpy(f(z).detach().numpy())

    z, v = draw(3, 4, dtype=torch.float64), draw(3, 4, seed=1, dtype=torch.float64)
    image, product = LatentField(hidden if hide else f).jvp(z, v)
    expected = torch.stack([torch.autograd.functional.jacobian(f, a) @ b for a, b in zip(z, v)])
    torch.testing.assert_close(product, expected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(image, f(z).detach())


def test_jvp_inside_a_map_without_gradients() -> None:
    f = network(4)

    @torch.no_grad()
    def step(z: Tensor) -> Tensor:
        return f(z)

    z, v = draw(3, 4), draw(3, 4, seed=1)
    differenced, exact = LatentField(step).jvp(z, v)[1], LatentField(f).jvp(z, v)[1]
    torch.testing.assert_close(differenced, exact, rtol=1e-3, atol=1e-3)


def test_jvp_of_a_map_with_a_detached_branch_is_not_fooled() -> None:
    f = network(4).double()
    z, v = draw(9, 4, dtype=torch.float64), draw(9, 4, seed=1, dtype=torch.float64)
    product = LatentField(lambda z: z + f(z).detach()).jvp(z, v)[1]
    torch.testing.assert_close(product, LatentField(lambda z: z + f(z)).jvp(z, v)[1], rtol=1e-6, atol=1e-8)


def test_jvp_of_a_constant_map_is_zero() -> None:
    z = draw(3, 4)
    for constant in (lambda z: torch.ones_like(z), lambda z: 0 * z + 1):
        assert not LatentField(constant).jvp(z, z)[1].any()


@pytest.mark.parametrize("d", [1, 3, 40])
def test_leading_multipliers_are_the_eigenvalues(d: int) -> None:
    matrix = torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(d))
    found = leading_multipliers(LatentField(lambda z: z @ matrix.T), torch.zeros(2, d, dtype=torch.float64))
    expected = torch.linalg.eigvals(matrix)
    expected = expected[expected.abs().argsort(descending=True)][: found.shape[1]]
    torch.testing.assert_close(found.abs()[1], expected.abs(), rtol=1e-8, atol=1e-8)


def test_leading_multipliers_of_a_rank_deficient_map() -> None:
    matrix = torch.zeros(6, 6, dtype=torch.float64)
    matrix[0, 0], matrix[1, 1] = 0.9, 0.9
    found = leading_multipliers(LatentField(lambda z: z @ matrix), torch.zeros(1, 6, dtype=torch.float64))
    torch.testing.assert_close(
        found.real[0], torch.tensor([0.9, 0.9, 0, 0, 0, 0], dtype=torch.float64), rtol=0, atol=1e-9
    )


def test_double_leaves_the_network_as_it_was() -> None:
    f = network(3)
    double = LatentField(f).as_float64(torch.zeros(1, 3))
    assert double is not None
    assert double(torch.zeros(1, 3, dtype=torch.float64)).dtype == torch.float64
    assert next(f.parameters()).dtype == torch.float32
    assert LatentField(lambda z: f(z.float())).as_float64(torch.zeros(1, 3)) is None


def test_shape_must_be_kept() -> None:
    with pytest.raises(RepdynError, match="same shape"):
        LatentField(lambda z: z[:1])(torch.zeros(2, 2))


def test_divergence_is_the_trace_of_the_velocity() -> None:
    matrix = torch.randn(30, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    field = LatentField(lambda z: z @ matrix.T)
    z = torch.zeros(3, 30, dtype=torch.float64)
    exact, zero = field.divergence(z, probes=30)
    torch.testing.assert_close(exact, torch.full_like(exact, float(matrix.trace()) - 30))
    assert not zero.any()
    value, error = field.divergence(z, probes=20)
    assert ((value - exact).abs() < 4 * error).all()
    assert (error > 0).all()


def test_lyapunov_exponents_of_a_linear_map_are_its_logarithmic_gains() -> None:
    gains = torch.tensor([1.1, 0.5, 0.2], dtype=torch.float64)
    z = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exponents = LatentField(lambda z: z * gains).lyapunov(z, steps=64)
    assert exponents.shape == (4, 2, 3)
    torch.testing.assert_close(
        torch.from_numpy(exponents[:, :, 0]), gains[:2].log().expand(4, 2), rtol=0, atol=0.02
    )


def test_lyapunov_exponent_of_the_logistic_map_is_log_two() -> None:
    z = torch.linspace(0.1, 0.9, 20, dtype=torch.float64)[:, None]
    exponents = LatentField(lambda z: 4 * z * (1 - z)).lyapunov(z, steps=1024)
    assert abs(exponents[:, 0, 0].mean() - 0.6931) < 0.02
    with pytest.raises(RepdynError, match="at least 16"):
        LatentField(lambda z: z).lyapunov(z, steps=3)
