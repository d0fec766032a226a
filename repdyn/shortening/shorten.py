"""Replace a run of blocks by a map of single tokens, and estimate the loss on new samples."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from repdyn import devices
from repdyn.artifacts import load_artifact, refuses_damage, save_artifact
from repdyn.errors import RepdynError
from repdyn.hub import repository
from repdyn.intervals import Estimate
from repdyn.progress import track
from repdyn.publishing import HubMixin
from repdyn.reading import as_array
from repdyn.repeats import folds_by_group
from repdyn.results import Result
from repdyn.shortening.blocks import Block, Passthrough, PointwiseMap, blocks_of, replaceable, replaced
from repdyn.shortening.fitting import Fitted, Kind, fit_map, read_tokens
from repdyn.shortening.outputs import loss_between, mean_loss, outputs_of, predicts_tokens
from repdyn.shortening.settings import ShortenSettings
from repdyn.tracing import TracedModel, load
from repdyn.tracing.samples import as_samples

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["ShortenedModel", "Shortening", "shorten"]

_SETTINGS = ShortenSettings()
_SAVED = "shortened model"


@dataclass(frozen=True, eq=False)
class Shortening(Result, kind="shortening"):
    """What was replaced in a model, and the expected loss.

    Attributes
    ----------
    model
        Name of the model.
    removed
        The blocks that the map replaces, in order.
    blocks
        Number of blocks of the model.
    loss
        What is lost: ``"increase of the log perplexity"`` (nats per token) of a language model,
        ``"divergence of the output"`` (nats) of another model with a head, else ``"unexplained variance of
        the output"`` at the pooled last point.
    expected
        Mean loss on new samples like the given ones, estimated on samples that neither the map nor the
        choice of it has seen, with a 95 % interval. Samples of other sources can lose more or less.
    dropped
        The same without a map: the blocks are left out.
    agreement
        Share of samples for which the head's decision stays the same; None without a head and for language
        models.
    map
        The kind of map.
    runs
        For each run of blocks that a map can replace, the share of the variance of what leaves it that an
        affine map of single tokens leaves unexplained.
    parameters
        Weights of the replaced blocks, and of the map.
    samples
        Number of samples that the map was fitted to, chosen by and its loss predicted from.
    tokens
        Number of tokens that the map was fitted to.
    """

    model: str
    removed: tuple[str, ...]
    blocks: int
    loss: str
    expected: Estimate
    dropped: Estimate
    agreement: Estimate | None
    map: str
    runs: Mapping[str, float]
    parameters: tuple[int, int]
    samples: tuple[int, int, int]
    tokens: int

    figures: ClassVar = (
        "model",
        "removed",
        "blocks",
        "loss",
        "expected",
        "dropped",
        "agreement",
        "map",
        "runs",
        "parameters",
        "samples",
        "tokens",
        "verdict",
    )

    @property
    def verdict(self) -> str:
        """Whether the map loses less than leaving out the blocks: ``"found"`` if the intervals are apart."""
        if self.expected.high < self.dropped.low:
            return "found"
        return "not found" if self.expected.low > self.dropped.high else "inconclusive"

    def plot(self) -> go.Figure:
        """The expected loss with the map and, as control, without it."""
        from repdyn.views.intervals import intervals  # plotly is slow to import

        given = {"with the map": self.expected, "without a map (control)": self.dropped}
        return intervals(
            f"Shortening of {self.model}",
            {name: (own.value, own.low, own.high) for name, own in given.items()},
            controls=["without a map (control)"],
            caption=f"Verdict: {self.verdict}. {self.loss[0].upper()}{self.loss[1:]} on new samples, with "
            f"{len(self.removed)} of {self.blocks} blocks replaced; lower is better.",
        )

    def __repr__(self) -> str:
        before, after = self.parameters
        lines = [
            f"Shortening of {self.model}: {len(self.removed)} of {self.blocks} blocks replaced "
            f"({self.removed[0]} to {self.removed[-1]})",
            f"  expected {self.loss} {self.expected}, on new samples like the given ones",
            f"  without a map {self.dropped}; the map loses less: {self.verdict}",
        ]
        if self.agreement is not None:
            lines.append(f"  decisions that stay the same {self.agreement}")
        lines.append(
            f"  map: {self.map}, {after} weights for {before}, fitted to {self.tokens} tokens of "
            f"{self.samples[0] + self.samples[1]} samples; expected loss from {self.samples[2]} further ones"
        )
        best = sorted(self.runs.items(), key=lambda own: own[1])[:5]
        lines.append("  unexplained by an affine map: " + ", ".join(f"{n} {v:.3f}" for n, v in best))
        return "\n".join(lines)


class ShortenedModel(HubMixin):
    """A model with a map in place of some of its blocks; made by :func:`shorten`.

    Parameters
    ----------
    model
        The shortened model.
    map
        The map within it.
    shortening
        What was replaced, and the expected loss.
    base
        Digest of the weights of the whole model.
    run
        The replaced blocks.

    Attributes
    ----------
    model : TracedModel
        The shortened model, for every function of repdyn that takes a model.
    module : torch.nn.Module
        Its module, called as that of the whole model. Weights are shared with the whole model.
    shortening : Shortening
        What was replaced, and the expected loss.
    """

    def __init__(
        self,
        model: TracedModel,
        map: PointwiseMap,
        shortening: Shortening,
        base: str,
        run: Sequence[Block],
    ) -> None:
        self.model, self.map, self.shortening = model, map, shortening
        self._base, self._run = base, tuple(run)

    @property
    def module(self) -> nn.Module:
        """The module of the shortened model, with its head if that is a part of it."""
        return self.model.module if self.model.weights is None else self.model.weights

    def __repr__(self) -> str:
        return repr(self.shortening)

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write the map and what it replaces to a folder, ``config.json`` and ``model.safetensors``.

        The weights of the other blocks are those of the whole model and are not written.
        """
        values, tensors = self.shortening._record()
        config = {
            "shortening": values,
            "base": self._base,
            "run": [vars(block) | {"shape": list(block.shape)} for block in self._run],
            "units": 0 if self.map.shift is None else len(self.map.shift),
            "normalized": self.map.normalized,
        }
        state = {f"map.{name}": as_array(value) for name, value in self.map.state_dict().items()}
        save_artifact(path, _SAVED, config, {**tensors, **state})

    @classmethod
    @refuses_damage
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        model: TracedModel | None = None,
        device: torch.device | str | None = None,
        revision: str | None = None,
        token: str | None = None,
    ) -> ShortenedModel:
        """Read a folder that :meth:`save_pretrained` wrote, and shorten the model again.

        Parameters
        ----------
        path
            The folder, or ``"user/name"`` on the Hugging Face Hub.
        model
            The whole model; default: ``repdyn.load`` of its name.
        device
            Where to; a given ``model`` is moved there. Default: the device of the model.
        revision, token
            Branch, tag or commit on the Hub, and the account's token.

        Raises
        ------
        RepdynError
            If the folder is damaged, the model has other weights than the one that was shortened, or the
            device cannot be used.
        """
        saved = load_artifact(repository(path, revision, token), _SAVED)
        shortening = Shortening._revive(saved.config["shortening"], saved.tensors)
        if model is None:
            model = load(shortening.model)
        base = model.digest
        if base != saved.config["base"]:
            raise RepdynError(
                f"{os.fspath(path)}: was made from {shortening.model} with weights "
                f"{saved.config['base'][:12]}…, the given model {model.name} has {base[:12]}…; give the "
                "model that was shortened as model="
            )
        if device is not None:
            model.to(device)
        run = [Block(**{**own, "shape": tuple(own["shape"])}) for own in saved.config["run"]]
        first = run[0]
        map_ = PointwiseMap(
            first.width, saved.config["units"], first.axis, first.packed, saved.config["normalized"]
        )
        state = {
            name.removeprefix("map."): torch.from_numpy(np.array(value))
            for name, value in saved.tensors.items()
            if name.startswith("map.")
        }
        try:
            map_.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise RepdynError(f"{os.fspath(path)}: its weights do not match config.json: {reason}") from None
        devices.to(map_.requires_grad_(False).eval(), model.device)
        return cls(replaced(model, run, map_), map_, shortening, base, run)


