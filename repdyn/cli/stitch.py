"""``repdyn stitch``: feed A's translated representations into B's head, and evaluate with labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from repdyn.cli.console import say, say_of_translation, write_json
from repdyn.cli.context import refuse_existing
from repdyn.cli.options import Device, Force, Json, Seed

__all__ = ["stitch"]


def stitch(
    model_a: Annotated[str, typer.Argument(help="The MODEL that reads the inputs.", show_default=False)],
    translation: Annotated[
        Path, typer.Argument(help="A translation that `repdyn translate` wrote.", show_default=False)
    ],
    model_b: Annotated[
        str, typer.Argument(help="The MODEL whose head gives the logits.", show_default=False)
    ],
    data: Annotated[str, typer.Argument(help="DATA to predict.", show_default=False)],
    points: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B",
            help="Read A at the first point and enter B at the second; default: A's last point and B's head.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Save the accuracies and their controls in this folder.")
    ] = None,
    logits: Annotated[Path | None, typer.Option(help="Write B's logits to this .npy file.")] = None,
    force: Force = False,
    seed: Seed = 0,
    device: Device = None,
    json: Json = None,
) -> None:
    """Feed A's translated representations into B's head; labels in DATA give accuracies with controls.

    Labels must be B's class numbers. With --points, the accuracy is given without controls.

    Example: repdyn stitch timm:resnet18 ab.translation timm:resnet34 images:photos --out ab.stitching
    """
    import numpy as np

    import repdyn
    from repdyn.cli.data import read_data
    from repdyn.errors import RepdynError
    from repdyn.intervals import mean_of_groups
    from repdyn.reading import as_array
    from repdyn.repeats import groups_of_equal_rows
    from repdyn.translation import LinearTranslation, evaluate_stitching
    from repdyn.writing import whole_file

    refuse_existing(out, force)
    held = read_data(data)
    map_ab = LinearTranslation.load(translation)
    a, b = (repdyn.load(name, device=device) for name in (model_a, model_b))
    labels = held.labels if held.labels is not None and held.labels.dtype.kind in "iu" else None
    if out is not None and (points or labels is None):
        raise RepdynError(f"--out {out}: needs DATA with class numbers as labels, and no --points")
    stitched = repdyn.stitch(a, map_ab, b, points)
    figures: dict[str, Any] = {"samples": len(held.inputs), "translation": stitched.verdict}
    if labels is not None and not points:
        evaluation = evaluate_stitching(a, map_ab, b, held.inputs, labels, seed=seed)
        say(repr(evaluation))
        figures |= evaluation.to_dict()
        if out is not None:
            evaluation.save(out)
            say(f"accuracies: {out}")
    if logits is not None or points or labels is None:
        answers = as_array(stitched.predict(held.inputs))
        say(f"{len(answers)} samples predicted by the head of {model_b} from {model_a}")
        if labels is not None and points:
            equal = groups_of_equal_rows(answers)
            accuracy = mean_of_groups(answers.argmax(1) == labels, equal, seed=seed)
            figures["accuracy"] = accuracy.to_dict()
            say(f"accuracy {accuracy}")
        if logits is not None:
            with whole_file(logits) as scratch, scratch.open("wb") as file:
                np.save(file, answers)
            say(f"logits: {logits}")
    say_of_translation(map_ab.verdict, map_ab.reason)
    write_json(json, figures)
