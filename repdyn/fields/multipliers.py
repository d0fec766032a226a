"""Leading multipliers: eigenvalues of the Jacobian of the map, from Jacobian-vector products alone."""

from __future__ import annotations

import torch
from torch import Tensor

from repdyn.devices import double, to, widest
from repdyn.fields.field import LatentField

__all__ = ["arnoldi", "leading_multipliers", "observed_rate"]

KRYLOV = 64
"""Krylov dimension: exact up to 64 latent dimensions, and beyond that ample for the outermost eigenvalues."""

BLOCK = 2**23
"""Numbers in a batch of Krylov bases: 64 MiB in float64."""


DISPLACED = 1e-3
"""Of the scale: how far from a point its neighbours start whose approach is watched."""


def arnoldi(field: LatentField, z: Tensor, start: Tensor, m: int) -> tuple[Tensor, Tensor]:
    r"""Arnoldi's relation of the Jacobian at many points at once.

    .. math:: J\, Q_m = Q_{m+1}\, \bar H_m

    Parameters
    ----------
    field
        The map.
    z, start
        Points and the first direction at each, shape ``(A, d)``.
    m
        Krylov dimension, at most ``d``.

    Returns
    -------
    basis, hessenberg
        Shapes ``(A, m + 1, d)`` and ``(A, m + 1, m)``, float64.
    """
    count, d = z.shape
    wide = widest(z.device)
    basis = torch.zeros((count, m + 1, d), dtype=wide, device=z.device)
    hessenberg = torch.zeros((count, m + 1, m), dtype=wide, device=z.device)
    generator = torch.Generator().manual_seed(0)
    first = double(start)
    basis[:, 0] = first / first.norm(dim=1, keepdim=True).clamp_min(1e-300)
    _, apply = field.linearize(z)
    for k in range(m):
        product = double(apply(basis[:, k].to(z.dtype)))
        size = product.norm(dim=1)
        # Twice is enough: a second orthogonalisation restores what cancellation lost.
        for _ in range(2):
            overlap = (basis[:, : k + 1] @ product[:, :, None])[:, :, 0]
            hessenberg[:, : k + 1, k] += overlap
            product = product - (overlap[:, None] @ basis[:, : k + 1])[:, 0]
        rest = product.norm(dim=1)
        # An exhausted Krylov space goes on from a fresh direction, with nothing leaking into it.
        spent = rest <= 1e-12 * size.clamp_min(1e-300)
        if bool(spent.any()) and k + 1 < d:
            fresh = to(torch.randn((count, d), generator=generator, dtype=torch.float64), z.device)
            for _ in range(2):
                overlap = (basis[:, : k + 1] @ fresh[:, :, None])[:, :, 0]
                fresh = fresh - (overlap[:, None] @ basis[:, : k + 1])[:, 0]
            product = torch.where(spent[:, None], fresh, product)
        hessenberg[:, k + 1, k] = torch.where(spent, torch.zeros_like(rest), rest)
        if k + 1 < d:
            basis[:, k + 1] = product / product.norm(dim=1, keepdim=True).clamp_min(1e-300)
    return basis, hessenberg


def leading_multipliers(field: LatentField, z: Tensor, count: int = 6, *, seed: int = 0) -> Tensor:
    r"""The eigenvalues of largest modulus of :math:`J_f(z)`, by Arnoldi's method, matrix-free.

    Parameters
    ----------
    field
        The map.
    z
        Shape ``(A, d)``.
    count
        How many; fewer where ``d`` is smaller.
    seed
        Of the first Krylov direction.

    Returns
    -------
    Tensor
        Shape ``(A, min(count, d))``, complex128, largest modulus first.

    Examples
    --------
    >>> import torch
    >>> field = LatentField(lambda z: z * torch.tensor([0.5, -0.25]))
    >>> leading_multipliers(field, torch.zeros(1, 2)).real
    tensor([[ 0.5000, -0.2500]], dtype=torch.float64)

    References
    ----------
    Arnoldi (1951). The principle of minimized iterations in the solution of the matrix eigenvalue problem.
    """
    d = z.shape[1]
    m = min(KRYLOV, d)
    generator = torch.Generator().manual_seed(seed)
    direction = to(torch.randn(d, generator=generator, dtype=torch.float64), z.device)
    found = torch.zeros((len(z), min(count, d)), dtype=torch.complex128)
    size = max(1, BLOCK // ((m + 1) * d))
    for block in (slice(i, i + size) for i in range(0, len(z), size)):
        _, hessenberg = arnoldi(field, z[block], direction.expand(len(z[block]), d), m)
        # Small, many and not symmetric: the host is the faster, and MPS has no such function.
        values = torch.linalg.eigvals(hessenberg[:, :m].cpu().double())
        order = values.abs().argsort(dim=1, descending=True)
        found[block] = values.gather(1, order)[:, : found.shape[1]]
    return found.to(z.device, torch.complex64 if widest(z.device) == torch.float32 else None)


def observed_rate(field: LatentField, z: Tensor, scale: float, turns: int = 40, *, seed: int = 0) -> Tensor:
    r"""By how much a step of plain iteration shrinks the distance to each fixed point.

    .. math:: \Big(\frac{\lVert f^{t}(z + \delta) - z \rVert}
                         {\lVert f^{t/2}(z + \delta) - z \rVert}\Big)^{2/t}

    over the later half of the approach, before rounding ends it. It stands beside the leading multiplier,
    which predicts it where the map is smooth and not far from normal.

    Parameters
    ----------
    field
        The map; for a cycle, its turn.
    z
        Fixed points, shape ``(A, d)``.
    scale
        The data's; neighbours start a thousandth of it away.
    turns
        Steps watched, at least 2.
    seed
        Of the directions of the displacements.

    Returns
    -------
    Tensor
        Shape ``(A,)``; NaN where fewer than two steps stay clear of rounding.

    Examples
    --------
    >>> import torch
    >>> field = LatentField(lambda z: z * torch.tensor([0.5, -0.25], dtype=torch.float64))
    >>> observed_rate(field, torch.zeros(1, 2, dtype=torch.float64), 1.0).round(decimals=4)
    tensor([0.5000], dtype=torch.float64)
    """
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(z.shape, generator=generator, dtype=torch.float64).to(z)
    moved = z + DISPLACED * scale * direction / direction.norm(dim=1, keepdim=True)
    distance = [(moved - z).norm(dim=1)]
    for _ in range(turns):
        moved = field(moved)
        distance.append((moved - z).norm(dim=1))
    table = double(torch.stack(distance))
    floor = 1e3 * torch.finfo(z.dtype).eps * (double(z.norm(dim=1)) + scale)
    # The last step before the distance first drowns in rounding.
    last = (table > floor).long().cumprod(dim=0).sum(dim=0) - 1
    first = last // 2
    ratio = table.gather(0, last[None])[0] / table.gather(0, first[None])[0]
    rate = ratio ** (1 / (last - first).clamp_min(1))
    return torch.where(last >= 2, rate, torch.full_like(rate, float("nan")))
