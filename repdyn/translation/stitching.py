"""Stitching: model A's body, a translation, the rest of model B."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from repdyn.errors import RepdynError, nearest_names
from repdyn.translation.linear import LinearTranslation

if TYPE_CHECKING:
    from repdyn.tracing import TracedModel

__all__ = ["StitchedModel", "stitch"]

READ_AT_ONCE = 64
"""Inputs in one forward pass of :meth:`StitchedModel.predict` into a middle layer."""


class StitchedModel(nn.Module):
    """Reads A's representation and answers through B; built by :func:`stitch`.

    The translation is held as buffers: it moves with ``.to(device)`` and is saved in ``state_dict``, and
    fine-tuning leaves it alone.

    Attributes
    ----------
    verdict
        Of the translation.
    points
        Where A is left and B entered; None for A's pooled last point and B's head.
    """

    def __init__(
        self,
        model_a: TracedModel,
        translation: LinearTranslation,
        model_b: TracedModel,
        points: tuple[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._model_a, self._model_b = model_a, model_b
        self.verdict, self.points = translation.verdict, points
        self._orders: list[tuple[int, int] | None] = [_order(*end) for end in self._ends()]
        for name in ("matrix", "offset_a", "offset_b"):
            self.register_buffer(name, torch.as_tensor(getattr(translation, name), dtype=torch.float32))

    def translate(self, x: Tensor) -> Tensor:
        """A's representation as B's: pooled ``(N, D_a)``, or every token or place of an unpooled one."""
        matrix, before, after = (cast(Tensor, getattr(self, k)) for k in ("matrix", "offset_a", "offset_b"))
        x = x.to(matrix.dtype)
        second = self.points is not None and x.ndim > 2 and self._channels(x, len(before), len(after)) == 1
        if second:
            x = x.movedim(1, -1)
        if x.shape[-1] != len(before):
            raise RepdynError(
                f"stitch: the translation reads width {len(before)}, got shape {tuple(x.shape)}"
            )
        moved = (x - before) @ matrix + after
        return moved.movedim(-1, 1) if second else moved

    def _ends(self) -> list[tuple[TracedModel, str]]:
        return list(zip((self._model_a, self._model_b), self.points or (), strict=False))

    def _channels(self, x: Tensor, before: int, after: int) -> int:
        """The axis of A's channels: known, or the only one that has the width that the translation reads."""
        axis = None if self._orders[0] is None else self._orders[0][1]
        if axis is None:
            fitting = [k for k in (1, x.ndim - 1) if x.shape[k] == before]
            axis = fitting[0] if len(fitting) == 1 else None if fitting else -1
        # Entered with its axes in another order, B would answer where these are of one length.
        moved = list(x.shape)
        if axis is not None:
            moved[axis] = after
        if axis is None or (self._orders[1] is None and moved[1] == moved[-1]):
            name = (self.points or ("", ""))[0 if axis is None else 1]
            raise RepdynError(
                f"stitch: at {name!r} shape {tuple(moved)} does not tell which axis holds the channels; "
                "call predict with inputs once, which finds it out, or wrap the model with Points of a layout"
            )
        return axis

    def _find_orders(self, samples: Sequence[Any]) -> None:
        """Settle by passes at other sizes which axes hold the channels, where that is not declared."""
        from repdyn.tracing.passes import Passes

        for number, (model, name) in enumerate(self._ends()):
            if self._orders[number] is None:
                with Passes(model, [name], "none", samples[:2], np.dtype(np.float32), None) as passes:
                    spread = name in passes.token_points
                    self._orders[number] = _order(passes.model, name, known=True) if spread else (0, -1)
        if self._orders[0] != self._orders[1] and self.points is not None:
            raise RepdynError(_other_layouts(self.points, self._orders))

    def forward(self, x: Tensor, inputs: Any = None) -> Tensor:
        """B's logits for A's representation.

        Parameters
        ----------
        x
            A's pooled last point ``(N, D_a)``; stitched between ``points``, A's unpooled representation.
        inputs
            B's prepared inputs, where B is entered in the middle and something passes by that point, such
            as the mask of padded texts.
        """
        if self.points is not None:
            return self._model_b.run_from(self.points[1], self.translate(x), inputs)
        if self._model_b.head is None:  # refused by stitch; here for the type checker
            raise RepdynError("stitch: model B has no head")
        return self._model_b.head(self.translate(x))

    def predict(self, inputs: Any) -> Tensor:
        """B's logits for raw inputs (strings, pictures, arrays), read by A."""
        device = cast(Tensor, self.matrix).device
        if self.points is None:
            from repdyn.tracing import trace

            paths = trace(self._model_a, inputs, points=[self._model_a.default_points[-1]])
            last = torch.as_tensor(paths[paths.points[-1]][:])
            with torch.no_grad():
                return cast(Tensor, self(last.to(device)))
        samples = list(inputs)
        if not samples:
            raise RepdynError("stitch: there are no inputs to predict")
        parts = []
        if None in self._orders:
            self._find_orders(samples)
        with torch.no_grad():
            for start in range(0, len(samples), READ_AT_ONCE):
                batch = samples[start : start + READ_AT_ONCE]
                read = self._read(batch).to(device)
                parts.append(self(read, self._model_b.prepare(batch)))
        return torch.cat(parts)

    def _read(self, samples: Sequence[Any]) -> Tensor:
        """A's unpooled representation, by a hook."""
        from repdyn.tracing.hooks import evaluating, reading

        if self.points is None:
            raise RepdynError("stitch: A is read unpooled between points only")
        model, name = self._model_a, self.points[0]
        prepared = model.prepare(samples)
        with evaluating(model.module), reading(model.module, {name: model.points[name]}, _whole) as reader:
            found = reader.run(lambda: _called(model.module, prepared))
        if len(found) != 1:
            raise RepdynError(f"stitch: point {name!r} is passed {len(found)} times; choose one passed once")
        return cast(Tensor, next(iter(found.values())))


