"""Stitching: model A's body, a translation, model B's head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from repdyn.errors import RepdynError
from repdyn.translation.linear import LinearTranslation

if TYPE_CHECKING:
    from repdyn.tracing import TracedModel

__all__ = ["StitchedModel", "stitch"]


class StitchedModel(nn.Module):
    """Reads A's pooled last point and answers through B's head.

    Built by :func:`stitch`. The translation is held as buffers: it moves with ``.to(device)`` and is saved
    in ``state_dict``, and fine-tuning leaves it alone.
    """

    def __init__(self, model_a: TracedModel, translation: LinearTranslation, model_b: TracedModel) -> None:
        super().__init__()
        self._model_a, self._head = model_a, model_b.head
        self.verdict = translation.verdict
        for name in ("matrix", "offset_a", "offset_b"):
            self.register_buffer(name, torch.as_tensor(getattr(translation, name), dtype=torch.float32))

    def translate(self, x: Tensor) -> Tensor:
        """A's pooled last point ``(N, D_a)`` as B's ``(N, D_b)``."""
        matrix, before, after = (cast(Tensor, getattr(self, k)) for k in ("matrix", "offset_a", "offset_b"))
        return (x.to(matrix.dtype) - before) @ matrix + after

    def forward(self, x: Tensor) -> Tensor:
        """B's logits for A's pooled last point ``(N, D_a)``."""
        if self._head is None:  # refused by stitch; here for the type checker and for unpickled modules
            raise RepdynError("stitch: model B has no head")
        return self._head(self.translate(x))

    def predict(self, inputs: Any) -> Tensor:
        """B's logits for raw inputs (strings, pictures, arrays), read by A."""
        from repdyn.tracing import trace

        paths = trace(self._model_a, inputs, points=[self._model_a.default_points[-1]])
        last = torch.as_tensor(paths[paths.points[-1]][:])
        device = cast(Tensor, self.matrix).device
        with torch.no_grad():
            return cast(Tensor, self(last.to(device)))


def stitch(model_a: TracedModel, t: LinearTranslation, model_b: TracedModel) -> StitchedModel:
    """Let model B's head answer for model A.

    Parameters
    ----------
    model_a
        The model that reads the inputs.
    t
        From A's pooled last point to B's.
    model_b
        The model whose head answers; it must have one.

    Returns
    -------
    StitchedModel

    Raises
    ------
    RepdynError
        If B has no head.

    References
    ----------
    Lenc, K. and Vedaldi, A. (2015). Understanding image representations by measuring their equivariance
    and equivalence. CVPR.
    """
    if model_b.head is None:
        raise RepdynError(
            f"stitch: {model_b.name} has no head; wrap it with one: repdyn.wrap(module, head=classifier)"
        )
    return StitchedModel(model_a, t, model_b)
