"""SKD and SSM-SKD on generated clips, beside the published figures: judges first, the test part once.

    python benchmarks/disentangle.py --data sprites --scale cpu --out disentangle.jsonl
    python benchmarks/disentangle.py --data moving-dsprites --model ssm-skd --scale full --device cuda
    python benchmarks/disentangle.py --data melodies --out melodies.jsonl
    python benchmarks/disentangle.py --data air --air FOLDER --out air.jsonl

Each run (model, seed) is a line of the output, and each fit is kept beside it; what is there already is not
repeated, so an interrupted study goes on where it was. The order of things: judges are trained on training
clips and their accuracy on real test clips is printed first; a model is fitted to training clips and its
epoch chosen by the loss on validation clips; groups of coordinates are found on validation clips; test clips
are read once, at the end.
``--on validation`` leaves the test clips alone and is for choosing settings.

Sprites need the layers of https://github.com/YingzhenLi/Sprites as ``images/sprites_layers.npz`` in
``REPDYN_DATA`` (arrays body, bottomwear, topwear, hair, shoes, each items × 3 actions × 3 directions × 8
frames × 64 × 64 × RGBA, uint8). dSprites and Moving dSprites are drawn. 3D Shapes are left out: no original
is at hand to fit a renderer to, and its figures would not compare with published ones.

``--scale full`` has the published settings and wants a GPU; networks of frames are compiled and of mixed
precision. ``--scale middle`` has 355 characters of all six items at 32 × 32 pixels and two hours of a core
for a fit. ``--scale cpu`` has fewer characters, narrow networks and small pictures, and minutes for a fit;
its figures are not comparable with the published ones, only with each other. Every setting of a scale can
be replaced by its own flag.

Melodies are composed, and air quality needs the tables of UCI's Beijing Multi-Site Air Quality;
``disentangle_vectors.py`` says what is measured on them.

The state of a fit is saved every minute beside the output, and a fit that was killed goes on from there with
the same numbers. Each line of progress has the time that remains.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import disentangle_vectors
import numpy as np
import torch
from disentangle_settings import (
    CONSTANCY,
    CYCLE,
    MODELS,
    MOTION,
    PUBLISHED,
    VECTORS,
    Scale,
    Settings,
    plain,
    read_arguments,
    scale_of,
    settings_of,
)
from harness import Rows, mean_of
from harness import data as data_of
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from repdyn.datasets import LabeledClips, dsprites, moving_dsprites, sprites
from repdyn.devices import to
from repdyn.disentangle import (
    SKD,
    SSMSKD,
    Factors,
    Judge,
    LossWeights,
    brute_force,
    explore,
    frame_consistency,
    leakage,
    multifactor_table,
    static_dynamic_table,
)
from repdyn.disentangle.models import StructuredKoopman
from repdyn.disentangle.spectral import static_mode, static_modes
from repdyn.intervals import Estimate
from repdyn.progress import DETAIL, listening


def main() -> None:
    """Run what has not been run, then print the table."""
    arguments = read_arguments(__doc__)
    if arguments.survival:
        print(survival(arguments.survival))
        return
    if arguments.data in VECTORS:
        disentangle_vectors.study(arguments)
        return
    scale, chosen = scale_of(arguments), {name: settings_of(name, arguments) for name in arguments.model}
    training, validation, test = parts(arguments.data, scale)
    seen = validation if arguments.on == "validation" else test
    print(f"training {training}\nvalidation {len(validation)}, test {len(test)}; read: {arguments.on}")
    wanted = [
        plain({"data": arguments.data, "on": arguments.on, **asdict(scale), **asdict(chosen[name])})
        | {"model": name, "seed": seed}
        for seed in range(arguments.seeds)
        for name in arguments.model
    ]
    rows = Rows(arguments.out, ("setting",), ("benchmarks/disentangle.py", "repdyn/disentangle"))
    judge = judges(arguments, scale, training)
    real = judge.accuracy(seen.clips, seen.labels)
    print(
        f"judges on real {arguments.on} clips:",
        {name: str(value) for name, value in real.items()},
        flush=True,
    )
    refuse_chance(real, seen.labels)
    for setting in wanted:
        if not rows.get(setting):
            model = build(setting["model"], chosen[setting["model"]], scale)
            model, seconds = fit(model, setting, training, validation, arguments.device, arguments.out)
            row: dict[str, Any] = {"setting": setting}
            row["judges"] = {name: value.to_dict() for name, value in real.items()}
            row |= {"cpu_seconds": seconds, **run(model, setting["passes"], judge, validation, seen)}
            rows.add(row)
            print(setting["model"], setting["seed"], row["D_sd"], row["D_mf"], flush=True)
    report([row for row in rows if row["setting"] in wanted], arguments.data)


def parts(data: str, scale: Scale) -> tuple[LabeledClips, LabeledClips, LabeledClips]:
    """Training, validation and test clips."""
    if data == "sprites":
        with np.load(data_of("images", "sprites_layers.npz")) as held:
            layers = {name: held[name] for name in held.files}
        train, test = sprites(layers, items=scale.items, size=scale.size, characters=scale.characters)
        training, validation = train.split((0.85, 0.15), seed=0)
        return training, validation, test
    make = dsprites if data == "dsprites" else moving_dsprites
    training, validation, test = make(scale.clips, size=scale.size).split((0.7, 0.1, 0.2), seed=0)
    return training, validation, test


def judges(arguments: argparse.Namespace, scale: Scale, training: LabeledClips) -> Judge:
    """Trained on training clips, or read from beside the output where they were trained already."""
    worn = "".join(map(str, scale.items))
    sizes = f"{worn}-{scale.characters or scale.clips}-{scale.size}-{scale.judge_epochs}"
    kept = arguments.out.with_suffix(f".{arguments.data}-{sizes}.judge")
    judge = Judge(scale.judge_channels)
    rate, static = scale.judge_learning_rate, list(training.static)
    if not kept.exists():
        epochs = scale.judge_epochs
        judge.fit(
            training.clips,
            training.labels,
            static=static,
            epochs=epochs,
            learning_rate=rate,
            device=arguments.device,
        )
        to(judge, "cpu")
        save_file(judge.state_dict(), kept)
        return judge
    # One epoch on a few clips lays out the modules; then come the weights.
    few = training.take(np.unique(np.concatenate([np.arange(8), *map(rarest, training.labels.values())])))
    judge.fit(few.clips, few.labels, static=static, epochs=1)
    judge.load_state_dict(load_file(kept))
    return judge.eval()


def refuse_chance(real: dict[str, Estimate], labels: dict[str, NDArray[np.int64]]) -> None:
    """Stop if a judge is not better than chance: then every swap would look perfect."""
    for name, accuracy in real.items():
        chance = float(np.unique(labels[name], return_counts=True)[1].max() / len(labels[name]))
        if accuracy.low <= chance:
            raise SystemExit(
                f"the judge of {name} is right in {accuracy} of real clips, and the most frequent class has "
                f"{chance:.3f}: train it for longer (--judge-epochs)"
            )


class Progress:
    """Prints a loop about every half minute, with the time that remains."""

    def __init__(self, seconds: float = 30.0) -> None:
        self.seconds, self.begun, self.first, self.shown = seconds, 0.0, 0, 0.0

    def __call__(self, description: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if DETAIL not in description:  # a loop begins, perhaps where an earlier one was killed
            self.begun, self.first = now, done
        elif total is not None and (now - self.shown >= self.seconds or done == total):
            self.shown = now
            each = (now - self.begun) / (done - self.first)
            left = each * (total - done) / 60
            print(
                f"{description.replace(DETAIL, ': ')}; {done} of {total}, {each:.1f} s each, "
                f"{left:.0f} min left",
                flush=True,
            )


def rarest(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first clip of the last class, so that the number of classes is seen."""
    return np.flatnonzero(labels == labels.max())[:1]


