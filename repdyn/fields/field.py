"""The latent vector field of a self-map: where it moves each point, and how it stretches around it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from repdyn.devices import device_of, to, widest
from repdyn.errors import RepdynError
from repdyn.reading import as_array

if TYPE_CHECKING:
    from repdyn.fields.attractors import Attractors

__all__ = ["LatentField"]


class LatentField:
    r"""A self-map of a latent space and the vector field that it induces.

    .. math:: V(z) = f(z) - z, \qquad f = E \circ D

    for an auto-encoder with encoder :math:`E` and decoder :math:`D`. Any batched map
    ``(N, d) -> (N, d)`` in which no sample depends on another will do. Precision and device follow the
    input; nothing is differentiated except by :meth:`jvp` and what rests on it.

    Parameters
    ----------
    step
        The map :math:`f`.

    Examples
    --------
    >>> import torch
    >>> field = LatentField(lambda z: 0.5 * z)
    >>> field.velocity(torch.ones(1, 2))
    tensor([[-0.5000, -0.5000]])

    References
    ----------
    Fumero, Moschella, Rodolà, Locatello (2025). Navigating the Latent Space Dynamics of Neural Models,
    arXiv 2505.22785, section 3.
    """

    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        self.step = step
        self.encode: Callable[[Tensor], Tensor] | None = None
        self.decode: Callable[[Tensor], Tensor] | None = None
        self._differentiable: bool | None = None
        self._last_seen = torch.device("cpu")

    @classmethod
    def from_autoencoder(
        cls, encode: Callable[[Tensor], Tensor], decode: Callable[[Tensor], Tensor]
    ) -> LatentField:
        r"""The field of :math:`f(z) = E(D(z))`.

        Parameters
        ----------
        encode
            Data to code. Of a variational auto-encoder: its mean.
        decode
            Code to data.
        """
        if isinstance(encode, nn.Module) and isinstance(decode, nn.Module):
            field = cls(nn.Sequential(decode, encode))
        else:
            field = cls(lambda z: encode(decode(z)))
        field.encode, field.decode = encode, decode
        return field

    @property
    def device(self) -> torch.device:
        """Where the map computes: the device of its weights, else of the points that it was last given."""
        return self._weights_device() or self._last_seen

    def place(self, x: Any) -> Tensor:
        """Values, out of any graph, where the map computes.

        Parameters
        ----------
        x
            A tensor of any device, or an array. Where the map has no weights that say where it computes, a
            tensor stays where it is.
        """
        if isinstance(x, Tensor):
            return to(x.detach(), self._weights_device())  # type: ignore[no-any-return]
        return torch.as_tensor(as_array(x)).to(self.device)

    def _weights_device(self) -> torch.device | None:
        for part in (self.step, self.encode, self.decode):
            if (
                isinstance(part, nn.Module)
                and next(chain(part.parameters(), part.buffers()), None) is not None
            ):
                return device_of(part)
        return None

    def __call__(self, z: Tensor) -> Tensor:
        """Apply the map once, ``(N, d) -> (N, d)``."""
        self._last_seen = z.device
        with torch.no_grad():
            image = self.step(z)
        if not isinstance(image, Tensor) or image.shape != z.shape:
            raise RepdynError(
                f"step: must map a tensor of shape {tuple(z.shape)} to one of the same shape, gave "
                f"{tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__}"
            )
        return image.detach()

    def velocity(self, z: Tensor) -> Tensor:
        """The field at ``z``: ``f(z) - z``, shape ``(N, d)``."""
        return self(z) - z

    def trajectory(self, z: Tensor, steps: int = 30) -> Tensor:
        """The orbit of each point, shape ``(steps + 1, N, d)``; the first entry is ``z`` itself."""
        orbit = z.new_empty((steps + 1, *z.shape))
        orbit[0] = z
        for k in range(steps):
            orbit[k + 1] = self(orbit[k])
        return orbit

    def jvp(self, z: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        r"""The map and its Jacobian applied to one direction per sample, without forming a Jacobian.

        .. math:: f(z), \quad J_f(z)\, v

        Parameters
        ----------
        z, direction
            Shape ``(N, d)`` each.

        Returns
        -------
        image, product
            Shape ``(N, d)`` each.
        """
        image, apply = self.linearize(z)
        return image, apply(direction)

    def linearize(self, z: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        r"""The map at ``z`` and its Jacobian there as a function, for many directions at the same points.

        .. math:: f(z), \quad v \mapsto J_f(z)\, v = \partial_u \langle J_f(z)^\top u, v \rangle

        The graph of :math:`J^\top u`, linear in :math:`u`, is recorded once; each direction then costs one
        backward pass through it. (Forward mode pays several milliseconds of dispatch at every call.)

        Parameters
        ----------
        z
            Shape ``(N, d)``.

        Returns
        -------
        image, apply
            Shape ``(N, d)``, and a function of directions ``(N, d)``.

        Notes
        -----
        A map that hides its derivative, wholly or in part (inference mode, a detached branch, arrays instead
        of tensors), is differenced centrally instead; that is found out once, against a difference. A silent
        zero would call every point stable.
        """
        if self._differentiable is None:
            self._differentiable = self._shows_its_derivative(z[:8])
        if self._differentiable:
            return _recorded(self.step, z)
        # The cube root of the precision balances rounding against truncation for a central difference.
        width = torch.finfo(z.dtype).eps ** (1 / 3) * (1 + z.norm(dim=1, keepdim=True))

        def apply(direction: Tensor) -> Tensor:
            length = direction.norm(dim=1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny)
            small = direction / length * width
            product: Tensor = (self(z + small) - self(z - small)) / (2 * width) * length
            return product

        return self(z), apply

    def _shows_its_derivative(self, z: Tensor) -> bool:
        generator = torch.Generator().manual_seed(0)
        direction = torch.randn(z.shape, generator=generator, dtype=torch.float64).to(z)
        try:
            recorded = _recorded(self.step, z)[1](direction)
        except (RuntimeError, NotImplementedError, TypeError):
            return False
        differenced = LatentField(self.step)
        differenced._differentiable = False
        product = differenced.jvp(z, direction)[1]
        # Kinks spoil the difference of a sample now and then: most must agree.
        error = (recorded - product).norm(dim=1) / product.norm(dim=1).clamp_min(1e-6)
        return not bool(error.median() > 0.1)

    def divergence(self, z: Tensor, probes: int = 16, *, seed: int = 0) -> tuple[Tensor, Tensor]:
        r"""Divergence of the field, :math:`\operatorname{tr} J_f(z) - d`; negative where volumes shrink.

        .. math:: \operatorname{tr} J \approx \tfrac{1}{m} \sum_{i \le m} v_i^\top J v_i

        Parameters
        ----------
        z
            Shape ``(N, d)``.
        probes
            Random sign vectors. With ``d`` of them or more, the trace is summed exactly instead.
        seed
            Of the signs.

        Returns
        -------
        value, error
            Shape ``(N,)`` each: the estimate and its standard error, zero where it is exact.

        References
        ----------
        Hutchinson (1989). A stochastic estimator of the trace of the influence matrix.
        """
        d = z.shape[1]
        _, apply = self.linearize(z)
        if probes >= d:
            units = torch.eye(d, dtype=z.dtype, device=z.device)
            diagonal = torch.stack([apply(units[i].expand_as(z))[:, i] for i in range(d)])
            return diagonal.sum(dim=0) - d, torch.zeros_like(z[:, 0])
        generator = torch.Generator().manual_seed(seed)
        signs = torch.randint(0, 2, (probes, *z.shape), generator=generator).to(z) * 2 - 1
        traces = torch.stack([(v * apply(v)).sum(dim=1) for v in signs])
        return traces.mean(dim=0) - d, traces.std(dim=0) / probes**0.5

    def lyapunov(self, z: Tensor, steps: int = 256, *, seed: int = 0) -> NDArray[np.float64]:
        """The two leading Lyapunov exponents along the orbit of each point, with their intervals.

        Parameters
        ----------
        z
            Shape ``(N, d)``.
        steps
            Length of the orbits, at least 16.
        seed
            Of the first tangent directions.

        Returns
        -------
        NDArray
            Value, low and high; shape ``(N, min(2, d), 3)``. See :func:`repdyn.fields.lyapunov_exponents`.
        """
        from repdyn.fields.status import follow_orbits, lyapunov_exponents

        if steps < 16:
            raise RepdynError(f"steps: an exponent's interval needs at least 16, got {steps}")
        return lyapunov_exponents(as_array(follow_orbits(self, z, steps, seed=seed).growth))

    def power(self, period: int) -> LatentField:
        """The field of the map applied ``period`` times: a cycle of the map is a fixed point of it."""

        def repeated(z: Tensor) -> Tensor:
            for _ in range(period):
                z = self.step(z)
            return z

        return self if period == 1 else LatentField(repeated)

    def double(self, like: Tensor) -> LatentField | None:
        """This field in 64-bit precision, or None where the map, or its device, does not allow it.

        Parameters
        ----------
        like
            Some points, shape ``(N, d)``, to try it on.
        """
        if widest(like.device) != torch.float64:
            return None
        candidates: list[Callable[[Tensor], Tensor]] = [self.step]
        if isinstance(self.step, nn.Module):
            candidates.insert(0, copy.deepcopy(self.step).double())
        for step in candidates:
            try:
                with torch.no_grad():
                    image = step(like[:1].double())
            except (RuntimeError, TypeError, ValueError):
                continue
            if image.dtype == torch.float64:
                return LatentField(step)
        return None

    def attractors(self, z0: Any, **options: Any) -> Attractors:
        """Iterate from ``z0`` and say what was reached; see :func:`repdyn.fields.find_attractors`."""
        from repdyn.fields.search import find_attractors

        return find_attractors(self, z0, **options)


def _recorded(step: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    with torch.enable_grad():
        # A copy: the graph must survive what the caller writes beside a view of its own.
        point = z.detach().clone().requires_grad_(True)
        image = step(point)
        dual = torch.zeros_like(image, requires_grad=True)
        (pulled,) = torch.autograd.grad(image, point, dual, create_graph=True)

    def apply(direction: Tensor) -> Tensor:
        # A constant map pulls everything back to a zero that no longer depends on the dual.
        if not pulled.requires_grad:
            return torch.zeros_like(direction)
        (product,) = torch.autograd.grad(pulled, dual, direction.to(image), retain_graph=True)
        return product

    return image.detach(), apply
