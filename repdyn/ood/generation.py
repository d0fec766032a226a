"""A monitor inside a causal language model: scores of tokens and sequences while it reads and generates."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from repdyn import devices
from repdyn.artifacts import load_artifact, refuses_damage, save_artifact
from repdyn.conformity import check_arrays, check_values
from repdyn.errors import RepdynError
from repdyn.ood.attention_sinks import are_sinks, find_sinks
from repdyn.ood.calibration import conformal_threshold, false_positive_interval
from repdyn.ood.detectors import PathDetector
from repdyn.ood.modules import PathModule
from repdyn.ood.path_chunks import LOWEST
from repdyn.publishing import HubMixin
from repdyn.reading import as_array
from repdyn.tracing.hooks import Hooks, Point, in_evaluation
from repdyn.tracing.registry import traced
from repdyn.tracing.trace import trace

if TYPE_CHECKING:
    from repdyn.tracing.model import TracedModel

__all__ = ["GenerationMonitor", "MonitoredTokens", "TokenAlarm"]

RATES = (0.01, 0.05)
"""False-positive rates per sequence for which an alarm has a threshold."""
SKIPPED = 1
"""First tokens of a sequence that have no score: attention collects there, in any text."""
SINK = "attention sink: "
"""What the names of saved states of sinks begin with."""
EVERY = 8
"""Default points: every eighth block. Each point costs a product with a square matrix of its width for each
token, and seven points of SmolLM2 separated no set better than three (docs/studies/ood.md)."""


@dataclass(frozen=True)
class TokenAlarm:
    """The first alarm of a sequence at a false-positive rate.

    Attributes
    ----------
    sequence
        Row of the batch.
    rate
        Rate per sequence, .01 or .05.
    position
        Position in the sequence at which the window ended that raised the alarm.
    token
        Position of the lowest score in that window.
    point
        The depth at which that token is farthest from usual tokens.
    score
        Mean score of the window.
    """

    sequence: int
    rate: float
    position: int
    token: int
    point: str
    score: float


@dataclass(frozen=True, eq=False)
class MonitoredTokens:
    """Scores of the tokens of a batch of sequences, in the order in which the model read them.

    Attributes
    ----------
    output
        What ``generate`` returned; None for texts that were only read.
    scores
        Score of each token ``(N, T)``, higher is more normal; NaN for the first token, for attention sinks,
        for padding and after the end of a sequence. The last generated token was not read by the model and
        has no column.
    windows
        Mean score of the window that ends at each token, ``(N, T)``; NaN where the window is not full.
    profile
        Standardized distance of each token at each depth, ``(N, T, L)``.
    points
        Names of those depths.
    lowest
        Score of each sequence ``(N,)``: its lowest window, or the mean of a sequence that is shorter than a
        window; NaN for a sequence without a scored token.
    alarms
        First alarm of each sequence and rate, in order.
    """

    output: Any
    scores: NDArray[np.float64]
    windows: NDArray[np.float64]
    profile: NDArray[np.float32]
    points: tuple[str, ...]
    lowest: NDArray[np.float64]
    alarms: tuple[TokenAlarm, ...]

    def __repr__(self) -> str:
        count, tokens = self.scores.shape
        lines = [f"MonitoredTokens: {count} sequences, {tokens} positions, {len(self.alarms)} alarms"]
        lines += [
            f"  sequence {a.sequence}: alarm at {a.rate:.0%} per sequence at position {a.position}, token "
            f"{a.token}, {a.point} (window {a.score:.2f})"
            for a in self.alarms[:6]
        ]
        return "\n".join(lines)


class GenerationMonitor(HubMixin):
    """Scores every token that a causal language model reads while it generates, without a second pass.

    A token's state at some depths has a score by a :class:`~repdyn.ood.PathDetector` that was fitted on
    tokens of usual texts. The score of a sequence is the lowest mean over a sliding window of tokens. An
    alarm is raised when the window falls below a threshold, which :meth:`calibrate` sets so that a usual
    sequence raises one with probability at most 1 or 5 %.

    Parameters
    ----------
    model
        A causal language model, traced, as a module, or by name.
    points
        Depths that are read. Default: every eighth block.
    window
        Number of tokens in the sliding window.
    seed
        Of the detector.

    Attributes
    ----------
    detector_
        The fitted detector of tokens.
    sinks_
        ``{point: (D,)}``: the mean direction of the first tokens, as long as the longest of them, at the
        points where attention collects there. A later token that takes this state, an *attention sink*, has
        no score and is not in a window.
    calibration_
        Lowest windows of the calibration sequences, sorted; after :meth:`calibrate`.
    thresholds_
        ``{rate: threshold}`` of the rates that the calibration supports: 1 % takes 99 sequences.
    intervals_
        ``{rate: (low, high)}``: 95 % interval of the true rate for one calibration set.
    alarms
        Alarms of the present or the last run, also while ``generate`` runs: a streamer or a stopping
        criterion may read them.

    Notes
    -----
    The guarantee holds for sequences exchangeable with those of the calibration. A longer sequence has more
    windows and raises more alarms: calibrate on sequences of the length, and with the generation settings,
    of use. Beam search reorders sequences and is refused.

    Examples
    --------
    >>> monitor = GenerationMonitor("hf:HuggingFaceTB/SmolLM2-135M").fit(usual)  # doctest: +SKIP
    >>> monitor.calibrate(held_out)  # doctest: +SKIP
    >>> monitor.generate("A question", max_new_tokens=40).alarms  # doctest: +SKIP
    """

    detector_: PathDetector
    sinks_: dict[str, NDArray[np.float32]]
    calibration_: NDArray[np.float64]
    thresholds_: dict[float, float]
    intervals_: dict[float, tuple[float, float]]

    def __init__(
        self,
        model: TracedModel | nn.Module | str,
        points: Sequence[str] | None = None,
        window: int = 8,
        seed: int = 0,
    ) -> None:
        if window < 1:
            raise RepdynError(f"window: must be at least 1 token, got {window}")
        self.model = traced(model)
        if not callable(getattr(self._module, "generate", None)):
            raise RepdynError(
                f"model: {self.model.name} has no method 'generate'; give a causal language model, as "
                "AutoModelForCausalLM loads it"
            )
        blocks = [name for name in self.model.default_points if name != self.model.final]
        self.points = tuple(points or blocks[EVERY - 1 :: EVERY] or blocks)
        for name in self.model.find_points(self.points):
            layout = self.model.points[name].layout
            if layout != "NLC":
                raise RepdynError(
                    f"point {name!r}: has layout {layout}, expected NLC, a vector for each token; "
                    "read a block"
                )
        self.window, self.seed = window, seed
        self.alarms: list[TokenAlarm] = []

    @property
    def _module(self) -> nn.Module:
        """The whole language model, with its head."""
        whole = self.model.weights
        return whole if whole is not None and hasattr(whole, "generate") else self.model.module

    def fit(self, texts: Sequence[Any]) -> Self:
        """Fit the detector of tokens on usual texts.

        Parameters
        ----------
        texts
            As the model's ``prepare`` takes them; some hundreds, with some thousands of tokens.

        Raises
        ------
        RepdynError
            If there are too few tokens for a detector.
        """
        tokens = trace(self.model, list(texts), points=self.points, pool="none").tokens_as_samples()
        place = np.array([int(name.rpartition(":")[2]) for name in tokens.ids.tolist()])
        states = {point: np.asarray(tokens[point]) for point in self.points}
        self.sinks_, without = find_sinks(states, place < SKIPPED)
        self.detector_ = PathDetector(self.points, seed=self.seed).fit(
            tokens.subset(np.flatnonzero(~without))
        )
        self._forget()
        return self

    def calibrate(self, texts: Sequence[Any], batch_size: int = 16, **options: Any) -> Self:
        """Set the thresholds of sequences, from usual texts that the detector was not fitted on.

        Parameters
        ----------
        texts
            Held-out usual texts, or prompts.
        batch_size
            Texts that are read together; prompts are continued one by one.
        **options
            If there are any, the texts are prompts, and these are arguments of ``generate``; the score is of
            the prompt and what was generated.

        Raises
        ------
        RepdynError
            If the texts are too few for a rate of 5 %: 19 are needed.
        """
        step = 1 if options else batch_size
        lowest: list[float] = []
        for start in range(0, len(texts), step):
            part = list(texts[start : start + step])
            found = self.generate(part[0], **options) if options else self.read(part)
            lowest += found.lowest[np.isfinite(found.lowest)].tolist()
        self._set(np.sort(np.array(lowest)))
        return self

    def _set(self, lowest: NDArray[np.float64]) -> None:
        """Thresholds and intervals of sorted lowest windows ``(n,)``."""
        self._forget()
        usable = [rate for rate in RATES if int(rate * (len(lowest) + 1) + 1e-9) >= 1]
        if not usable:
            raise RepdynError(
                f"calibration: {len(lowest)} sequences support no rate below {1 / (len(lowest) + 1):.1%}; "
                f"a rate of {max(RATES):.0%} needs at least {round(1 / max(RATES)) - 1}"
            )
        self.calibration_ = lowest
        self.thresholds_ = {rate: conformal_threshold(lowest, rate) for rate in usable}
        self.intervals_ = {rate: false_positive_interval(len(lowest), rate) for rate in usable}

    def _forget(self) -> None:
        """Remove thresholds, which another detector or calibration set."""
        self.thresholds_, self.intervals_ = {}, {}
        self.calibration_ = np.empty(0)

    def read(self, texts: Sequence[Any]) -> MonitoredTokens:
        """Scores of the tokens of texts, which the model reads in one pass.

        Raises
        ------
        RepdynError
            If the monitor is not fitted, or there is no text.
        """
        if len(texts) == 0:
            raise RepdynError("texts: there is none; give at least one")
        inputs = self._placed(self.model.prepare(list(texts)))

        def run() -> None:
            self.model.module(**inputs)

        return self._run(run, inputs)

    def generate(self, inputs: Any, **options: Any) -> MonitoredTokens:
        """Run the model's ``generate`` and score all tokens that it reads.

        Parameters
        ----------
        inputs
            A prompt, or prepared inputs: a mapping with ``input_ids`` and ``attention_mask`` ``(N, T)``,
            padded on the left.
        **options
            Further arguments of ``generate``.

        Raises
        ------
        RepdynError
            If the monitor is not fitted, or the generation reorders sequences (beam search).
        """
        prepared = inputs if isinstance(inputs, Mapping) else self.model.prepare([inputs])
        known = ("input_ids", "attention_mask")
        given = self._placed({name: prepared[name] for name in known if name in prepared})
        module: Any = self._module
        return self._run(lambda: module.generate(**given, **options), given)

    def _placed(self, inputs: Any) -> Any:
        return devices.to(inputs, self.model.device)

    def _run(self, call: Callable[[], Any], inputs: Mapping[str, Tensor]) -> MonitoredTokens:
        """Score the tokens of all forward passes within a call."""
        if not hasattr(self, "detector_"):
            raise RepdynError("GenerationMonitor: is not fitted; call fit(texts) first")
        ids = inputs["input_ids"]
        mask = inputs.get("attention_mask", torch.ones_like(ids)).bool()
        module = devices.to(self.detector_.as_module(), self.model.device)
        stream = _Stream(module, self, mask, _ends(self._module))
        self.alarms = stream.alarms
        output: list[Any] = []
        with stream.watching(self.model), in_evaluation(self._module), torch.no_grad():
            stream.hooks.run(lambda: output.append(call()))
        return stream.result(output[0])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write detector and thresholds as a folder; the model is not part of it."""
        if not hasattr(self, "detector_"):
            raise RepdynError("GenerationMonitor: is not fitted; call fit(texts) first")
        config, tensors = self.detector_.to_record()
        own = {"window": self.window, "seed": self.seed, "token detector": config}
        sinks = {SINK + point: state for point, state in self.sinks_.items()}
        save_artifact(path, "generation monitor", own, {**tensors, **sinks, "lowest": self.calibration_})

    @classmethod
    @refuses_damage
    def load(cls, path: str | os.PathLike[str], model: TracedModel | nn.Module | str) -> Self:
        """Read what :meth:`save` wrote, for the model that it was fitted on.

        Raises
        ------
        RepdynError
            If it is not there or damaged, or the model has other weights.
        """
        artifact = load_artifact(path, "generation monitor")
        check_values(artifact.config, window=int, seed=int)
        tensors = dict(artifact.tensors)
        check_arrays(tensors, True, lowest="N")
        lowest = np.asarray(tensors.pop("lowest"), dtype=np.float64)
        sinks = {name: tensors.pop(name) for name in list(tensors) if name.startswith(SINK)}
        check_arrays(sinks, True, **dict.fromkeys(sinks, "D"))
        detector = PathDetector.from_record(artifact.config["token detector"], tensors, str(path))
        monitor = cls(model, detector.points_, int(artifact.config["window"]), int(artifact.config["seed"]))
        known = detector.source_.get("digest")
        if known is not None and known != monitor.model.digest:
            raise RepdynError(
                f"{path}: was fitted on another model than {monitor.model.name} (digest {str(known)[:12]}, "
                f"not {monitor.model.digest[:12]}); fit a monitor of this one"
            )
        monitor.detector_ = detector
        monitor.sinks_ = {name.removeprefix(SINK): np.asarray(x, np.float32) for name, x in sinks.items()}
        monitor._forget()
        if len(lowest):
            monitor._set(lowest)
        return monitor


