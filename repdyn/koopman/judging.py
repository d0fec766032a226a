"""What reads classes from predicted representations, and how sure it is of them."""

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
from repdyn.koopman.probes import LinearProbe
from repdyn.reading import as_array

__all__ = ["Judge", "judge_of", "read_by_head"]


@dataclass(frozen=True, eq=False)
class Judge:
    """A classifier of last-point representations.

    Attributes
    ----------
    scores
        From representations ``(N, width)`` to one score a class, ``(N, C)``.
    classes
        The labels that the scores are of, sorted, shape ``(C,)``.
    """

    scores: Callable[[NDArray[Any]], NDArray[Any]]
    classes: NDArray[Any]

    def correct(self, x: NDArray[Any], names: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether each of ``x`` is told to be of its class, shape ``(N,)``."""
        return np.asarray(self.classes[self.scores(x).argmax(axis=1)] == names)

    def margins(self, x: NDArray[Any], names: NDArray[Any]) -> NDArray[np.float64]:
        """Score of the class that each is of less the best other, shape ``(N,)``: above 0 where correct."""
        scores = self.scores(x).astype(np.float64)
        own = np.searchsorted(self.classes, names)[:, None]
        true = np.take_along_axis(scores, own, axis=1)[:, 0]
        np.put_along_axis(scores, own, -np.inf, axis=1)
        found: NDArray[np.float64] = true - scores.max(axis=1)
        return found


def read_by_head(head: Callable[[Any], Any], x: NDArray[Any], device: torch.device) -> Tensor:
    """Logits ``(N, C)`` of representations ``(N, width)``, called where the head is.

    Parameters
    ----------
    head
        A module, or a function, which is called with float32 values on ``device``.
    x
        Representations.
    device
        Where a head is called that has no weights of its own.
    """
    rows = torch.as_tensor(np.asarray(x, dtype=np.float32), device=device_of(head, device))
    with torch.no_grad():
        return torch.as_tensor(call(head, rows))


def judge_of(
    head: Callable[[Any], Any] | None,
    x: NDArray[Any],
    names: NDArray[Any],
    seed: int,
    device: torch.device,
) -> Judge:
    """The model's own head where there is one, else a linear probe of the true representations.

    Parameters
    ----------
    head
        From a tensor ``(N, width)`` to logits ``(N, C)``; called where its weights are.
    device
        Where a head is called that has no weights of its own.
    x, names
        Last-point representations and their classes, which a probe is fitted to.
    seed
        Of the probe's held-out part.

    Raises
    ------
    RepdynError
        If a head meets labels that are not the numbers of its classes.
    """
    if head is None:
        probe = LinearProbe().fit(x, names, seed=seed)
        return Judge(probe.decision_function, probe.classes_)

    def scores(x: NDArray[Any]) -> NDArray[Any]:
        return as_array(read_by_head(head, x, device))

    if names.dtype.kind not in "iu":
        raise RepdynError("head answers with class numbers, so the labels must be integers")
    count = scores(x[:1]).shape[1]
    if names.min() < 0 or names.max() >= count:
        raise RepdynError(
            f"labels run from {names.min()} to {names.max()}, but the head has classes 0 to {count - 1}"
        )
    return Judge(scores, np.arange(count))
