"""``repdyn koopman fit``: a space in which depth acts linearly, and how far that is true."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from repdyn.cli.options import Device, Json, PathsStore, Seed

__all__ = ["fit"]


def fit(
    paths: PathsStore,
    out: Annotated[Path, typer.Option(help="The folder to write, say a.kae.")],
    latent_dim: Annotated[
        int | None, typer.Option(min=1, help="Number of observables; twice the width, at most 256.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 60,
    isometry: Annotated[float, typer.Option(min=0, help="Weight that keeps distances.")] = 1.0,
    test: Annotated[float, typer.Option(min=0.01, max=0.9, help="Share kept for the figures.")] = 0.2,
    seed: Seed = 0,
    device: Device = None,
    json: Json = None,
) -> None:
    """Fit a Koopman autoencoder and print its fidelity beside the controls, on paths it has not seen.

    Example: repdyn koopman fit a.paths --out a.kae
    """
    from repdyn.cli.console import say, write_json
    from repdyn.koopman import KoopmanAutoencoder
    from repdyn.paths import open_paths

    stored = open_paths(paths)
    training, held_out = stored.split((1 - test, test), seed=seed, stratify=False)
    kae = KoopmanAutoencoder(latent_dim=latent_dim, isometry=isometry)
    kae.fit(training, epochs=epochs, seed=seed, device=device)
    fidelity = kae.fidelity(held_out, seed=seed)
    kae.save_pretrained(out)
    fidelity.save(out / "fidelity")
    say(repr(fidelity))
    say(f"{out}: the autoencoder and its fidelity on {len(held_out)} held-out paths")
    write_json(json, {"koopman": fidelity.to_dict()})