def shorten(
    model: TracedModel,
    inputs: Any,
    remove: int,
    *,
    seed: int = 0,
    settings: ShortenSettings = _SETTINGS,
) -> ShortenedModel:
    """Replace a run of blocks by a map of single tokens, fitted in closed form.

    Three fifths of the samples give the tokens that enter and leave every run of blocks. Runs are ranked by
    how much of what leaves them one affine map explains on the next fifth. Affine maps of the best three, and
    lifted maps of the best two of these, are compared by the output of the whole network. The last fifth
    predicts the loss on new samples.

    Parameters
    ----------
    model
        A traced model: transformer blocks, or blocks of one shape of a convolutional network.
    inputs
        Samples that the model reads, at least twenty: texts, pictures, arrays. No labels are needed.
    remove
        Number of blocks to replace; at least one block stays.
    seed
        Seed of the parts, the hidden units and the intervals.
    settings
        Tuned numbers.

    Returns
    -------
    ShortenedModel
        Its ``shortening`` states the expected loss; its ``module`` runs.

    Raises
    ------
    RepdynError
        If no run of so many blocks keeps the shape of its input (the message lists the runs that do), or
        there are too few samples or tokens.

    Examples
    --------
    >>> import repdyn
    >>> net = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(4)))
    >>> short = shorten(repdyn.wrap(net), torch.randn(200, 4), remove=2)
    >>> len(short.shortening.removed)
    2
    """
    samples = as_samples(inputs)
    if len(samples) < settings.min_samples:
        raise RepdynError(
            f"shorten: {len(samples)} samples are too few; give at least {settings.min_samples}"
        )
    blocks = blocks_of(model, samples.take(np.arange(2)))
    starts = _starts(model, blocks, remove)
    if predicts_tokens(model):  # the key-value cache of a language model counts tokens in its first block
        starts = [start for start in starts if start] or starts
    groups = samples.groups()
    parts = _parts(groups, seed, settings)
    generator = torch.Generator().manual_seed(seed)
    runs = {start: blocks[start : start + remove] for start in starts}
    taken = [samples.take(part) for part in parts]
    ends = {start: _ends(blocks, start, remove) for start in starts}
    left = _ranked(model, runs, ends, taken, generator, settings)
    best = sorted(left, key=lambda start: left[start])[: settings.runs]
    true = [outputs_of(model, part, settings.batch) for part in taken[1:]]
    held_ends = {name: block for start in best for name, block in ends[start].items()}
    held = [read_tokens(model, held_ends, part, generator, settings) for part in taken[:2]]

    def fitted(start: int, kind: Kind, every: bool = False) -> Fitted:
        first, last = ends[start]
        fit, validation = ((own[first], own[last]) for own in held)
        drawn = torch.Generator().manual_seed(seed)
        return fit_map(fit, validation, runs[start][0], kind, drawn, settings, every)

    def lost(start: int, kind: Kind) -> tuple[float, int, Kind]:
        map_ = devices.to(fitted(start, kind).map, model.device)
        changed = outputs_of(replaced(model, runs[start], map_), taken[1], settings.batch)
        return mean_loss(true[0], changed), start, kind

    affine = [(start, Kind(lifted=False, relative=own)) for start in best for own in (False, True)]
    tried = sorted((lost(*one) for one in track(affine, "fitting maps")), key=lambda own: own[0])
    # Lifted maps cost ten times as much to fit: only the best two affine ones are lifted.
    tried += [lost(start, replace(kind, lifted=True)) for _, start, kind in tried[:2]]
    _, start, kind = min(tried, key=lambda own: own[0])
    run, map_ = runs[start], devices.to(fitted(start, kind, every=True).map, model.device)
    short = replaced(model, run, map_)
    equal = groups[parts[2]]
    expected, agreement = loss_between(true[1], outputs_of(short, taken[2], settings.batch), seed, equal)
    without = replaced(model, run, Passthrough(run[0].packed))
    dropped, _ = loss_between(true[1], outputs_of(without, taken[2], settings.batch), seed, equal)
    found = Shortening(
        model.name,
        tuple(block.point for block in run),
        len(blocks),
        true[1].kind,
        expected,
        dropped,
        agreement,
        str(kind),
        {f"{own[0].point} to {own[-1].point}": left[n] for n, own in runs.items()},
        (sum(block.parameters for block in run), sum(p.numel() for p in map_.parameters())),
        (len(parts[0]), len(parts[1]), len(parts[2])),
        sum(len(next(iter(own.values()))) for own in held),
    )
    return ShortenedModel(short, map_, found, model.digest, run)


