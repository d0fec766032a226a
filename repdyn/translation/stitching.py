"""Stitching: model A's body, a translation, the rest of model B."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from repdyn import devices
from repdyn.errors import RepdynError, nearest_names
from repdyn.tracing.hooks import in_evaluation
from repdyn.tracing.model import TracedModel
from repdyn.tracing.reduction import WHOLE
from repdyn.tracing.samples import as_samples, batches
from repdyn.tracing.spec import ModelSpec
from repdyn.translation.linear import LinearTranslation
from repdyn.translation.modules import affine, register_affine

__all__ = ["StitchedModel", "stitch"]

READ_AT_ONCE = 64
"""Inputs in one forward pass of :meth:`StitchedModel.predict`."""

Order = tuple[int, int]
"""The axes of samples and channels."""


class StitchedModel(nn.Module):
    """Reads A's representation and answers through B; built by :func:`stitch`.

    Both models (and B's head, where it is a module of its own) are submodules: ``.to``, ``.eval``,
    ``parameters`` and ``state_dict`` see them. The translation is held as buffers, on A's device at first, so
    that fine-tuning leaves it alone. A ``state_dict`` that holds the translation alone, as version 0.1 saved
    it, loads and leaves the models' weights as they are.

    Attributes
    ----------
    model_a, model_b
        The modules of both; None where a stand-in has none.
    verdict
        Of the translation.
    points
        Where A is left and B entered; None for A's pooled last point and B's head.
    """

    matrix: Tensor
    offset_a: Tensor
    offset_b: Tensor

    def __init__(
        self,
        model_a: TracedModel,
        translation: LinearTranslation,
        model_b: TracedModel,
        points: tuple[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._reads, self._answers = model_a, model_b
        self.verdict, self.points = translation.verdict, points
        self._orders: list[Order | None] = [_order(*end) for end in self._ends()]
        self.model_a, self.model_b = _whole(model_a), _whole(model_b)
        register_affine(self, translation, devices.device_of(self.model_a))
        self.head_b = model_b.head if isinstance(model_b.head, nn.Module) else None
        self.register_load_state_dict_pre_hook(_translation_alone)  # type: ignore[no-untyped-call]

    def translate(self, x: Tensor) -> Tensor:
        """A's representation as B's, pooled ``(N, D_a)`` or every token or place of an unpooled one.

        On the device and in the type of ``x``.
        """
        moved: Tensor = devices.as_given(self._translated(x), x)
        return moved

    def _translated(self, x: Tensor) -> Tensor:
        """The same where the translation is and as wide as it is: what B takes next rounds once."""
        second = self.points is not None and x.ndim > 2 and self._channels(x) == 1
        moved = affine(x.movedim(1, -1) if second else x, self.matrix, self.offset_a, self.offset_b)
        return moved.movedim(-1, 1) if second else moved

    def _ends(self) -> list[tuple[TracedModel, str]]:
        return list(zip((self._reads, self._answers), self.points or (), strict=False))

    def _channels(self, x: Tensor) -> int:
        """The axis of A's channels: known, or the only one that has the width that the translation reads."""
        before, after = len(self.offset_a), len(self.offset_b)
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
        for number, (model, name) in enumerate(self._ends()):
            if self._orders[number] is None:
                with model.reader([name], WHOLE) as read:
                    found = read(samples)
                spread = any(value.ndim > 2 for value in found.values())
                self._orders[number] = _order(read.model, name, known=True) if spread else (0, -1)
        if self._orders[0] != self._orders[1] and self.points is not None:
            raise RepdynError(_other_layouts(self.points, self._orders))

    def forward(self, x: Tensor, inputs: Any = None) -> Tensor:
        """B's logits for A's representation, on the device and in the type of ``x``.

        Parameters
        ----------
        x
            A's pooled last point ``(N, D_a)``; stitched between ``points``, A's unpooled representation.
        inputs
            B's prepared inputs, where B is entered in the middle and something passes by that point, such
            as the mask of padded texts.
        """
        moved, other = self._translated(x), self._answers
        if self.points is not None:
            logits = other.run_from(self.points[1], moved, inputs)
        elif other.head is None:  # refused by stitch; here for the type checker
            raise RepdynError("stitch: model B has no head")
        else:
            logits = devices.call(other.head, devices.to(moved, _device(other, moved)))
        answer: Tensor = devices.as_given(logits, x)
        return answer

    def predict(self, inputs: Any) -> Tensor:
        """B's logits for raw inputs (strings, pictures, arrays), read by A: both in evaluation mode.

        Raises
        ------
        RepdynError
            If there are no inputs, A passes its point more than once, or the points are of two layouts.
        """
        samples, model = as_samples(inputs), self._reads
        plan = batches(samples, range(len(samples)), READ_AT_ONCE, model.lengths, model.padded)
        parts = []
        if None in self._orders:
            self._find_orders(samples.take(np.arange(min(2, len(samples)))))
        name, pool = (model.default_points[-1], "auto") if self.points is None else (self.points[0], WHOLE)
        with torch.no_grad(), in_evaluation(self), model.reader([name], pool) as read:
            for index in plan:
                taken = samples.take(index)
                found = read(taken)
                if len(found) != 1 and self.points is not None:
                    raise RepdynError(
                        f"stitch: point {name!r} is passed {len(found)} times; choose one passed once"
                    )
                beside = None if self.points is None else self._answers.prepare(taken)
                parts.append(self(found[read.points[-1]], beside))
        return torch.cat(parts)[torch.as_tensor(np.argsort(np.concatenate(plan)))]


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


def _order(model: ModelSpec, name: str, known: bool = False) -> Order | None:
    """The axes of a point's samples and channels; None where its layout is not certain and not yet found."""
    point = model.points[name]
    if point.trust != "declared" and not known:
        return None
    layout = point.layout
    return layout.index("N"), 1 if layout[1] == "C" and layout != "NC" else -1


def _other_layouts(points: tuple[str, str], orders: Sequence[Order | None]) -> str:
    words = {0: "first", 1: "second", -1: "last"}
    told = [
        f"{name!r} has its samples on the {words[order[0]]} axis and its channels on the {words[order[1]]}"
        for name, order in zip(points, orders, strict=True)
        if order is not None
    ]
    return f"stitch: {' and '.join(told)}; choose points of one layout"


def _whole(model: TracedModel) -> nn.Module | None:
    """All of a model's weights, with those that its head holds and that what runs does not."""
    found = getattr(model, "weights", None) or getattr(model, "module", None)
    return found if isinstance(found, nn.Module) else None


def _device(model: TracedModel, x: Tensor) -> torch.device:
    """Where a model is that answers; a stand-in without a module is where it is asked."""
    module = getattr(model, "module", None)
    return devices.device_of(module) if isinstance(module, nn.Module) else x.device


def _translation_alone(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Version 0.1 saved the translation and neither model: theirs stay as they are."""
    own = {f"{prefix}{name}": value for name, value in module.state_dict().items()}
    models = tuple(f"{prefix}{part}." for part in ("model_a", "model_b", "head_b"))
    if not any(name.startswith(models) for name in state):
        state.update({name: value for name, value in own.items() if name.startswith(models)})
