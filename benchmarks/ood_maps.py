"""Detectors that need more of a network than pooled features: its feature maps, and gradients of the input.

Gram (Sastry & Oore 2020) and CombOOD (Rajasekaran et al. 2024) as their authors run them, on the maps of all
points that are read. AdaSCALE-A (Regmi 2025): SCALE with a percentile of its own for each sample, from how
far the largest features move when the least important input values are changed along the gradient.
Percentiles are 75 to 85; k1, k2, lambda and the share of input values are 5, 1, 10 and .05, as in OpenOOD. A
set is read once, and kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import made_once
from numpy.typing import NDArray
from ood_rivals import GRAM_ORDERS, combood, gram
from scipy.special import logsumexp
from torch import Tensor, nn

__all__ = ["adascale", "map_scores", "read_maps"]

Array = NDArray[Any]
BATCH = 32
ADASCALE_PERCENTILES, ADASCALE_K1, ADASCALE_K2 = (75.0, 85.0), 5, 1
ADASCALE_LAMBDA, ADASCALE_SHARE, ADASCALE_STEP = 10.0, 0.05, 0.5
LAST, MOVED, ENDS, LOGITS, GRAM = "last", "moved", "ends", "logits", "gram "


def read_maps(model: Any, pictures: Sequence[Any], out: Path) -> dict[str, Array]:
    """Row sums of Gram matrices and extremes of the maps, features before the head, and moved features."""

    def save(file: Path) -> None:
        parts: dict[str, list[Array]] = {}
        for start in range(0, len(pictures), BATCH):
            for key, rows in _read(model, model.prepare(list(pictures[start : start + BATCH]))).items():
                parts.setdefault(key, []).append(rows)
        np.savez(file, **{key: np.concatenate(rows) for key, rows in parts.items()})

    with np.load(made_once(out, save)) as file:
        return dict(file)


def _read(model: Any, x: Tensor) -> dict[str, Array]:
    module, maps = model.module, {}
    head = [part for part in module.modules() if isinstance(part, nn.Linear)][-1]
    x = x.clone().requires_grad_(True)
    with _kept(module, model.default_points, maps), _input_of(head) as features:
        logits = module(x)
        logits.max(dim=1).values.sum().backward()
        first = features[0].detach()
    found = {f"{GRAM}{name}": _gram_rows(own).numpy() for name, own in maps.items()}
    ends = [end for own in maps.values() for end in (-own.amin((1, 2, 3)), own.amax((1, 2, 3)))]
    ends += [-logits.detach().amin(1), logits.detach().amax(1)]
    with torch.no_grad(), _input_of(head) as features:
        assert x.grad is not None
        module(_moved(x.detach(), x.grad))
    found |= {LAST: first.numpy(), MOVED: features[0].numpy(), LOGITS: logits.detach().numpy()}
    return {**found, ENDS: torch.stack(ends, dim=1).numpy()}


@contextmanager
def _kept(module: nn.Module, names: Sequence[str], maps: dict[str, Tensor]) -> Iterator[None]:
    """Outputs of parts with four axes, while the block runs."""
    parts, handles = dict(module.named_modules()), []

    def keep(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4:
                maps[name] = output.detach()

        return hook

    handles = [parts[name].register_forward_hook(keep(name)) for name in names if name in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _input_of(part: nn.Module) -> Iterator[list[Tensor]]:
    """The input of a part, once it has run."""
    found: list[Tensor] = []
    handle = part.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    try:
        yield found
    finally:
        handle.remove()


def _gram_rows(x: Tensor) -> Tensor:
    """Row sums of the Gram matrices of maps ``(N, C, H, W)``, by order, ``(N, 10 C)``."""
    x = x.flatten(2).double()  # the tenth power of a large activation, squared
    power, found = torch.ones_like(x), []
    for order in GRAM_ORDERS:
        power = power * x
        total = (power * power.sum(dim=1, keepdim=True)).sum(dim=2)  # rows of the matrix, summed
        found.append(total.sign() * total.abs() ** (1 / order))
    return torch.cat(found, dim=1).float()


def _moved(x: Tensor, gradient: Tensor) -> Tensor:
    """Inputs whose values of the smallest gradients are changed along its sign."""
    size = gradient.abs().flatten(1)
    least = size.topk(int(ADASCALE_SHARE * size.shape[1]), dim=1, largest=False).indices
    mask = torch.zeros_like(size).scatter_(1, least, 1.0).view_as(x)
    return x + ADASCALE_STEP * mask * gradient.sign()


def adascale(fit: tuple[Array, Array], head: tuple[Array, Array]) -> Any:
    """AdaSCALE-A from features and moved features, both ``(N, D)``, of fitted samples, and the head."""
    width = fit[0].shape[1]
    first, second = max(1, int(width * ADASCALE_K1 / 100)), max(1, int(width * ADASCALE_K2 / 100))

    def shift(x: Array, moved: Array) -> Array:
        order = np.argsort(-x, axis=1)
        largest = np.take_along_axis(np.maximum(moved, 0), order[:, :first], axis=1).sum(axis=1)
        away = np.take_along_axis(np.abs(x - moved), order[:, :second], axis=1).sum(axis=1)
        return np.asarray(largest + ADASCALE_LAMBDA * away)

    known, (low, high) = np.sort(shift(*fit)), ADASCALE_PERCENTILES

    def score(x: Array, moved: Array) -> Array:
        below = np.searchsorted(known, shift(x, moved), side="right") / len(known)
        kept = width - np.round(width * (low + (1 - below) * (high - low)) / 100).astype(int)
        positive = -np.sort(-np.maximum(x, 0), axis=1)
        top = np.where(np.arange(width) < kept[:, None], positive, 0).sum(axis=1)
        ratio = positive.sum(axis=1) / np.maximum(top, 1e-12)
        return np.asarray(logsumexp(x * np.exp(ratio)[:, None] @ head[0].T + head[1], axis=1))

    return score


def map_scores(
    maps: Mapping[str, Mapping[str, Array]], head: tuple[Array, Array], sets: Sequence[str]
) -> dict[str, dict[str, Array]]:
    """Scores of the three by set; ``maps`` has what was read of each set, and of the fitted samples."""
    fit = maps["fit"]
    names = [name for name in fit if name.startswith(GRAM)]
    of_gram = gram({name: fit[name] for name in names}, fit[LOGITS])
    of_both = combood(fit[LAST], fit[ENDS])
    of_moved = adascale((fit[LAST], fit[MOVED]), head)
    found: dict[str, dict[str, Array]] = {"Gram": {}, "CombOOD": {}, "AdaSCALE-A": {}}
    for where in sets:
        own = maps[where]
        found["Gram"][where] = of_gram({name: own[name] for name in names}, own[LOGITS])
        found["CombOOD"][where] = of_both(own[LAST], own[ENDS])
        found["AdaSCALE-A"][where] = of_moved(own[LAST], own[MOVED])
    return found
