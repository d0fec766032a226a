"""SKD and SSM-SKD on generated clips, beside the published figures: judges first, the test part once.

    python benchmarks/disentangle.py --data sprites --scale cpu --out disentangle.jsonl
    python benchmarks/disentangle.py --data moving-dsprites --model ssm-skd --scale full --device cuda

Each run (model, seed) is a line of the output; one that is there already is not repeated, so an interrupted
study goes on where it was. The order of things: judges are trained on training clips and their accuracy on
real test clips is printed first; a model is fitted to training clips and its epoch chosen by the loss on
validation clips; groups of coordinates are found on validation clips; test clips are read once, at the end.

Sprites need the layers of https://github.com/YingzhenLi/Sprites as ``images/sprites_layers.npz`` in
``REPDYN_DATA`` (arrays body, bottomwear, topwear, hair, shoes, each items × 3 actions × 3 directions × 8
frames × 64 × 64 × RGBA, uint8). dSprites and Moving dSprites are drawn. 3D Shapes are left out: no original
is at hand to fit a renderer to, and its figures would not compare with published ones.

``--scale full`` has the published settings and wants a GPU. ``--scale cpu`` has fewer characters, narrow
networks and small pictures; its figures are not comparable with the published ones, only with each other.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repdyn.disentangle import (
    SKD,
    SSMSKD,
    Judge,
    LabelledClips,
    Weights,
    dsprites,
    explore,
    frame_consistency,
    leakage,
    moving_dsprites,
    multifactor_table,
    sprites,
    static_dynamic_table,
)
from repdyn.disentangle.structured import StructuredKoopman

DATA = Path(os.environ.get("REPDYN_DATA", Path(__file__).parents[2] / "shared" / "data"))
PUBLISHED = {  # SSM-SKD: D_sd, D_mf
    "sprites": (0.9872, 0.9836),
    "dsprites": (0.9491, 0.9142),
    "moving-dsprites": (0.8699, 0.9348),
}
MODELS = ("skd", "skd-coordinates", "ssm-skd", "ssm-skd-mode")


@dataclass(frozen=True)
class Settings:
    """Of one data set: latents, LSTM, weights, threshold, epochs."""

    latent_dim: int
    hidden: int
    weights: tuple[float, float, float]
    threshold: float
    epochs: int


FULL = {
    "sprites": Settings(15, 170, (16, 1, 1), 0.75, 140),
    "dsprites": Settings(24, 200, (16, 4, 4), 0.125, 170),
    "moving-dsprites": Settings(28, 160, (16, 4, 4), 0.875, 30),
}


def main() -> None:
    """Run what has not been run, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=list(FULL), default="sprites")
    parser.add_argument("--model", choices=MODELS, nargs="*", default=list(MODELS))
    parser.add_argument("--scale", choices=["cpu", "full"], default="cpu")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="instead of the scale's own")
    parser.add_argument("--items", type=int, help="items of each layer of Sprites")
    parser.add_argument("--size", type=int, help="pixels of height and width")
    parser.add_argument("--channels", type=int, nargs="*", help="widths of the convolutions")
    parser.add_argument("--passes", type=int, help="draws of the mixes that a table averages over")
    parser.add_argument("--survival", type=int, metavar="SEEDS", help="only count the seeds that survive")
    parser.add_argument("--device", default=None)
    parser.add_argument("--out", type=Path, default=Path("disentangle.jsonl"))
    arguments = parser.parse_args()
    full = arguments.scale == "full"
    for name, small, large in (
        ("items", 3, 6),
        ("size", 32, 64),
        ("channels", [16, 32, 64], [32, 64, 128, 256]),
        ("passes", 5, 25),
        ("epochs", 60, FULL[arguments.data].epochs),
    ):
        if getattr(arguments, name) is None:
            setattr(arguments, name, large if full else small)
    if arguments.survival:
        print(survival(arguments.survival))
        return
    training, validation, test = parts(arguments)
    print(f"training {training}\nvalidation {len(validation)}, test {len(test)}")
    done = [json.loads(line) for line in arguments.out.open()] if arguments.out.exists() else []
    asked = {"data": arguments.data, "items": arguments.items, "size": arguments.size}
    asked |= {"channels": arguments.channels, "epochs": arguments.epochs}
    missing = [
        {**asked, "model": model, "seed": seed}
        for seed in range(arguments.seeds)
        for model in arguments.model
        if not any(row["setting"] == {**asked, "model": model, "seed": seed} for row in done)
    ]
    if missing:
        judge = Judge(arguments.channels)
        judge.fit(training.clips, training.labels, static=list(training.static), epochs=30 if full else 40)
        seen = judge.accuracy(test.clips, test.labels)
        print("judges on real test clips:", {name: str(value) for name, value in seen.items()}, flush=True)
        for setting in missing:
            row = run(setting, arguments, judge, training, validation, test)
            row["judges"] = {name: value.value for name, value in seen.items()}
            with arguments.out.open("a") as lines:
                lines.write(json.dumps(row) + "\n")
            done.append(row)
            print(row["setting"]["model"], row["setting"]["seed"], row["D_sd"], row["D_mf"], flush=True)
    report([row for row in done if all(row["setting"][k] == v for k, v in asked.items())], arguments.data)


