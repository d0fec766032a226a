"""A field that knows what it has cost."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from repdyn.fields.field import LatentField

__all__ = ["CountedField"]


class CountedField(LatentField):
    """A field that counts what it is asked, in evaluations of the map on one sample."""

    def __init__(self, step: Callable[[Tensor], Tensor], count: list[int], turns: int = 1) -> None:
        def counting(z: Tensor) -> Tensor:
            count[0] += turns * len(z)
            return step(z)

        super().__init__(counting)
        self.original, self.count, self.turns = step, count, turns

    def linearize(self, z: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        image, apply = super().linearize(z)

        def counting(direction: Tensor) -> Tensor:
            self.count[0] += self.turns * len(direction)
            return apply(direction)

        return image, counting

    def power(self, period: int) -> LatentField:
        return CountedField(LatentField(self.original).power(period).step, self.count, period)
