"""A linear probe: what a linear readout of a representation can tell of its label."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.koopman.controls import held_out_rows, ridge_by_validation
from repdyn.koopman.frames import wide_coordinates
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows

__all__ = ["LinearProbe"]


class LinearProbe:
    """Ridge regression onto indicator vectors of the classes; the largest output is the prediction.

    The penalty is chosen on a held-out part of the training data. Closed form, so the same data give the
    same probe.

    Attributes
    ----------
    classes_ : ndarray
        The labels, sorted.
    width_ : int
        Width of the representations.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((100, 2))
    >>> y = (x[:, 0] > 0).astype(int)
    >>> bool((LinearProbe().fit(x, y).predict(x) == y).mean() > 0.9)
    True
    """

    def fit(self, x: NDArray[Any], labels: NDArray[Any], *, seed: int = 0) -> LinearProbe:
        """Fit to representations ``(N, D)`` and labels ``(N,)`` of at least two classes."""
        x = as_array(x, dtype=np.float64)
        self.classes_, code = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise RepdynError(f"a probe needs at least two classes, the labels hold {len(self.classes_)}")
        self.width_ = x.shape[1]
        self._mean = x.mean(axis=0)
        # One penalty is fair to all coordinates only where none is a thousand times wider than the rest.
        spread = torch.from_numpy(x - self._mean).square().mean(dim=0).sqrt()
        wide = wide_coordinates(spread)
        indicator = np.eye(len(self.classes_))[code]
        self._share = indicator.mean(axis=0)
        held_out = held_out_rows(len(x), torch.Generator().manual_seed(seed), groups_of_equal_rows(x))
        (weight,), _ = ridge_by_validation(
            torch.from_numpy(x - self._mean) / wide, [torch.from_numpy(indicator - self._share)], held_out
        )
        self._weight = (weight / wide[:, None]).numpy()
        return self

    def decision_function(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Fitted indicators, shape ``(N, classes)``."""
        found: NDArray[np.float64] = (as_array(x, dtype=np.float64) - self._mean) @ self._weight + self._share
        return found

    def predict(self, x: NDArray[Any]) -> NDArray[Any]:
        """Predicted labels, shape ``(N,)``."""
        found: NDArray[Any] = self.classes_[self.decision_function(x).argmax(axis=1)]
        return found