def build(name: str, found: Settings, scale: Scale) -> StructuredKoopman:
    """One of the models of the ablation."""
    added = MODELS.index(name) - MODELS.index("ssm-skd")
    extra = [weight if added > number else 0.0 for number, weight in enumerate((CONSTANCY, MOTION, CYCLE))]
    weights = LossWeights(*found.weights, *extra)
    sizes = (found.static_dim, found.latent_dim, found.hidden)
    common: dict[str, Any] = {"channels": scale.channels, "weights": weights, "threshold": found.threshold}
    if name.startswith("ssm"):
        return SSMSKD(*sizes, **common)
    return SKD(*sizes, extraction="coordinate" if "coordinates" in name else "eigenvector", **common)


def fit(
    model: StructuredKoopman,
    setting: dict[str, Any],
    training: LabeledClips,
    validation: LabeledClips,
    device: str | None,
    out: Path,
) -> tuple[StructuredKoopman, float]:
    """Fit, or read from beside the output a fit that is the same; and the CPU seconds that it took."""
    plan = {name: setting[name] for name in ("epochs", "seed", "batch_size", "learning_rate")}
    # Extraction plays no part in a fit, nor do the judges and what is read afterwards.
    plan |= {"precision": setting["precision"], "compiled": bool(setting["compiled"])}
    same = plan | {
        name: setting[name] for name in ("data", "items", "clips", "characters", "size", "channels")
    }
    same |= {"kind": type(model).__name__, "weights": asdict(model.weights), "threshold": model.threshold}
    same |= {"widths": (model.static_dim, model.latent_dim, model.hidden)}
    name = hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:12]
    kept = out.with_suffix(f".{type(model).__name__.lower()}-{name}")
    if not (kept / "seconds.txt").exists():
        start = time.process_time()
        state = kept.with_name(f"{kept.name}.state")
        with warnings.catch_warnings(), listening(Progress()):
            warnings.simplefilter("ignore")
            model.fit(training.clips, validation=validation.clips, device=device, checkpoint=state, **plan)
        model.save_pretrained(kept)
        shutil.rmtree(state)
        (kept / "seconds.txt").write_text(f"{time.process_time() - start:.1f}\n")
    found = type(model).from_pretrained(kept)
    found.extraction = model.extraction
    return found, float((kept / "seconds.txt").read_text())


