"""Static parts of paths through two pretrained models, and what the network predicts after they are swapped.

    python benchmarks/disentangle_paths.py --cache FOLDER [--models minilm-l6 efficientnet] [--seeds 3]

Models, points and data are those of ``koopman_models.py``, and so is the folder: what that script traced is
read, what it did not is traced. SKD is fitted to training paths with depth as time; on test paths a linear
probe reads the label from the static and from the dynamic part at every depth, beside two splits of the same
rank that know nothing of dynamics. Labels are few and broad, so that a part of low rank could hold them: the
ten domains of CLINC150's queries; dog, other animal, or neither of ImageNet's pictures.

Static parts are then exchanged between test inputs at the last point and at one in the middle, and the real
network runs on from there (``TracedModel.run_from``): every token, or every pixel, is moved by what the
pooled representation moved. EfficientNet's own head predicts the class; MiniLM has none, and a linear probe
for the domain, fitted to its last point, stands in.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import mean_of, once_json, parser_of
from koopman_models import SETTINGS, load, traced
from numpy.typing import NDArray
from stored_texts import rows_of

from repdyn.disentangle import SKD, depth_factors, depth_swaps
from repdyn.disentangle.depth import Head
from repdyn.koopman.readout import LinearProbe
from repdyn.paths import RepresentationPaths

SOURCES = ("benchmarks/disentangle_paths.py", "repdyn/disentangle")
MIDDLE = {"minilm-l6": "encoder.layer.2", "efficientnet": "blocks.5.1"}
STATIC, LATENTS, HIDDEN = 8, 32, 128
PLAN: dict[str, Any] = {"epochs": 40, "batch_size": 128, "learning_rate": 2e-3}
TRAINING, TEST = 3000, 300  # paths to fit on; inputs that the network runs on from the middle
DOGS, ANIMALS = range(151, 269), range(398)  # of ImageNet's classes
_BATCH = 50  # inputs that run on at a time
_TOKENS, _LOGITS = 3, 2  # axes of a representation with tokens, of logits


def main() -> None:
    """Run what has not been run, then print all."""
    parser = parser_of(__doc__, "cache", "seeds")
    parser.add_argument("--models", nargs="*", choices=list(MIDDLE), default=list(MIDDLE))
    arguments = parser.parse_args()
    for name in arguments.models:
        setting = cache(partial(read, name, arguments.cache))
        runs = [
            once_json(
                arguments.cache / f"disentangle-{name}-{seed}.json",
                partial(run_with, setting, name, seed),
                SOURCES,
            )
            for seed in range(arguments.seeds)
        ]
        print(table(name, runs), flush=True)


def run_with(setting: Callable[[], tuple[Any, Any]], name: str, seed: int) -> dict[str, Any]:
    """:func:`run` on paths that are read when the first run needs them."""
    return run(name, seed, *setting())


def read(name: str, cache: Path) -> tuple[dict[str, RepresentationPaths], Any]:
    """Paths with broad labels, and the model's own head."""
    stored, head = traced(name, cache)
    label = domain if name.startswith("minilm") else kind
    parts = {}
    for part, most in (("train", TRAINING), ("test", None)):
        rows = np.arange(len(stored[part]))[:most]
        if most is not None and len(stored[part]) > most:
            rows = np.sort(np.random.default_rng(0).choice(len(stored[part]), most, replace=False))
        arrays = {point: np.asarray(stored[part][point])[rows] for point in stored[part].points}
        broad = label(np.asarray(stored[part].labels)[rows])
        parts[part] = RepresentationPaths.from_arrays(arrays, labels=broad)
    return parts, head


def domain(intents: NDArray[np.int64]) -> NDArray[np.int64]:
    """The domain of each of CLINC150's intents, which are numbered in the order of their names."""
    known = [row for row in rows_of("clinc150") if row["split"] in ("train", "val", "test")]
    of = {row["label"]: row["domain"] for row in known}
    names = sorted(set(of.values()))
    return np.array([names.index(of[intent]) for intent in sorted(of)])[intents]


