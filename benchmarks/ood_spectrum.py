"""Full spectrum: inputs of the known classes that are corrupted, and not foreign; and a mode that tells them.

    python benchmarks/ood_spectrum.py --setting B --cache FOLDER [--json spectrum.json]
    python benchmarks/ood_spectrum.py --setting C --cache FOLDER [--model paraphrase-MiniLM-L3-v2]

B  CIFAR-10 through a ResNet. Test pictures under the fifteen corruptions of ImageNet-C at five strengths
   (``ood_corruptions.py``), against ImageNet, textures, KMNIST and Fashion-MNIST.
C  CLINC150. Test queries with typos (each letter is replaced, dropped, doubled or swapped with probability
   .02 to .3), another case (.1 to 1), or reworded (each rule that fits, with probability .2 to 1), against
   queries out of scope.

Detectors are calibrated at 5 %. Beside the share flagged stands the accuracy that is lost: of the network's
head, or of a linear probe. ``kinds_of_shift`` takes a second detector, which is fitted and calibrated on
clean inputs and on corruptions *other than those tested*: in B speckle noise, Gaussian blur and saturation,
which ImageNet-C keeps apart; in C typos alone, so that case and rewording are new to it.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import numpy as np
from harness import data, keep, parser_of
from numpy.typing import NDArray
from ood_corruptions import CORRUPTIONS, EXTRA, STRENGTHS, corrupted
from ood_pictures import picture_model
from ood_texts import queries
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from stored_pictures import digit_pictures, jpegs, rows, square, through_jpeg

import repdyn
from repdyn.intervals import share_interval
from repdyn.ood import PathDetector, UnionDetector, kinds_of_shift
from repdyn.ood.shifts import COVARIATE_SHIFT, OUT_OF_DISTRIBUTION
from repdyn.paths import RepresentationPaths

FITTED, CALIBRATED, TESTED, SIDE = 4000, 1000, 500, 32
TYPOS = (0.02, 0.05, 0.1, 0.2, 0.3)
CASE = (0.1, 0.25, 0.5, 0.75, 1.0)
REWORDED = (0.2, 0.4, 0.6, 0.8, 1.0)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
RULES = (
    (r"^", "please "),
    (r"^", "hey, "),
    (r"$", " thanks"),
    (r"\bwhat's\b", "what is"),
    (r"\bwhat is\b", "tell me"),
    (r"\bi'm\b", "i am"),
    (r"\bcan you\b", "could you"),
    (r"\bhow do i\b", "what is the way to"),
    (r"\bi want to\b", "i would like to"),
    (r"\bi need to\b", "i have to"),
    (r"\bi need\b", "i want"),
    (r"\b(the|a|an) ", ""),
    (r"\bshow me\b", "let me see"),
    (r"\bmy\b", "the"),
    (r"\bhow much\b", "what amount of"),
    (r"\bhow many\b", "what number of"),
)
"""Rewording: our own, on the frequent phrases of queries; no rule changes what is asked."""
Traced = Callable[[str, list[Any], list[Any] | None], RepresentationPaths]


def typos(text: str, rate: float, generator: np.random.Generator) -> str:
    """A text whose letters are replaced, dropped, doubled or swapped with the next, each at ``rate``."""
    letters = list(text)
    for k, letter in enumerate(text):
        if not letter.isalpha() or generator.random() >= rate:
            continue
        kind = generator.integers(4)
        if kind == 3 and k + 1 < len(letters):
            letters[k], letters[k + 1] = letters[k + 1], letters[k]
        else:
            letters[k] = (LETTERS[generator.integers(26)], "", 2 * letters[k], letters[k])[kind]
    return "".join(letters) or text


def other_case(text: str, rate: float, generator: np.random.Generator) -> str:
    """A text whose letters change case, each at ``rate``."""
    return "".join(c.swapcase() if generator.random() < rate else c for c in text)


def reworded(text: str, rate: float, generator: np.random.Generator) -> str:
    """A text to which each rule that fits is applied at ``rate``."""
    for pattern, words in RULES:
        if generator.random() < rate:
            text = re.sub(pattern, words, text, count=1)
    return text


def main() -> None:
    """Trace, fit, and print the tables."""
    parser = parser_of(__doc__, "cache", "json", "seed")
    parser.add_argument("--setting", choices=["B", "C"], required=True)
    parser.add_argument("--model", help="default: cifar-resnet20, paraphrase-MiniLM-L3-v2")
    parser.add_argument("--tested", type=int, default=TESTED, help="inputs of each kind and strength")
    options = parser.parse_args()
    keep(options.json, {"B": _pictures, "C": _texts}[options.setting](options))


def _pictures(options: Namespace) -> dict[str, Any]:
    generator, name = np.random.default_rng(options.seed), options.model or "cifar-resnet20"
    model, file = picture_model(name, SIDE), data("images", "cifar10_jpeg.npz")
    train, test = jpegs(file, "_train"), jpegs(file, "_test", options.tested)
    with np.load(file) as stored:
        labels = stored["label_train"]
        known = stored["label_test"][rows(len(stored["label_test"]), options.tested)]

    def traced(part: str, pictures: list[Any], own: list[Any] | None) -> RepresentationPaths:
        out = options.cache / f"spectrum-{name}-{options.seed}-{part}.paths"
        coded = [through_jpeg(picture, SIDE)[0] for picture in pictures]
        return repdyn.trace(model, coded, labels=own, out=out, batch_size=64)

    order = generator.permutation(len(train))
    parts = {"fit": order[:FITTED], "calibration": order[FITTED : FITTED + CALIBRATED]}
    sets, spoiled = {}, {}
    for part, index in parts.items():
        own = [train[k] for k in index]
        sets[part] = traced(part, own, list(labels[index]))
        bad = [_spoiled(picture, generator) for picture in own[: len(own) // 2]]
        spoiled[part] = traced(f"{part} spoiled", bad, list(labels[index[: len(bad)]]))
    clean = traced("clean", test, list(known))
    foreign = {
        where: traced(where, [square(picture, SIDE) for picture in own], None)
        for where, own in {
            "ImageNet": jpegs(data("images", "imagenet_sample_160.npz"), count=options.tested),
            "textures": jpegs(data("images", "textures_dtd10_160.npz"), count=options.tested),
            "KMNIST": digit_pictures("kmnist_test", options.tested),
            "Fashion-MNIST": digit_pictures("fashion_mnist", options.tested),
        }.items()
    }
    shifted = {
        kind: [
            traced(f"{kind} {k}", corrupted(test, kind, k, generator), list(known))
            for k in range(1, STRENGTHS + 1)
        ]
        for kind in CORRUPTIONS
    }

    def right(paths: RepresentationPaths) -> float:
        return float((np.asarray(paths.logits).argmax(axis=1) == np.asarray(paths.labels)).mean())

    return _study(sets, spoiled, clean, shifted, foreign, right)


def _spoiled(picture: Image.Image, generator: np.random.Generator) -> Image.Image:
    kind = list(EXTRA)[generator.integers(len(EXTRA))]
    return corrupted([picture], kind, int(generator.integers(1, STRENGTHS + 1)), generator)[0]


def _texts(options: Namespace) -> dict[str, Any]:
    generator, parts = np.random.default_rng(options.seed), queries()
    name = options.model or "paraphrase-MiniLM-L3-v2"
    model = repdyn.load(f"packaged:{name}")
    points = ["embeddings", *(point for point in model.default_points if point != model.final)]

    def some(part: str, count: int) -> tuple[list[str], list[str]]:
        given = [parts[part][k] for k in generator.permutation(len(parts[part]))[:count]]
        return [row["text"] for row in given], [row["label"] for row in given]

    def traced(part: str, texts: list[Any], labels: list[Any] | None) -> RepresentationPaths:
        out = options.cache / f"spectrum-{name}-{options.seed}-{part}.paths"
        return repdyn.trace(model, texts, points=points, labels=labels, out=out, batch_size=64)

    sets, spoiled = {}, {}
    for part, split, count in (("fit", "train", FITTED), ("calibration", "val", CALIBRATED)):
        texts, labels = some(split, count)
        sets[part], half = traced(part, texts, labels), count // 2
        bad = [typos(text, float(generator.choice(TYPOS)), generator) for text in texts[:half]]
        spoiled[part] = traced(f"{part} spoiled", bad, labels[:half])
    test, known = some("test", options.tested)
    clean, foreign = traced("clean", test, known), traced("scope", *some("oos_test", options.tested))
    shifted = {
        kind: [
            traced(f"{kind} {rate:g}", [change(text, rate, generator) for text in test], known)
            for rate in rates
        ]
        for kind, change, rates in (
            ("typos", typos, TYPOS),
            ("case", other_case, CASE),
            ("reworded", reworded, REWORDED),
        )
    }
    last, fit = points[-1], sets["fit"]
    probe = LogisticRegression(max_iter=300).fit(np.asarray(fit[last]), np.asarray(fit.labels))

    def right(paths: RepresentationPaths) -> float:
        return float(probe.score(np.asarray(paths[last]), np.asarray(paths.labels)))

    return _study(sets, spoiled, clean, shifted, {"out of scope": foreign}, right)


def _study(
    sets: dict[str, RepresentationPaths],
    spoiled: dict[str, RepresentationPaths],
    clean: RepresentationPaths,
    shifted: dict[str, list[RepresentationPaths]],
    foreign: dict[str, RepresentationPaths],
    right: Callable[[RepresentationPaths], float],
) -> dict[str, Any]:
    """Shares flagged and accuracy by corruption and strength, the mode, and corrupted against foreign."""
    detectors = {"path": PathDetector(), "union": UnionDetector()}
    fitted = {n: d.fit(sets["fit"]).calibrate(sets["calibration"]) for n, d in detectors.items()}
    both = {part: _joined(sets[part], spoiled[part]) for part in sets}
    tolerant = PathDetector().fit(both["fit"]).calibrate(both["calibration"])
    found: dict[str, Any] = {"clean accuracy": right(clean), "kinds": {}, "shares": {}}
    print(f"accuracy, clean: {found['clean accuracy']:.3f}")
    for kind, strengths in {"clean": [clean], **shifted}.items():
        row = {n: [float((d.predict(x) < 0).mean()) for x in strengths] for n, d in fitted.items()}
        row["accuracy"] = [right(x) for x in strengths]
        found["shares"][kind] = row
        print(f"{kind:<20}" + "  ".join(f"{n} {' '.join(f'{v:.2f}' for v in own)}" for n, own in row.items()))
    for where, paths in foreign.items():
        found["shares"][where] = {n: [float((d.predict(paths) < 0).mean())] for n, d in fitted.items()}
        print(f"{where:<20}" + "  ".join(f"{n} {v[0]:.2f}" for n, v in found["shares"][where].items()))
    print("clean, union:", share_interval(fitted["union"].predict(clean) < 0))
    inputs = {"clean": clean, **{kind: _joined(*own) for kind, own in shifted.items()}, **foreign}
    for where, paths in inputs.items():
        kinds = kinds_of_shift(fitted["path"], tolerant, paths)
        found["kinds"][where] = {
            name: float((kinds == name).mean()) for name in (COVARIATE_SHIFT, OUT_OF_DISTRIBUTION)
        }
        print(f"{where:<20}" + "  ".join(f"{name} {v:.2f}" for name, v in found["kinds"][where].items()))
    scores = {**fitted, "tolerant": tolerant}
    found["AUROC, corrupted against foreign"] = {
        name: {
            where: _auroc([one.score_samples(inputs[kind]) for kind in shifted], one.score_samples(own))
            for where, own in foreign.items()
        }
        for name, one in scores.items()
    }
    print(found["AUROC, corrupted against foreign"])
    return found


def _auroc(corrupted: list[NDArray[Any]], foreign: NDArray[Any]) -> float:
    inside = np.concatenate(corrupted)
    truth = np.r_[np.ones(len(inside)), np.zeros(len(foreign))]
    return float(roc_auc_score(truth, np.r_[inside, foreign]))


def _joined(*paths: RepresentationPaths) -> RepresentationPaths:
    arrays = {point: np.concatenate([np.asarray(x[point]) for x in paths]) for point in paths[0].points}
    labels = np.concatenate([np.asarray(x.labels) for x in paths])
    return RepresentationPaths.from_arrays(arrays, labels=labels, meta=paths[0].meta)


if __name__ == "__main__":
    main()
