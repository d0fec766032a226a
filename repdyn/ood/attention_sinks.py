"""Attention sinks: tokens with the massive activations that the first token of a text has.

Attention collects at the first token of a text, whose state is then a hundred times as long as that of
others, in one direction that hardly depends on the text. Some tokens in the middle of a text take the same
state (Xiao et al., arXiv 2309.17453; Sun et al., arXiv 2402.17762: massive activations). Such a state says
nothing about its token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.ood.gaussian import lengths
from repdyn.ood.settings import FIT, SINKS
from repdyn.reading import as_array

__all__ = ["are_sinks", "find_sinks"]

SMALLEST = np.finfo(np.float64).tiny


def find_sinks(
    states: Mapping[str, NDArray[Any]], first: NDArray[np.bool_]
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.bool_]]:
    """State of the attention sinks at the points that have them, and which tokens of usual texts are sinks.

    Parameters
    ----------
    states
        ``{point: (n, D)}``, states of all tokens.
    first
        Which of them are the first of a text, ``(n,)``.

    Returns
    -------
    tuple
        ``{point: (D,)}``, the mean direction of first tokens, with the length of the longest; a point is
        missing where the median of their lengths is less than ``SINKS.length_ratio`` times that of other
        tokens. And ``(n,)``: the first tokens, and those that are so long at a point and that
        :func:`are_sinks` accepts.
    """
    found, long = {}, []
    for point, x in states.items():
        length = lengths(x)
        usual = np.median(length[~first]) if not first.all() else np.inf
        long.append(length >= SINKS.length_ratio * usual)
        if first.any() and np.median(length[first]) >= SINKS.length_ratio * usual:
            mean = (x[first] / np.maximum(length[first, None], SMALLEST)).mean(axis=0)
            found[point] = np.asarray(mean / lengths(mean[None]) * length[first].max(), dtype=np.float32)
    tensors = {point: torch.as_tensor(np.asarray(x)) for point, x in states.items()}
    known = {point: torch.as_tensor(x) for point, x in found.items()}
    return found, first | are_sinks(tensors, known, torch.as_tensor(np.stack(long, axis=1)))


def are_sinks(
    states: Mapping[str, Tensor], known: Mapping[str, Tensor], refused: Tensor
) -> NDArray[np.bool_]:
    """Whether tokens are attention sinks at every point at which they are refused.

    Parameters
    ----------
    states
        ``{point: (n, D)}``.
    known
        States of sinks by :func:`find_sinks`, on the same device.
    refused
        Whether a detector refuses a token at each of these points in order, ``(n, P)``.

    Returns
    -------
    NDArray
        ``(n,)``. A token that is refused nowhere is no sink. Neither is one whose state is not finite, has
        another direction, or is more than ``FIT.length_margin`` times as long as those of all first tokens.
    """
    inside = []
    for point, x in states.items():
        if point not in known:
            inside.append(torch.zeros(len(x), dtype=torch.bool, device=x.device))
            continue
        state, wide = known[point], x.float()
        length, largest = (torch.linalg.vector_norm(v, dim=-1) for v in (wide, state))
        cosine = wide @ state / (length * largest)
        inside.append((cosine >= SINKS.cosine) & (length <= FIT.length_margin * largest))
    accepted = torch.stack(inside, dim=1) | ~refused
    return as_array(accepted.all(dim=1) & refused.any(dim=1))
