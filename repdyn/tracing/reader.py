"""The reader: forward passes that return representations as tensors on the model's device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn

from repdyn import devices
from repdyn.errors import RepdynError, nearest_names
from repdyn.tracing.heads import check_logits, head_logits
from repdyn.tracing.hooks import Hooks, RandomState, in_evaluation, uncached, unwrap
from repdyn.tracing.pooling import Pooling, Tokens
from repdyn.tracing.reduction import Reduction, determine_layouts
from repdyn.tracing.spec import ModelSpec, stands_for_many

__all__ = ["WIDEST_LOGITS", "ReadLock", "Reader", "Reading"]

_FIXED_CALLS = frozenset({"torch", "torchvision", "timm", "transformers"})
"""Libraries whose modules call their parts the same number of times for all samples."""

WIDEST_LOGITS = 32_768
"""Wider logits (vocabularies of language models; ImageNet-21k has 21 843 classes) are not kept:
``model.head(reading[model.final])`` computes them from a hundredth of the memory."""


@dataclass(frozen=True, eq=False)
class Reading(Mapping[str, Tensor]):
    """Result of one forward pass: a mapping from points to tensors, in order of execution.

    Attributes
    ----------
    tensors
        ``(N, D)`` for each point, on the model's device, in the type of the pooling; ``(N, T, D)`` for points
        with tokens.
    masks
        For points with padded tokens, ``(N, T)``, true for real tokens.
    logits
        ``(N, classes)``, the head's logits of the final point. None if the model has no head, the final point
        is not read or has another pooling, or there are more than 32 768 classes:
        ``model.head(reading[model.final])`` computes them.
    output
        Output of the module, if the reader was created with ``output=True`` and there are no logits.
    """

    tensors: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    logits: Tensor | None = None
    output: Any = None

    def __getitem__(self, point: str) -> Tensor:
        if point not in self.tensors:
            raise KeyError(point)
        return self.tensors[point]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in self.tensors.items())
        logits = "" if self.logits is None else f"; logits {tuple(self.logits.shape)}"
        return f"Reading({shapes}{logits})"


class Reader:
    """A context in which a model runs batch by batch and is read at some points.

    Calling the reader prepares and reads samples; :meth:`prepared` reads prepared inputs. The first batch, or
    ``first`` on entering the context, determines the points and their order. Each later batch is a single
    pass, which ends after the last point. If the layout of a point is not certain, a sample of the first
    batch runs again at another size. The head's logits are compared once with those of the whole model.

    Within the context the model is in evaluation mode and has hooks. Mode, device and cached tensors are
    restored afterwards; gradient mode and random state of the caller after every pass.

    Parameters
    ----------
    model
        The model.
    points
        Points to read, as in :meth:`TracedModel.find_points`.
    pool
        The name of a pooling, ``"none"`` (keep tokens), ``"auto"`` or a function.
    grad
        Keep the graph: gradients flow from the representations to the weights and the inputs.
    device
        Device of the model within the context; default: its current device.
    first
        Some samples, the first batch or any other.
    check
        A few samples, of different lengths if there are any, for which the head's logits must equal those of
        the whole model; default: the first samples.
    output
        Run the model to its end and keep its logits of any width, or its output.

    Examples
    --------
    >>> import repdyn
    >>> model = repdyn.wrap(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3)))
    >>> with model.reader() as read:
    ...     reading = read(torch.zeros(4, 2))
    >>> reading
    Reading(0 (4, 3), 1 (4, 3))
    """

    def __init__(
        self,
        model: ModelSpec,
        points: str | Sequence[str] | None = None,
        pool: str | Pooling = "auto",
        *,
        grad: bool = False,
        device: torch.device | str | None = None,
        first: Sequence[Any] = (),
        check: Sequence[Any] = (),
        output: bool = False,
    ) -> None:
        asked = ["blocks"] if points is None else [points] if isinstance(points, str) else list(points)
        self._default = asked == ["blocks"]
        self._final_unnamed = "blocks" in asked and model.final not in asked
        self._wanted = model.find_points(points)
        self._reduction = Reduction(model, pool)
        # Of "all" and of patterns, points that cannot be read are left out.
        groups = [name for name in asked if stands_for_many(name)]
        named = model.find_points([name for name in asked if name not in groups]) if asked != groups else ()
        self._reduction.optional = _bases(self._wanted) - _bases(named)
        self._grad, self._output = grad, output
        self._device = None if device is None else devices.check_device(device)
        self._first, self._check = list(first), list(check)
        bases = dict.fromkeys(name.partition("#")[0] for name in self._wanted)
        # The shape of a block with a certain layout gives the number of positions.
        if any(model.points[name].trust == "family" for name in bases):
            witness = next((n for n in model.default_points if n not in bases), "")
            self._reduction.witness = witness
            bases.update(dict.fromkeys([witness] if witness else []))
        self._hooks = Hooks(model.module, {name: model.points[name] for name in bases}, self._reduction)
        self._hooks.may_skip = self._reduction.leaves_out
        self._random = RandomState(model.module)
        self._own: Tensor | None = None
        self._given: Any = None
        self._whole: set[str] = set()
        self._keeps_logits = False
        self._open = False
        self._turn = ReadLock(f"{model.name}: another thread uses this reader; give each thread its own")
        self._stack = ExitStack()
        self.shown: Reading | None = None
        """Reading of the ``first`` samples; of a single one if the model does not take all of them."""
        self.is_whole = False
        """Whether :attr:`shown` is of all first samples."""
        self.points: tuple[str, ...] = ()
        """The points, in order of execution; empty before the first batch."""
        self.token_points: tuple[str, ...] = ()
        """The points with tokens."""
        self.logits_width: int | None = None
        """Width of the logits, if they are kept."""

    @property
    def model(self) -> ModelSpec:
        """The model, with the layouts that were determined."""
        return self._reduction.model

    @property
    def pool(self) -> str | Pooling:
        """The pooling; for ``"auto"``, that of the model."""
        return self._reduction.pool

    @property
    def left_out(self) -> Mapping[str, str]:
        """Points of a pattern or of ``"all"`` that are left out, with the reason."""
        return self._reduction.left_out

    @property
    def device(self) -> torch.device:
        """Device of the model within the context."""
        return self.model.device if self._device is None else self._device

    def __enter__(self) -> Reader:
        with ExitStack() as stack:
            if self._device is not None:
                stack.enter_context(placed(self.model, self._device))
            stack.enter_context(uncached(self.model.module))
            stack.enter_context(self.attached())
            if self._first and not self.points:
                self.shown, self.is_whole = self._learn(self._first)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """The context without a change of device and without dropping cached tensors, for single passes."""
        head = self.model.head
        parts = [self.model.module, *([head] if isinstance(head, nn.Module) else [])]
        with in_evaluation(*parts), self._hooks.attached():
            self._open = True
            try:
                yield
            finally:
                self._open = False

    def __call__(self, samples: Sequence[Any]) -> Reading:
        """Prepare and read samples in one forward pass.

        Raises
        ------
        RepdynError
            If the reader is closed, there are no samples, a point is not reached in this pass, or the batch
            cannot be moved to the model's device.
        """
        if isinstance(samples, Mapping | str):
            raise RepdynError(
                f"samples: expected a list of samples, got a {type(samples).__name__}; "
                "read prepared inputs with .prepared(inputs, count)"
            )
        self._check_open()
        taken = list(samples)
        if not taken:
            raise RepdynError("samples: none is given; give at least one")
        with self._turn:
            if not self.points:
                reading, whole = self._learn(taken)
                if whole:
                    return reading
            return self.prepared(self.model.prepare(taken), len(taken))

    def prepared(self, inputs: Any, count: int | None = None) -> Reading:
        """Read prepared inputs: a tensor, a tuple, or a mapping of arguments.

        Parameters
        ----------
        inputs
            Arguments of the module, moved to its device and cast to the type of its weights.
        count
            Number of samples; default: the length of the first tensor.

        Raises
        ------
        RepdynError
            As for calling the reader.
        """
        self._check_open()
        number = _count(inputs) if count is None else count
        with self._turn:
            if not self.points:
                return self._learned(self._first_pass(inputs, number), inputs, number)
            return self._reading(self._forward(inputs, number))

    def _check_open(self) -> None:
        """Raise if the context is not entered."""
        if not self._open:
            raise RepdynError(
                f"{self.model.name}: this reader is closed; read within its context, "
                "with model.reader(…) as read: read(batch)"
            )

    def _learn(self, samples: list[Any]) -> tuple[Reading, bool]:
        """Determine the points from samples; their reading, and whether it is of all samples."""
        ran, values, inputs = self._some_pass(samples)
        return self._learned(values, inputs, len(ran), samples), len(ran) == len(samples)

    def _learned(
        self, values: dict[str, Any], inputs: Any, count: int, samples: Sequence[Any] = ()
    ) -> Reading:
        self._hooks.repeated = frozenset(name.partition("#")[0] for name in values if "#" in name)
        names = self._in_order(values)
        final = self.model.final
        # If the final point equals the pooled output of the last block, it is left out: it adds no step of
        # depth.
        if self._final_unnamed and self.model.head is None and len(names) > 1 and final == names[-1]:
            last, before = values[names[-1]], values[names[-2]]
            both = isinstance(last, Tensor) and isinstance(before, Tensor)
            if both and last.shape == before.shape and torch.equal(last, before):
                names = names[:-1]
        whole = {name.partition("#")[0] for name in names if name not in self._wanted}
        width = self._checked_width(values, names, inputs, count, samples)
        self._keeps_logits = width is not None and (width <= WIDEST_LOGITS or self._output)
        self.logits_width = width if self._keeps_logits else None
        # If a module may be called more often for other samples, the pass must run to its end.
        named = names[-1] in self._wanted and "#" in names[-1]
        ends = (named or self._calls_are_fixed(names[-1])) and (self._keeps_logits or not self._output)
        self._hooks.stop_after = names[-1] if ends else None
        self._whole = whole | {name for name in self._wanted if "#" not in name}
        self.token_points = tuple(name for name in names if isinstance(values[name], Tokens))
        self.points = tuple(names)
        self._reduction.learning = False
        return self._reading(values)

    def _some_pass(self, samples: list[Any]) -> tuple[list[Any], dict[str, Any], Any]:
        """Samples, their representations and prepared inputs; of a single sample if the batch fails."""
        try:
            inputs = self.model.prepare(samples)
            return samples, self._first_pass(inputs, len(samples)), inputs
        except Exception as error:  # a model may raise anything for unsupported inputs
            failed = error
        # The failing sample is identified when its batch is run.
        some = (samples[0], samples[-1], samples[len(samples) // 2]) if samples[1:] else ()
        for number, sample in enumerate(some):
            try:
                inputs = self.model.prepare([sample])
                return [sample], self._first_pass(inputs, 1), inputs
            except Exception as error:
                failed = error if number == 0 else failed
        raise self._cannot(failed) from failed

    def _first_pass(self, inputs: Any, count: int) -> dict[str, Any]:
        """Representations of the first samples, with all layouts determined."""
        reduction = self._reduction
        module = self.model.module
        own = self.model.own_logits if self._head_is_read() else None
        reduction.mode = "tentative"
        try:
            # If the module itself computes the own logits, this pass gives them as well.
            values = self._forward(inputs, count, own if own is module else None)
            logits, given, refused = self._own, self._given, reduction.refused
            if determine_layouts(reduction, inputs, count, self._probe) or refused is not None:
                reduction.mode = ""
                values = self._forward(inputs, count)
                given = self._given if own is not module else given
            self._own, self._given = logits, given
        finally:
            reduction.mode = ""
        return values

    def _probe(self, inputs: Any, count: int) -> None:
        with torch.no_grad():
            self._forward(inputs, count)

    def _head_is_read(self) -> bool:
        return self.model.head is not None and self.model.final in self._wanted

    def _cannot(self, error: Exception) -> RepdynError:
        """The error for a model that cannot be called with the first sample."""
        if isinstance(error, RepdynError):
            return error
        reason = " ".join(str(error).split()) or type(error).__name__
        return RepdynError(
            f"{self.model.name}: cannot be called with the first sample "
            f"({type(error).__name__}: {reason}); check the type of the samples, or give prepare=…"
        )

    def _calls_are_fixed(self, name: str) -> bool:
        """Whether only code of known libraries calls a module, so that the number of calls is fixed."""
        module = self.model.points[name.partition("#")[0]].module
        own = dict(self.model.module.named_modules(remove_duplicate=False))
        paths = [path for path, part in own.items() if part is own[module]]
        above = {path[:end] for path in paths for end in range(len(path)) if path[end] == "." or end == 0}
        if module == "":
            return True
        kinds = {type(own[path]).__module__.partition(".")[0] for path in above if path in own}
        return kinds <= _FIXED_CALLS

    def _checked_width(
        self, values: dict[str, Any], names: list[str], inputs: Any, count: int, samples: Sequence[Any]
    ) -> int | None:
        """Width of the head's logits, compared with those of the whole model; None without a head."""
        final = self.model.final
        if self.model.head is None or final is None or final not in names:
            return None
        if self.pool != self.model.pooling and self.model.points[final].layout != "NC":
            return None
        if self.model.own_logits is not None and self._own is None:
            values = self._own_pass(self.model.own_logits, inputs, count, samples)
        with self._passing():
            logits = check_logits(self.model, values[final], self._own)
        self._own = None
        return int(logits.shape[1])

    def _own_pass(
        self, own: Callable[[Any], Any], inputs: Any, count: int, samples: Sequence[Any]
    ) -> dict[str, Any]:
        """A pass of the whole model over the samples for which the head is checked."""
        for some in (self._check, samples[:1]):
            if not some:
                continue
            try:
                return self._own_and_final(own, self.model.prepare(some), len(some))
            except Exception as error:  # the failing sample is identified when its batch is run
                if some is not self._check or len(some) == 1:
                    raise self._cannot(error) from error
        return self._own_and_final(own, inputs, count)

    def _own_and_final(self, own: Callable[[Any], Any], inputs: Any, count: int) -> dict[str, Any]:
        values = self._forward(inputs, count, own)
        if self.model.final not in values:  # the model calls a part of what runs
            logits = self._own
            values = self._forward(inputs, count)
            self._own = logits
        return values

    def _in_order(self, values: Mapping[str, Any]) -> list[str]:
        kept = []
        for name in self._wanted:
            base, _, call = name.partition("#")
            calls = [known for known in values if known.partition("#")[0] == base]
            if base in self.left_out:
                continue
            if not calls and self._default and values:
                continue  # a default block that the model does not call
            if not calls:
                if values and self._reduction.leaves_out(name, RepdynError("never called")):
                    continue
                raise RepdynError(
                    f"point {name!r}: the module is never called in a forward pass of {self.model.name}; "
                    + nearest_names(name, values)
                )
            if call and name not in values:
                raise RepdynError(
                    f"point {name!r}: the module is called {len(calls)} times; read {calls[-1]!r}"
                )
            kept += [name] if call else calls
        if not kept:
            reason = next((f"{name!r}: {why}" for name, why in self.left_out.items()), "no module is called")
            raise RepdynError(f"points: none of {len(self._wanted)} can be read ({reason})")
        return [name for name in values if name in kept]

    def _forward(self, given: Any, count: int, own: Callable[[Any], Any] | None = None) -> dict[str, Any]:
        """Run the module, or the whole model if ``own`` computes its logits; the representations by name."""
        module, device = self.model.module, self.model.device
        self._own = self._given = None
        self._reduction.begin(given, count, device, self._wanted)
        try:
            inputs = devices.to(given, device, devices.dtype_of(module))
        except (
            RuntimeError,
            NotImplementedError,
        ) as error:  # a device that was removed, or has no copy operation
            raise RepdynError(
                f"{self.model.name}: the batch cannot be moved to {device}, the model's device "
                f"({str(error).splitlines()[0]}); move it before the call"
            ) from error

        def call() -> None:
            if own is not None:
                answer = own(inputs)
                self._own = unwrap(answer, "the model's logits")
                self._given = answer if own is module else None
            elif isinstance(inputs, Mapping):
                self._given = module(**inputs)
            else:
                self._given = module(*inputs) if isinstance(inputs, tuple) else module(inputs)

        with self._passing():
            return self._hooks.run(call)

    @contextmanager
    def _passing(self) -> Iterator[None]:
        """Random state and gradient mode of a pass of the model or of its head."""
        probing = self._reduction.mode == "shapes"
        with self._random.scope(), torch.set_grad_enabled(self._grad and not probing):
            yield

    def _reading(self, passed: Mapping[str, Any]) -> Reading:
        """The result of one pass, with logits; raise if the points differ from those of the first samples."""
        extra = [name for name in passed if "#" in name and name not in self.points]
        more = [name for name in extra if name.partition("#")[0] in self._whole]
        if more:
            raise RepdynError(
                f"point {more[0]!r}: the module is called more often than for the first samples; read calls "
                f"that every sample has by name, such as {more[0].partition('#')[0] + '#0'!r}"
            )
        missing = [name for name in self.points if name not in passed]
        if missing:
            raise RepdynError(f"point {missing[0]!r}: was read for the first sample but not for a later one")
        kept = {name: passed[name] for name in self.points}
        values = {name: value.values if isinstance(value, Tokens) else value for name, value in kept.items()}
        masks = {
            name: value.mask
            for name, value in kept.items()
            if isinstance(value, Tokens) and value.mask is not None
        }
        logits = None
        if self._keeps_logits and self.model.final is not None:
            with self._passing():
                logits = head_logits(self.model, values[self.model.final])
        output = self._given if self._output and logits is None else None
        self._given = None
        return Reading(values, masks, logits, output)


