"""Learning rates through a fit."""

from __future__ import annotations

import math

__all__ = ["SCHEDULES", "Cosine", "Plateau"]

_WARM_UP = 0.2  # of the steps, as in the published schedule
_START = 25.0  # the first rate is the highest divided by this
_FACTOR = 0.3  # by which a plateau lowers the rate
_CHECKS = 4  # looks at the validation part without improvement that make a plateau


class Cosine:
    """Up to the highest rate over a fifth of the steps, then down to zero along a cosine.

    Parameters
    ----------
    rate
        The highest.
    steps
        Of the whole fit.
    """

    def __init__(self, rate: float, steps: int) -> None:
        self.highest, self.steps = rate, steps

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from zero."""
        up = max(_WARM_UP * self.steps, 1.0)
        if step < up:
            part = 0.5 - 0.5 * math.cos(math.pi * step / up)
            return self.highest * (1 / _START + (1 - 1 / _START) * part)
        return self.highest * (0.5 + 0.5 * math.cos(math.pi * (step - up) / max(self.steps - up, 1.0)))

    def judged(self, improved: bool) -> None:
        """Told after each look at the validation part; this schedule does not listen."""

    def state(self) -> list[float]:
        """What a checkpoint must keep beside the step."""
        return []

    def restore(self, state: list[float]) -> None:
        """Take back what :meth:`state` gave."""


class Plateau:
    """The highest rate, lowered by a factor where the validation loss stops improving.

    Parameters
    ----------
    rate, steps
        As in :class:`Cosine`; the warm-up alone depends on the steps.
    """

    def __init__(self, rate: float, steps: int) -> None:
        self.highest, self.steps = rate, steps
        self.lowered, self.waited = 1.0, 0

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from zero."""
        # A tenth of the cosine's warm-up: a rate that then stays high needs only not to start at once.
        part = min(1.0, (step + 1) / max(0.1 * _WARM_UP * self.steps, 1.0))
        return self.highest * self.lowered * (1 / _START + (1 - 1 / _START) * part)

    def judged(self, improved: bool) -> None:
        """Told after each look at the validation part."""
        self.waited = 0 if improved else self.waited + 1
        if self.waited >= _CHECKS:
            self.lowered, self.waited = self.lowered * _FACTOR, 0

    def state(self) -> list[float]:
        """What a checkpoint must keep beside the step."""
        return [self.lowered, float(self.waited)]

    def restore(self, state: list[float]) -> None:
        """Take back what :meth:`state` gave."""
        self.lowered, self.waited = state[0], int(state[1])


SCHEDULES: dict[str, type[Cosine] | type[Plateau]] = {"cosine": Cosine, "plateau": Plateau}
"""Schedules by the name a fit knows them by."""
