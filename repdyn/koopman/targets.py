"""Which samples an edit targets, which of them it moves, and where to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.errors import RepdynError, nearest_names
from repdyn.paths import RepresentationPaths
from repdyn.reading import as_array

__all__ = ["balls", "destination", "split", "targets"]

_MEDOID_ROWS = 2000  # distances of all pairs of so many rows find a medoid
_PARTS = (0.6, 0.2, 0.2)  # of the paths: to edit with, to choose the quantile on, to report on


def targets(
    paths: RepresentationPaths, label: Any, mask: NDArray[np.bool_] | None
) -> tuple[NDArray[Any] | None, NDArray[np.bool_]]:
    """Labels of the paths, if they have any, and which samples are targeted.

    Parameters
    ----------
    paths
        Where the labels are.
    label
        A label, or several.
    mask
        Instead of a label.

    Raises
    ------
    RepdynError
        On an absent label, a mask of the wrong shape, or both or neither given.
    """
    labels = None if paths.labels is None else np.asarray(paths.labels)
    if (label is None) == (mask is None):
        raise RepdynError("forget: give either label= (one or several) or mask=, not both and not neither")
    if mask is not None:
        mask = as_array(mask)
        if mask.shape != (len(paths),) or mask.dtype != bool:
            raise RepdynError(
                f"mask must be boolean of shape ({len(paths)},), got {mask.dtype} of shape {mask.shape}"
            )
        if not mask.any():
            raise RepdynError("mask selects no sample: there is nothing to forget")
        return labels, mask
    if labels is None:
        raise RepdynError("the paths have no labels; give mask= instead of label=")
    wanted = list(label) if isinstance(label, list | tuple | set | np.ndarray) else [label]
    for one in wanted:
        if not np.any(labels == one):
            known = [str(name) for name in np.unique(labels)]
            raise RepdynError(f"there is no sample with label {one!r}; {nearest_names(str(one), known)}")
    return labels, np.isin(labels, wanted)


def split(
    names: NDArray[Any],
    target: NDArray[np.bool_],
    seed: int,
    groups: NDArray[np.int64] | None = None,
) -> list[NDArray[np.intp]]:
    """Index sets to edit with, to choose on and to report on; each class is in all of them.

    Parameters
    ----------
    names
        Class of each sample, shape ``(N,)``.
    target
        Which are targeted, shape ``(N,)``.
    seed
        Of the draw.
    groups
        Group of equal samples that each belongs to, shape ``(N,)``; those of one class stay together.

    Raises
    ------
    RepdynError
        If a targeted class is smaller than the parts are many, or no sample is left that is not targeted.
    """
    draw = np.random.default_rng(seed)
    parts: list[list[NDArray[np.intp]]] = [[], [], []]
    for name in np.unique(names):
        for side in (True, False):
            rows = np.flatnonzero((names == name) & (target == side))
            alike = np.arange(len(rows))
            if groups is not None:
                alike = np.unique(groups[rows], return_inverse=True)[1]
            order = draw.permutation(int(alike.max(initial=-1)) + 1)
            if side and 0 < len(order) < len(_PARTS):
                raise RepdynError(
                    f"{name!r} has {len(order)} different targeted samples; editing and judging needs "
                    f"{len(_PARTS)}"
                )
            ends = np.round(np.cumsum(_PARTS) * len(order)).astype(int)
            for part, piece in zip(parts, np.split(order, ends[:-1])):
                part.append(rows[np.isin(alike, piece)])
    found = [np.sort(np.concatenate(part)) for part in parts]
    if target.all():
        raise RepdynError("every sample is targeted: there is no clean one left to keep or to redirect to")
    if any(not target[rows].any() or target[rows].all() for rows in found):
        raise RepdynError("there are too few samples to edit with some and to judge on others")
    return found


def destination(
    redirect: Any, labels: NDArray[Any] | None
) -> Callable[[Tensor, NDArray[np.bool_], NDArray[np.bool_], NDArray[Any]], Tensor]:
    """How to find where redirected samples go.

    Parameters
    ----------
    redirect
        ``"mean"``, ``"nearest"`` (the mean output of the class that is nearest to each row; the nearest
        single output where there are no labels) or a label.
    labels
        Labels of the paths, shape ``(N,)``, or ``None``.

    Returns
    -------
    callable
        From outputs ``(n, d)``, the redirected rows, the clean rows and the classes, to one place ``(d,)`` or
        one for each redirected row.

    Raises
    ------
    RepdynError
        If ``redirect`` is none of these.
    """
    if redirect not in ("mean", "nearest") and (labels is None or not np.any(labels == redirect)):
        raise RepdynError(f"redirect must be 'mean', 'nearest' or a label of the paths, got {redirect!r}")

    def place(
        outputs: Tensor, harmful: NDArray[np.bool_], clean: NDArray[np.bool_], names: NDArray[Any]
    ) -> Tensor:
        if redirect == "mean":
            return outputs[clean].mean(dim=0)
        if redirect == "nearest":
            # Single outputs lie next to the border that the edit is to carry rows away from, and no linear
            # map sends neighbours apart; the middles of classes it can reach.
            candidates = (
                outputs[clean]
                if labels is None
                else torch.stack(
                    [outputs[clean & (names == one)].mean(dim=0) for one in np.unique(names[clean])]
                )
            )
            return torch.cat(
                [
                    candidates[torch.cdist(rows, candidates).argmin(dim=1)]
                    for rows in torch.split(outputs[harmful], 1000)
                ]
            )
        chosen = clean & (names == redirect)
        if not chosen.any():
            raise RepdynError(f"redirect={redirect!r}: all of its samples are targeted themselves")
        return outputs[chosen].mean(dim=0)

    return place


def balls(
    outputs: Tensor, names: NDArray[Any], target: NDArray[np.bool_], quantile: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Rows whose outputs lie in the ball about the medoid of a targeted class.

    Parameters
    ----------
    outputs
        Shape ``(n, d)``.
    names, target
        Class of each row, and which are targeted, shapes ``(n,)``.
    quantile
        Part of each targeted class that its ball holds.

    Returns
    -------
    tuple
        Targeted rows in the ball of their class, and other rows in any of the balls; each ``(n,)``.
    """
    inside = np.zeros(len(target), dtype=bool)
    others = np.zeros(len(target), dtype=bool)
    for name in np.unique(names[target]):
        rows = np.flatnonzero(target & (names == name))
        place = outputs[rows]
        few = place[:: max(1, len(rows) // _MEDOID_ROWS)]
        medoid = few[torch.cdist(few, few).sum(dim=1).argmin()]
        distance = (outputs - medoid).norm(dim=1).numpy()
        radius = np.quantile(distance[rows], quantile)
        inside[rows[distance[rows] <= radius]] = True
        others |= ~target & (distance <= radius)
    return inside, others
