"""``repdyn disentangle fit``: what of a path stays through depth, and which part carries the label."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from repdyn.cli.options import Device, Force, Json, PathsStore, Seed

if TYPE_CHECKING:
    from repdyn.disentangle.depth import Head

__all__ = ["fit"]


def fit(
    paths: PathsStore,
    out: Annotated[Path, typer.Option(help="The folder to write, say a.skd.")],
    model: Annotated[
        str, typer.Option(help="skd: one operator for all paths. ssm-skd: one for each.")
    ] = "skd",
    static_dim: Annotated[int, typer.Option(min=1, help="Eigenvalues that are drawn to one.")] = 4,
    latent_dim: Annotated[int, typer.Option(min=1, help="Width of the latents.")] = 16,
    hidden: Annotated[int, typer.Option(min=1, help="Width of the networks.")] = 128,
    epochs: Annotated[int, typer.Option(min=1)] = 60,
    head: Annotated[
        str | None, typer.Option(help="The MODEL that was traced: its own head judges swaps of static parts.")
    ] = None,
    test: Annotated[float, typer.Option(min=0.01, max=0.9, help="Share kept for the figures.")] = 0.25,
    force: Force = False,
    seed: Seed = 0,
    device: Device = None,
    json: Json = None,
) -> None:
    """Split labeled paths into what stays and what changes, beside controls of the same rank.

    Example: repdyn disentangle fit a.paths --out a.skd
    """
    from repdyn.cli.console import say, write_json
    from repdyn.cli.context import refuse_existing
    from repdyn.disentangle import SKD, SSMSKD
    from repdyn.disentangle.depth import depth_factors
    from repdyn.errors import RepdynError, nearest_names
    from repdyn.paths import open_paths

    kinds = {"ssm-skd": SSMSKD, "skd": SKD}
    if model not in kinds:
        raise RepdynError(f"--model: there is no model {model!r}; {nearest_names(model, kinds)}")
    stored = open_paths(paths)
    if stored.labels is None:
        raise RepdynError(f"{paths}: has no labels to probe for; trace data with labels")
    judge = None if head is None else _head(head, stored.points[-1], device)
    refuse_existing(out, force)
    training, held_out = stored.split((1 - test, test), seed=seed, stratify=False)
    kind = kinds[model]
    fitted = kind(static_dim=static_dim, latent_dim=latent_dim, hidden=hidden)
    fitted.fit(training, epochs=epochs, seed=seed, device=device)
    fitted.save_pretrained(out)  # before it is judged: what has been fitted is not lost with the judging
    try:
        found = depth_factors(fitted, held_out, training, judge, seed=seed)
    except RepdynError as error:
        raise RepdynError(f"{error} (the model itself is fitted and saved: {out})") from error
    found.save(out / "depth")
    say(repr(found))
    say(f"{out}: the model and its figures on {len(held_out)} held-out paths")
    write_json(json, {"disentangle": found.to_dict()})


def _head(name: str, last: str, device: str | None) -> Head:
    """A model's own head, which reads its pooled last point."""
    import torch

    import repdyn
    from repdyn.errors import RepdynError
    from repdyn.reading import as_array

    model = repdyn.load(name, device=device)
    own = model.head
    if own is None:
        raise RepdynError(f"--head {name}: this model has no head; leave the option out")
    if model.final != last:
        raise RepdynError(f"--head {name}: its head reads {model.final!r}, and the paths end at {last!r}")
    return lambda x: as_array(own(torch.from_numpy(x).to(model.device)))
