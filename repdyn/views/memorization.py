"""Similarity of attractors to training samples, compared with that of unseen samples."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from repdyn.errors import RepdynError
from repdyn.views.theme import ACCENT, CONTROL, new_figure

__all__ = ["memorization"]

_BINS = 40


def memorization(similarity: ArrayLike, null: ArrayLike, verdict: str) -> go.Figure:
    """Densities of the cosine to the nearest training sample: of attractors, and of unseen samples.

    Parameters
    ----------
    similarity
        Cosine of each attractor, shape ``(A,)``; may be empty.
    null
        Cosine of each unseen sample, shape ``(M,)``.
    verdict
        The verdict on memorization.

    Returns
    -------
    plotly.graph_objects.Figure

    Raises
    ------
    RepdynError
        If there is no finite value in the null.
    """
    ours, theirs = (np.asarray(x, dtype=float).ravel() for x in (similarity, null))
    if not np.isfinite(theirs).any():
        raise RepdynError(
            "memorization: the null has no finite value; no figure is drawn without its control"
        )
    lowest = float(min(np.nanmin(theirs), *(ours if len(ours) else theirs)))
    edges = {"start": lowest, "end": 1.0 + 1e-9, "size": max(1.0 - lowest, 1e-6) / _BINS}
    figure = new_figure(
        "Are attractors copies of training samples?",
        f"Verdict: {verdict}. Attractors count as copies only if they lie right of unseen samples, "
        "because every sample has some near neighbor in the training data.",
        alt=f"Histograms: {len(ours)} attractors, mean {np.mean(ours) if len(ours) else float('nan'):.3f}; "
        f"{len(theirs)} unseen samples, mean {np.nanmean(theirs):.3f}.",
    )
    for name, values, color in (
        ("unseen samples (control)", theirs, CONTROL[0]),
        ("attractors", ours, ACCENT),
    ):
        figure.add_histogram(
            x=values,
            name=f"{name}, {len(values)}",
            xbins=edges,
            histnorm="probability",
            marker={"color": color},
            opacity=0.65,
        )
        if len(values):
            figure.add_vline(x=float(np.nanmean(values)), line={"color": color, "dash": "dash"})
    figure.update_layout(barmode="overlay")
    figure.update_xaxes(title_text="cosine to the nearest training sample")
    figure.update_yaxes(title_text="share", tickformat=".0%")
    return figure
