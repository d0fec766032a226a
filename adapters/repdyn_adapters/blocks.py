"""Find the blocks of a model without declared points: the longest chain of siblings of one type."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from torch import nn

from repdyn.tracing.pooling import Layout

__all__ = ["channels_of", "find_blocks", "find_choices", "own_layout"]

_CONVOLUTIONS = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
_RECURRENT = (nn.RNNBase, nn.MultiheadAttention)


def find_blocks(module: nn.Module) -> tuple[str, ...]:
    """The names of a model's blocks, in the order of its modules.

    Siblings are numbered modules whose names differ only in numbers (``layers.0`` and ``layers.1``;
    ``layer1.0`` and ``layer2.0``; ``mixed_5b`` and ``mixed_5c``). A chain of siblings that have parts is
    heavy when it holds at least half of the weights of the heaviest one; the longest heavy chain wins, the
    outermost where two are equally long, but not a chain inside another's members that are alternatives
    (experts) rather than steps of depth. Without such a chain, single layers of one type with weights form
    it; else all children.

    Parameters
    ----------
    module
        Any module.

    Returns
    -------
    tuple of str
        At least one name, unless the module has no parts.

    Examples
    --------
    >>> find_blocks(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)))
    ('0', '2')
    """
    parts = dict(module.named_modules())
    chains: dict[str, list[str]] = defaultdict(list)
    for name in parts:
        if _is_numbered(name, parts):
            # Of Inception's Mixed_5b and Mixed_5c the letter is a part of the number.
            chains[re.sub(r"\d+([a-z](?=\.|$))?", "*", name)].append(name)
    weights = {name: _weights(part) for name, part in parts.items()}
    compound = {
        pattern: kept
        for pattern, names in chains.items()
        if len(kept := [name for name in names if next(parts[name].children(), None) is not None]) > 1
    }
    # A convolution with its norm is a layer and not a block: a block has more than three parts with weights.
    thick = {pattern: names for pattern, names in compound.items() if _layers(names, parts) > 3}
    for candidates in (thick, compound):
        held = {pattern: sum(weights[name] for name in names) for pattern, names in candidates.items()}
        heavy = [names for pattern, names in candidates.items() if 2 * held[pattern] >= max(held.values())]
        for chain in sorted(heavy, key=lambda names: (-len(names), names[0].count("."))):
            if max(map(weights.__getitem__, chain)) and not any("expert" in name for name in chain):
                return tuple(chain)
    single: list[list[str]] = [
        [name for name in names if type(parts[name]) is kind]
        for names in chains.values()
        for kind in {type(parts[name]) for name in names if weights[name]}
    ]
    if single:
        longest: list[str] = max(single, key=len)
        return tuple(longest)
    return tuple(name for name, _ in module.named_children())


def find_choices(module: nn.Module, blocks: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Groups of points within and around the blocks, found by the names that libraries give to classes.

    Returns
    -------
    dict
        Those that exist of ``"stages"`` (the numbered modules that hold the blocks), ``"attention"`` and
        ``"mlp"`` (the outermost parts of each block whose class is named so).

    Examples
    --------
    >>> encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 1), 2, enable_nested_tensor=False)
    >>> find_choices(encoder, find_blocks(encoder))
    {'attention': ('layers.0.self_attn', 'layers.1.self_attn')}
    """
    parts = dict(module.named_modules())
    stages = dict.fromkeys(stage for block in blocks if (stage := _stage(block)))
    choices = {"stages": tuple(stages) if len(stages) > 1 else ()}
    for choice, words in (
        ("attention", "attention|attn"),
        ("mlp", r"mlp|feedforward|ffn|\bffw|moe(?!ncoder)"),
    ):
        inside = [
            name
            for block in blocks
            for name in parts
            if name.startswith(block + ".") and re.search(words, type(parts[name]).__name__, re.IGNORECASE)
        ]
        known = set(inside)
        choices[choice] = tuple(name for name in inside if not any(up in known for up in _ancestors(name)))
    return {choice: names for choice, names in choices.items() if names}


def channels_of(module: nn.Module) -> int | None:
    """Number of output channels of a module, from its last layer with weights; None if unknown.

    Examples
    --------
    >>> channels_of(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.LayerNorm(8)))
    8
    """
    for part in reversed(list(module.modules())):
        for name in ("out_features", "out_channels", "num_features", "num_channels"):
            if isinstance(width := getattr(part, name, None), int) and part._parameters:
                return width
        shape = getattr(part, "normalized_shape", None)
        if isinstance(shape, int):
            return shape
        if shape is not None and len(shape) == 1:
            return int(shape[0])
    return None


def own_layout(module: nn.Module) -> Layout | None:
    """The layout of a torch layer whose type fixes its channel axis; None for all others.

    Examples
    --------
    >>> own_layout(nn.Conv2d(3, 8, 1)), own_layout(nn.Linear(3, 8)), own_layout(nn.ReLU())
    ('NC*', 'N*C', None)
    """
    home = type(module).__module__
    if not home.startswith("torch.nn."):
        return None
    if isinstance(module, (*_RECURRENT, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
        return "NLC" if getattr(getattr(module, "self_attn", module), "batch_first", None) else "LNC"
    if isinstance(module, nn.Flatten):
        return "NC"
    if isinstance(module, _CONVOLUTIONS) or home == "torch.nn.modules.pooling":
        return "NC*"
    return "N*C" if isinstance(module, nn.Linear | nn.Embedding) else None


def _stage(block: str) -> str | None:
    """The nearest ancestor of a block whose name contains a number."""
    return next((up for up in _ancestors(block) if re.search(r"\d", up.rpartition(".")[2])), None)


def _ancestors(name: str) -> list[str]:
    """Names of the enclosing modules, innermost first."""
    steps = name.split(".")
    return [".".join(steps[:count]) for count in range(len(steps) - 1, 0, -1)]


def _is_numbered(name: str, parts: dict[str, nn.Module]) -> bool:
    """Whether a module is a list member, or is named a numbered block, stage or layer (not ``conv1``)."""
    parent, _, last = name.rpartition(".")
    if last.isdigit():
        return True
    if not re.search(r"\d", last):
        return False
    listed = isinstance(parts[parent], (nn.Sequential, nn.ModuleList, nn.ModuleDict))
    return not parent or listed or bool(re.fullmatch(r"(b|.*(block|layer|stage|cell))_?\d+", last))


def _layers(names: Sequence[str], parts: dict[str, nn.Module]) -> float:
    """Average number of parts with own weights per member of a chain."""
    inside = [part for name in names for part in parts[name].modules()]
    return sum(1 for part in inside if next(part.parameters(recurse=False), None) is not None) / len(names)


def _weights(module: nn.Module) -> int:
    """Number of weights of a module, without embedding tables."""
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    return sum(weight.numel() for weight in module.parameters() if id(weight) not in tables)
