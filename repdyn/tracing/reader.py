"""The reader: forward passes of a model that give its representations as tensors, where the model is."""

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
"""Libraries whose modules call their parts equally often for all samples."""

WIDEST_LOGITS = 32_768
"""Logits wider than this (the vocabularies of language models; ImageNet-21k has 21 843 classes) are not
kept: ``model.head(found[model.final])`` gives them from a hundredth of the room."""


@dataclass(frozen=True, eq=False)
class Reading(Mapping[str, Tensor]):
    """What one forward pass gave: a mapping from points to tensors, in order of execution.

    Attributes
    ----------
    tensors
        ``(N, D)`` per point, on the model's device and in the type that pooling gave; where tokens are kept,
        ``(N, T, D)``.
    masks
        For points whose tokens are kept and padded, ``(N, T)``, true at real tokens.
    logits
        ``(N, classes)``, what the head gives of the final point. None where the model has no head, the final
        point is not read or pooled otherwise, or there are more than 32 768 classes: then
        ``model.head(found[model.final])`` gives them.
    output
        What the module itself returned, where the reader was asked for it and there are no logits.
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
    """Within this context, a model runs batch by batch and is read at some points.

    Calling it with samples prepares and reads them; :meth:`prepared` reads what the model itself takes. The
    first batch, or ``first`` when the context is entered, also tells which points there are in which order;
    each later one is a single pass, which ends after the last point. Where the layout of a point is not
    certain, a sample of the first batch runs again at another size; a head is compared once with the model's
    own logits.

    The model is in evaluation mode, has hooks, and is left as it was found: mode, device, cached tensors.
    Gradients and the random state of the code around are as they were after every pass.

    Parameters
    ----------
    model
        What runs.
    points
        What is read, as :meth:`TracedModel.find_points` takes it.
    pool
        The name of a pooling, ``"none"`` (keep tokens), ``"auto"`` or a function.
    grad
        Keep the graph: gradients flow from what is read to the weights and the inputs.
    device
        Where the model runs; afterwards it is back where it was. Default: where it is.
    first
        Some samples, the first batch or any one.
    check
        A few samples, of different lengths where there are some, for which the head must give the logits that
        the model itself gives. Without them, the first ones.
    output
        Run the model to its end and keep what it answers: its logits of any width, or what it returned.

    Examples
    --------
    >>> import repdyn
    >>> model = repdyn.wrap(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3)))
    >>> with model.reader() as read:
    ...     found = read(torch.zeros(4, 2))
    >>> found
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
        # What stands for many points ("all", a pattern) is what of them can be read.
        groups = [name for name in asked if stands_for_many(name)]
        named = model.find_points([name for name in asked if name not in groups]) if asked != groups else ()
        self._reduction.optional = _bases(self._wanted) - _bases(named)
        self._grad, self._output = grad, output
        self._device = None if device is None else devices.check_device(device)
        self._first, self._check = list(first), list(check)
        bases = dict.fromkeys(name.partition("#")[0] for name in self._wanted)
        # A block, whose layout is certain, tells how many positions there are.
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
        self._turn = ReadLock(f"{model.name}: another thread reads by this reader; give each its own")
        self._stack = ExitStack()
        self.shown: Reading | None = None
        """What the ``first`` samples gave; of one of them alone, where the model does not take all."""
        self.is_whole = False
        """Whether that is of all of them."""
        self.points: tuple[str, ...] = ()
        """What is read, in order of execution; empty before the first batch."""
        self.token_points: tuple[str, ...] = ()
        """Those of them that keep tokens."""
        self.logits_width: int | None = None
        """Width of the logits that are kept."""

    @property
    def model(self) -> ModelSpec:
        """The model, with the layouts that were found out declared."""
        return self._reduction.model

    @property
    def pool(self) -> str | Pooling:
        """How representations are pooled; for ``"auto"``, what that is for this model."""
        return self._reduction.pool

    @property
    def left_out(self) -> Mapping[str, str]:
        """Points of a pattern or of ``"all"`` that are not read, and why not."""
        return self._reduction.left_out

    @property
    def device(self) -> torch.device:
        """Where the model runs within the context."""
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
        """The light form of the context, for a pass at a time: the device is left, and caches are kept."""
        head = self.model.head
        parts = [self.model.module, *([head] if isinstance(head, nn.Module) else [])]
        with in_evaluation(*parts), self._hooks.attached():
            self._open = True
            try:
                yield
            finally:
                self._open = False

    def __call__(self, samples: Sequence[Any]) -> Reading:
        """Read samples, as the model's ``prepare`` takes them: one forward pass.

        Raises
        ------
        RepdynError
            If the reader is closed, there are no samples, a point is not reached by this pass, or the batch
            cannot be moved to the model's device.
        """
        if isinstance(samples, Mapping | str):
            raise RepdynError(
                f"samples: expected a list of samples, got a {type(samples).__name__}; "
                "inputs that are prepared already are read by .prepared(inputs, count)"
            )
        self._check_open()
        taken = list(samples)
        if not taken:
            raise RepdynError("samples: there are none; give at least one")
        with self._turn:
            if not self.points:
                found, whole = self._learn(taken)
                if whole:
                    return found
            return self.prepared(self.model.prepare(taken), len(taken))

    def prepared(self, inputs: Any, count: int | None = None) -> Reading:
        """Read inputs as the module itself takes them: a tensor, a tuple, or a mapping of arguments.

        Parameters
        ----------
        inputs
            Moved to the model's device and into the type of its weights where they are not there.
        count
            Samples in it; default the length of the first tensor.

        Raises
        ------
        RepdynError
            As for samples.
        """
        self._check_open()
        number = _count(inputs) if count is None else count
        with self._turn:
            if not self.points:
                return self._learned(self._first_pass(inputs, number), inputs, number)
            return self._reading(self._forward(inputs, number))

    def _check_open(self) -> None:
        if not self._open:
            raise RepdynError(
                f"{self.model.name}: this reader is closed; read within its context, "
                "with model.reader(…) as read: read(batch)"
            )

    def _learn(self, samples: list[Any]) -> tuple[Reading, bool]:
        """Learn the points from samples; what they gave, and whether that is all or one of them alone."""
        ran, found, inputs = self._some_pass(samples)
        return self._learned(found, inputs, len(ran), samples), len(ran) == len(samples)

    def _learned(
        self, found: dict[str, Any], inputs: Any, count: int, samples: Sequence[Any] = ()
    ) -> Reading:
        self._hooks.repeated = frozenset(name.partition("#")[0] for name in found if "#" in name)
        names = self._in_order(found)
        final = self.model.final
        # Where the last block's output, pooled, is already what the head or the user takes, the model's
        # final point repeats it: a step of depth that changes nothing is no step.
        if self._final_unnamed and self.model.head is None and len(names) > 1 and final == names[-1]:
            last, before = found[names[-1]], found[names[-2]]
            both = isinstance(last, Tensor) and isinstance(before, Tensor)
            if both and last.shape == before.shape and torch.equal(last, before):
                names = names[:-1]
        whole = {name.partition("#")[0] for name in names if name not in self._wanted}
        width = self._checked_width(found, names, inputs, count, samples)
        self._keeps_logits = width is not None and (width <= WIDEST_LOGITS or self._output)
        self.logits_width = width if self._keeps_logits else None
        # A module may be called once more for another sample: only then the pass goes on to its end.
        named = names[-1] in self._wanted and "#" in names[-1]
        ends = (named or self._calls_are_fixed(names[-1])) and (self._keeps_logits or not self._output)
        self._hooks.stop_after = names[-1] if ends else None
        self._whole = whole | {name for name in self._wanted if "#" not in name}
        self.token_points = tuple(name for name in names if isinstance(found[name], Tokens))
        self.points = tuple(names)
        self._reduction.learning = False
        return self._reading(found)

    def _some_pass(self, samples: list[Any]) -> tuple[list[Any], dict[str, Any], Any]:
        """Samples, what they give and what they are prepared to; one of them where all together fail."""
        try:
            inputs = self.model.prepare(samples)
            return samples, self._first_pass(inputs, len(samples)), inputs
        except Exception as error:  # whatever the model says of inputs that are not its own
            failed = error
        # Which of them it is shows when their batch is run.
        some = (samples[0], samples[-1], samples[len(samples) // 2]) if samples[1:] else ()
        for number, sample in enumerate(some):
            try:
                inputs = self.model.prepare([sample])
                return [sample], self._first_pass(inputs, 1), inputs
            except Exception as error:
                failed = error if number == 0 else failed
        raise self._cannot(failed) from failed

    def _first_pass(self, inputs: Any, count: int) -> dict[str, Any]:
        """What the first samples give, with the layouts of all points settled."""
        reduction = self._reduction
        module = self.model.module
        own = self.model.own_logits if self._head_is_read() else None
        reduction.mode = "tentative"
        try:
            # Where the model's own logits are those of a whole that it is, they come along.
            found = self._forward(inputs, count, own if own is module else None)
            logits, given, refused = self._own, self._given, reduction.refused
            if determine_layouts(reduction, inputs, count, self._probe) or refused is not None:
                reduction.mode = ""
                found = self._forward(inputs, count)
                given = self._given if own is not module else given
            self._own, self._given = logits, given
        finally:
            reduction.mode = ""
        return found

    def _probe(self, inputs: Any, count: int) -> None:
        with torch.no_grad():
            self._forward(inputs, count)

    def _head_is_read(self) -> bool:
        return self.model.head is not None and self.model.final in self._wanted

    def _cannot(self, error: Exception) -> RepdynError:
        if isinstance(error, RepdynError):
            return error
        reason = " ".join(str(error).split()) or type(error).__name__
        return RepdynError(
            f"{self.model.name}: cannot be called with the first sample "
            f"({type(error).__name__}: {reason}); is it what this model takes, or does it need prepare=…?"
        )

    def _calls_are_fixed(self, name: str) -> bool:
        """Whether all that calls a module is code of known libraries, whose calls no sample changes."""
        place = self.model.points[name.partition("#")[0]].module
        own = dict(self.model.module.named_modules(remove_duplicate=False))
        paths = [path for path, part in own.items() if part is own[place]]
        above = {path[:end] for path in paths for end in range(len(path)) if path[end] == "." or end == 0}
        if place == "":
            return True
        kinds = {type(own[path]).__module__.partition(".")[0] for path in above if path in own}
        return kinds <= _FIXED_CALLS

    def _checked_width(
        self, found: dict[str, Any], names: list[str], inputs: Any, count: int, samples: Sequence[Any]
    ) -> int | None:
        """The width of the head's logits, which must be those that the model itself gives; None without."""
        final = self.model.final
        if self.model.head is None or final is None or final not in names:
            return None
        if self.pool != self.model.pooling and self.model.points[final].layout != "NC":
            return None
        if self.model.own_logits is not None and self._own is None:
            found = self._own_pass(self.model.own_logits, inputs, count, samples)
        with self._passing():
            logits = check_logits(self.model, found[final], self._own)
        self._own = None
        return int(logits.shape[1])

    def _own_pass(
        self, own: Callable[[Any], Any], inputs: Any, count: int, samples: Sequence[Any]
    ) -> dict[str, Any]:
        """A pass of the whole model over the samples that the head is checked with."""
        for some in (self._check, samples[:1]):
            if not some:
                continue
            try:
                return self._own_and_final(own, self.model.prepare(some), len(some))
            except Exception as error:  # which sample it is shows when its batch is run
                if some is not self._check or len(some) == 1:
                    raise self._cannot(error) from error
        return self._own_and_final(own, inputs, count)

    def _own_and_final(self, own: Callable[[Any], Any], inputs: Any, count: int) -> dict[str, Any]:
        found = self._forward(inputs, count, own)
        if self.model.final not in found:  # the model calls a part of what runs
            logits = self._own
            found = self._forward(inputs, count)
            self._own = logits
        return found

    def _in_order(self, found: Mapping[str, Any]) -> list[str]:
        kept = []
        for name in self._wanted:
            base, _, call = name.partition("#")
            calls = [known for known in found if known.partition("#")[0] == base]
            if base in self.left_out:
                continue
            if not calls and self._default and found:
                continue  # the rule took it for a block, the model does without it
            if not calls:
                if found and self._reduction.leaves_out(name, RepdynError("never called")):
                    continue
                raise RepdynError(
                    f"point {name!r}: the module is never called in a forward pass of {self.model.name}; "
                    + nearest_names(name, found)
                )
            if call and name not in found:
                raise RepdynError(
                    f"point {name!r}: the module is called {len(calls)} times; read {calls[-1]!r}"
                )
            kept += [name] if call else calls
        if not kept:
            told = next((f"{name!r}: {why}" for name, why in self.left_out.items()), "no module is called")
            raise RepdynError(f"points: none of {len(self._wanted)} can be read ({told})")
        return [name for name in found if name in kept]

    def _forward(self, given: Any, count: int, own: Callable[[Any], Any] | None = None) -> dict[str, Any]:
        """Run the model; where its own logits are asked for, the whole of it, of which it may be a part."""
        module, device = self.model.module, self.model.device
        self._own = self._given = None
        self._reduction.begin(given, count, device, self._wanted)
        try:
            inputs = devices.to(given, device, devices.dtype_of(module))
        except (RuntimeError, NotImplementedError) as error:  # on a device that is no more, or has no copy
            raise RepdynError(
                f"{self.model.name}: the batch cannot be moved to {device}, where the model is "
                f"({str(error).splitlines()[0]}); move it there yourself"
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
        """What a pass of the model, or of its head, runs within."""
        probing = self._reduction.mode == "shapes"
        with self._random.scope(), torch.set_grad_enabled(self._grad and not probing):
            yield

    def _reading(self, found: Mapping[str, Any]) -> Reading:
        extra = [name for name in found if "#" in name and name not in self.points]
        more = [name for name in extra if name.partition("#")[0] in self._whole]
        if more:
            raise RepdynError(
                f"point {more[0]!r}: the module is called more often than for the first samples; read calls "
                f"that every sample has by name, such as {more[0].partition('#')[0] + '#0'!r}"
            )
        missing = [name for name in self.points if name not in found]
        if missing:
            raise RepdynError(f"point {missing[0]!r}: was read for the first sample but not for a later one")
        kept = {name: found[name] for name in self.points}
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
    """A lock of one thread at a time; the others are refused, or wait. A copy of it is a lock of its own.

    Parameters
    ----------
    refusal
        What another thread is told; None lets it wait.
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
    """Within this context the model, with its head, is on a device; afterwards it is where it was.

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
    """The length of the first tensor in prepared inputs."""
    if isinstance(inputs, Tensor) and inputs.ndim:
        return len(inputs)
    parts: Any = (
        inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, tuple) else ()
    )
    for part in parts:
        if isinstance(part, Tensor) and part.ndim:
            return len(part)
    raise RepdynError(
        f"inputs: how many samples a {type(inputs).__name__} holds cannot be told; give count=, or pass the "
        "samples themselves to be prepared"
    )


def _bases(names: Iterable[str]) -> frozenset[str]:
    """Points without the number of a call."""
    return frozenset(name.partition("#")[0] for name in names)
