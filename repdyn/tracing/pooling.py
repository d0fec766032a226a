"""Pooling: from a representation of many positions to one vector per sample.

A representation has an axis of samples, an axis of channels, and any number of positions: tokens, pixels,
frames. The adapter *declares* the meaning of the axes as a layout. The number of axes does not determine it:
a Swin block returns NHWC and a ResNet block NCHW.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from repdyn.errors import RepdynError, nearest_names

__all__ = ["LAYOUTS", "POOLINGS", "Layout", "Pooling", "Tokens", "as_tokens", "find_pooling"]

Layout = Literal["NC", "NLC", "LNC", "NLSC", "SNLC", "NCL", "NCHW", "NHWC", "N*C", "NC*"]
"""Order of the axes: N samples, C channels, L tokens, S streams of one token, H height, W width, ``*`` any
number of positions. The streams of a token are concatenated in its vector."""

LAYOUTS: tuple[Layout, ...] = get_args(Layout)


@dataclass(frozen=True, eq=False)
class Tokens:
    """A representation as samples, positions and channels.

    Attributes
    ----------
    values
        ``(N, L, C)``.
    mask
        ``(N, L)`` boolean, true for real tokens; None if all are real.
    prefix
        Number of leading positions without a position in the input (class and register tokens).
    spatial
        Whether there are positions; false for layout ``NC``, for which every pooling is the identity.
    """

    values: Tensor
    mask: Tensor | None = None
    prefix: int = 0
    spatial: bool = True


Pooling = Callable[[Tokens], Tensor]
"""Function from :class:`Tokens` to ``(N, D)``."""


def as_tokens(values: Tensor, layout: Layout, mask: Tensor | None = None, prefix: int = 0) -> Tokens:
    """Samples, positions and channels of a representation, by its declared layout.

    Parameters
    ----------
    values
        Output of a module.
    layout
        Meaning of its axes.
    mask
        ``(N, L)``, true for real tokens.
    prefix
        Number of leading positions that are class or register tokens.

    Raises
    ------
    RepdynError
        If the number of axes does not match the layout, or the mask has another length.

    Examples
    --------
    >>> as_tokens(torch.zeros(2, 8, 4, 5), "NCHW").values.shape
    torch.Size([2, 20, 8])
    """
    if "*" in layout:
        if values.ndim < 2:
            raise RepdynError(
                f"declared layout {layout} needs 2 axes or more, the shape is {tuple(values.shape)}"
            )
    elif values.ndim != len(layout):
        raise RepdynError(
            f"declared layout {layout} has {len(layout)} axes, the shape is {tuple(values.shape)}"
        )
    if values.ndim == 2:
        return Tokens(values.unsqueeze(1), spatial=False)
    if layout == "LNC":
        tokens = values.transpose(0, 1)
    elif layout == "NLSC":
        tokens = values.flatten(2)
    elif layout == "SNLC":
        tokens = values.movedim(0, 2).flatten(2)
    elif layout[1] == "C":
        tokens = values.flatten(2).transpose(1, 2)
    else:
        tokens = values.flatten(1, -2)
    if mask is not None and mask.shape != tokens.shape[:2]:
        raise RepdynError(
            f"the mask has shape {tuple(mask.shape)}, the representation {tuple(tokens.shape[:2])} tokens"
        )
    return Tokens(tokens, mask, prefix)


def find_pooling(name: str | Pooling) -> Pooling:
    """The pooling with a name, or the function itself.

    Raises
    ------
    RepdynError
        If the name is unknown.
    """
    if callable(name):
        return name
    if name not in POOLINGS:
        known = [*POOLINGS, "none", "auto"]
        raise RepdynError(f"pool: there is no pooling {name!r}; {nearest_names(name, known)}, or a function")
    return POOLINGS[name]


def first_token(tokens: Tokens) -> Tensor:
    """The class token: the first position."""
    return tokens.values[:, 0]


def mean_token(tokens: Tokens) -> Tensor:
    r"""The mean over real tokens, :math:`\sum_l m_l x_l / \sum_l m_l`; class tokens count as tokens."""
    return _masked_mean(tokens.values, tokens.mask)


def last_token(tokens: Tokens) -> Tensor:
    """The last real token, from which a causal language model predicts the next one."""
    if tokens.mask is None:
        return tokens.values[:, -1]
    length = tokens.mask.shape[1]
    position = torch.arange(length, device=tokens.mask.device).expand_as(tokens.mask)
    # A row without real tokens reads its first one.
    last = position.masked_fill(~tokens.mask, -1).amax(dim=1).clamp(min=0)
    return tokens.values[torch.arange(len(last), device=last.device), last]


def spatial_mean(tokens: Tokens) -> Tensor:
    """The mean over positions of the input, without class and register tokens."""
    mask = None if tokens.mask is None else tokens.mask[:, tokens.prefix :]
    return _masked_mean(tokens.values[:, tokens.prefix :], mask)


def flattened(tokens: Tokens) -> Tensor:
    """All positions concatenated, ``(N, L * C)``, for inputs of one length only."""
    if tokens.mask is not None:
        raise RepdynError("pool: 'flatten' needs inputs of one length; use 'mean', 'last' or 'none'")
    return tokens.values.flatten(1)


POOLINGS: dict[str, Pooling] = {
    "cls": first_token,
    "mean": mean_token,
    "last": last_token,
    "gap": spatial_mean,
    "flatten": flattened,
}


def _masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over real positions, ``(N, C)``, in float32 for half precision."""
    # Half precision has 3 digits, and a sum over some hundred tokens would lose them.
    values = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    if mask is None:
        return values.mean(dim=1)
    # torch.where instead of a product, because padding may hold NaN.
    real = torch.where(mask.unsqueeze(-1), values, values.new_zeros(()))
    return real.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)
