"""Load weights of transformers models, under a prefix if needed, and refuse incomplete checkpoints."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from repdyn.errors import RepdynError
from repdyn.tracing.model import TracedModel

__all__ = ["check_depth", "check_weights", "load_weights"]

MOST_LAYERS = 10_000
"""Maximum layers of one kind in a configuration. Published models have a few hundred."""

UNUSED = frozenset({"mask_token", "masked_spec_embed"})
"""Weights for masked positions, which occur in pretraining only."""


def check_depth(name: str, config: Any) -> None:
    """Raise if a configuration has implausibly many layers, before they are built.

    Parameters
    ----------
    name
        Name of the model, for the error message.
    config
        The configuration (``transformers.PretrainedConfig``).
    """
    for key, value in _numbers(config.to_dict()):
        if re.search(r"(layers?|depths?|blocks?|stages?|experts|cells?)$", key) and value > MOST_LAYERS:
            raise RepdynError(
                f"model 'hf:{name}': its config.json has {key} = {value}, more than {MOST_LAYERS}, which is "
                "above any published model; correct the file"
            )


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for own, part in value.items():
            yield from _numbers(part, str(own))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _numbers(part, key)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key, value


def load_weights(chosen: Any, folder: str, given: dict[str, Any], named: Any) -> tuple[Any, list[str]]:
    """A pretrained model and the names of its weights that the checkpoint lacks, which are random.

    Parameters
    ----------
    chosen
        The class that loads it.
    folder
        Its folder, or its name on the hub.
    given
        Further arguments of ``from_pretrained``.
    named
        The class that the configuration names, taken where ``chosen`` is another one and finds no weights
        for all of its parts; or None.
    """
    module, info = chosen.from_pretrained(folder, **given, output_loading_info=True)
    lacking = _lacking(info["missing_keys"])
    if not lacking:
        return module, list(info["missing_keys"])
    prefix = _prefix(lacking, info["unexpected_keys"], folder)
    if prefix is not None:
        mapping = {"^" + re.escape(prefix): ""}
        module, info = chosen.from_pretrained(folder, **given, key_mapping=mapping, output_loading_info=True)
        return module, list(info["missing_keys"])
    if named is not None and named is not type(module):
        other, again = named.from_pretrained(folder, **given, output_loading_info=True)
        if not _lacking(again["missing_keys"]):
            return other, list(again["missing_keys"])
    return module, list(info["missing_keys"])


def check_weights(name: str, traced: TracedModel, missing: Iterable[str]) -> None:
    """Raise if the traced part of a model has weights that the checkpoint lacks, which are random.

    Parameters
    ----------
    name
        Name of the model, for the error message.
    traced
        The model; weights outside of what runs and of its head do not matter.
    missing
        The names of weights that the checkpoint lacks.
    """
    whole = traced.weights or traced.module
    used = {id(value) for _, value in _weights(traced.module if traced.head is None else whole)}
    absent = set(missing)
    own = [key for key, value in _weights(whole) if key in absent and id(value) in used]
    lacking = own if traced.final == "pooled" else _lacking(own)
    lacking = sorted(key for key in lacking if key.rpartition(".")[2] not in UNUSED)
    if lacking:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise RepdynError(
            f"model 'hf:{name}': its checkpoint lacks {len(lacking)} weights that "
            f"{type(whole).__name__} needs, which would be random ({', '.join(lacking[:3])}{more}); save the "
            "model again with save_pretrained, or name the class of the weights in config.json"
        )


def _weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _lacking(missing: Iterable[str]) -> list[str]:
    """The missing weights that a body uses; its pooler is often not saved, and is not read."""
    return [key for key in missing if "pooler" not in key.split(".") and key.rpartition(".")[2] not in UNUSED]


def _prefix(missing: Iterable[str], unexpected: Iterable[str], folder: str) -> str | None:
    """The prefix under which the checkpoint holds the missing weights; None if it lacks them."""
    wanted = set(missing)
    by_prefix: dict[str, set[str]] = defaultdict(set)
    for key in unexpected:
        steps = key.split(".")
        for start in range(1, len(steps)):
            rest = ".".join(steps[start:])
            if rest in wanted:
                by_prefix[".".join(steps[:start]) + "."].add(rest)
                break
    counts = Counter({prefix: len(keys) for prefix, keys in by_prefix.items()}).most_common(2)
    if not counts or counts[0][1] < len(wanted) / 2:
        return None
    best = counts[0][0]
    if len(counts) == 2 and counts[1][1] == counts[0][1] and by_prefix[counts[1][0]] == by_prefix[best]:
        raise RepdynError(
            f"model 'hf:{Path(folder)}': its checkpoint holds the same weights as {best + '…'!r} and as "
            f"{counts[1][0] + '…'!r}; keep one of them"
        )
    return best
