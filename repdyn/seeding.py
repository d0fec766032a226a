"""Random numbers of one's own: drawn from a local generator, whatever other threads draw meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["drawing"]

_SAMPLERS = {
    torch.rand,
    torch.randn,
    torch.randint,
    torch.randperm,
    torch.normal,
    torch.bernoulli,
    torch.multinomial,
    *(
        getattr(torch.Tensor, name)
        for name in ("uniform_", "normal_", "random_", "exponential_", "bernoulli_")
    ),
}


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Let layers draw their first weights from a generator of this seed instead of the global stream.

    The numbers are those that ``torch.manual_seed(seed)`` would give on the CPU. The global stream is neither
    read nor moved, and only the present thread is affected.

    Examples
    --------
    >>> from torch import nn
    >>> with drawing(0):
    ...     first = nn.Linear(2, 2)
    >>> _ = torch.randn(7)
    >>> with drawing(0):
    ...     second = nn.Linear(2, 2)
    >>> bool((first.weight == second.weight).all())
    True
    """
    with _Drawing(torch.Generator().manual_seed(seed)):
        yield


class _Drawing(TorchFunctionMode):
    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        # Functions of torch.nn.init hand their generator on; samplers take one.
        if (func in _SAMPLERS or "generator" in given) and given.get("generator") is None:
            given["generator"] = self.generator
        return func(*args, **given)
