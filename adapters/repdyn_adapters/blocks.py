"""The rule for models that nobody has declared: blocks are the longest chain of sibling modules of one type."""

from __future__ import annotations

import re
from collections import defaultdict

from torch import nn

__all__ = ["find_blocks"]


def find_blocks(module: nn.Module) -> tuple[str, ...]:
    """The names of a model's blocks, in the order of its modules.

    Siblings are modules whose names differ only in numbers (``layers.0``, ``layers.1``; ``layer1.0``,
    ``layer2.0``); of those, the ones of the most frequent type, together with other types that stand in
    the same places, form a chain. Chains of modules that have parts and hold at least half of the
    weights come first (embeddings left out); the longest of them wins, the outermost where two are
    equally long. Else the longest chain of single layers with weights wins; else all children.

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
    chains: dict[str, list[str]] = defaultdict(list)
    parts = dict(module.named_modules())
    for name in parts:
        if name and re.search(r"\d", name.rsplit(".", 1)[-1]):
            chains[re.sub(r"\d+", "*", name)].append(name)
    weights = {name: _weights(part) for name, part in parts.items()}
    total = max(weights[""], 1)

    compound = {
        pattern: [name for name in names if next(parts[name].children(), None) is not None]
        for pattern, names in chains.items()
    }
    # A block holds most of the weights; what is inside it (its norms, its experts) is shorter or lighter.
    heavy = {
        pattern: names
        for pattern, names in compound.items()
        if len(names) > 1 and 2 * sum(weights[name] for name in names) >= total
    }
    for pattern, names in sorted(heavy.items(), key=lambda item: (-len(item[1]), item[0].count("."))):
        if not _inside_a_block(pattern, heavy, parts):
            return tuple(names)
    single = [
        [name for name in names if type(parts[name]) is kind]
        for names in chains.values()
        for kind in {type(parts[name]) for name in names if weights[name]}
    ]
    if single:
        return tuple(max(single, key=len))
    return tuple(name for name, _ in module.named_children())


def _inside_a_block(pattern: str, heavy: dict[str, list[str]], parts: dict[str, nn.Module]) -> bool:
    """Whether a chain's members are alternatives within one block (experts), not steps of depth (a stage).

    Experts stand beside a router in a module that is itself repeated in every block, three names down
    (``layers.*.mlp.experts.*``); the blocks of a stage are its direct parts, or its only list.
    """
    for outer in heavy:
        if outer != pattern and pattern.startswith(outer + "."):
            between = pattern[len(outer) + 1 :].split(".")
            if len(between) > 2 or "expert" in pattern:
                return True
    return False


def _weights(module: nn.Module) -> int:
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    return sum(weight.numel() for weight in module.parameters() if id(weight) not in tables)