def run(
    model: StructuredKoopman, passes: int, judge: Judge, validation: LabeledClips, test: LabeledClips
) -> dict[str, Any]:
    """Find a fitted model's groups on validation clips, and read the test clips."""

    def judged(latents: NDArray[np.float32]) -> dict[str, NDArray[np.int64]]:
        return judge.predict(model.decode(latents))

    known = model.factors(validation.clips)
    chosen = explore(known, judged, validation.static, passes=passes)
    found = model.factors(test.clips)
    tables = {
        "sd": static_dynamic_table(found, judged, test.static, test.dynamic, passes=passes),
        "mf": multifactor_table(found, judged, test.static, test.dynamic, chosen.groups, passes=passes),
    }
    shown = model.reconstruct(test.clips)
    exchanged = model.swap(test.clips[::2][: len(test) // 2], test.clips[1::2][: len(test) // 2]).first
    groups: dict[str, str | Sequence[int]] = {"static": "static", "dynamic": "dynamic"}
    leaked = leakage(found, groups | {k: v for k, v in chosen.groups.items() if v}, test.labels)
    row = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "best_epoch": model.best_epoch_,
        "reconstruction": float(((shown - test.clips / 255) ** 2).mean()),
        "recognized": {
            name: float((judge.predict(shown)[name] == label).mean()) for name, label in test.labels.items()
        },
        "groups": chosen.to_dict(),
        **{f"D_{name}": table.score().to_dict() for name, table in tables.items()},
        **{f"strict_{name}": table.strict().to_dict() for name, table in tables.items()},
        "tables": {f"D_{name}": table.to_dict() for name, table in tables.items()},
        "consistency": {
            kind: {
                name: frame_consistency(called).to_dict()
                for name, called in judge.predict_frames(clips).items()
            }
            for kind, clips in (("reconstructed", shown), ("swapped", exchanged))
        },
        "leakage": leaked.to_dict(),
        "static_share": found.static_share,
        "static_moves": movement(found),
        "mode": mode_accuracy(model, test.clips),
    }
    if known.modes is not None:  # few enough for all sets of them
        row["brute_force"] = oracle(found, known, judged, validation, test, passes)
    return row


def movement(found: Factors) -> float:
    """How much the static part moves within a clip, as a share of its size; mean over clips."""
    static = found.static.astype(np.float64)
    moved = ((static - static.mean(axis=1, keepdims=True)) ** 2).sum(axis=(1, 2))
    return float((moved / ((static**2).sum(axis=(1, 2)) + 1e-12)).mean())


def mode_accuracy(model: StructuredKoopman, clips: NDArray[Any]) -> dict[str, float]:
    """The differentiable static mode beside the eigenvector by Schur forms, over the clips' operators."""
    latents = torch.from_numpy(model.encode(clips))
    operators = model.operators(latents, torch.ones(latents.shape[:2], dtype=torch.bool)).detach()
    right, left, value = static_mode(operators)
    exact = static_modes(operators, 1)
    single = (exact.factor >= 0).sum(axis=1) == 1  # elsewhere a conjugate pair is nearest to one
    projector = (right[:, :, None] * left[:, None, :]).numpy()
    error = np.linalg.norm(projector - exact.projectors, axis=(1, 2)) / np.linalg.norm(
        exact.projectors, axis=(1, 2)
    )
    return {
        "real_share": float(single.mean()),
        "median_error": float(np.median(error[single])) if single.any() else float("nan"),
        "eigenvalue_from_one": float((value - 1).abs().mean()),
    }


def oracle(
    found: Factors,
    known: Factors,
    judged: Callable[[NDArray[np.float32]], dict[str, NDArray[np.int64]]],
    validation: LabeledClips,
    test: LabeledClips,
    passes: int,
) -> dict[str, Any]:
    """What all 2^s sets of static factors, tried on validation clips, would have given on test clips."""
    best = brute_force(known, judged, validation.static)
    table = multifactor_table(found, judged, test.static, test.dynamic, best.groups, passes=passes)
    return {
        **best.to_dict(),
        "evaluations": best.evaluations,
        "D_mf": table.score().to_dict(),
        "strict_mf": table.strict().to_dict(),
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
    """Means over seeds of values and of interval ends, beside the published figures."""
    scores = ("D_sd", "D_mf", "strict_sd", "strict_mf")
    print(f"\n{'':<18}{'seeds':>6}" + "".join(f"{name:>22}" for name in scores))
    by_model = {name: [row for row in rows if row["setting"]["model"] == name] for name in MODELS}
    for model, of in by_model.items():
        if of:
            cells = "".join(f"{mean_of([row[name] for row in of])!r:>22}" for name in scores)
            print(f"{model:<18}{len(of):>6}{cells}")
    if data in PUBLISHED:
        print(f"{'published SSM-SKD':<24}{PUBLISHED[data][0]:>22}{PUBLISHED[data][1]:>22}  (full scale)")
    names = ("reconstruction", "static_share", "static_moves", "parameters", "cpu_seconds")
    print(
        f"\n{'':<18}"
        + "".join(f"{name:>16}" for name in names)
        + f"{'frames agree':>16}{'all of a clip':>16}"
    )
    for model, of in by_model.items():
        if of:
            cells = "".join(f"{np.mean([row[name] for row in of]):>16.4g}" for name in names)
            print(
                f"{model:<18}{cells}"
                + "".join(f"{steady(of, what):>16.3f}" for what in ("agreement", "unanimous"))
            )
    for model, of in by_model.items():
        if of:
            print(f"\n{model}, accuracies, mean over seeds")
            for name in ("D_sd", "D_mf"):
                print(accuracies([row["tables"][name] for row in of]))
            print("  recognized unswapped:", averaged([row["recognized"] for row in of]))
            for group in ("static", "dynamic"):
                print(f"  leakage, {group}:", averaged([row["leakage"][group] for row in of]))
            if model.startswith("ssm"):  # with several static eigenvalues there is no one mode
                print("  differentiable mode:", averaged([row["mode"] for row in of]))
            if "brute_force" in of[0]:
                for name in ("D_mf", "strict_mf"):
                    best = mean_of([row["brute_force"][name] for row in of])
                    print(f"  {name} with the groups of brute force: {best}")


def averaged(rows: Sequence[dict[str, float]]) -> str:
    """Each value, mean over seeds."""
    return ", ".join(f"{name} {np.mean([row[name] for row in rows]):.3g}" for name in rows[0])


def steady(rows: Sequence[dict[str, Any]], what: str) -> float:
    """Consistency of static factors over the frames of swapped clips, mean over factors and seeds."""
    return float(np.mean([v[what]["value"] for row in rows for v in row["consistency"]["swapped"].values()]))


def accuracies(tables: Sequence[dict[str, Any]]) -> str:
    """One table of what judges still recognize, mean over seeds; what should stay is starred."""
    first = tables[0]
    values = np.mean([table["accuracy"] for table in tables], axis=0)
    lines = [f"  {'':<20}" + "".join(f"{name:>13}" for name in first["factors"])]
    for name, row, kept in zip(first["interventions"], values, first["kept"]):
        lines.append(f"  {name:<20}" + "".join(f"{v:>12.3f}{'*' if k else ' '}" for v, k in zip(row, kept)))
    lines.append(f"  {'chance':<20}" + "".join(f"{1 / count:>12.3f} " for count in first["classes"]))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