def kind(classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Dog, other animal, or neither."""
    return np.where(np.isin(classes, DOGS), 0, np.where(np.isin(classes, ANIMALS), 1, 2))


def run(name: str, seed: int, parts: dict[str, RepresentationPaths], head: Any) -> dict[str, Any]:
    """One fit: parts, probes, and swaps at the last point and in the middle."""
    train, test = parts["train"], parts["test"]
    model = SKD(STATIC, LATENTS, HIDDEN).fit(train, seed=seed, **PLAN)
    last, middle = test.points[-1], MIDDLE[name]
    if head is None:
        predicted: Head = (
            LinearProbe().fit(np.asarray(train[last]), np.asarray(train.labels)).decision_function
        )
    else:
        predicted = lambda x: head(torch.from_numpy(x)).detach().numpy()  # noqa: E731
    few = test.subset(np.arange(min(TEST, len(test))))
    go_on = from_middle(name, middle, few, predicted if head is None else None)
    return {
        "samples": [len(train), len(test), len(few)],
        **depth_factors(model, test, train, predicted, seed=seed).to_dict(),
        "middle": middle,
        "swaps_in_the_middle": {
            split: {side: value.to_dict() for side, value in sides.items()}
            for split, sides in depth_swaps(model, few, train, go_on, point=middle, seed=seed).items()
        },
    }


def from_middle(name: str, point: str, few: RepresentationPaths, probe: Head | None) -> Head:
    """The network from a point on, for representations that were moved by as much as their pooled ones."""
    model = load(SETTINGS[name])
    inputs, _ = SETTINGS[name].data()["test"]
    batches = [slice(start, start + _BATCH) for start in range(0, len(few), _BATCH)]
    prepared = [model.prepare(inputs[: len(few)][rows]) for rows in batches]
    kept: list[torch.Tensor] = []

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept.append(x)
        return x

    with torch.no_grad():
        for batch in prepared:
            model.patched({point: keep})(batch)
    pooled = torch.from_numpy(np.asarray(few[point]))

    @torch.no_grad()
    def go_on(x: NDArray[np.float32]) -> NDArray[Any]:
        moved = torch.from_numpy(x) - pooled
        found = []
        for some, batch, own in zip(batches, prepared, kept):
            # (N, L, C) of tokens, or (N, C, H, W) of pictures
            by = moved[some][:, None] if own.ndim == _TOKENS else moved[some][:, :, None, None]
            logits = model.run_from(point, own + by, batch)
            found.append(logits if logits.ndim == _LOGITS else _pooled(logits, batch["attention_mask"]))
        rows = torch.cat(found).numpy()
        return rows if probe is None else np.asarray(probe(rows))

    return go_on


def _pooled(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean over real tokens, which is what a sentence encoder makes of its last layer."""
    weight = mask[..., None].to(tokens.dtype)
    return (tokens * weight).sum(dim=1) / weight.sum(dim=1)


def table(name: str, runs: list[dict[str, Any]]) -> str:
    """Everything, mean over seeds."""
    first = runs[0]
    fitted, tested, few = first["samples"]
    lines = [
        f"{name}: {fitted} training and {tested} test paths, {len(runs)} seeds, verdicts "
        + ", ".join(run["verdict"] for run in runs),
        f"  reconstructed share of variance {mean_of([run['explained'] for run in runs])}",
        f"  always the commonest label: {first['majority']:.3f}",
        f"  {'probe accuracy':<28}" + "".join(f"{point[-10:]:>11}" for point in first["points"]),
    ]
    for split in first["probes"]:
        for part in ("static", "dynamic"):
            values = np.mean([[v["value"] for v in run["probes"][split][part]] for run in runs], axis=0)
            lines.append(f"  {f'{split}, {part}':<28}" + "".join(f"{value:>11.3f}" for value in values))
    gain = mean_of([run["advantage"] for run in runs])
    lines.append(f"  static less the better control's, last point: {gain}")
    for split in first["static_share"]:
        share = mean_of([run["static_share"][split] for run in runs])
        lines.append(f"  static share of variance, {split}: {share}")
    for swaps, point in (("swaps", first["points"][-1]), ("swaps_in_the_middle", first["middle"])):
        for split in first[swaps]:
            own, others = (
                mean_of([run[swaps][split][side] for run in runs]) for side in ("receiver", "donor")
            )
            lines.append(
                f"  static parts swapped at {point} ({split}), the network predicts the receiver's {own}, "
                f"the donor's {others}"
            )
    return "\n".join([*lines, f"  (in the middle: {few} inputs)", ""])


if __name__ == "__main__":
    main()
