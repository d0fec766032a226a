"""Settings of the study of SKD and SSM-SKD: what was published, what fits a CPU, and the flags."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from harness import parser_of

PUBLISHED = {  # SSM-SKD: D_sd, D_mf
    "sprites": (0.9872, 0.9836),
    "dsprites": (0.9491, 0.9142),
    "moving-dsprites": (0.8699, 0.9348),
}
MODELS = ("skd", "skd-coordinates", "ssm-skd", "ssm-skd-mode", "ssm-skd-motion", "ssm-skd-cycle")
VECTORS = ("melodies", "air")
MODELS_OF_VECTORS = ("ssm-skd", "skd", "autoencoder", "components")
CONSTANCY = 1.0  # of the last three; no other model has that loss
MOTION = 0.2  # of the last two
CYCLE = 1.0  # of the last


@dataclass(frozen=True)
class Scale:
    """Sizes and plan of one study; each can be replaced by a flag of its name."""

    items: tuple[int, ...]  # of each layer of Sprites
    clips: int | None  # of dSprites
    size: int  # pixels of height and width
    channels: tuple[int, ...]
    batch_size: int
    learning_rate: float
    judge_epochs: int
    judge_learning_rate: float
    judge_channels: tuple[int, ...]
    passes: int  # draws of the mixes that a table averages over
    characters: int | None = None  # of Sprites, for training and validation
    precision: str = "float32"
    compiled: int = 0


@dataclass(frozen=True)
class Settings:
    """Of one model on one data set."""

    static_dim: int
    latent_dim: int
    hidden: int
    weights: tuple[float, float, float]  # reconstruction, prediction, spectral
    threshold: float
    epochs: int


FULL = Scale(
    tuple(range(6)), None, 64, (32, 64, 128, 256), 32, 1e-3, 30, 1e-3, (32, 64, 128, 256), 25,
    precision="bfloat16", compiled=1,
)  # fmt: skip
CPU = Scale((0, 1, 2), 1500, 16, (16,), 16, 4e-3, 60, 3e-3, (16, 32), 5)
MIDDLE = Scale(
    tuple(range(6)), 3000, 32, (16,), 16, 4e-3, 16, 2e-3, (16, 32), 5, characters=355, precision="bfloat16"
)
SCALES = {"cpu": CPU, "middle": MIDDLE, "full": FULL}
SSM = {  # as published
    "sprites": Settings(1, 15, 170, (16, 1, 1), 0.75, 140),
    "dsprites": Settings(1, 24, 200, (16, 4, 4), 0.125, 170),
    "moving-dsprites": Settings(1, 28, 160, (16, 4, 4), 0.875, 30),
}
SKD_FULL = {  # published for Sprites; elsewhere with the epochs of its neighbor
    name: Settings(8, 40, 80, (15, 1, 1), 0.5, ssm.epochs) for name, ssm in SSM.items()
}
SSM_CPU = Settings(1, 15, 80, (16, 1, 1), 0.75, 50)
SKD_CPU = Settings(8, 40, 80, (15, 1, 1), 0.5, 50)
SSM_MIDDLE = Settings(1, 30, 170, (16, 1, 1), 0.75, 350)
SKD_MIDDLE = replace(SKD_CPU, hidden=170, epochs=350)
OWN = {"cpu": (SSM_CPU, SKD_CPU), "middle": (SSM_MIDDLE, SKD_MIDDLE)}
S = TypeVar("S", Scale, Settings)


def read_arguments(description: str | None) -> argparse.Namespace:
    """Flags: the study, and one for each setting that a scale has."""
    parser = parser_of(__doc__, "seeds")
    parser.add_argument("--data", choices=[*SSM, *VECTORS], default="sprites")
    parser.add_argument("--air", type=Path, help="folder of the tables of Beijing Multi-Site Air Quality")
    names = list(dict.fromkeys((*MODELS, *MODELS_OF_VECTORS)))
    parser.add_argument("--model", choices=names, nargs="*", help="default: all of the data")
    parser.add_argument("--scale", choices=list(SCALES), default="cpu")
    parser.add_argument("--on", choices=["test", "validation"], default="test")
    parser.add_argument("--survival", type=int, metavar="SEEDS", help="only count the seeds that survive")
    parser.add_argument("--device", default=None)
    parser.add_argument("--out", type=Path, default=Path("disentangle.jsonl"))
    for field in fields(Scale) + fields(Settings):
        several = field.type.startswith("tuple")
        number = next(kind for kind in (str, float, int) if kind.__name__ in str(field.type))
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=number,
            nargs="*" if several else None,
            help="replaces the scale's",
        )
    arguments = parser.parse_args()
    known = MODELS_OF_VECTORS if arguments.data in VECTORS else MODELS
    arguments.model = list(known) if arguments.model is None else arguments.model
    unknown = sorted(set(arguments.model) - set(known))
    if unknown:
        parser.error(
            f"--model {unknown[0]} is none for --data {arguments.data}; there are {', '.join(known)}"
        )
    if arguments.data == "air" and arguments.air is None:
        parser.error("--data air needs --air FOLDER, with the tables of Beijing Multi-Site Air Quality (UCI)")
    return arguments


def scale_of(arguments: argparse.Namespace) -> Scale:
    """The scale with what flags replace."""
    return replaced(SCALES[arguments.scale], arguments)


def settings_of(name: str, arguments: argparse.Namespace) -> Settings:
    """A model's settings with what flags replace."""
    if arguments.scale == "full":
        found = (SSM if name.startswith("ssm") else SKD_FULL)[arguments.data]
    else:
        found = OWN[arguments.scale][0 if name.startswith("ssm") else 1]
    return replaced(found, arguments)


def replaced(found: S, arguments: argparse.Namespace) -> S:
    """A copy with the values of those flags that were given."""
    values = {field.name: getattr(arguments, field.name) for field in fields(found)}
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if v is not None}
    return type(found)(**{**asdict(found), **given})


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives them back."""
    found: dict[str, Any] = json.loads(json.dumps(values))
    return found
