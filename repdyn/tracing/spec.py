"""Specification of a traceable model: its module, points, preparation of inputs, pooling and head."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Self

import torch
from torch import Tensor, nn

from repdyn.devices import check_device, device_of
from repdyn.errors import RepdynError, nearest_names
from repdyn.tracing.hooks import Point
from repdyn.tracing.identity import Unhashable, fingerprint, hash_tensor
from repdyn.tracing.pooling import Pooling

__all__ = ["ModelSpec", "digest", "stands_for_many"]


@dataclass(frozen=True, eq=False, repr=False)
class ModelSpec:
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
    own_logits
        From prepared inputs to the logits that the whole model gives, which ``head`` is checked against
        when a trace begins; None where the model says nothing of them.
    choices
        Names for groups of points: ``"stages"``, ``"attention"``, ``"mlp"``.
    preprocessing
        How inputs are prepared, in words, for the record.
    blank
        From a number of positions (tokens) to one sample without content, as ``prepare`` takes it; what
        :meth:`run_from` starts from where it is given no inputs. None where only the user knows.
    lengths
        How long samples are to the model, in tokens: those of nearly equal length share a batch. None
        where it cannot tell.
    padded
        Whether shorter samples may be padded to the length of longer ones. Where the model takes no mask of
        padding, a batch holds samples of one length.
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
    own_logits: Callable[[Any], Any] | None = None
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    preprocessing: str = ""
    blank: Callable[[int], Tensor] | None = None
    lengths: Callable[[Sequence[Any]], Sequence[int]] | None = None
    padded: bool = True

    @property
    def digest(self) -> str:
        """SHA-256 of names, types, shapes and bytes of all weights, as they are now."""
        return digest(self.module if self.weights is None else self.weights)

    @property
    def device(self) -> torch.device:
        """Where the model's first weight lives; the CPU for a model without weights.

        Where accelerate keeps weights elsewhere until they are needed (a device map), the device on which
        it runs the model's first part.
        """
        return device_of(self.module)

    def to(self, device: torch.device | str) -> Self:
        """Move the model, with its head where that is a module of its own, to a device; it stays there.

        Returns
        -------
        TracedModel
            Itself.

        Raises
        ------
        RepdynError
            If there is no such device, or the model cannot be moved to it.
        """
        there = check_device(device)
        for part in self.parts:
            try:
                part.to(there)
            except (RuntimeError, NotImplementedError) as error:
                reason = str(error).splitlines()[0]
                raise RepdynError(
                    f"device {str(device)!r}: {self.name} cannot be moved there ({reason})"
                ) from None
        return self

    @property
    def parts(self) -> tuple[nn.Module, ...]:
        """The modules that make up the model: what runs, all its weights, and a head of its own."""
        held = (self.module, self.weights, self.head)
        return tuple({id(part): part for part in held if isinstance(part, nn.Module)}.values())

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
        points = f"{len(self.points)} points, default {len(shown)} ({names})"
        return f"{type(self).__name__}({self.name}: {points}, {head})"


def digest(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of a module's weights and buffers.

    What quantised modules keep packed beside them counts as weights.

    Examples
    --------
    >>> digest(nn.Identity())[:8]
    'e3b0c442'
    """
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        total.update(f"{name}|".encode())
        if not isinstance(tensor, Tensor):
            total.update(_packed(name, tensor).encode())
            continue
        hash_tensor(total, _offloaded(module, name) if tensor.device.type == "meta" else tensor)
    return total.hexdigest()


def stands_for_many(point: str) -> bool:
    """Whether a name is that of all points, or a pattern: what of them can be read is meant."""
    return point == "all" or "*" in point or "?" in point


def _packed(name: str, state: Any) -> str:
    try:
        return fingerprint(state)
    except Unhashable as error:
        raise RepdynError(f"model: its state {name!r} cannot be hashed ({error})") from None


def _offloaded(module: nn.Module, name: str) -> Tensor:
    """A weight that accelerate keeps in memory or on disk and puts in place while its module runs."""
    part, _, own = name.rpartition(".")
    kept = getattr(getattr(module.get_submodule(part), "_hf_hook", None), "weights_map", None)
    if kept is None:
        raise RepdynError(
            f"model: its weight {name!r} is on the meta device, and nothing says where it is kept"
        )
    found: Tensor = kept[own]
    return found


def _matches(name: str, pattern: str) -> bool:
    if "**" in pattern:
        return fnmatchcase(name, pattern.replace("**", "*"))
    steps, wanted = name.split("."), re.split(r"\.", pattern)
    return len(steps) == len(wanted) and all(map(fnmatchcase, steps, wanted))
