"""The steps of the demonstration; each saves its result in the folder, or loads the one that is there."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import repdyn
from repdyn.cli.console import say
from repdyn.cli.demo_text import leaf_names, meaning
from repdyn.datasets import (
    Corpus,
    code_snippets,
    documentation_corpus,
    letter_statistics,
    shuffled_characters,
)
from repdyn.errors import RepdynError
from repdyn.fields import Attractors, EnergyField, EnergyWarning, LatentField
from repdyn.koopman import Fidelity, KoopmanAutoencoder
from repdyn.ood import OODEvaluation, PathDetector, evaluate
from repdyn.paths import RepresentationPaths, open_paths
from repdyn.reporting import Entry, entry, write_page
from repdyn.topology import LevelSetTree
from repdyn.tracing import TracedModel, load, trace
from repdyn.translation import (
    LinearTranslation,
    TranslationEvaluation,
    TreeMatch,
    evaluate_translation,
    match_trees,
    translate,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Walk"]

MODEL_A, MODEL_B = "packaged:all-MiniLM-L6-v2", "packaged:paraphrase-MiniLM-L3-v2"


@dataclass(frozen=True)
class Sizes:
    """How much a demonstration reads and computes.

    Attributes
    ----------
    fitted, held_out, foreign
        Numbers of passages: fitted on for each model, held out of both, out of distribution.
    paired
        Passages that B reads as well; used for the paired ceiling only.
    epochs
        Half the default, so that the demo takes minutes.
    starts, steps
        Initial conditions of the field, enough to find its attractors within seconds, and steps of each.
    """

    fitted: int = 4000
    held_out: int = 1000
    foreign: int = 500
    paired: int = 2000
    epochs: int = 30
    starts: int = 500
    steps: int = 1000


SIZES = Sizes()
PASSAGES_OF_AN_ATOM = 10  # of the mixture on which the map is projected; see docs/studies/fields.md
NAMED = 6  # attractors that are printed with their nearest passages

R = TypeVar("R")


def _save(result: Any, path: Path) -> None:
    result.save(path)


class Walk:
    """One demonstration in one folder.

    Parameters
    ----------
    out
        The folder; created if it does not exist.
    seed
        Seed of all steps. A folder that was made with another seed is refused.
    sizes
        Default: :data:`SIZES`.
    """

    def __init__(self, out: Path, seed: int, sizes: Sizes | None = None) -> None:
        self.sizes = sizes or SIZES
        self.out = out
        self.seed = seed
        self.entries: list[Entry] = []
        self._threads = 0  # of each process, where there are two
        self._running: BaseProcess | None = None
        self.steps: tuple[tuple[str, Callable[[], dict[str, Any]]], ...] = (
            ("Real text: the documentation of the packages installed here", self.read),
            ("Trace: two sentence encoders read different passages", self.trace),
            ("Koopman: is depth linear in some lifted space?", self.koopman),
            ("Field: where does its encode-decode map send the data, kept among the data?", self.field),
            ("Out of distribution: is this input unlike the training data?", self.ood),
            ("Translation: two models, no pairs", self.translation),
        )
        self._claim()

    # --- the steps ---

    @contextmanager
    def second_process(self) -> Iterator[None]:
        """Where there are two cores, a second process traces B and what is foreign, and later translates."""
        self._threads = cores() // 2
        if self._threads:
            _use_threads(self._threads)
        try:
            yield
        finally:
            if self._running is not None:
                self._running.terminate()

    def read(self) -> dict[str, Any]:
        """Collect the passages and print their numbers."""
        packages = len(np.unique(self.corpus.labels))
        say(f"  {len(self.corpus)} passages of {packages} packages; {len(self.parts[0])} for model A, others")
        say(f"  ({len(self.parts[1])}) for model B, and {len(self.parts[2])} held out of every fit")
        return {"corpus": {"passages": len(self.corpus), "packages": packages}}

    def trace(self) -> dict[str, Any]:
        """Trace both models to disk and read the paths back."""
        self._beside("traces")
        made = self.a, self.held_out_a  # while B reads its passages
        say(f"  passages of A: {' and '.join(str(len(paths)) for paths in made)}")
        self._join()
        self._beside("translation")
        for name, paths in (("A", self.a), ("B", self.b)):
            say(
                f"  {name} = {paths.meta.get('model', '?')}: {len(paths)} paths of {len(paths.points)} points"
            )
        self._show(self.a, "How model A moves its inputs")
        return {"trace": {"a": self.a.to_dict(), "b": self.b.to_dict()}}

    def koopman(self) -> dict[str, Any]:
        """Fit the autoencoder to A's paths; compare its fidelity on held-out paths with the controls."""
        fidelity = self.fidelity
        _indent(fidelity)
        self._show(fidelity, "Is depth linear?")
        figures = fidelity.to_dict()
        name = next(iter(fidelity.fvu))
        return {
            "koopman": {
                "fvu": figures["fvu"][name],
                "controls": {key: value for key, value in figures["fvu"].items() if key != name},
                "accuracy": figures["accuracy"],
                "points": list(fidelity.points),
            }
        }

    def field(self) -> dict[str, Any]:
        """Iterate the encode-decode map of the last point, projected to the data; name what it reaches."""
        attractors = self._kept("a.attractors", Attractors.load, self._find_attractors)
        _indent(attractors)
        unexplained = self._unexplained_by_projection()
        say(
            "  variance of held-out passages unexplained: "
            f"{unexplained['encode-decode']:.2f} by encode-decode, {unexplained['projected']:.2f} projected"
        )
        for note in self._energy.notes_:
            say(f"  note: {note}")
        named = self._named(attractors)
        for each in named:
            most = f"{each['purity']:.0%} {each['package']}"
            say(f"  {each['share']:.1%} of the starts, {most}: {each['nearest']}")
        self._show(attractors, "Attractors of the projected encode-decode map")
        figures = attractors.to_dict()
        counts = attractors.status_counts()
        return {
            "field": {
                "attractors": len(attractors),
                "status": counts,
                "figures": figures,
                "unexplained": unexplained,
                "named": named,
            }
        }

    def ood(self) -> dict[str, Any]:
        """Score source code and shuffled characters against held-out prose."""
        evaluation = self._kept("a.ood", OODEvaluation.load, self._evaluate_detector)
        _indent(evaluation)
        self._show(evaluation, "Is this input unlike the training data?")
        row = {
            name: {m: e.to_dict() for m, e in cell.items()}
            for name, cell in evaluation.table[evaluation.detector].items()
        }
        controls = {
            control: {name: {m: e.to_dict() for m, e in cell.items()} for name, cell in cells.items()}
            for control, cells in evaluation.table.items()
            if control != evaluation.detector
        }
        return {
            "ood": {
                "auroc": {name: cell["auroc"] for name, cell in row.items()},
                "fpr95": {name: cell["fpr95"] for name, cell in row.items()},
                "controls": controls,
                "verdict": evaluation.verdict,
            }
        }

    def translation(self) -> dict[str, Any]:
        """Match the trees, derive the map without pairs, and evaluate it on passages both models read."""
        self._join()
        (tree_a, tree_b), translation, evaluation, match = self.translated()
        say(f"  level-set trees: {len(tree_a.leaves)} leaves in A, {len(tree_b.leaves)} in B")
        for result in (translation, evaluation, match):
            _indent(result)
        names = leaf_names(tree_a, self.parts[0].labels), leaf_names(tree_b, self.parts[1].labels)
        self._show(match, "Two trees, matched", match.plot(*names))
        self._show(evaluation, "Two models, no pairs")
        low, high = translation.interval or (float("nan"),) * 2
        return {
            "translation": {
                "top1": evaluation.top1["translation"].to_dict(),
                "paired": evaluation.top1["paired"].to_dict(),
                "random": evaluation.top1["random"].to_dict(),
                "verdict": translation.verdict,
                "confidence": {"value": translation.confidence, "low": low, "high": high},
                "evaluation": evaluation.to_dict(),
            }
        }

    def translated(
        self,
    ) -> tuple[tuple[LevelSetTree, LevelSetTree], LinearTranslation, TranslationEvaluation, TreeMatch]:
        """The trees of both models, the map without pairs, its evaluation, and the match of the trees."""
        a, b = self._last(self.a), self._last(self.b)
        tree_a, tree_b = (
            self._kept(name, LevelSetTree.load, partial(LevelSetTree.fit, x, seed=self.seed))
            for name, x in (("a.tree", a), ("b.tree", b))
        )
        translation = self._kept(
            "ab.translation", LinearTranslation.load, lambda: translate(self.a, self.b, seed=self.seed)
        )
        evaluation = self._kept(
            "ab.evaluation", TranslationEvaluation.load, lambda: self._evaluate_translation(translation)
        )
        match = self._kept(
            "ab.match", TreeMatch.load, partial(match_trees, tree_a, tree_b, a, b, seed=self.seed)
        )
        return (tree_a, tree_b), translation, evaluation, match

    # --- inputs of the steps ---

    @cached_property
    def corpus(self) -> Corpus:
        """The passages; collected from the installed packages once, then loaded from the folder."""
        kept = self.out / "passages.json"
        if kept.is_file():
            document = json.loads(kept.read_text())
            return Corpus(tuple(document["texts"]), np.array(document["labels"]))
        corpus = documentation_corpus(seed=self.seed)
        _write(kept, {"texts": list(corpus.texts), "labels": corpus.labels.tolist()})
        return corpus

    @cached_property
    def parts(self) -> tuple[Corpus, ...]:
        """Three disjoint sets of passages: for A, for B, and held out of both."""
        held_out = min(
            self.sizes.held_out, len(self.corpus) // 9
        )  # smaller in an environment with few packages
        fitted = min(self.sizes.fitted, (len(self.corpus) - held_out) // 2)
        return self.corpus.split((fitted, fitted, held_out), seed=self.seed)

    @cached_property
    def a(self) -> RepresentationPaths:
        """A's paths of its own passages."""
        return self._traced("a.paths", MODEL_A, self.parts[0].texts, self.parts[0].labels)

    @cached_property
    def b(self) -> RepresentationPaths:
        """B's paths of other passages."""
        return self._traced("b.paths", MODEL_B, self.parts[1].texts, self.parts[1].labels)

    @cached_property
    def held_out_a(self) -> RepresentationPaths:
        """A's paths of the held-out passages."""
        return self._traced("held-out-a.paths", MODEL_A, self.parts[2].texts, self.parts[2].labels)

    @cached_property
    def held_out_b(self) -> RepresentationPaths:
        """B's paths of the held-out passages."""
        return self._traced("held-out-b.paths", MODEL_B, self.parts[2].texts, self.parts[2].labels)

    @cached_property
    def kae(self) -> KoopmanAutoencoder:
        """The Koopman autoencoder of A's paths."""
        return self._kept(
            "a.kae",
            KoopmanAutoencoder.from_pretrained,
            lambda: KoopmanAutoencoder().fit(self.a, epochs=self.sizes.epochs, seed=self.seed),
            KoopmanAutoencoder.save_pretrained,
        )

    @cached_property
    def fidelity(self) -> Fidelity:
        """Its fidelity on the held-out passages."""
        return self._kept(
            "a.fidelity",
            Fidelity.load,
            lambda: self.kae.fidelity(self.held_out_a, train=self.a, seed=self.seed),
        )

    def report(self) -> Path:
        """Write the page."""
        return write_page(self.entries, self.out / "report.html", force=True)

    def meaning(self, figures: dict[str, Any]) -> tuple[str, ...]:
        """A summary of the figures in four sentences."""
        return meaning(self.fidelity, figures)

    # --- helpers ---

    def _beside(self, part: str) -> None:
        """Start a part of the walk in a second process; without one, it is done when it is needed."""
        if self._threads:
            context = multiprocessing.get_context("spawn")  # a fork of a process with threads can hang
            given = part, self.out, self.seed, self.sizes, self._threads
            self._running = context.Process(target=_made_beside, args=given, daemon=True)
            self._running.start()

    def _join(self) -> None:
        """Wait for the second process. What it failed to make is made by this one, which then says why."""
        if self._running is not None:
            self._running.join()
            self._running = None

    def _claim(self) -> None:
        """Create the folder and mark it with seed and version; refuse a folder of anything else."""
        self.out.mkdir(parents=True, exist_ok=True)
        mark = self.out / "demo.json"
        mine = {"seed": self.seed, "version": repdyn.__version__}
        if mark.is_file():
            if json.loads(mark.read_text()) != mine:
                raise RepdynError(f"{self.out}: holds a demo of another seed or version; give another --out")
        elif any(self.out.iterdir()):
            raise RepdynError(f"{self.out}: is neither empty nor the folder of a demo; give another --out")
        else:
            _write(mark, mine)

    def _kept(
        self,
        name: str,
        load: Callable[[Path], R],
        make: Callable[[], R],
        save: Callable[[R, Path], None] = _save,
    ) -> R:
        """Load the result of this name from the folder, or make and save it."""
        path = self.out / name
        if path.exists():
            return load(path)
        result = make()
        save(result, path)
        return result

    def _traced(
        self, name: str, model: str, texts: Sequence[str], labels: NDArray[np.str_] | None = None
    ) -> RepresentationPaths:
        """Trace a model on texts into a store of this name, or open the finished store."""
        path = self.out / name
        if path.exists():
            try:
                return open_paths(path)
            except RepdynError:
                pass  # an unfinished store is continued below; anything else is refused there
        if model not in self._models:
            self._models[model] = load(model)
        traced = self._models[model]
        # Embeddings are included: translation matches all depths jointly, and the first is the easiest.
        blocks = [point for point in traced.default_points if point != traced.final]
        points = ["embeddings", *blocks]
        return trace(traced, list(texts), points=points, labels=labels, out=path, batch_size=64)

    @cached_property
    def _models(self) -> dict[str, TracedModel]:
        return {}

    def _last(self, paths: RepresentationPaths) -> NDArray[Any]:
        return np.asarray(paths[paths.points[-1]])

    @cached_property
    def _energy(self) -> EnergyField:
        """The field of the passages that are no starts, by cosines of the last point."""

        def fitted() -> EnergyField:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", EnergyWarning)  # its notes are printed
                bank = self._last(self.a)[self.sizes.starts :]
                atoms = max(1, len(bank) // PASSAGES_OF_AN_ATOM)
                return EnergyField(unit_length=True, atoms=atoms, seed=self.seed).fit(bank)

        return self._kept("a.energy", EnergyField.from_pretrained, fitted, EnergyField.save_pretrained)

    def _projected(self) -> LatentField:
        """Encode-decode in the coordinates of the bank, followed by steps towards denser passages."""
        point = self.a.points[-1]

        def rebuilt(z: Tensor) -> Tensor:
            latents = self._energy.decode(z)
            return self._energy.encode(self.kae.decode(self.kae.encode(latents, point), point))

        return self._energy.projected(LatentField(rebuilt), 1)

    def _find_attractors(self) -> Attractors:
        starts = self._energy.encode(self._last(self.a)[: self.sizes.starts])
        return self._projected().attractors(starts, max_steps=self.sizes.steps, seed=self.seed)

    def _unexplained_by_projection(self) -> dict[str, float]:
        """Fraction of variance unexplained at the last point of held-out passages, before and after."""
        import torch

        point, x = self.a.points[-1], torch.as_tensor(self._last(self.held_out_a))
        with torch.no_grad():
            plain = self.kae.decode(self.kae.encode(x, point), point)
            projected = self._energy.decode(self._projected()(self._energy.encode(x)))
        total = (x - x.mean(dim=0)).square().sum()
        return {
            name: float((y - x).square().sum() / total)
            for name, y in (("encode-decode", plain), ("projected", projected))
        }

    def _named(self, attractors: Attractors) -> list[dict[str, Any]]:
        """The largest attractors: basin, commonest package of its starts, and the nearest passage."""
        import torch

        if not len(attractors):
            return []
        labels = self.parts[0].labels[: self.sizes.starts]
        nearest = self._energy.nearest(torch.from_numpy(attractors.points[:NAMED]))[:, 0] + self.sizes.starts
        named = []
        for a, row in enumerate(nearest):
            known, count = np.unique(labels[attractors.basin == a], return_counts=True)
            named.append(
                {
                    "share": float(attractors.basin_share[a]),
                    "package": str(known[count.argmax()]),
                    "purity": float(count.max() / count.sum()),
                    "nearest": " ".join(self.parts[0].texts[row].split())[:80],
                }
            )
        return named

    @cached_property
    def foreign(self) -> dict[str, tuple[Sequence[str], RepresentationPaths]]:
        """Inputs out of distribution, and A's paths of them."""
        texts: dict[str, Sequence[str]] = {
            "source code": code_snippets(self.sizes.foreign, seed=self.seed),
            "shuffled characters": shuffled_characters(
                self.parts[2].texts[: self.sizes.foreign], seed=self.seed
            ),
        }
        names = ("code-a.paths", "shuffled-a.paths")
        return {
            kind: (those, self._traced(name, MODEL_A, those))
            for name, (kind, those) in zip(names, texts.items())
        }

    def _evaluate_detector(self) -> OODEvaluation:
        texts = {"in-distribution": self.parts[2].texts} | {kind: x for kind, (x, _) in self.foreign.items()}
        return evaluate(
            PathDetector().fit(self.a),
            self.held_out_a,
            {kind: paths for kind, (_, paths) in self.foreign.items()},
            statistics={name: letter_statistics(those) for name, those in texts.items()},
            seed=self.seed,
        )

    def _evaluate_translation(self, translation: LinearTranslation) -> TranslationEvaluation:
        # Pairs are used for the paired ceiling only: B reads A's passages after all fits are done.
        texts = self.parts[0].texts[: self.sizes.paired]
        paired = self._traced("a-read-by-b.paths", MODEL_B, texts)
        return evaluate_translation(
            translation,
            self._last(self.held_out_a),
            self._last(self.held_out_b),
            labels=self.parts[2].labels,
            ceiling=(self._last(self.a)[: len(texts)], self._last(paired)),
            seed=self.seed,
        )

    def _show(self, result: Any, title: str, figure: Any = None) -> None:
        self.entries.append(entry(result, title, figure=figure))


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _use_threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)


def _made_beside(part: str, out: Path, seed: int, sizes: Sizes, threads: int) -> None:
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for the life of the process
    _use_threads(threads)
    walk = Walk(out, seed, sizes)
    if part == "translation":
        walk.translated()
    else:
        len(walk.b), len(walk.foreign)  # traced to disk


def _indent(result: Any) -> None:
    for line in repr(result).splitlines():
        say(f"  {line}")


def _write(path: Path, document: Any) -> None:
    scratch = path.with_name(path.name + ".part")
    scratch.write_text(json.dumps(document))
    scratch.replace(path)
