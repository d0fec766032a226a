"""Stitching: model A's body, a translation, the rest of model B."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from repdyn.errors import RepdynError, nearest_names
from repdyn.translation.linear import LinearTranslation

if TYPE_CHECKING:
    from repdyn.tracing import TracedModel

__all__ = ["StitchedModel", "stitch"]

CHANNELS_SECOND = frozenset({"NCHW", "NCL", "NCDHW"})
"""Layouts whose channels are the second axis; in all others they are the last."""

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
        for name in ("matrix", "offset_a", "offset_b"):
            self.register_buffer(name, torch.as_tensor(getattr(translation, name), dtype=torch.float32))

    def translate(self, x: Tensor) -> Tensor:
        """A's representation as B's: pooled ``(N, D_a)``, or every token or place of an unpooled one."""
        matrix, before, after = (cast(Tensor, getattr(self, k)) for k in ("matrix", "offset_a", "offset_b"))
        second = self.points is not None and self._model_a.points[self.points[0]].layout in CHANNELS_SECOND
        x = x.to(matrix.dtype)
        if second:
            x = x.movedim(1, -1)
        if x.shape[-1] != len(before):
            raise RepdynError(
                f"stitch: the translation reads width {len(before)}, got shape {tuple(x.shape)}"
            )
        moved = (x - before) @ matrix + after
        return moved.movedim(-1, 1) if second else moved

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
    layouts = [model.points[point].layout for model, point in zip((model_a, model_b), points)]
    if layouts[0] != layouts[1]:
        raise RepdynError(
            f"stitch: {points[0]!r} is {layouts[0]} and {points[1]!r} is {layouts[1]}; "
            "choose points of one layout"
        )
    return StitchedModel(model_a, t, model_b, points)


def _whole(_name: str, _point: Any, value: Tensor) -> Tensor:
    return value.detach()


def _called(module: nn.Module, prepared: Any) -> object:
    if isinstance(prepared, Mapping):
        return module(**prepared)
    return module(*prepared) if isinstance(prepared, tuple) else module(prepared)
