"""From matched nodes of two trees to maps, and from maps to what they say of nodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from repdyn.translation.coordinates import unit_rows
from repdyn.translation.nodes import Nodes

__all__ = ["guided_gain", "maps_from_nodes", "padded", "partial_procrustes"]

Floats = NDArray[np.float64]
Rows = NDArray[np.float32]
Index = NDArray[np.int64]

START_RANK = 16
"""Directions that matched nodes determine reliably."""


def maps_from_nodes(a: Nodes, b: Nodes, permutation: Index) -> list[Rows]:
    """Procrustes on matched centroids at each depth, in the directions that they determine."""
    left = np.flatnonzero(permutation[: len(a)] < len(b))
    right = permutation[left]
    weight = np.sqrt(a.mass[left] * b.mass[right])
    maps = []
    for x, y in zip(a.centroids, b.centroids):
        maps.append(partial_procrustes((x[left] * weight[:, None]).T @ y[right], START_RANK))
    return maps


def guided_gain(a: Nodes, b: Nodes, maps: Sequence[Rows], size: int) -> Floats:
    """What the assignment gains where the maps take nodes; were all exact, as much as by the geometry."""
    gain = np.zeros((size, size))
    weight = np.sqrt(np.outer(a.mass, b.mass))
    for x, y, m in zip(a.centroids, b.centroids, maps):
        near = unit_rows(x @ m[: x.shape[1], : y.shape[1]]) @ unit_rows(y).T
        gain[: len(a), : len(b)] += weight * np.maximum(near, 0)
    return gain


def partial_procrustes(moment: NDArray[np.floating], most: int | None = None) -> Rows:
    """The polar factor in the directions that the moment determines, ``most`` of them, zero in all others."""
    u, values, v = np.linalg.svd(moment, full_matrices=False)
    rank = int((values > 1e-6 * max(float(values[0]), 1e-30)).sum())
    rank = rank if most is None else min(rank, most)
    return np.asarray(u[:, :rank] @ v[:rank], dtype=np.float32)


def padded(m: Rows, rows: int, columns: int) -> Rows:
    """A map of leading components among all: zero on the others."""
    made = np.zeros((rows, columns), dtype=np.float32)
    made[: m.shape[0], : m.shape[1]] = m
    return made