class _Stream:
    """The state of one run: scores of the tokens so far, the sliding window, and the alarms."""

    def __init__(
        self, detector: PathModule, monitor: GenerationMonitor, mask: Tensor, ends: frozenset[int]
    ) -> None:
        self.detector, self.window = detector, monitor.window
        self.thresholds = dict(sorted(monitor.thresholds_.items()))
        self.sinks = devices.to({p: torch.as_tensor(x) for p, x in monitor.sinks_.items()}, mask.device)
        self.mask, self.ends = mask, ends
        self.alarms: list[TokenAlarm] = []
        self.hooks: Any = None
        self._step: dict[str, Tensor] = {}
        self._ids: Tensor | None = None
        self._scores: list[NDArray[np.float64]] = []
        self._profiles: list[NDArray[np.float32]] = []
        count = len(mask)
        self._seen = np.zeros(count, dtype=np.int64)
        self._finished = np.zeros(count, dtype=bool)
        self._recent: list[list[tuple[int, float, NDArray[np.float32]]]] = [[] for _ in range(count)]
        self._windows: list[NDArray[np.float64]] = []
        self._read = 0

    @contextmanager
    def watching(self, model: TracedModel) -> Iterator[None]:
        """Hooks at the points and at the embedding, whose input are the ids."""
        points = {name: model.points[name] for name in self.detector.points}
        self.hooks = Hooks(model.module, points, self._keep)
        handles = []
        embedding = getattr(model.module, "get_input_embeddings", lambda: None)()
        if embedding is not None and self.ends:
            handles.append(embedding.register_forward_pre_hook(self._keep_ids))
        try:
            with self.hooks.attached():
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _keep_ids(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        self._ids = given[0] if given else None

    def _keep(self, name: str, point: Point, value: Tensor) -> None:
        self._step[name] = value.detach()
        if len(self._step) == len(self.detector.points):
            self._score()
            self._step.clear()

    def _score(self) -> None:
        """Score the tokens of one forward pass."""
        first = next(iter(self._step.values()))
        count, length = first.shape[:2]
        if count != len(self.mask):
            raise RepdynError(
                f"generate: a pass reads {count} sequences, {len(self.mask)} were given; beam search and "
                "several returned sequences reorder them and cannot be monitored, use num_beams=1"
            )
        features = {name: value.reshape(count * length, -1) for name, value in self._step.items()}
        scores, profile = self.detector.scored_profile(features)
        # One transfer for each pass; the window needs the numbers on the host.
        both = devices.to(torch.cat([scores.unsqueeze(-1), profile], dim=-1), "cpu", torch.float32)
        host = as_array(both.reshape(count, length, -1))
        sinks = np.zeros(count * length, dtype=bool)
        if self.sinks and np.isinf(host).any():  # tokens are hardly ever refused, and others cost nothing
            sinks = are_sinks({p: features[p] for p in self.detector.points}, self.sinks, profile.isinf())
        self._add(host[..., 0].astype(np.float64), host[..., 1:], sinks.reshape(count, length))

    def _add(
        self, scores: NDArray[np.float64], profile: NDArray[np.float32], sinks: NDArray[np.bool_]
    ) -> None:
        """Add the tokens ``(N, T)`` of one pass to the windows, and raise alarms."""
        count, length = scores.shape
        real = self._real(count, length)
        windows = np.full((count, length), np.nan)
        for row, column in zip(*np.nonzero(real), strict=True):
            place = self._read + int(column)
            self._seen[row] += 1
            if self._seen[row] <= SKIPPED or sinks[row, column]:
                scores[row, column] = np.nan
                continue
            recent = self._recent[row]
            recent.append((place, max(float(scores[row, column]), LOWEST), profile[row, column]))
            del recent[: -self.window]
            if len(recent) == self.window:
                windows[row, column] = np.mean([score for _, score, _ in recent])
                self._raise(int(row), place, windows[row, column])
        scores[~real], profile[~real] = np.nan, np.nan
        self._scores.append(scores)
        self._windows.append(windows)
        self._profiles.append(profile)
        self._read += length

    def _real(self, count: int, length: int) -> NDArray[np.bool_]:
        """Which tokens of this pass count, ``(N, T)``: no padding, nothing after the end of a sequence."""
        real = np.ones((count, length), dtype=bool)
        if self._read < self.mask.shape[1]:
            known = as_array(self.mask[:, self._read : self._read + length])
            real[:, : known.shape[1]] = known
            return real
        real &= ~self._finished[:, None]
        if self._ids is not None and self._ids.shape[:2] == (count, length):
            self._finished |= np.isin(as_array(self._ids), list(self.ends)).any(axis=1)
        return real

    def _raise(self, row: int, place: int, score: float) -> None:
        """Raise the first alarm of a sequence at each rate whose threshold the window is below."""
        for rate, threshold in self.thresholds.items():
            raised = any(alarm.sequence == row and alarm.rate == rate for alarm in self.alarms)
            if score < threshold and not raised:
                token, _, profile = min(self._recent[row], key=lambda kept: kept[1])
                point = self.detector.points[int(np.argmax(profile))]
                self.alarms.append(TokenAlarm(row, rate, place, token, point, float(score)))

    def result(self, output: Any) -> MonitoredTokens:
        """All scores; sequences shorter than a window are judged now."""
        scores, windows = (np.concatenate(parts, axis=1) for parts in (self._scores, self._windows))
        lowest = np.full(len(scores), np.nan)
        for row, own in enumerate(windows):
            full = own[~np.isnan(own)]
            recent = self._recent[row]
            if len(full):
                lowest[row] = full.min()
            elif recent:
                lowest[row] = np.mean([score for _, score, _ in recent])
                self._raise(row, recent[-1][0], lowest[row])
        profile = np.concatenate(self._profiles, axis=1)
        points = self.detector.points
        return MonitoredTokens(output, scores, windows, profile, points, lowest, tuple(self.alarms))


def _ends(module: nn.Module) -> frozenset[int]:
    """Ids that end a generated sequence."""
    known = getattr(getattr(module, "generation_config", None), "eos_token_id", None)
    return frozenset([known] if isinstance(known, int) else known or ())