def _starts(model: TracedModel, blocks: Sequence[Block], remove: int) -> list[int]:
    """First blocks of the runs that can be replaced, or :class:`RepdynError`."""
    if len(blocks) < 2:
        raise RepdynError(f"shorten: {model.name} has one block, {blocks[0].point!r}; a block must stay")
    if not 1 <= remove < len(blocks):
        raise RepdynError(
            f"shorten: remove must be from 1 to {len(blocks) - 1} of the {len(blocks)} blocks of "
            f"{model.name}, got {remove}"
        )
    starts = replaceable(blocks, remove)
    if starts:
        return starts
    fewer = next((count for count in range(remove - 1, 0, -1) if replaceable(blocks, count)), 0)
    known_starts = replaceable(blocks, fewer) if fewer else []  # every run of no block at all would do
    names = [f"{blocks[start].point} to {blocks[start + fewer - 1].point}" for start in known_starts]
    known = f"at most {fewer} can be replaced: {', '.join(names)}" if fewer else "no block keeps its shape"
    raise RepdynError(
        f"shorten: no {remove} successive blocks of {model.name} keep the shape of their input; {known}"
    )


def _ends(blocks: Sequence[Block], start: int, count: int) -> dict[str, Block]:
    """What enters and what leaves a run: names for :func:`read_tokens`, and the block of each."""
    first, last = blocks[start], blocks[start + count - 1]
    before = blocks[start - 1] if start and first.follows else None
    entry = (f"{first.point}:input", first) if before is None else (before.point, before)
    return dict([entry, (last.point, last)])


