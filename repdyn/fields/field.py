"""The latent field of an autoencoder, or of any self-map of a latent space."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from repdyn.errors import RepdynError
from repdyn.fields.attractor_search import find_attractors
from repdyn.fields.attractors import Attractors
from repdyn.fields.classification import integrate_orbits, lyapunov_exponents
from repdyn.fields.map import SelfMap
from repdyn.reading import as_array

__all__ = ["LatentField"]


class LatentField(SelfMap):
    r"""A self-map of a latent space and the vector field that it induces.

    .. math:: V(z) = f(z) - z, \qquad f = E \circ D

    for an autoencoder with encoder :math:`E` and decoder :math:`D`. Any batched map ``(N, d) -> (N, d)`` is
    accepted if no sample's image depends on another sample. Precision and device follow the input. Only
    :meth:`jvp`, :meth:`linearize` and the methods built on them differentiate the map.

    Parameters
    ----------
    step
        The map :math:`f`.

    Attributes
    ----------
    encode, decode
        The autoencoder's functions, or None for a field that was made from a map.

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

    @classmethod
    def from_autoencoder(
        cls, encode: Callable[[Tensor], Tensor], decode: Callable[[Tensor], Tensor]
    ) -> LatentField:
        r"""The field of :math:`f(z) = E(D(z))`.

        Parameters
        ----------
        encode
            Data to code. For a variational autoencoder: the mean of the code.
        decode
            Code to data.
        """
        if isinstance(encode, nn.Module) and isinstance(decode, nn.Module):
            field = cls(nn.Sequential(decode, encode))
        else:
            field = cls(lambda z: encode(decode(z)))
        field.encode, field.decode = encode, decode
        return field

    def attractors(self, z0: Any, **options: Any) -> Attractors:
        """Attractors reached from the starts ``z0`` ``(N, d)``; see :func:`repdyn.fields.find_attractors`."""
        return find_attractors(self, z0, **options)

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

        Raises
        ------
        RepdynError
            On fewer than 16 steps.
        """
        if steps < 16:
            raise RepdynError(f"steps: the interval of an exponent needs at least 16 steps, got {steps}")
        return lyapunov_exponents(as_array(integrate_orbits(self, z, steps, seed=seed).growth))

    def place(self, x: Any) -> Tensor:
        """Old name of :meth:`on_device`."""
        warnings.warn("LatentField.place was renamed on_device", DeprecationWarning, stacklevel=2)
        return self.on_device(x)

    def double(self, like: Tensor) -> SelfMap | None:
        """Old name of :meth:`as_float64`."""
        warnings.warn("LatentField.double was renamed as_float64", DeprecationWarning, stacklevel=2)
        return self.as_float64(like)
