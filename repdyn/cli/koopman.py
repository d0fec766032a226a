"""``repdyn koopman``: fit a Koopman autoencoder, certify its spectrum, and unlearn a class by an edit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from repdyn.cli.console import say, write_json
from repdyn.cli.context import refuse_existing
from repdyn.cli.options import Device, Force, Json, PathsStore, Seed

__all__ = ["fit", "forget", "spectrum"]

Fitted = Annotated[
    Path, typer.Argument(help="An autoencoder that `repdyn koopman fit` wrote.", show_default=False)
]


def fit(
    paths: PathsStore,
    out: Annotated[Path, typer.Option(help="The folder to write, say a.kae.")],
    latent_dim: Annotated[
        int | None,
        typer.Option(min=1, help="Number of observables; default: the width and up to 192 nonlinear ones."),
    ] = None,
    epochs: Annotated[
        int, typer.Option(min=1, help="Maximum number of passes over the training paths.")
    ] = 60,
    isometry: Annotated[
        float, typer.Option(min=0, help="Weight of the isometry loss, which preserves distances.")
    ] = 1.0,
    test: Annotated[
        float, typer.Option(min=0.01, max=0.9, help="Share of the paths held out for the figures.")
    ] = 0.2,
    force: Force = False,
    seed: Seed = 0,
    device: Device = None,
    json: Json = None,
) -> None:
    """Fit a Koopman autoencoder; compare its fidelity on held-out paths with the controls.

    Example: repdyn koopman fit a.paths --out a.kae
    """
    from repdyn.errors import RepdynError
    from repdyn.koopman import KoopmanAutoencoder
    from repdyn.paths import open_paths

    refuse_existing(out, force)
    stored = open_paths(paths)
    training, held_out = stored.split((1 - test, test), seed=seed, stratify=False)
    kae = KoopmanAutoencoder(latent_dim=latent_dim, isometry=isometry)
    kae.fit(training, epochs=epochs, seed=seed, device=device)
    kae.save_pretrained(out)  # saved before the evaluation, so that a failure there does not lose the fit
    try:
        fidelity = kae.fidelity(held_out, seed=seed)
    except RepdynError as error:
        raise RepdynError(f"{error} (the autoencoder itself is fitted and saved: {out})") from error
    fidelity.save(out / "fidelity")
    say(repr(fidelity))
    say(f"{out}: the autoencoder and its fidelity on {len(held_out)} held-out paths")
    write_json(json, {"koopman": fidelity.to_dict()})


def spectrum(
    kae: Fitted,
    paths: PathsStore,
    out: Annotated[Path, typer.Option(help="The folder to write, say a.spectrum.")],
    threshold: Annotated[
        float, typer.Option(min=0, help="A pair with a larger residual is not certified.")
    ] = 0.1,
    resamples: Annotated[int, typer.Option(min=2, help="Bootstrap replicates.")] = 100,
    top: Annotated[int, typer.Option(min=1, help="Number of inputs listed per mode.")] = 5,
    force: Force = False,
    seed: Seed = 0,
    device: Device = None,
    json: Json = None,
) -> None:
    """Compute eigenvalues of depth, their certified residuals, and the inputs that excite each mode.

    Where the points differ in width, eigenvalues are relative to their frames and none is certified.

    Example: repdyn koopman spectrum a.kae a.paths --out a.spectrum
    """
    from repdyn.koopman import KoopmanAutoencoder
    from repdyn.koopman.modes import excitation
    from repdyn.paths import open_paths

    refuse_existing(out, force)
    fitted, stored = KoopmanAutoencoder.from_pretrained(kae, device=device), open_paths(paths)
    spectral = fitted.spectrum(stored, threshold=threshold, resamples=resamples, seed=seed)
    spectral.save(out)
    modes = excitation(spectral, fitted, stored, count=top, seed=seed)
    modes.save(out / "excitation")
    say(repr(spectral))
    say(repr(modes))
    say(f"{out}: the spectrum, and the inputs that excite each mode")
    write_json(json, {"spectrum": spectral.to_dict(), "excitation": modes.to_dict()})


def forget(
    kae: Fitted,
    paths: PathsStore,
    out: Annotated[Path, typer.Option(help="The folder to write, say a.edit.")],
    label: Annotated[
        list[str], typer.Option(help="The class to forget; repeat for more classes.", show_default=False)
    ],
    redirect: Annotated[
        str, typer.Option(help="Target of its samples: mean, nearest, or another class.")
    ] = "mean",
    quantile: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of the class to redirect; default: chosen on the data."),
    ] = None,
    attacked: Annotated[
        bool,
        typer.Option(
            "--attack",
            help="Try to recover the class from a held-out third of the paths.",
        ),
    ] = False,
    force: Force = False,
    seed: Seed = 0,
    device: Device = None,
    json: Json = None,
) -> None:
    """Forget a class in the prediction by an edit of the operator; report the effect on the other classes.

    Example: repdyn koopman forget a.kae a.paths --label 3 --out a.edit
    """
    from repdyn.koopman import KoopmanAutoencoder
    from repdyn.koopman.attack import attack
    from repdyn.paths import open_paths

    refuse_existing(out, force)
    fitted, stored = KoopmanAutoencoder.from_pretrained(kae, device=device), open_paths(paths)
    used, kept = stored.split((2 / 3, 1 / 3), seed=seed) if attacked else (stored, None)
    wanted = [_own(name, stored.labels) for name in label]
    place = redirect if redirect in ("mean", "nearest") else _own(redirect, stored.labels)
    edited = fitted.forget(used, label=wanted, redirect=place, quantile=quantile, seed=seed)
    edited.save(out)
    say(repr(edited))
    figures = {"forget": edited.to_dict()}
    if kept is not None:
        tried = attack(edited, kept, wanted, seed=seed)
        tried.save(out / "attack")
        say(repr(tried))
        # A successful attack is bad news, so its verdict must not count as success with --strict.
        figures["attack"] = {k: v for k, v in tried.to_dict().items() if k != "verdict"}
    say(f"{out}: the edited autoencoder; {kae} is unchanged")
    write_json(json, figures)


def _own(name: str, labels: Any) -> Any:
    """A label in the type of the paths' labels; the command line gives strings only."""
    return (
        int(name) if labels is not None and labels.dtype.kind in "iu" and name.lstrip("-").isdigit() else name
    )
