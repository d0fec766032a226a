"""The latent vector field of a self-map: where it moves each point, and how it stretches around it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from repdyn.errors import RepdynError

if TYPE_CHECKING:
    from repdyn.fields.attractors import Attractors

__all__ = ["LatentField"]


class LatentField:
    r"""A self-map of a latent space and the vector field that it induces.

    .. math:: V(z) = f(z) - z, \qquad f = E \circ D

    for an auto-encoder with encoder :math:`E` and decoder :math:`D`. Any batched map
    ``(N, d) -> (N, d)`` in which no sample depends on another will do. Precision and device follow the
    input; nothing is differentiated except by :meth:`jvp`.

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
            return cls(nn.Sequential(decode, encode))
        return cls(lambda z: encode(decode(z)))

    def __call__(self, z: Tensor) -> Tensor:
        """Apply the map once, ``(N, d) -> (N, d)``."""
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

        Notes
        -----
        Forward-mode differentiation. A map that hides its derivative (inference mode, arrays instead of
        tensors, an operation without a forward rule) is differenced centrally instead: a silent zero
        would call every point stable.
        """
        _prepare_forward_mode()
        try:
            with torch.no_grad(), forward_ad.dual_level():
                dual = self.step(forward_ad.make_dual(z.detach(), direction.detach().to(z)))  # type: ignore[no-untyped-call]
                image, product = forward_ad.unpack_dual(dual)  # type: ignore[no-untyped-call]
                if product is not None:
                    return image.detach().clone(), product.detach().clone()
        except (NotImplementedError, RuntimeError):
            pass
        image = self(z)
        # The cube root of the precision balances rounding against truncation for a central difference.
        width = torch.finfo(z.dtype).eps ** (1 / 3) * (1 + z.norm(dim=1, keepdim=True))
        length = direction.norm(dim=1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny)
        small = direction / length * width
        return image, (self(z + small) - self(z - small)) / (2 * width) * length

    def power(self, period: int) -> LatentField:
        """The field of the map applied ``period`` times: a cycle of the map is a fixed point of it."""

        def repeated(z: Tensor) -> Tensor:
            for _ in range(period):
                z = self.step(z)
            return z

        return self if period == 1 else LatentField(repeated)

    def double(self, like: Tensor) -> LatentField | None:
        """This field in 64-bit precision, or None where the map does not allow it.

        Parameters
        ----------
        like
            Some points, shape ``(N, d)``, to try it on.
        """
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


@cache
def _prepare_forward_mode() -> None:
    """torch compiles its forward rules at the first use and warns of its own deprecations while doing so."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore")
        forward_ad.make_dual(torch.zeros(1), torch.ones(1))  # type: ignore[no-untyped-call]
