"""``repdyn field``: attractors of a Koopman autoencoder's encode-decode map, or of a noised bank."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from repdyn.cli.console import say, write_json
from repdyn.cli.context import refuse_existing
from repdyn.cli.options import Device, Force, Json, PathsStore, Seed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from repdyn.fields import EnergyField
    from repdyn.paths import RepresentationPaths

__all__ = ["field"]


def field(
    source: Annotated[
        Path,
        typer.Argument(
            help="A Koopman autoencoder that `repdyn koopman fit` wrote; or a store or a file of vectors. "
            "Its vectors are then the bank of an energy field, on which every start converges.",
            metavar="KAE",
            show_default=False,
        ),
    ],
    paths: PathsStore,
    point: Annotated[str | None, typer.Option(help="The point to iterate at; default: the last one.")] = None,
    starts: Annotated[
        int, typer.Option(min=1, help="Maximum number of initial conditions, drawn from the paths.")
    ] = 1000,
    max_steps: Annotated[int, typer.Option(min=1, help="Maximum number of iterations per start.")] = 3000,
    sigma: Annotated[
        float | None,
        typer.Option(help="For a bank: standard deviation of the noise; default: chosen without labels."),
    ] = None,
    components: Annotated[int, typer.Option(min=1, help="For a bank: number of principal components.")] = 64,
    atoms: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="For a bank: replace it by a mixture of this many Gaussians. A tenth of the vectors is a "
            "good number; default: the bank itself.",
            show_default=False,
        ),
    ] = None,
    unit_length: Annotated[
        bool, typer.Option("--unit-length", help="For a bank: scale its vectors to unit length.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Save the attractors in this folder.")] = None,
    force: Force = False,
    seed: Seed = 0,
    device: Device = None,
    json: Json = None,
) -> None:
    """Find the attractors of an encode-decode map, or the modes of a bank of vectors, from stored paths.

    Example: repdyn field a.kae a.paths --out a.attractors
    """
    import numpy as np

    from repdyn.paths import file_of_vectors, open_paths

    refuse_existing(out, force)
    bank = None
    if file_of_vectors(source) or (source.is_dir() and not (source / "config.json").exists()):
        bank = open_paths(source)
    else:
        from repdyn.koopman import KoopmanAutoencoder

        model = KoopmanAutoencoder.from_pretrained(source, device=device)
    stored = open_paths(paths)
    if bank is None:
        model.check_paths(stored)
    where = point if point is not None else stored.points[-1]
    if len(stored) > starts:
        stored = stored.subset(
            np.sort(np.random.default_rng(seed).choice(len(stored), starts, replace=False))
        )
    if bank is None:
        codes = model.encode(np.asarray(stored[where]), where)
        attractors = model.field(where).attractors(codes, max_steps=max_steps, seed=seed)
        figures = {}
    else:
        noised = _fitted(bank, where, sigma, components, unit_length, atoms, seed, device)
        say(repr(noised))
        codes = noised.encode(_pooled(stored, where))
        attractors = noised.attractors(codes, max_steps=max_steps, seed=seed)
        scales = None if noised.scales_ is None else noised.scales_.to_dict()
        figures = {"energy": {"sigma": noised.sigma_, "notes": list(noised.notes_), "scales": scales}}
    say(repr(attractors))
    if out is not None:
        attractors.save(out)
    write_json(json, {"field": attractors.to_dict() | figures})


def _fitted(
    bank: RepresentationPaths,
    point: str,
    sigma: float | None,
    components: int,
    unit_length: bool,
    atoms: int | None,
    seed: int,
    device: str | None,
) -> EnergyField:
    """The field of a bank's points at one place, on a device; its warnings are in its text."""
    import warnings

    import torch

    from repdyn.devices import to
    from repdyn.fields import EnergyField, EnergyWarning

    rows = to(torch.as_tensor(_pooled(bank, point)), device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EnergyWarning)
        return EnergyField(sigma, components=components, unit_length=unit_length, atoms=atoms, seed=seed).fit(
            rows
        )


def _pooled(paths: RepresentationPaths, point: str) -> NDArray[Any]:
    """Representations ``(N, D)`` at a point."""
    import numpy as np

    from repdyn.errors import RepdynError, nearest_names

    if point not in paths.points:
        raise RepdynError(f"point: there is no {point!r}; {nearest_names(point, paths.points)}")
    rows = np.asarray(paths[point])
    if rows.ndim != 2:
        raise RepdynError(f"{point}: representations must be pooled to (N, D), got {rows.shape}")
    return rows
