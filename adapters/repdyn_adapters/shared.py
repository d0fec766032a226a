"""Helpers of several adapters: stack samples, and silence transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from repdyn.errors import RepdynError
from repdyn.reading import as_array

__all__ = ["quietly", "stack", "stack_wide"]


def stack(samples: Sequence[Any]) -> Tensor:
    """Stack samples of one shape to ``(N, ...)``; float64 becomes float32, the default of torch's layers."""
    batch = _stacked(samples)
    return batch.float() if batch.dtype == torch.float64 else batch


def stack_wide(samples: Sequence[Any]) -> Tensor:
    """Stack samples of one shape to ``(N, ...)`` in their own dtype, for models in float64."""
    return _stacked(samples)


def _stacked(samples: Sequence[Any]) -> Tensor:
    try:
        return torch.stack([sample if isinstance(sample, Tensor) else _tensor(sample) for sample in samples])
    except RuntimeError as error:
        raise RepdynError(
            f"inputs: samples of different shapes cannot be stacked ({error}); pass prepare="
        ) from None


def _tensor(sample: Any) -> Tensor:
    array = as_array(sample)
    if array.dtype.kind in "fiuc":  # torch has neither foreign byte orders nor more than double precision
        array = array.astype(np.float64 if array.dtype == np.longdouble else array.dtype.newbyteorder("="))
    try:
        return torch.as_tensor(array)
    except TypeError:
        raise RepdynError(
            f"inputs: a {type(sample).__name__} is not a tensor; pass prepare= to repdyn.wrap, a function "
            "from a list of samples to the model's inputs"
        ) from None


@contextmanager
def quietly() -> Iterator[None]:
    """Context in which transformers shows no progress bars and logs errors only."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
