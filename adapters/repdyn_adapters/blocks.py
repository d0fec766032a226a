"""The rule for models that nobody has declared: blocks are the longest chain of siblings of one type."""

from __future__ import annotations

import re
from collections import defaultdict

from torch import nn

__all__ = ["find_blocks"]


def find_blocks(module: nn.Module) -> tuple[str, ...]:
    """The names of a model's blocks, in the order of its modules.

    Siblings are numbered modules whose names differ only in numbers (``layers.0`` and ``layers.1``;
    ``layer1.0`` and ``layer2.0``). A chain of siblings that have parts is heavy when it holds at least
    half of the weights of the heaviest one; the longest heavy chain wins, the outermost where two are
    equally long, but not a chain inside another's members that are alternatives (experts) rather than
    steps of depth. Without such a chain, single layers of one type with weights form it; else all
    children.

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
            chains[re.sub(r"\d+", "*", name)].append(name)
    weights = {name: _weights(part) for name, part in parts.items()}
    compound = {
        pattern: kept
        for pattern, names in chains.items()
        if len(kept := [name for name in names if next(parts[name].children(), None) is not None]) > 1
    }
    held = {pattern: sum(weights[name] for name in names) for pattern, names in compound.items()}
    heavy = {pattern: names for pattern, names in compound.items() if 2 * held[pattern] >= max(held.values())}
    for _, chain in sorted(heavy.items(), key=lambda item: (-len(item[1]), item[0].count("."))):
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


def _is_numbered(name: str, parts: dict[str, nn.Module]) -> bool:
    """A member of a list, or a numbered part of the model itself: not ``conv1`` within a block."""
    parent, _, last = name.rpartition(".")
    if last.isdigit():
        return True
    return bool(re.search(r"\d", last)) and (
        not parent or isinstance(parts[parent], (nn.Sequential, nn.ModuleList, nn.ModuleDict))
    )


def _weights(module: nn.Module) -> int:
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    return sum(weight.numel() for weight in module.parameters() if id(weight) not in tables)
