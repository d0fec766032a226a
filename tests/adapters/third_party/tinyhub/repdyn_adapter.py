"""What makes tinyhub's networks traceable: all that repdyn asks of an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from repdyn import RepdynError, TracedModel, wrap
from repdyn.errors import nearest_names

__all__ = ["TinyHubAdapter"]


class TinyHubAdapter:
    """``tiny:two`` and ``tiny:three``."""

    scheme = "tiny"

    def load(self, name: str) -> TracedModel:
        """Load what stands after ``tiny:``."""
        import tinyhub  # only now: repdyn looks at every adapter, and most users need none but one

        if name not in tinyhub.NAMES:
            raise RepdynError(f"tiny:{name}: there is no such network; {nearest_names(name, tinyhub.NAMES)}")
        return self.wrap(tinyhub.pretrained(name))

    def recognizes(self, module: nn.Module) -> bool:
        """Whether a module is one of tinyhub's, told without importing it."""
        return type(module).__module__.partition(".")[0] == "tinyhub"

    def wrap(self, module: nn.Module) -> TracedModel:
        """A traced model: the stem and the stages, each declared as channels first."""
        names = ["stem", *[f"stages.{k}" for k in range(len(module.stages))]]
        return wrap(module, prepare=_stacked, head=module.head, points=dict.fromkeys(names, "NCHW"))


def _stacked(pictures: Sequence[Any]) -> Tensor:
    """Grey pictures as one batch."""
    return torch.as_tensor(np.stack([np.asarray(p, dtype=np.float32).reshape(1, 8, 8) for p in pictures]))