def parts(arguments: argparse.Namespace) -> tuple[LabelledClips, LabelledClips, LabelledClips]:
    """Training, validation and test clips."""
    if arguments.data == "sprites":
        path = DATA / "images" / "sprites_layers.npz"
        if not path.exists():
            raise SystemExit(f"{path} is missing: see the first lines of this file")
        with np.load(path) as held:
            layers = {name: held[name] for name in held.files}
        train, test = sprites(layers, items=arguments.items, size=arguments.size)
        training, validation = train.split((0.9, 0.1), seed=0)
        return training, validation, test
    count = None if arguments.scale == "full" else 1500
    make = dsprites if arguments.data == "dsprites" else moving_dsprites
    training, validation, test = make(count, size=arguments.size).split((0.7, 0.1, 0.2), seed=0)
    return training, validation, test


def build(name: str, arguments: argparse.Namespace) -> StructuredKoopman:
    """One of the four models of the ablation, at equal width."""
    found = FULL[arguments.data]
    weights = Weights(*found.weights, constancy=1.0 if name == "ssm-skd-mode" else 0.0)
    common: dict[str, Any] = {"channels": arguments.channels, "weights": weights}
    if name.startswith("ssm"):
        return SSMSKD(1, found.latent_dim, found.hidden, threshold=found.threshold, **common)
    extraction = "coordinate" if "coordinates" in name else "eigenvector"
    return SKD(8, 40, 80, extraction=extraction, threshold=0.5, **common)


def run(
    setting: dict[str, Any],
    arguments: argparse.Namespace,
    judge: Judge,
    training: LabelledClips,
    validation: LabelledClips,
    test: LabelledClips,
) -> dict[str, Any]:
    """Fit one model, find its groups on validation clips, and read the test clips."""
    start = time.time()
    model = build(setting["model"], arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(
            training.clips,
            setting["epochs"],
            setting["seed"],
            validation=validation.clips,
            device=arguments.device,
        )
    fitted = time.time() - start

    def judged(latents: NDArray[np.float32]) -> dict[str, NDArray[np.int64]]:
        return judge.predict(model.decode(latents))

    chosen = explore(model.factors(validation.clips), judged, validation.static, passes=arguments.passes)
    parts = model.factors(test.clips)
    tables = {
        "D_sd": static_dynamic_table(parts, judged, test.static, test.dynamic, passes=arguments.passes),
        "D_mf": multifactor_table(
            parts, judged, test.static, test.dynamic, chosen.groups, passes=arguments.passes
        ),
    }
    shown = model.reconstruct(test.clips)
    swapped = model.swap(test.clips[::2][: len(test) // 2], test.clips[1::2][: len(test) // 2]).first
    named: dict[str, Callable[[], Any]] = {
        "reconstructed": lambda: judge.predict_frames(shown),
        "swapped": lambda: judge.predict_frames(swapped),
    }
    steady = {
        kind: {name: frame_consistency(called).to_dict() for name, called in call().items()}
        for kind, call in named.items()
    }
    told = leakage(parts, {"static": "static", "dynamic": "dynamic"}, test.labels)
    return {
        "setting": setting,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(fitted, 1),
        "best_epoch": model.best_epoch_,
        "reconstruction": float(((shown - test.clips / 255) ** 2).mean()),
        "recognised": {
            name: float((judge.predict(shown)[name] == label).mean()) for name, label in test.labels.items()
        },
        "groups": chosen.to_dict(),
        "D_sd": tables["D_sd"].score().value,
        "D_mf": tables["D_mf"].score().value,
        "strict_sd": tables["D_sd"].strict().value,
        "strict_mf": tables["D_mf"].strict().value,
        "tables": {name: table.to_dict() for name, table in tables.items()},
        "consistency": steady,
        "leakage": told.to_dict(),
        "static_share": parts.static_share,
    }


def survival(seeds: int) -> str:
    """Short fits on clips that hardly move, from many seeds: how many end with finite weights."""
    clips = np.random.default_rng(0).random((16, 1, 1, 16, 16)).repeat(8, axis=1).astype(np.float32)
    survived = {"skd": 0, "ssm-skd": 0}
    for seed in range(seeds):
        for name, model in (
            ("skd", SKD(4, 8, 8, channels=(4, 4))),
            ("ssm-skd", SSMSKD(1, 8, 8, channels=(4, 4))),
        ):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.fit(clips, epochs=30, seed=seed)
            survived[name] += all(bool(p.isfinite().all()) for p in model.parameters())
    return ", ".join(f"{name}: {count} of {seeds} seeds survive" for name, count in survived.items())


def report(rows: list[dict[str, Any]], data: str) -> None:
    """Means over seeds, beside the published figures."""
    print(f"{'model':<18}{'seeds':>6}{'D_sd':>9}{'D_mf':>9}{'strict sd':>11}{'strict mf':>11}{'MSE':>9}")
    for model in MODELS:
        of = [row for row in rows if row["setting"]["model"] == model]
        if of:
            names = ("D_sd", "D_mf", "strict_sd", "strict_mf", "reconstruction")
            means = [np.mean([row[name] for row in of]) for name in names]
            cells = "".join(f"{m:>{w}.4f}" for m, w in zip(means, (9, 9, 11, 11, 9)))
            print(f"{model:<18}{len(of):>6}{cells}")
    if data in PUBLISHED:
        print(f"{'published SSM-SKD':<24}{PUBLISHED[data][0]:>9}{PUBLISHED[data][1]:>9}  (full scale)")


if __name__ == "__main__":
    main()
