"""Forward passes of a traced model as arrays in memory: a reader, and one copy to the host per batch."""

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
from repdyn.reading import as_array
from repdyn.tracing.heads import real_parts
from repdyn.tracing.hooks import cuda_devices
from repdyn.tracing.model import TracedModel
from repdyn.tracing.pooling import Pooling
from repdyn.tracing.reader import Reader, Reading
from repdyn.tracing.spec import ModelSpec

__all__ = ["HostBatch", "Passes", "on_host"]


@dataclass(frozen=True, eq=False)
class HostBatch:
    """Result of one pass in host memory: ``(N, D)`` per point, or a list of ``(T, D)`` with tokens."""

    values: dict[str, Any]
    logits: NDArray[Any] | None


class Passes:
    """A context in which a model runs batch by batch, with results in host memory.

    Entering runs the first samples, which determine the points, their order and widths. Their results are
    kept, so that a trace that begins with them does not run them again. See
    :class:`~repdyn.tracing.reader.Reader`.

    Parameters
    ----------
    model
        The model.
    points
        Points to read, as in :meth:`TracedModel.find_points`.
    pool
        The name of a pooling, ``"none"``, ``"auto"`` or a function.
    first
        Some samples, the first batch of a trace or any other.
    dtype
        Type of the results.
    device
        Device of the model within the context.
    compute
        Precision of the forward pass; None: the type of the weights.
    check
        Samples for which the head is checked, as in the reader.
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
        """Result of the first samples; None if only one of them was run."""
        self._stack = ExitStack()
        self.widths: dict[str, int] = {}
        self.token_points: tuple[str, ...] = ()

    def __enter__(self) -> Passes:
        model = self._reader.model
        with ExitStack() as stack:
            # Random numbers that prepare draws within the context do not change the caller's state.
            stack.enter_context(torch.random.fork_rng(devices=cuda_devices(model.module)))
            if self.compute is not None:
                stack.enter_context(torch.autocast(self._reader.device.type, self.compute))
            stack.enter_context(self._reader)
            reading = self._reader.shown
            if reading is None:
                raise RepdynError("passes: first is empty; give at least one sample")
            self.token_points = self._reader.token_points
            self.widths = {
                name: value.shape[-1] * (2 if value.is_complex() else 1) for name, value in reading.items()
            }
            self.learned = self._batch(reading) if self._reader.is_whole else None
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @property
    def model(self) -> ModelSpec:
        """The model, with the layouts that were determined."""
        return self._reader.model

    @property
    def pool(self) -> str | Pooling:
        """The pooling."""
        return self._reader.pool

    @property
    def points(self) -> tuple[str, ...]:
        """The points, in order of execution."""
        return self._reader.points

    @property
    def left_out(self) -> Mapping[str, str]:
        """Points of a pattern or of ``"all"`` that are left out, with the reason."""
        return self._reader.left_out

    @property
    def logits_width(self) -> int | None:
        """Width of the logits; None if they are not kept."""
        return self._reader.logits_width

    def prepare(self, samples: Sequence[Any]) -> Any:
        """Prepared inputs of a batch, on the CPU; may run in another thread."""
        return self.model.prepare(samples)

    def run(self, prepared: Any, count: int) -> HostBatch:
        """One forward pass over prepared inputs with a number of samples."""
        return self._batch(self._reader.prepared(prepared, count))

    def _batch(self, reading: Reading) -> HostBatch:
        """The reading in host memory; real, in the type of the results, tokens without padding."""
        logits = [] if reading.logits is None else [real_parts(reading.logits).float()]
        given = [*map(real_parts, reading.values()), *logits, *reading.masks.values()]
        here = iter(on_host(given))
        with np.errstate(over="ignore"):  # overflow gives infinity, which is reported with its sample
            arrays = {name: self._array(next(here)) for name in reading}
        outputs = as_array(next(here)) if logits else None
        masks = {name: as_array(next(here)) for name in reading.masks}
        values: dict[str, Any] = dict(arrays)
        for name in self.token_points:
            rows = arrays[name]
            real = masks.get(name)
            values[name] = list(rows) if real is None else [row[m] for row, m in zip(rows, real, strict=True)]
        return HostBatch(values, outputs)

    def _array(self, value: Tensor) -> NDArray[Any]:
        """A tensor as an array in the type of the results."""
        return as_array(value, self.dtype)


def on_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors in host memory, with one copy for each device and type; pinned memory for CUDA.

    Parameters
    ----------
    tensors
        Tensors of any shapes, types and devices. Those on the CPU are returned as they are.

    Returns
    -------
    list of Tensor
        Tensors on the CPU, in the same order and types. Those of one copy share its memory.
    """
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = defaultdict(list)
    for number, tensor in enumerate(tensors):
        if is_away(tensor):
            groups[tensor.device, tensor.dtype].append(number)
    copies, waiting = list(tensors), set()
    for (device, dtype), numbers in groups.items():
        packed = pack([tensors[number] for number in numbers])
        pinned = device.type == "cuda"
        host = torch.empty(packed.shape, dtype=dtype, pin_memory=pinned)
        host.copy_(packed, non_blocking=pinned)
        waiting |= {device} if pinned else set()
        for number, part in zip(numbers, unpack(host, [tensors[n].shape for n in numbers]), strict=True):
            copies[number] = part
    for device in waiting:
        torch.cuda.current_stream(device).synchronize()
    return copies


def is_away(tensor: Tensor) -> bool:
    """Whether a tensor is not in host memory."""
    return tensor.device.type != "cpu"


def pack(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors of one type and device, concatenated in one row."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def unpack(packed: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Views of a packed row in the shapes of its tensors."""
    parts = torch.split(packed, [shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
