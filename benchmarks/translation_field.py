"""Translation on the field's own work: ``translate`` beside its rivals on identical inputs.

    python benchmarks/translation.py --protocol field --out field.jsonl --cache FOLDER [--seeds 3]
        [--settings banking77 pbmc ...] [--methods translate "wp 2000" ...] [--minutes 9]

Either model reads samples of its own. A thousand more, read by both, are the pool of the evaluation. The two
assays of cells have half of the cells each, which is all that there is: the pool there is B's half, whose
translated side no method has seen. Methods:

- ``translate`` with all depths, and ``translate last`` with the last layer alone;
- ``wp all`` and ``wp 2000``: Wasserstein Procrustes with geometric initialization, in batches of all points
  with 8 rounds, and of 2 000 points with 30; ``wp 10000`` has the rounds of its authors too, 100, and is run
  where a side has at most 2 500 points;
- ``kmeans``, after mini-vec2vec; ``gw`` and ``fused gw``, of which one seed is run;
- ``paired`` and ``paired ridge``, which know all pairs: the ceilings of retrieval, and of the cosine.

With ``N pairs`` in front, N rows of A's sample are read by B too and their partners are known:
``translate``, ``translate last``, ``wp 2000``, ``paired`` and ``paired ridge``. ``solvers`` compares the
quadratic assignment that Wasserstein Procrustes uses here with that of its authors, on the centers of one
clustering.

Rows of ``translate`` are kept in the file that is named, those of its rivals beside it: a change of
``translate`` leaves the second in use.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from harness import Rows, timed
from numpy.typing import NDArray
from translation_data import CELLS, read
from translation_field_table import tables
from translation_peers import (
    by_mpopt,
    by_relaxation,
    center_kernels,
    gromov_wasserstein,
    kmeans_aligner,
    wasserstein_procrustes,
)

from repdyn.paths import RepresentationPaths
from repdyn.translation import LinearTranslation, evaluate_translation, fit_orthogonal, fit_ridge, translate

__all__ = ["METHODS", "SETTINGS", "draw", "fitted", "ordered", "run", "study"]

Floats = NDArray[np.float64]

HELD_OUT = 1000
SETTINGS: dict[str, tuple[str, str, str, int | None]] = {
    "pbmc": ("rna", "atac", "pbmc", None),
    "snare": ("rna", "atac", "snare", None),
    "banking77, 500": ("minilm-l6", "minilm-l3", "banking77", 500),
    "banking77, 1000": ("minilm-l6", "minilm-l3", "banking77", 1000),
    "banking77, 2000": ("minilm-l6", "minilm-l3", "banking77", 2000),
    "resnets": ("resnet20", "resnet44", "cifar10", None),
    "docs": ("minilm-l6", "minilm-l3", "docs", None),
    "docs, back": ("minilm-l3", "minilm-l6", "docs", None),
    "vaes": ("vae_mnist", "btcvae_mnist", "mnist32", None),
    "classifiers": ("classifier0", "classifier1", "mnist", None),
    "banking77": ("minilm-l6", "minilm-l3", "banking77", None),
    "banking77 wordllama": ("minilm-l6", "wordllama", "banking77", None),
    "banking77 e5, 2000": ("minilm-l6", "e5", "banking77", 2000),
    "banking77 l3 e5, 2000": ("minilm-l3", "e5", "banking77", 2000),
}
"""Model A, model B, corpus, and samples of each model, None for all there are; cheapest first."""

CEILINGS = ("paired", "paired ridge")
OURS = ("translate", "translate last")
TRANSPORT = {"wp all": (1_000_000, 8), "wp 2000": (2000, 30), "wp 10000": (10_000, 100)}
"""Batch and rounds of Wasserstein Procrustes; the last are its authors'."""

E5_TEXTS = 5000
"""Read by e5, which takes half a minute for 500: two samples of 2 000 and the pool."""

SMALL = 2500
"""Points of a side up to which a hundred rounds of all points are run."""

ONE_SEED = ("gw", "fused gw", "solvers")
WITH_PAIRS = (*CEILINGS, *OURS, "wp 2000")
PAIRS = (5, 20, 100)
PAIRED_SETTINGS = ("banking77", "resnets", "banking77 l3 e5, 2000")
METHODS = (*CEILINGS, *OURS, "wp 2000", "wp all", "wp 10000", "kmeans", "gw", "fused gw")
FIGURES = ("top1", "top10", "mean_rank", "foscttm", "cosine")
RIVAL_SOURCES = (
    "benchmarks/translation_field.py",
    "benchmarks/translation_peers.py",
    "benchmarks/translation_data.py",
    "repdyn/translation/trees/assignment.py",
    "repdyn/translation/linear/evaluation.py",
    "repdyn/translation/linear/maps.py",
)
OUR_SOURCES = ("benchmarks/translation_field.py", "benchmarks/translation_data.py", "repdyn/translation")


@dataclass(frozen=True)
class Drawn:
    """What one seed draws of a setting.

    Attributes
    ----------
    a, b
        Samples of either model; with known pairs B's begins with the partners of A's first rows.
    partners
        A's sample as read by B, for the ceilings alone.
    held_a, held_b
        The pool, read by both.
    pairs
        Number of known pairs, the first rows of both.
    """

    a: RepresentationPaths
    b: RepresentationPaths
    partners: RepresentationPaths
    held_a: RepresentationPaths
    held_b: RepresentationPaths
    pairs: int


