"""Load any torch module by its import path, or wrap one."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from repdyn.errors import RepdynError, nearest_names
from repdyn.tracing.hooks import Point
from repdyn.tracing.model import TracedModel
from repdyn.tracing.pooling import LAYOUTS
from repdyn_adapters import nnsight
from repdyn_adapters.blocks import channels_of, find_blocks, find_choices, own_layout
from repdyn_adapters.shared import stack, stack_wide

__all__ = ["ModuleAdapter"]

_CONVOLUTIONS = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm)
WHOLE = "output"
"""Point name of the model's output, unless a part has this name."""


class ModuleAdapter:
    """``module:package.attr``: a module, or a function without arguments that makes one."""

    scheme = "module"

    def load(self, name: str) -> TracedModel:
        """Import a module, or call what is imported for one.

        Parameters
        ----------
        name
            ``package.module.attr`` or ``package.module:attr``; the attribute is a
            :class:`torch.nn.Module`, a :class:`~repdyn.tracing.TracedModel`, or a function without
            arguments that returns one.

        Raises
        ------
        RepdynError
            If there is no such module or attribute, or it is something else.
        """
        path, _, attribute = name.replace(":", ".").rpartition(".")
        if not path:
            raise RepdynError(f"model 'module:{name}': expected module:PACKAGE.ATTRIBUTE")
        try:
            home = importlib.import_module(path)
        except Exception as error:  # an import may raise any exception
            raise RepdynError(
                f"model 'module:{name}': cannot import {path!r} ({_one_line(error)})"
            ) from error
        if not hasattr(home, attribute):
            raise RepdynError(
                f"model 'module:{name}': {path} has no {attribute!r}; {nearest_names(attribute, dir(home))}"
            )
        model = getattr(home, attribute)
        if not isinstance(model, (nn.Module, TracedModel)) and callable(model):
            try:
                model = model()
            except (Exception, SystemExit) as error:
                raise RepdynError(
                    f"model 'module:{name}': calling it failed ({_one_line(error)}); expected a "
                    "torch.nn.Module or a function without arguments that returns one"
                ) from error
        if isinstance(model, TracedModel):
            return model
        if not isinstance(model, nn.Module):
            raise RepdynError(
                f"model 'module:{name}': is a {type(model).__name__}, expected a torch.nn.Module or a "
                "function that returns one"
            )
        return self.wrap(model, name=f"module:{name}")

    def wrap(
        self,
        module: nn.Module,
        prepare: Callable[[Sequence[Any]], Any] | None = None,
        head: Callable[[Tensor], Tensor] | None = None,
        points: Sequence[str] | Mapping[str, str] | None = None,
        name: str | None = None,
    ) -> TracedModel:
        """Make any module traceable; see :func:`repdyn.wrap`."""
        if any(torch.nn.parameter.is_lazy(tensor) for tensor in [*module.parameters(), *module.buffers()]):
            raise RepdynError("model: has lazy weights without a shape; call it once on a batch beforehand")
        known = {path: _point(path, part) for path, part in module.named_modules() if path}
        known.setdefault(WHOLE, _point("", module))
        if isinstance(points, str):
            raise RepdynError(f"points: expected a list of names, got {points!r}; write [{points!r}]")
        chosen = tuple(points) if points is not None else find_blocks(module) or (WHOLE,)
        for path in chosen:
            if path not in known:
                raise RepdynError(f"points: the model has no module {path!r}; {nearest_names(path, known)}")
        if isinstance(points, Mapping):
            for path, layout in points.items():
                if layout not in LAYOUTS:
                    raise RepdynError(f"points: {path!r} has layout {layout!r}; expected one of {LAYOUTS}")
                known[path] = Point(path, layout)
        return TracedModel(
            name=name or type(module).__name__,
            module=module,
            points=known,
            default_points=chosen,
            prepare=prepare or (stack_wide if _is_double(module) else stack),
            pooling="mean",
            final=chosen[-1],
            head=head,
            choices=find_choices(module, chosen),
            preprocessing="the user's own" if prepare else "stacked",
        )

    def interventions(self) -> ModuleType:
        """The module whose ``run_from`` and ``patched`` change forward passes of any module."""
        return nnsight


def _is_double(module: nn.Module) -> bool:
    """Whether the first floating or complex weight has double precision."""
    kinds = [
        weight.dtype for weight in module.parameters() if weight.is_floating_point() or weight.is_complex()
    ]
    return bool(kinds) and kinds[0] in (torch.float64, torch.complex128)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _point(path: str, part: nn.Module) -> Point:
    """A module as a point; its layout is declared by the layer's type, or guessed and then checked."""
    own = own_layout(part)
    if own is not None:
        return Point(path, own)
    # Without further evidence: channels are axis 1 if the module holds convolutions, else the last axis.
    convolves = any(isinstance(inside, _CONVOLUTIONS) for inside in part.modules())
    return Point(path, "NC*" if convolves else "N*C", channels=channels_of(part), trust="guess")
