"""Draw the picture of the topology study: ``python docs/images/flow_latents.py`` writes ``flow-latents.png``.

Four planted sets in three dimensions, the free two-dimensional latents of each with their log-density, the
level-set tree of that density, and what one Gaussian as the prior knows of the same set: one hill. Needs
Chromium and Playwright (``pip install playwright``), and a minute.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from repdyn.datasets import PLANTED
from repdyn.topology import FlowAutoencoder, LevelSetTree, knn_density

OUT = Path(__file__).with_name("flow-latents.png")
SEED, POINTS, NEIGHBORS = 10, 4000, 120
# Degrees by which a set is tilted towards the reader: so that nothing hides behind anything.
TILT = {"three nested clusters": 75}
SHOWN = 2500
INK, QUIET = "#1d3557", "#c9d2de"


def projected(x: NDArray[np.float64], degrees: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points seen from a side at which the three dimensions show, and their depth, far to near."""
    centred = x - x.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    seen = centred @ axes.T
    tilt = np.deg2rad(degrees)
    up = np.cos(tilt) * seen[:, 1] + np.sin(tilt) * seen[:, 2]
    depth = np.cos(tilt) * seen[:, 2] - np.sin(tilt) * seen[:, 1]
    order = np.argsort(depth)
    return np.column_stack([seen[:, 0], up])[order], depth[order]


def branches(tree: LevelSetTree) -> tuple[list[float | None], list[float | None]]:
    """Lines of a tree: a stem for each branch from where it joins to where it ends, a bar for each join."""
    place = np.zeros(len(tree.parent))

    def leaves(node: int) -> list[int]:
        below = np.flatnonzero(tree.parent == node)
        return [node] if len(below) == 0 else [leaf for child in below for leaf in leaves(int(child))]

    for position, leaf in enumerate(leaves(len(tree.parent) - 1)):
        place[leaf] = position
    x: list[float | None] = []
    y: list[float | None] = []
    for node in range(len(tree.parent)):
        below = np.flatnonzero(tree.parent == node)
        if len(below):
            place[node] = place[below].mean()
            x += [place[below].min(), place[below].max(), None]
            y += [tree.height[node], tree.height[node], None]
        x += [place[node], place[node], None]
        y += [tree.saddle[node], tree.height[node], None]
    return x, y


def draw() -> go.Figure:
    """Fit every set twice and put the pictures together."""
    rows = ["the set, in three dimensions", "free latents", "tree of their density", "one Gaussian as prior"]
    figure = make_subplots(
        rows=4,
        cols=4,
        column_titles=list(PLANTED),
        row_titles=rows,
        horizontal_spacing=0.03,
        vertical_spacing=0.03,
        row_heights=[0.28, 0.28, 0.16, 0.28],
    )
    dots = {"size": 3, "showscale": False}
    for column, (name, planted) in enumerate(PLANTED.items(), 1):
        x = planted.sample(POINTS, SEED)
        model = FlowAutoencoder(2).fit(x, seed=SEED)
        latents = model.sample_latents()
        density = knn_density(latents, NEIGHBORS)
        tree = model.tree(neighbors=NEIGHBORS, persistence=1.0)
        control = FlowAutoencoder(2, prior="gaussian").fit(x, seed=SEED)
        stated = control.sample_latents(POINTS)
        seen, depth = projected(x, TILT.get(name, 35))
        panels = (
            (seen, depth, "Blues", 1),
            (latents, density, "Viridis", 2),
            (stated, control.latent_log_density(stated), "Viridis", 4),
        )
        for points, colour, scale, row in panels:
            step = max(1, len(points) // SHOWN)
            marker = dots | {"color": colour[::step], "colorscale": scale, "cmin": np.quantile(colour, 0.02)}
            if row == 1:
                marker["cmin"] = 2 * colour.min() - colour.max()  # no dot so pale that it is lost
            figure.add_trace(
                go.Scatter(x=points[::step, 0], y=points[::step, 1], mode="markers", marker=marker),
                row=row,
                col=column,
            )
            axis = figure.get_subplot(row, column).yaxis
            axis.scaleanchor = figure.get_subplot(row, column).xaxis.plotly_name.replace("axis", "")
        across, along = branches(tree)
        line = {"color": INK, "width": 2.5}
        figure.add_trace(go.Scatter(x=across, y=along, mode="lines", line=line), row=3, col=column)
        figure.update_xaxes(range=[-0.8, len(tree.leaves) - 0.2], row=3, col=column)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.update_yaxes(
        visible=True, showgrid=True, gridcolor=QUIET, tickfont={"size": 10}, zeroline=False, row=3
    )
    figure.update_layout(
        width=1180,
        height=1120,
        showlegend=False,
        plot_bgcolor="white",
        paper_bgcolor="white",
        font={"family": "Inter, Helvetica, Arial, sans-serif", "size": 14, "color": INK},
        margin={"l": 30, "r": 40, "t": 50, "b": 20},
    )
    return figure


def main() -> None:
    """Write the picture."""
    from playwright.sync_api import sync_playwright

    figure = draw()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1180, "height": 1120})
        page.set_content(figure.to_html(config={"displayModeBar": False}))
        page.add_style_tag(content="body { margin: 0 }")
        page.wait_for_selector(".scatterlayer .trace")
        page.screenshot(path=str(OUT))
        browser.close()


if __name__ == "__main__":
    main()
