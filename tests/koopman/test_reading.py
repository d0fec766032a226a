"""Reading a path: what is not finite is named by point and sample."""

from __future__ import annotations

import numpy as np
import pytest

from repdyn.errors import RepdynError
from repdyn.koopman.states import read_points


class _Paths:
    """Paths that were not checked when they were made, as a store written by others may be."""

    points = ("a", "b")
    ids = np.array(["first", "second", "third"])

    def __getitem__(self, point: str) -> np.ndarray:
        x = np.ones((3, 2))
        if point == "b":
            x[1, 1] = np.nan
        return x


def test_nan_is_named() -> None:
    with pytest.raises(RepdynError, match=r"point 'b'.*second"):
        read_points(_Paths())  # type: ignore[arg-type]
