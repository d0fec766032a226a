"""``repdyn disentangle fit``: static and dynamic factors of paths, and which of them encodes the label."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from repdyn.cli.console import say, write_json
from repdyn.cli.context import refuse_existing
from repdyn.cli.options import Device, Force, Json, PathsStore, Seed

if TYPE_CHECKING:
    from repdyn.disentangle.depth import Head

__all__ = ["fit"]


def fit(
    paths: PathsStore,
    out: Annotated[Path, typer.Option(help="The folder to write, say a.skd.")],
    model: Annotated[
        str, typer.Option(help="skd: one operator for all paths. ssm-skd: one operator per path.")
    ] = "skd",
    static_dim: Annotated[
        int, typer.Option(min=1, help="Number of static factors (eigenvalues trained towards one).")
    ] = 4,
    latent_dim: Annotated[int, typer.Option(min=1, help="Width of the latents.")] = 16,
    hidden: Annotated[int, typer.Option(min=1, help="Width of the networks.")] = 128,
    epochs: Annotated[
        int, typer.Option(min=1, help="Maximum number of passes over the training paths.")
    ] = 60,
    head: Annotated[
        str | None,
        typer.Option(help="The traced MODEL; its head classifies paths with swapped factors."),
    ] = None,
    test: Annotated[
        float, typer.Option(min=0.01, max=0.9, help="Share of the paths held out for the figures.")
    ] = 0.25,
    force: Force = False,
    seed: Seed = 0,
    device: Device = None,
    json: Json = None,
) -> None:
    """Split labeled paths into static and dynamic factors; compare with controls of the same rank.

    Example: repdyn disentangle fit a.paths --out a.skd
    """
    from repdyn.disentangle import SKD, SSMSKD
    from repdyn.disentangle.depth import depth_factors
    from repdyn.errors import RepdynError, nearest_names
    from repdyn.paths import open_paths

    kinds = {"ssm-skd": SSMSKD, "skd": SKD}
    if model not in kinds:
        raise RepdynError(f"--model: there is no model {model!r}; {nearest_names(model, kinds)}")
    stored = open_paths(paths)
    if stored.labels is None:
        raise RepdynError(f"{paths}: has no labels, which the probes need; trace data with labels")
    judge = None if head is None else _head(head, stored.points[-1], device)
    refuse_existing(out, force)
    training, held_out = stored.split((1 - test, test), seed=seed, stratify=False)
    kind = kinds[model]
    fitted = kind(static_dim=static_dim, latent_dim=latent_dim, hidden=hidden)
    fitted.fit(training, epochs=epochs, seed=seed, device=device)
    fitted.save_pretrained(out)  # saved before the evaluation, so that a failure there does not lose the fit
    try:
        factors = depth_factors(fitted, held_out, training, judge, seed=seed)
    except RepdynError as error:
        raise RepdynError(f"{error} (the model itself is fitted and saved: {out})") from error
    factors.save(out / "depth")
    say(repr(factors))
    say(f"{out}: the model and its figures on {len(held_out)} held-out paths")
    write_json(json, {"disentangle": factors.to_dict()})


def _head(name: str, last: str, device: str | None) -> Head:
    """The head of a model as a function from pooled last points ``(N, D)`` to logits ``(N, K)``."""
    import torch

    import repdyn
    from repdyn.devices import dtype_of, to
    from repdyn.errors import RepdynError
    from repdyn.reading import as_array

    model = repdyn.load(name, device=device)
    own = model.head
    if own is None:
        raise RepdynError(f"--head {name}: this model has no head; leave the option out")
    if model.final != last:
        raise RepdynError(f"--head {name}: its head reads {model.final!r}, and the paths end at {last!r}")
    return lambda x: as_array(own(to(torch.from_numpy(x), model.device, dtype_of(own))))
