"""Ratios of times that are measured in pairs, taking turns, so that other jobs of the machine touch both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from repdyn.intervals import Estimate, bootstrap

__all__ = ["clock", "median", "paired"]

_WARM_UPS = 3  # pairs that fill caches and allocators, and are left out


def clock(device: torch.device) -> float:
    """Processor seconds; on another device, wall seconds once its work is done."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def paired(
    bare: Callable[[], object], measured: Callable[[], object], pairs: int, device: torch.device
) -> dict[str, Any]:
    """The median ratio of the second to the first, taking turns; which comes first alternates."""
    ratios, base = [], []
    for number in range(pairs + _WARM_UPS):
        taken = {}
        for run in (bare, measured) if number % 2 else (measured, bare):
            begun = clock(device)
            run()
            taken[run] = clock(device) - begun
        if number >= _WARM_UPS:
            ratios.append(taken[measured] / taken[bare])
            base.append(taken[bare])
    return {**median(ratios).to_dict(), "bare ms": 1e3 * float(np.median(base)), "pairs": pairs}


def median(values: Sequence[float]) -> Estimate:
    """The median with its bootstrap interval."""
    return bootstrap(lambda x: float(np.median(x)), np.asarray(values), seed=0)
