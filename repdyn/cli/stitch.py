"""``repdyn stitch``: model A's body, a translation, model B's head; with labels, beside B's own accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from repdyn.cli.options import Json

__all__ = ["stitch"]


def stitch(
    model_a: Annotated[str, typer.Argument(help="The MODEL that reads the inputs.", show_default=False)],
    translation: Annotated[Path, typer.Argument(help="What repdyn translate wrote.", show_default=False)],
    model_b: Annotated[str, typer.Argument(help="The MODEL whose head answers.", show_default=False)],
    data: Annotated[str, typer.Argument(help="DATA to answer for.", show_default=False)],
    points: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Leave A and enter B at these points instead of A's last point and B's head."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write B's logits to this .npy file.")] = None,
    json: Json = None,
) -> None:
    """Let model B answer for what model A has read.

    Example: repdyn stitch timm:resnet18 ab.translation timm:resnet34 images:photos
    """
    import numpy as np

    import repdyn
    from repdyn.cli.console import say, write_json
    from repdyn.cli.data import read_data
    from repdyn.translation import LinearTranslation

    held = read_data(data)
    map_ab = LinearTranslation.load(translation)
    stitched = repdyn.stitch(repdyn.load(model_a), map_ab, repdyn.load(model_b), points)
    logits = stitched.predict(held.inputs).detach().cpu().numpy()
    answers = logits.argmax(1)
    figures: dict[str, Any] = {"samples": len(answers), "verdict": stitched.verdict}
    say(
        f"{model_b} has answered for {len(answers)} samples read by {model_a}; translation {stitched.verdict}"
    )
    if held.labels is not None and np.issubdtype(held.labels.dtype, np.integer):
        from repdyn.intervals import bootstrap_mean

        accuracy = bootstrap_mean(answers == held.labels, seed=0)
        figures["accuracy"] = accuracy.to_dict()
        say(f"accuracy {accuracy}")
    if out is not None:
        np.save(out, logits)
        say(f"logits are in {out}")
    write_json(json, figures)
