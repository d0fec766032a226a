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
    """What tracing needs of a model: the fields that :class:`repdyn.TracedModel` documents.

    ``TracedModel`` adds reading and interventions. The reader takes this class, which lies below both.
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
        """SHA-256 of names, types, shapes and bytes of all current weights."""
        return digest(self.module if self.weights is None else self.weights)

    @property
    def device(self) -> torch.device:
        """Device of the model's first weight; the CPU for a model without weights.

        With a device map of accelerate, which loads weights when they are needed, the device on which the
        model's first part runs.
        """
        return device_of(self.module)

    def to(self, device: torch.device | str) -> Self:
        """Move the model to a device, with its head if that is a separate module.

        Returns
        -------
        TracedModel
            The model itself.

        Raises
        ------
        RepdynError
            If the device does not exist, or the model cannot be moved to it.
        """
        target = check_device(device)
        for part in self.parts:
            try:
                part.to(target)
            except (RuntimeError, NotImplementedError) as error:
                reason = str(error).splitlines()[0]
                raise RepdynError(
                    f"device {str(device)!r}: {self.name} cannot be moved there ({reason})"
                ) from None
        return self

    @property
    def parts(self) -> tuple[nn.Module, ...]:
        """The modules of the model: the one that runs, the one with all weights, and a separate head."""
        held = (self.module, self.weights, self.head)
        return tuple({id(part): part for part in held if isinstance(part, nn.Module)}.values())

    def find_points(self, points: str | Sequence[str] | None = None) -> tuple[str, ...]:
        """Names of the selected points, in the order of the model's modules.

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
            If an entry matches no point; the message lists similar names.
        """
        if points is None or points == "blocks":
            return self.default_points
        wanted = [points] if isinstance(points, str) else list(points)
        if not wanted:
            raise RepdynError("points: the list is empty; give None for the output of every block")
        selected: dict[str, None] = {}
        for name in wanted:
            selected.update(dict.fromkeys(self._matching(name)))
        position = {name: number for number, name in enumerate(self.points)}
        return tuple(sorted(selected, key=lambda name: position[name.partition("#")[0]]))

    def _matching(self, name: str) -> Sequence[str]:
        """Names of the points that one entry selects."""
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

    Packed weights of quantized modules are included.

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
    """Whether a name is ``"all"`` or a pattern, of which only the readable points are read."""
    return point == "all" or "*" in point or "?" in point


def _packed(name: str, state: Any) -> str:
    """Fingerprint of an entry of a state dictionary that is not a tensor."""
    try:
        return fingerprint(state)
    except Unhashable as error:
        raise RepdynError(f"model: its state {name!r} cannot be hashed ({error})") from None


def _offloaded(module: nn.Module, name: str) -> Tensor:
    """A weight that accelerate stores in memory or on disk and loads while its module runs."""
    part, _, own = name.rpartition(".")
    stored = getattr(getattr(module.get_submodule(part), "_hf_hook", None), "weights_map", None)
    if stored is None:
        raise RepdynError(
            f"model: its weight {name!r} is on the meta device and has no stored values; load the model with "
            "its weights"
        )
    weight: Tensor = stored[own]
    return weight


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern matches a name; ``*`` matches within one step, ``**`` across steps."""
    if "**" in pattern:
        return fnmatchcase(name, pattern.replace("**", "*"))
    steps, wanted = name.split("."), re.split(r"\.", pattern)
    return len(steps) == len(wanted) and all(map(fnmatchcase, steps, wanted))
