"""Error of sparse reconstruction of latents from few atoms, for each dictionary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from repdyn.errors import RepdynError
from repdyn.views.arguments import estimates
from repdyn.views.bands import add_series, style, symbol
from repdyn.views.theme import new_figure

__all__ = ["probing"]


def probing(atoms: Sequence[int], error: Mapping[str, Sequence[object]], verdict: str) -> go.Figure:
    """Fraction of variance unexplained against the number of atoms.

    Parameters
    ----------
    atoms
        Numbers of atoms, K of them.
    error
        Per dictionary K estimates (mappings or objects with ``value``, ``low``, ``high``); the first is the
        one in question.
    verdict
        The verdict on the comparison with the controls.

    Returns
    -------
    plotly.graph_objects.Figure

    Raises
    ------
    RepdynError
        Where lengths differ.
    """
    figure = new_figure(
        "Probing without data",
        f"Verdict: {verdict}. Lower is better: attractors reached from noise (solid) against random "
        "dictionaries; dictionaries of data are the ceiling. Bands are 95 % intervals.",
        alt="Line chart of the variance unexplained with up to "
        f"{max(atoms)} atoms: "
        + ", ".join(f"{name} {estimates(row)[0][-1]:.2f}" for name, row in error.items())
        + " at the most.",
    )
    for rank, (name, row) in enumerate(error.items()):
        if len(row) != len(atoms):
            raise RepdynError(f"probing: {name!r} has {len(row)} estimates for {len(atoms)} numbers of atoms")
        add_series(figure, atoms, estimates(row), name, style(rank), symbol(rank))
    figure.update_xaxes(title_text="atoms", type="log", tickvals=list(atoms))
    figure.update_yaxes(title_text="variance unexplained", rangemode="tozero")
    return figure
