"""What a hook makes of a representation: pooled by its layout, in memory of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from repdyn import devices
from repdyn.errors import RepdynError
from repdyn.tracing import layouts
from repdyn.tracing.hooks import Point
from repdyn.tracing.model import TracedModel
from repdyn.tracing.pooling import POOLINGS, Layout, Pooling, as_tokens, find_pooling

__all__ = ["WHOLE", "Reduction"]

WHOLE = "whole"
"""In place of a pooling: what the module gives, as :meth:`TracedModel.run_from` takes it."""


class Reduction:
    """Pools what the hooks of one model see, batch by batch; :class:`~repdyn.tracing.hooks.Hooks` calls it.

    Parameters
    ----------
    model
        Whose points are read.
    pool
        As :func:`repdyn.trace` takes it, or :data:`WHOLE`.
    """

    def __init__(self, model: TracedModel, pool: str | Pooling) -> None:
        self._is_auto = isinstance(pool, str) and pool == "auto"
        self.model = model
        self.pool = model.pooling if self._is_auto else pool
        self._pooling = None if self.pool in ("none", WHOLE) else find_pooling(self.pool)
        self.layouts: dict[str, Layout] = {}
        """Found by running the model, by name and number of call: ``blocks.0#0``."""
        self.mode = ""
        """``"shapes"``: only shapes are kept. ``"tentative"``: a layout that cannot be may be another."""
        self.shapes: dict[str, layouts.Shape] = {}
        """Of the representations of this pass, in either mode."""
        self.witness = ""
        """A point of which only the shape is looked at."""
        self.refused: RepdynError | None = None
        """What a tentative pass could not pool."""
        self.optional: frozenset[str] = frozenset()
        """Points that are asked for together with others, and left out where they cannot be read."""
        self.left_out: dict[str, str] = {}
        """Those of them that are left out, and why."""
        self.learning = True
        """Whether the first samples run: after them, no further point is left out."""
        self._count = 0
        self._called: Counter[str] = Counter()
        self._masks: dict[object, Tensor | None] = {}

    def begin(self, inputs: Any, count: int, device: torch.device, names: Iterable[str]) -> None:
        """Expect a pass over so many samples.

        Parameters
        ----------
        inputs
            What the model is called with, before it is moved: a mask on the CPU is looked at there.
        count
            Samples in it.
        device
            Where the model is.
        names
            The points that are read.
        """
        self._count = count
        self._called.clear()
        self.shapes = {}
        self.refused = None
        self._masks.clear()
        # Before the model runs: it may go on to change its inputs in place.
        for name in names if isinstance(inputs, Mapping) else ():
            key = self.model.points[name.partition("#")[0]].mask
            if key is None or key in self._masks:
                continue
            mask = key(inputs) if callable(key) else inputs.get(key)
            real = None if mask is None else mask.bool().clone()
            self._masks[key] = None if real is None or bool(real.all()) else devices.to(real, device)

    def __call__(self, name: str, point: Point, value: Tensor) -> Any:
        """A tensor, or :class:`~repdyn.tracing.pooling.Tokens` where tokens are kept."""
        key = f"{name}#{self._called[name]}"
        self._called[name] += 1
        if self.mode:
            self.shapes[key] = tuple(value.shape)
        if self.mode == "shapes" or name == self.witness or name in self.left_out:
            return None
        layout = self.layouts.get(key, point.layout)
        if value.ndim == 2 and point.trust != "declared":
            layout = "NC"
        try:
            return self._pooled(name, point, value, layout)
        except RepdynError as error:
            told = RepdynError(f"point {name!r}: {error}")
            if self.mode == "tentative" and point.trust != "declared" and value.ndim > 2:
                self.refused = told  # the layout may be another one
                return None
            if not self.leaves_out(name, told):
                raise told from None
            return None

    def leaves_out(self, name: str, error: RepdynError) -> bool:
        """Whether a point that cannot be read is one of many that are read where they can be."""
        base = name.partition("#")[0]
        if self.learning and base in self.optional:
            self.left_out.setdefault(base, str(error).removeprefix(f"point {base!r}: "))
        return base in self.left_out

    def _pooled(self, name: str, point: Point, value: Tensor, layout: Layout) -> Any:
        mask = self._masks.get(point.mask)
        axis = layout.index("N")
        if value.ndim <= axis or value.shape[axis] != self._count:
            raise RepdynError(
                f"gives shape {tuple(value.shape)} for {self._count} samples: no axis of it is the "
                "samples' (a module inside windows or groups?); read the block around it"
            )
        # Without positions, every pooling by name is the vector itself.
        flat = value.ndim == 2 and (layout == "NC" or "*" in layout) and isinstance(self.pool, str)
        if flat or self.pool == WHOLE:
            return value.clone()
        grid = value.ndim > 3  # which has no class token
        tokens = as_tokens(value, layout, mask, 0 if grid else point.prefix)
        if self._pooling is None:
            return replace(tokens, values=_owned(tokens.values, value))
        own = self._is_auto and self.pool == "cls" and grid
        pooled = POOLINGS["gap"](tokens) if own else self._pooling(tokens)
        if pooled.ndim != 2 or len(pooled) != self._count:
            raise RepdynError(
                f"pool: the function gave shape {tuple(pooled.shape)} at {name!r}, "
                f"expected ({self._count}, D)"
            )
        return _owned(pooled, value)


def _owned(kept: Tensor, value: Tensor) -> Tensor:
    """What is kept, in memory of its own: the model may go on to change its tensors in place."""
    shared = kept.untyped_storage().data_ptr() == value.untyped_storage().data_ptr()
    return kept.clone() if shared or kept._is_view() else kept
