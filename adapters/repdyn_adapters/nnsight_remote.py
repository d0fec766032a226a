"""Interventions on a model that runs on another machine, through nnsight's ``remote`` option."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor

import repdyn
import repdyn_adapters
from repdyn.errors import RepdynError
from repdyn.tracing.model import TracedModel
from repdyn_adapters.interleaving import Change, final_point, interleaved, logits, positional_and_named
from repdyn_adapters.shared import quietly

__all__ = ["run_remote"]

_TASKS = {
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForSequenceClassification": "text-classification",
    "ForImageClassification": "image-classification",
}
"""The task that nnsight's servers need in addition to the name, by the suffix of the model's class."""


def run_remote(model: TracedModel, changes: Sequence[Change], remote: bool | str, inputs: Any) -> Tensor:
    """One forward pass of a model of the Hugging Face hub, run on the host given by ``remote``.

    The request holds the inputs, the changes as source, and the model's name; it brings back the final
    point, from which the local head gives the logits.

    Parameters
    ----------
    model
        Loaded by ``hf:NAME``.
    changes
        The changes; their functions may use torch and names that they define themselves.
    remote
        True for the host that nnsight is configured for, the address of another, or ``"local"``: the
        request is written and read back, and runs here.
    inputs
        Prepared inputs.

    Raises
    ------
    RepdynError
        If the model is not one of the hub's.
    """
    import nnsight

    scheme, _, name = model.name.partition(":")
    if scheme != "hf":
        raise RepdynError(f"remote: {model.name} cannot run remotely; only models by name, hf:NAME, can")
    for package in (repdyn, repdyn_adapters):
        nnsight.register(package)  # their source is sent with the request
    whole = model.module if model.weights is None else model.weights
    endings = [task for ending, task in _TASKS.items() if type(whole).__name__.endswith(ending)]
    with warnings.catch_warnings(), quietly():
        warnings.filterwarnings("ignore", "Module .* has a submodule named", UserWarning)
        warnings.filterwarnings("ignore", ".* was never reached: the loop asked", UserWarning)
        source = name.partition("#")[0]
        task = endings[0] if endings else "feature-extraction"
        root = nnsight.TransformersModel(source, task=task, **_preprocessor(source, model))
        # The traced module may be a part of the hub's model: the body of a language model, or one tower.
        own = [path for path, part in root._module.named_modules() if type(part) is type(model.module)]
        names = {part: path for path, part in model.module.named_modules()}
        envoys = {envoy.path.partition(".")[2]: envoy for envoy in root.modules()}

        def at(path: str) -> Any:
            return envoys[".".join(step for step in (own[0], path) if step)]

        steps = [(at(names[change.module]), change.way, change.calls, change.function) for change in changes]
        final = final_point(model)
        args, kwargs = positional_and_named(model, inputs)
        kept, problem = interleaved(root, steps, at(final.module), final.reads, args, kwargs, remote=remote)
    if problem is not None:
        raise problem
    return logits(model, kept, kwargs)


def _preprocessor(source: str, model: TracedModel) -> dict[str, Any]:
    """The preprocessor, which nnsight's wrapper needs and does not find with transformers 5."""
    from transformers import AutoImageProcessor, AutoTokenizer

    if getattr(model.module, "main_input_name", "") == "pixel_values":
        return {"image_processor": AutoImageProcessor.from_pretrained(source, trust_remote_code=False)}
    return {"tokenizer": AutoTokenizer.from_pretrained(source, trust_remote_code=False)}