def _parts(groups: NDArray[np.int64], seed: int, settings: ShortenSettings) -> list[NDArray[np.int64]]:
    """Numbers of the samples of the three parts; equal samples, those of one group, share a part."""
    # The shares of the parts are tenths.
    tenths = folds_by_group(groups, 10, np.random.default_rng(seed))
    edges = np.round(10 * np.cumsum(settings.parts)).astype(int)
    parts = [np.flatnonzero(np.digitize(tenths, edges[:-1]) == number) for number in range(3)]
    if min(len(part) for part in parts) < 2:
        raise RepdynError(
            f"shorten: {groups.max() + 1} different samples are too few to fit, to choose and to predict; "
            f"give at least {settings.min_samples}"
        )
    return parts


def _ranked(
    model: TracedModel,
    runs: Mapping[int, Sequence[Block]],
    ends: Mapping[int, Mapping[str, Block]],
    taken: Sequence[Sequence[Any]],
    generator: torch.Generator,
    settings: ShortenSettings,
) -> dict[int, float]:
    """Share that an affine map of single tokens leaves unexplained of what leaves each run."""
    every = {name: block for own in ends.values() for name, block in own.items()}
    fit, validation = (read_tokens(model, every, part, generator, settings) for part in taken[:2])
    left = {}
    for start, run in track(runs.items(), "ranking runs of blocks", len(runs)):
        first, last = ends[start]
        count = len(fit[first])
        if count <= run[0].width:
            raise RepdynError(
                f"shorten: {count} tokens are too few for a map of {run[0].width} channels at "
                f"{run[0].point!r}; give more samples"
            )
        kind = Kind(lifted=False, relative=len(run[0].shape) == 2)
        one, other = ((own[first], own[last]) for own in (fit, validation))
        left[start] = fit_map(one, other, run[0], kind, generator, settings).unexplained
    return left
