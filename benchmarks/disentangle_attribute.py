"""Why a static attribute is lost when the dynamic part of a clip of Sprites is replaced.

    python benchmarks/disentangle_attribute.py --out disentangle.jsonl [--fit FOLDER --items 0 2 5 --size 16]

Reads a fit and the judge that ``disentangle.py`` left beside its output, and asks for each attribute:

- how many pixels differ between its classes (resolution);
- whether the judge reads it in real and in reconstructed validation clips (loss);
- whether classifiers read it from the dynamic part (leak), from the static part (latent), and from the
  static part of clips of actions that they were not fitted to (interaction), by cross-validation on training
  clips;
- what the judge sees after the dynamic part of validation clips was replaced: by a mix or by that of one
  other clip, of the same or another action, of the same or another class; and for which classes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from disentangle import judges, parts
from disentangle_settings import CPU, Scale, replaced
from harness import keep, parser_of, table
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from repdyn.datasets import LabeledClips
from repdyn.disentangle import SSMSKD, Factors, Judge
from repdyn.disentangle.swaps import exchange, resample

DONORS = 12  # of each clip
Labels = dict[str, NDArray[np.int64]]


def main() -> None:
    """Print all, and keep the figures."""
    parser = parser_of(__doc__, "out", "json")
    parser.add_argument("--fit", type=Path, help="folder of the fit; default: the only one beside --out")
    parser.add_argument("--items", type=int, nargs="*", default=[0, 2, 5])
    parser.add_argument("--size", type=int, default=16)
    arguments = parser.parse_args()
    scale = replaced(CPU, argparse.Namespace(**dict.fromkeys(CPU.__dict__) | vars(arguments)))
    training, validation, _ = parts("sprites", scale)
    judge = judges(argparse.Namespace(data="sprites", out=arguments.out, device=None), scale, training)
    fits = (
        [arguments.fit]
        if arguments.fit
        else sorted(arguments.out.parent.glob(f"{arguments.out.stem}.ssmskd-*"))
    )
    if len(fits) != 1:
        raise SystemExit(f"--fit: expected one fit beside {arguments.out}, found {len(fits)}")
    model = SSMSKD.from_pretrained(fits[0])
    found = {
        "pixels": {size: pixels(arguments.items, size, scale) for size in (16, 32, 64)},
        "seen": seen(model, judge, training, validation),
        "replaced": donors(model, judge, validation),
        "read": read(model.factors(training.clips), training.labels),
    }
    keep(arguments.json, found)
    names = list(validation.static)
    for part, rows in found.items():
        print(
            f"\n{part}\n"
            + table(["", *names], [[row, *(cells.get(n, "") for n in names)] for row, cells in rows.items()])
        )


def pixels(items: list[int], size: int, scale: Scale) -> dict[str, float]:
    """Mean number of pixels of a frame that differ by more than .02 between classes, all else equal."""
    few, rest = parts("sprites", Scale(**{**scale.__dict__, "size": size, "items": tuple(items)}))[::2]
    clips = np.concatenate([few.clips, rest.clips]).astype(np.float32) / 255
    labels: Labels = {n: np.concatenate([few.labels[n], rest.labels[n]]) for n in few.labels}
    table_: dict[str, float] = {}
    for name in few.static:
        others = np.stack([v for n, v in labels.items() if n != name], axis=1)
        order = np.lexsort([labels[name], *others.T])
        changed = []
        for a, b in pairwise(order):
            if (others[a] == others[b]).all():
                changed.append((np.abs(clips[a] - clips[b]).max(axis=1) > 0.02).sum(axis=(1, 2)).mean())
        table_[name] = float(np.mean(changed))
    return table_


def seen(
    model: SSMSKD, judge: Judge, training: LabeledClips, validation: LabeledClips
) -> dict[str, dict[str, float]]:
    """Accuracy of the judge on real and on reconstructed clips, and single frames of them."""
    shown = model.reconstruct(validation.clips)
    rows: dict[str, dict[str, float]] = {}
    for name, clips in (("real", validation.clips), ("reconstructed", shown)):
        called, frames = judge.predict(clips), judge.predict_frames(clips)
        rows[name] = {n: float((called[n] == v).mean()) for n, v in validation.static.items()}
        rows[f"{name}, frames"] = {
            n: float((frames[n] == v[:, None]).mean()) for n, v in validation.static.items()
        }
    return rows


def donors(model: SSMSKD, judge: Judge, clips: LabeledClips) -> dict[str, dict[str, Any]]:
    """What the judge sees after the dynamic part was replaced, by the kind of donor."""
    found, generator = model.factors(clips.clips), np.random.default_rng(0)
    mixed = np.mean(
        [
            list(hits(judge, model, resample(found, "dynamic", seed=seed), clips.static).values())
            for seed in range(5)
        ],
        axis=0,
    )
    rows: dict[str, dict[str, Any]] = {"mix of two": dict(zip(clips.static, mixed.mean(axis=1).tolist()))}
    receivers = np.repeat(np.arange(len(clips)), DONORS)
    given = (receivers + generator.integers(1, len(clips), size=len(receivers))) % len(clips)
    decoded = model.decode(exchange(found.take(receivers), found.take(given), "dynamic")[0])
    called = judge.predict(decoded)
    action = clips.dynamic["action"]
    alike = action[receivers] == action[given]
    turned = action[receivers] % 3 == action[given] % 3  # classes are action × 3 + direction
    kinds: dict[str, Callable[[NDArray[np.bool_]], NDArray[np.bool_]]] = {
        "one donor": lambda same: np.ones_like(same),
        "… same action and direction": lambda same: alike,
        "… same direction": lambda same: turned & ~alike,
        "… other direction": lambda same: ~turned,
        "… same class": lambda same: same,
        "… other class": lambda same: ~same,
    }
    for kind, chosen in kinds.items():
        rows[kind] = {}
        for name, label in clips.static.items():
            rows_ = chosen(label[receivers] == label[given])
            rows[kind][name] = float((called[name] == label[receivers])[rows_].mean())
    rows["donor's class, of other classes"] = {
        name: float((called[name] == label[given])[label[receivers] != label[given]].mean())
        for name, label in clips.static.items()
    }
    for name, label in clips.static.items():
        count = int(label.max()) + 1
        for one in range(count):
            rows.setdefault(f"… of class {one}", {})[name] = float(
                (called[name] == one)[label[receivers] == one].mean()
            )
    return rows


def hits(
    judge: Judge, model: SSMSKD, latents: NDArray[np.float32], labels: Any
) -> dict[str, NDArray[np.bool_]]:
    """Whether the judge recognizes each clip that latents decode to."""
    called = judge.predict(model.decode(latents))
    return {name: called[name] == label for name, label in labels.items()}


def read(found: Factors, labels: Labels) -> dict[str, dict[str, float]]:
    """Cross-validated accuracy of classifiers of the parts."""
    rows: dict[str, dict[str, float]] = {}
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    trees = ExtraTreesClassifier(200, random_state=0)
    within, across = StratifiedKFold(4, shuffle=True, random_state=0), GroupKFold(9)
    action = labels["action"]
    flat = {part: found.part(part).reshape(len(found), -1) for part in ("static", "dynamic")}
    flat["static, mean over time"] = found.part("static").mean(axis=1)
    for part, x in flat.items():
        for kind, model in (("linear", linear), ("trees", trees)):
            rows[f"{part}, {kind}"] = {
                n: float(cross_val_score(model, x, y, cv=within).mean()) for n, y in labels.items()
            }
    for kind, model in (("linear", linear), ("trees", trees)):
        x = flat["static, mean over time"]
        rows[f"static, {kind}, of actions not fitted on"] = {
            n: float(cross_val_score(model, x, y, cv=across, groups=action).mean())
            for n, y in labels.items()
            if n != "action"
        }
    return rows


if __name__ == "__main__":
    main()