def study(
    out: Path,
    cache: Path,
    seeds: int,
    minutes: float,
    settings: Sequence[str] | None,
    methods: Sequence[str] | None,
    only_table: bool,
) -> str:
    """Make the rows that are missing, and the tables of all."""
    begun = time.monotonic()
    key = ("setting", "method", "seed")
    ours = Rows(out, key, OUR_SOURCES)
    rivals = Rows(out.with_stem(f"{out.stem}-rivals"), key, RIVAL_SOURCES)
    if not only_table:
        for cell in ordered(settings or [*SETTINGS], methods or default_methods(), seeds):
            left = minutes - (time.monotonic() - begun) / 60
            if left < 0:
                break
            rows = ours if method_of(cell[1])[0] in OURS else rivals
            rows.complete([cell], partial(run, cache=cache), left)
            if not rows.get(*cell):
                break
    return tables([*ours, *rivals])


def default_methods() -> list[str]:
    """All methods without pairs, then those with few."""
    return [*METHODS, *(f"{count} pairs {method}" for count in PAIRS for method in WITH_PAIRS)]


def method_of(name: str) -> tuple[str, int]:
    """A method and the number of pairs that it is given."""
    count, given, rest = name.partition(" pairs ")
    return (rest, int(count)) if given else (name, 0)


def ordered(settings: Sequence[str], methods: Sequence[str], seeds: int) -> Iterator[tuple[str, str, int]]:
    """One seed of everything first; rows that a setting has not are left out."""
    for seed in range(seeds):
        for name in methods:
            method, pairs = method_of(name)
            if method in ONE_SEED and seed:
                continue
            for setting in settings:
                _, model_b, corpus, count = SETTINGS[setting]
                if pairs and setting not in PAIRED_SETTINGS:
                    continue
                if method == "wp 10000" and corpus not in CELLS and (count or SMALL + 1) > SMALL:
                    continue
                one_point = corpus in CELLS or model_b in ("e5", "wordllama")
                if method == "translate" and one_point:
                    continue
                yield setting, name, seed


def run(setting: str, method: str, seed: int, cache: Path) -> dict[str, Any]:
    """One method on one setting with one seed."""
    name, pairs = method_of(method)
    drawn = draw(setting, seed, pairs, cache)
    row: dict[str, Any] = {"count": len(drawn.a), "pool": len(drawn.held_a)}
    if name == "solvers":
        return row | solvers(last(drawn.a), last(drawn.b), seed)
    with timed() as spent:
        found = fitted(name, drawn, seed)
    row |= {"cpu": spent["processor seconds"], "wall": spent["seconds"]}
    row |= {"verdict": found.verdict, "confidence": found.confidence} if name in OURS else {}
    scored = evaluate_translation(found, drawn.held_a, drawn.held_b, seed=seed)
    return row | {figure: getattr(scored, figure)["translation"].value for figure in FIGURES}


def draw(setting: str, seed: int, pairs: int, cache: Path) -> Drawn:
    """Disjoint samples of the two models, and the pool."""
    model_a, model_b, corpus, count = SETTINGS[setting]
    all_a, all_b = read(model_a, corpus, cache), read(model_b, corpus, cache, E5_TEXTS)
    order = np.random.default_rng(seed).permutation(min(len(all_a), len(all_b)))
    if corpus in CELLS:
        half = len(order) // 2
        of_a, of_b = order[:half], order[half : 2 * half]
        held = of_b
    else:
        count = (len(order) - HELD_OUT) // 2 if count is None else count
        held, of_a, of_b = np.split(order[: HELD_OUT + 2 * count], [HELD_OUT, HELD_OUT + count])
    return Drawn(
        all_a.subset(of_a),
        all_b.subset(np.concatenate([of_a[:pairs], of_b])),
        all_b.subset(of_a),
        all_a.subset(held),
        all_b.subset(held),
        pairs,
    )


def fitted(method: str, drawn: Drawn, seed: int) -> LinearTranslation:
    """The map of one method."""
    x, y, partners = last(drawn.a), last(drawn.b), last(drawn.partners)
    rows = np.arange(drawn.pairs)
    pairs = np.column_stack([rows, rows]) if drawn.pairs else None
    known = slice(drawn.pairs or None)  # all of them for the ceilings
    peers: dict[str, Callable[[], LinearTranslation]] = {
        "translate": lambda: translate(drawn.a, drawn.b, pairs=pairs, seed=seed),
        "translate last": lambda: translate(x, y, pairs=pairs, seed=seed),
        "kmeans": lambda: kmeans_aligner(x, y, seed),
        "gw": lambda: gromov_wasserstein(x, y, False, seed),
        "fused gw": lambda: gromov_wasserstein(x, y, True, seed),
        "paired": lambda: fit_orthogonal(x[known], partners[known]),
        "paired ridge": lambda: fit_ridge(x[known], partners[known]),
    }
    if method in TRANSPORT:
        return wasserstein_procrustes(x, y, seed, *TRANSPORT[method], pairs)
    return peers[method]()


def solvers(x: Floats, y: Floats, seed: int) -> dict[str, float]:
    """Kernel alignment and processor seconds of both solvers on the centers of one clustering."""
    kernels = center_kernels(x, y, seed)
    length = float(np.sqrt(np.prod([(kernel**2).sum() for kernel in kernels])))
    row: dict[str, float] = {}
    for name, solve in (("relaxation", by_relaxation), ("mpopt", by_mpopt)):
        with timed() as spent:
            order = solve(*kernels, np.zeros_like(kernels[0]), seed)
        row[f"{name} alignment"] = float((kernels[0] * kernels[1][np.ix_(order, order)]).sum()) / length
        row[f"{name} cpu"] = spent["processor seconds"]
    return row


def last(paths: RepresentationPaths) -> Floats:
    """The last point as an array."""
    return np.asarray(paths[paths.points[-1]], dtype=np.float64)
