"""What a traced model is: all that repdyn needs to know of a model, and no more."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from repdyn.errors import RepdynError, nearest_names
from repdyn.tracing.hooks import Point
from repdyn.tracing.pooling import Pooling

__all__ = ["TracedModel", "digest"]


@dataclass(frozen=True, eq=False, repr=False)
class TracedModel:
    """A model that can be traced; adapters build it.

    Attributes
    ----------
    name
        As a user says it, ``"timm:resnet18"``.
    module
        What runs: called with the prepared inputs, positionally, or by keyword where they are a mapping.
    points
        All that can be read, by name.
    default_points
        What is read unless something else is asked for: the output of every block, then the pooled last.
    prepare
        From what a user has (strings, pictures, arrays), a list of samples, to a batch of model inputs.
    pooling
        What ``pool="auto"`` means: what the model's own head, or its users, pool by.
    final
        The point from which ``head`` goes on, pooled by ``pooling``; the last of the default points.
    head
        From the pooled last point ``(N, D)`` to logits ``(N, classes)``; None where the model has none.
    weights
        What the digest is taken of, where it is more than ``module``.
    choices
        Names for groups of points: ``"stages"``, ``"attention"``, ``"mlp"``.
    preprocessing
        How inputs are prepared, in words, for the record.
    lengths
        How long samples are to the model, in tokens: those of nearly equal length share a batch. None
        where it cannot tell.
    """

    name: str
    module: nn.Module
    points: Mapping[str, Point]
    default_points: tuple[str, ...]
    prepare: Callable[[Sequence[Any]], Any]
    pooling: str | Pooling = "mean"
    final: str | None = None
    head: Callable[[Tensor], Tensor] | None = None
    weights: nn.Module | None = None
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    preprocessing: str = ""
    lengths: Callable[[Sequence[Any]], Sequence[int]] | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of names, types, shapes and bytes of all weights."""
        return digest(self.module if self.weights is None else self.weights)

    @property
    def device(self) -> torch.device:
        """Where the model's first weight lives; the CPU for a model without weights."""
        for tensor in [*self.module.parameters(), *self.module.buffers()]:
            return tensor.device
        return torch.device("cpu")

    def find_points(self, points: str | Sequence[str] | None = None) -> tuple[str, ...]:
        """The names that a choice of points stands for, in the order of the model's modules.

        Parameters
        ----------
        points
            None or ``"blocks"`` for the default points; ``"all"``; one of :attr:`choices`; a name; a
            pattern (``blocks.*.attn``, where ``*`` stays within one step of the name and ``**`` does
            not); or a list of those. ``name#2`` is the third call of a module that is called several
            times in one pass.

        Raises
        ------
        RepdynError
            If something stands for no point; lists the nearest names.
        """
        if points is None or points == "blocks":
            return self.default_points
        wanted = [points] if isinstance(points, str) else list(points)
        if not wanted:
            raise RepdynError("points: the list is empty; leave it out for the output of every block")
        found: dict[str, None] = {}
        for name in wanted:
            found.update(dict.fromkeys(self._matching(name)))
        position = {name: number for number, name in enumerate(self.points)}
        return tuple(sorted(found, key=lambda name: position[name.partition("#")[0]]))

    def _matching(self, name: str) -> Sequence[str]:
        if not isinstance(name, str):
            raise RepdynError(f"points: expected names, got {name!r}")
        if name == "blocks":
            return self.default_points
        if name == "all":
            return tuple(self.points)
        if name in self.choices:
            return self.choices[name]
        base, _, call = name.partition("#")
        if base in self.points and (not call or call.isdigit()):
            return (name,)
        if "*" in name or "?" in name:
            matches = [known for known in self.points if _matches(known, name)]
            if matches:
                return matches
        raise RepdynError(
            f"points: {self.name} has no point {name!r}; {nearest_names(name, [*self.points, *self.choices])}"
        )

    def __repr__(self) -> str:
        head = "a head" if self.head is not None else "no head"
        shown = self.default_points
        names = ", ".join(shown if len(shown) <= 4 else [*shown[:2], "…", shown[-1]])
        return f"TracedModel({self.name}: {len(self.points)} points, default {len(shown)} ({names}), {head})"


def digest(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of a module's weights and buffers.

    Examples
    --------
    >>> digest(nn.Identity())[:8]
    'e3b0c442'
    """
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not isinstance(tensor, Tensor):
            continue
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        flat = tensor.detach().to("cpu").contiguous().reshape(-1)
        total.update(flat.view(torch.uint8).numpy().data)
    return total.hexdigest()


def _matches(name: str, pattern: str) -> bool:
    if "**" in pattern:
        return fnmatchcase(name, pattern.replace("**", "*"))
    steps, wanted = name.split("."), re.split(r"\.", pattern)
    return len(steps) == len(wanted) and all(map(fnmatchcase, steps, wanted))
