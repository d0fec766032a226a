"""Loading and wrapping models: the adapter is selected by the scheme of a name, or by the module.

An adapter is a class in the entry-point group ``repdyn.adapters``, named by its scheme. Any installed package
can provide one:

.. code-block:: toml

    [project.entry-points."repdyn.adapters"]
    myhub = "my_package.repdyn:MyHubAdapter"

makes ``repdyn.load("myhub:NAME")`` call ``MyHubAdapter().load("NAME")``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from repdyn.devices import check_device
from repdyn.errors import RepdynError, nearest_names
from repdyn.tracing.model import TracedModel
from repdyn.tracing.plugins import adapters

__all__ = ["Adapter", "load", "traced", "wrap"]


class Adapter(Protocol):
    """Makes models of one library traceable.

    ``recognizes`` is optional: an adapter without it only loads by name.
    """

    scheme: str

    def load(self, name: str, **options: Any) -> TracedModel:
        """Load the model of a name without its ``scheme:``."""

    def recognizes(self, module: nn.Module) -> bool:
        """Whether :meth:`wrap` supports the module's library, without importing that library."""

    def wrap(self, module: nn.Module) -> TracedModel:
        """Make a recognized module traceable."""


def load(spec: str, *, device: torch.device | str | None = None, **options: Any) -> TracedModel:
    """Load a model by name.

    Parameters
    ----------
    spec
        ``timm:NAME[@CHECKPOINT]``, ``hf:NAME_OR_DIR``, ``module:package.attr``, ``packaged:NAME``, or
        the scheme of any other installed adapter.
    device
        Device of the loaded model; default: that of the adapter, usually the CPU.
    options
        Further arguments of the adapter's ``load``. ``hf`` passes them on to ``from_pretrained``
        (``device_map="auto"``, ``dtype``, ``quantization_config``).

    Returns
    -------
    TracedModel

    Raises
    ------
    RepdynError
        If the scheme or the name is unknown (the message lists the schemes), or the device cannot be used.
    """
    target = None if device is None else check_device(device)
    scheme, colon, name = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    known = adapters()
    if not colon or not name:
        raise RepdynError(
            f"model {spec!r}: expected SCHEME:NAME, with a scheme of {', '.join(sorted(known))}"
        )
    if scheme not in known:
        raise RepdynError(
            f"model {spec!r}: there is no scheme {scheme!r}, only {', '.join(sorted(known))}; "
            + nearest_names(scheme, known, 1)
        )
    adapter: Adapter = known[scheme].load()()
    try:
        model = adapter.load(name, **options)
    except TypeError:
        # Without options the fault lies within the adapter, and transformers takes options of any name.
        if not options or scheme == "hf":
            raise
        raise RepdynError(f"model {spec!r}: {scheme} takes no {', '.join(options)}") from None
    return model if target is None else model.to(target)


def wrap(
    module: nn.Module,
    prepare: Callable[[Sequence[Any]], Any] | None = None,
    head: Callable[[Tensor], Tensor] | None = None,
    points: Sequence[str] | Mapping[str, str] | None = None,
) -> TracedModel:
    """Make any module traceable.

    Parameters
    ----------
    module
        Any :class:`torch.nn.Module`.
    prepare
        Function from a list of samples to the arguments of the module: a tensor, a tuple of positional, or a
        mapping of keyword arguments. Default: tensors and arrays are stacked.
    head
        Function from the pooled last point to logits.
    points
        The default points, in any order: names, or names with the layout of each (``"NCHW"``). Default:
        the outputs of the longest chain of sibling modules of one type.

    Returns
    -------
    TracedModel

    Raises
    ------
    RepdynError
        If it is not a module, or a point is not one of its modules.
    """
    if not isinstance(module, nn.Module):
        raise RepdynError(f"model: expected a torch.nn.Module, got {type(module).__name__}")
    module = _unwrapped(module)
    adapter: Any = adapters()["module"].load()()
    result: TracedModel = adapter.wrap(module, prepare=prepare, head=head, points=points)
    return result


def traced(model: TracedModel | nn.Module | str) -> TracedModel:
    """A traced model from a traced model, a module of any library, or a name.

    Raises
    ------
    RepdynError
        If it is none of these, or no adapter can load or wrap it.
    """
    if isinstance(model, TracedModel):
        return model
    if isinstance(model, str):
        return load(model)
    if isinstance(model, nn.Module):
        model = _unwrapped(model)
        for entry in adapters().values():
            if entry.name == "module":
                continue
            adapter = entry.load()()
            if _recognizes(adapter, model):
                result: TracedModel = adapter.wrap(model)
                return result
        return wrap(model)
    raise RepdynError(
        f"model: expected a TracedModel, a torch.nn.Module or a name such as 'timm:resnet18', "
        f"got {type(model).__name__}"
    )


def _recognizes(adapter: Any, module: nn.Module) -> bool:
    """Whether an adapter knows the library of a module; one without the method does not."""
    if hasattr(adapter, "recognizes"):
        return bool(adapter.recognizes(module))
    if hasattr(adapter, "recognises"):
        kind = type(adapter).__qualname__
        warnings.warn(f"{kind}.recognises was renamed recognizes", DeprecationWarning, stacklevel=2)
        return bool(adapter.recognises(module))
    return False


def _unwrapped(module: nn.Module) -> nn.Module:
    """The model inside the wrappers of torch.compile, data parallelism, PEFT and TransformerLens.

    Low-rank and similar adapters of PEFT are part of the inner model; learned prompts are not.
    """
    while True:
        kinds = {kind.__name__ for kind in type(module).__mro__}
        if isinstance(module, torch.jit.ScriptModule):
            raise RepdynError(
                "model: is scripted (torch.jit), so the outputs of its parts cannot be read; pass the module "
                "that it was made from"
            )
        inner = getattr(module, "_orig_mod", None)
        if inner is None and isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = module.module
        if inner is None and kinds & {"PeftModel", "PeftMixedModel"}:
            if getattr(getattr(module, "active_peft_config", None), "is_prompt_learning", False):
                raise RepdynError(
                    "model: PEFT's learned prompts cannot be traced; wrap its base model instead"
                )
            # A mixed model, of several kinds of adapters, has no get_base_model.
            peft: Any = module
            inner = peft.get_base_model() if hasattr(peft, "get_base_model") else peft.base_model.model
        if inner is None and "TransformerBridge" in kinds:
            inner = module.original_model
        if not isinstance(inner, nn.Module):
            return module
        module = inner