def stitch(
    model_a: TracedModel,
    t: LinearTranslation,
    model_b: TracedModel,
    points: tuple[str, str] | None = None,
) -> StitchedModel:
    r"""Let model B answer for model A, through its head or from a middle layer on.

    .. math:: x \mapsto h_B\big(t(f_A(x))\big)

    Parameters
    ----------
    model_a
        The model that reads the inputs.
    t
        From A's pooled last point to B's; between ``points``, from the pooled representation at the one to
        that at the other. A mean over tokens or places commutes with an affine map, so what was fitted on
        pooled points translates every one of them.
    model_b
        The model that answers. Through its head it must have one; from a middle layer on it needs
        ``run_from``.
    points
        Where A is left and B entered, both unpooled, of one layout and one number of tokens or places: two
        vision models at one resolution, two language models of one tokenizer.

    Returns
    -------
    StitchedModel

    Raises
    ------
    RepdynError
        If B has no head; if a point is unknown, or the layouts differ.

    References
    ----------
    Lenc, K. and Vedaldi, A. (2015). Understanding image representations by measuring their equivariance
    and equivalence. CVPR.
    """
    if points is None:
        if model_b.head is None:
            raise RepdynError(
                f"stitch: {model_b.name} has no head; wrap it with one: repdyn.wrap(module, head=classifier)"
            )
        return StitchedModel(model_a, t, model_b)
    for model, point in zip((model_a, model_b), points):
        if point not in model.points:
            raise RepdynError(
                f"stitch: {model.name} has no point {point!r}; {nearest_names(point, model.points)}"
            )
    if not callable(getattr(model_b, "run_from", None)):
        raise RepdynError(f"stitch: {model_b.name} cannot be run from a middle layer; it has no run_from")
    orders = [_order(model, point) for model, point in zip((model_a, model_b), points)]
    if None not in orders and orders[0] != orders[1]:
        raise RepdynError(_other_layouts(points, orders))
    return StitchedModel(model_a, t, model_b, points)


def _order(model: TracedModel, name: str, known: bool = False) -> tuple[int, int] | None:
    """The axes of a point's samples and channels; None where its layout is not certain and not yet found."""
    point = model.points[name]
    if point.trust != "declared" and not known:
        return None
    layout = point.layout
    return layout.index("N"), 1 if layout[1] == "C" and layout != "NC" else -1


def _other_layouts(points: tuple[str, str], orders: Sequence[tuple[int, int] | None]) -> str:
    words = {0: "first", 1: "second", -1: "last"}
    told = [
        f"{name!r} has its samples on the {words[order[0]]} axis and its channels on the {words[order[1]]}"
        for name, order in zip(points, orders, strict=True)
        if order is not None
    ]
    return f"stitch: {' and '.join(told)}; choose points of one layout"


def _whole(_name: str, _point: Any, value: Tensor) -> Tensor:
    return value.detach()


def _called(module: nn.Module, prepared: Any) -> object:
    if isinstance(prepared, Mapping):
        return module(**prepared)
    return module(*prepared) if isinstance(prepared, tuple) else module(prepared)
