"""What data sets with known factors share: their labels, and their division into parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError

__all__ = ["Labeled"]


class Labeled:
    """Base of data sets with ``static`` and ``dynamic`` factors, ``{factor: (N,)}``."""

    static: Mapping[str, NDArray[np.int64]]
    dynamic: Mapping[str, NDArray[np.int64]]

    def __len__(self) -> int:
        return len(next(iter(self.labels.values())))

    @property
    def labels(self) -> dict[str, NDArray[np.int64]]:
        """Static and dynamic factors together."""
        return {**self.static, **self.dynamic}

    def take(self, rows: Any) -> Self:
        """The selected sequences."""
        raise NotImplementedError

    def split(self, shares: Sequence[float], seed: int = 0) -> tuple[Self, ...]:
        """Disjoint random parts, such as ``(0.7, 0.1, 0.2)`` for training, validation and test."""
        if min(shares) <= 0 or sum(shares) > 1 + 1e-9:
            raise RepdynError(f"shares: expected positive numbers that sum to at most 1, got {tuple(shares)}")
        order = np.random.default_rng(seed).permutation(len(self))
        ends = (np.cumsum([0.0, *shares]) * len(self)).round().astype(int)
        return tuple(self.take(order[a:b]) for a, b in pairwise(ends))

    @staticmethod
    def _rows(labels: Mapping[str, NDArray[np.int64]], rows: Any) -> dict[str, NDArray[np.int64]]:
        """Labels of the selected sequences."""
        return {name: label[rows] for name, label in labels.items()}
