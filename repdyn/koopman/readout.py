"""Readouts of classes from representations: the model's own head, or a linear probe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.devices import call, device_of
from repdyn.errors import RepdynError
from repdyn.koopman.controls import held_out_rows, ridge_by_validation
from repdyn.koopman.frames import wide_coordinates
from repdyn.reading import as_array
from repdyn.repeats import groups_of_equal_rows

__all__ = ["LinearProbe", "Readout", "head_logits", "readout_of"]


class LinearProbe:
    """Ridge regression onto indicator vectors of the classes; the largest output is the prediction.

    The penalty is chosen on a held-out part of the training data. The solution is in closed form, so the same
    data give the same probe.

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
        """Fit to representations ``(N, D)`` and labels ``(N,)`` of at least two classes.

        Raises
        ------
        RepdynError
            If all labels are equal.
        """
        x = as_array(x, dtype=np.float64)
        self.classes_, code = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise RepdynError(f"a probe needs at least two classes, the labels hold {len(self.classes_)}")
        self.width_ = x.shape[1]
        self._mean = x.mean(axis=0)
        # One penalty suits all coordinates only if their spreads are comparable.
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
        """Fitted indicators ``(N, classes)`` of representations ``(N, D)``."""
        scores: NDArray[np.float64] = (
            as_array(x, dtype=np.float64) - self._mean
        ) @ self._weight + self._share
        return scores

    def predict(self, x: NDArray[Any]) -> NDArray[Any]:
        """Predicted labels ``(N,)`` of representations ``(N, D)``."""
        labels: NDArray[Any] = self.classes_[self.decision_function(x).argmax(axis=1)]
        return labels


@dataclass(frozen=True, eq=False)
class Readout:
    """A classifier of last-point representations.

    Attributes
    ----------
    scores
        Function from representations ``(N, width)`` to one score per class, ``(N, C)``.
    classes
        The labels of the scores, sorted, shape ``(C,)``.
    """

    scores: Callable[[NDArray[Any]], NDArray[Any]]
    classes: NDArray[Any]

    def correct(self, x: NDArray[Any], names: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether each of ``x`` is predicted to be of its class, shape ``(N,)``."""
        return np.asarray(self.classes[self.scores(x).argmax(axis=1)] == names)

    def margins(self, x: NDArray[Any], names: NDArray[Any]) -> NDArray[np.float64]:
        """Score of the true class minus the best other score, shape ``(N,)``: positive if correct."""
        scores = self.scores(x).astype(np.float64)
        own = np.searchsorted(self.classes, names)[:, None]
        true = np.take_along_axis(scores, own, axis=1)[:, 0]
        np.put_along_axis(scores, own, -np.inf, axis=1)
        margin: NDArray[np.float64] = true - scores.max(axis=1)
        return margin


def head_logits(head: Callable[[Any], Any], x: NDArray[Any], device: torch.device) -> Tensor:
    """Logits ``(N, C)`` of representations ``(N, width)``, computed on the head's device.

    Parameters
    ----------
    head
        A module or a function, called with float32 values.
    x
        Representations.
    device
        Device for a head that has no weights.
    """
    rows = torch.as_tensor(np.asarray(x, dtype=np.float32), device=device_of(head, device))
    with torch.no_grad():
        return torch.as_tensor(call(head, rows))


def readout_of(
    head: Callable[[Any], Any] | None,
    x: NDArray[Any],
    names: NDArray[Any],
    seed: int,
    device: torch.device,
) -> Readout:
    """The model's own head if given, else a linear probe fitted to the true representations.

    Parameters
    ----------
    head
        From a tensor ``(N, width)`` to logits ``(N, C)``, called on the device of its weights.
    x, names
        Last-point representations ``(N, width)`` and their classes ``(N,)``, for the probe.
    seed
        Seed of the probe's held-out part.
    device
        Device for a head that has no weights.

    Raises
    ------
    RepdynError
        If the labels are not the numbers of the head's classes.
    """
    if head is None:
        probe = LinearProbe().fit(x, names, seed=seed)
        return Readout(probe.decision_function, probe.classes_)

    def scores(x: NDArray[Any]) -> NDArray[Any]:
        return as_array(head_logits(head, x, device))

    if names.dtype.kind not in "iu":
        raise RepdynError(
            "head returns logits of class numbers, so the labels must be integers; "
            f"got labels of type {names.dtype}"
        )
    count = scores(x[:1]).shape[1]
    if names.min() < 0 or names.max() >= count:
        raise RepdynError(
            f"labels run from {names.min()} to {names.max()}, but the head has classes 0 to {count - 1}"
        )
    return Readout(scores, np.arange(count))