class ReadLock:
    """A lock for one thread at a time. Other threads raise or wait. A pickled copy is a separate lock.

    Parameters
    ----------
    refusal
        Message of the error for another thread; None: it waits.
    """

    def __init__(self, refusal: str | None = None) -> None:
        self._refusal, self._lock = refusal, RLock()

    def __reduce__(self) -> tuple[type[ReadLock], tuple[str | None]]:
        return ReadLock, (self._refusal,)

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=self._refusal is None):
            raise RepdynError(str(self._refusal))

    def __exit__(self, *exception: object) -> None:
        self._lock.release()


@contextmanager
def placed(model: ModelSpec, device: torch.device) -> Iterator[None]:
    """A context in which the model and its head are on a device; they are moved back afterwards.

    Raises
    ------
    RepdynError
        If the model cannot be moved.
    """
    with ExitStack() as stack:
        for part in model.parts:
            if devices.device_of(part) != device:
                stack.callback(part.to, devices.device_of(part))
        if device != model.device:
            model.to(device)
        yield


def _count(inputs: Any) -> int:
    """Length of the first tensor in prepared inputs."""
    if isinstance(inputs, Tensor) and inputs.ndim:
        return inputs.shape[0]  # len() would fix the number in an exported graph
    parts: Any = (
        inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, tuple) else ()
    )
    for part in parts:
        if isinstance(part, Tensor) and part.ndim:
            return part.shape[0]
    raise RepdynError(
        f"inputs: the number of samples in a {type(inputs).__name__} is unknown; give count=, or pass "
        "samples to be prepared"
    )


def _bases(names: Iterable[str]) -> frozenset[str]:
    """Names of points without the number of the call."""
    return frozenset(name.partition("#")[0] for name in names)
