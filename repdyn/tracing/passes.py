"""Forward passes of a traced model as arrays in memory: the reader, and one copy a batch to the host."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from repdyn.errors import RepdynError
from repdyn.tracing.heads import real_parts
from repdyn.tracing.hooks import cuda_devices
from repdyn.tracing.model import TracedModel
from repdyn.tracing.pooling import Pooling
from repdyn.tracing.reader import Reader, Reading
from repdyn.tracing.spec import ModelSpec

__all__ = ["HostBatch", "Passes", "on_host"]


@dataclass(frozen=True, eq=False)
class HostBatch:
    """What one forward pass gave: per point ``(N, D)``, or a list of ``(T, D)`` where tokens are kept."""

    values: dict[str, Any]
    logits: NDArray[Any] | None


class Passes:
    """Within this context, a model runs batch by batch and what is read of it comes to memory.

    Entering runs the first samples, to learn which points there are in which order and how wide; what they
    give is kept, so that a trace that begins with them need not run them again. The rest is as
    :class:`~repdyn.tracing.reader.Reader` says.

    Parameters
    ----------
    model
        What runs.
    points
        What is read, as :meth:`TracedModel.find_points` takes it.
    pool
        The name of a pooling, ``"none"``, ``"auto"`` or a function.
    first
        Some samples, the first batch of a trace or any one.
    dtype
        What values are kept in.
    device
        Where the model runs; afterwards it is back where it was.
    compute
        What it multiplies in; None for the type of its weights.
    check
        A few samples for the check of the head, as the reader takes them.
    """

    def __init__(
        self,
        model: TracedModel,
        points: str | Sequence[str] | None,
        pool: str | Pooling,
        first: Sequence[Any],
        dtype: np.dtype[Any],
        device: torch.device | str | None,
        compute: torch.dtype | None = None,
        check: Sequence[Any] = (),
    ) -> None:
        self._reader = Reader(model, points, pool, device=device, first=first, check=check)
        self.dtype, self.compute = dtype, compute
        self.learned: HostBatch | None = None
        """What the first samples gave; None where only one of them was run."""
        self._stack = ExitStack()
        self.widths: dict[str, int] = {}
        self.token_points: tuple[str, ...] = ()

    def __enter__(self) -> Passes:
        model = self._reader.model
        with ExitStack() as stack:
            # What prepare draws while the context is open is taken back as well.
            stack.enter_context(torch.random.fork_rng(devices=cuda_devices(model.module)))
            if self.compute is not None:
                stack.enter_context(torch.autocast(self._reader.device.type, self.compute))
            stack.enter_context(self._reader)
            found = self._reader.shown
            if found is None:
                raise RepdynError("passes: there are no samples to begin with")
            self.token_points = self._reader.token_points
            self.widths = {
                name: value.shape[-1] * (2 if value.is_complex() else 1) for name, value in found.items()
            }
            self.learned = self._batch(found) if self._reader.is_whole else None
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @property
    def model(self) -> ModelSpec:
        """The model, with the layouts that were found out declared."""
        return self._reader.model

    @property
    def pool(self) -> str | Pooling:
        """How representations are pooled."""
        return self._reader.pool

    @property
    def points(self) -> tuple[str, ...]:
        """What is read, in order of execution."""
        return self._reader.points

    @property
    def left_out(self) -> Mapping[str, str]:
        """Points of a pattern or of ``"all"`` that are not read, and why not."""
        return self._reader.left_out

    @property
    def logits_width(self) -> int | None:
        """Width of the logits; None where none are kept."""
        return self._reader.logits_width

    def prepare(self, samples: Sequence[Any]) -> Any:
        """Model inputs of a batch, on the CPU; may run in another thread."""
        return self.model.prepare(samples)

    def run(self, prepared: Any, count: int) -> HostBatch:
        """One forward pass over the prepared inputs of so many samples."""
        return self._batch(self._reader.prepared(prepared, count))

    def _batch(self, found: Reading) -> HostBatch:
        logits = [] if found.logits is None else [real_parts(found.logits).float()]
        given = [*map(real_parts, found.values()), *logits, *found.masks.values()]
        here = iter(on_host(given))
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is reported by sample
            arrays = {name: self._array(next(here)) for name in found}
        told = next(here).numpy() if logits else None
        masks = {name: next(here).numpy() for name in found.masks}
        values: dict[str, Any] = dict(arrays)
        for name in self.token_points:
            rows = arrays[name]
            real = masks.get(name)
            values[name] = list(rows) if real is None else [row[m] for row, m in zip(rows, real, strict=True)]
        return HostBatch(values, told)

    def _array(self, value: Tensor) -> NDArray[Any]:
        wide = value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
        array: NDArray[Any] = wide.numpy()
        return array.astype(self.dtype, copy=False)


def on_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same tensors in memory of the host, by one copy for all of a device and type; from CUDA, pinned.

    Parameters
    ----------
    tensors
        Of any shapes, types and devices; those on the CPU stay what they are.

    Returns
    -------
    list of Tensor
        On the CPU, in the same order and types; those of one copy share its memory.
    """
    alike: dict[tuple[torch.device, torch.dtype], list[int]] = defaultdict(list)
    for number, tensor in enumerate(tensors):
        if is_away(tensor):
            alike[tensor.device, tensor.dtype].append(number)
    found, waiting = list(tensors), set()
    for (device, dtype), numbers in alike.items():
        packed = pack([tensors[number] for number in numbers])
        pinned = device.type == "cuda"
        host = torch.empty(packed.shape, dtype=dtype, pin_memory=pinned)
        host.copy_(packed, non_blocking=pinned)
        waiting |= {device} if pinned else set()
        for number, part in zip(numbers, unpack(host, [tensors[n].shape for n in numbers]), strict=True):
            found[number] = part
    for device in waiting:
        torch.cuda.current_stream(device).synchronize()
    return found


def is_away(tensor: Tensor) -> bool:
    """Whether reading it from the host takes a copy."""
    return tensor.device.type != "cpu"


def pack(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors of one type and device, one after another in one row."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def unpack(packed: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Views of what was packed, in its shapes."""
    parts = torch.split(packed, [shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
