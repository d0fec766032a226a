"""Draw a picture of the detector study, ``ood-layers.png``: ``python docs/images/ood_layers.py layers.json``.

What each layer sees of each out-of-distribution set, and what sums over layers see. The figures are those of
``python benchmarks/ood_layers.py --json layers.json``. Needs Chromium and Playwright (``pip install
playwright``).
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots

OUT = Path(__file__).with_name("ood-layers.png")
TITLES = {
    "A efficientnet-lite0": "EfficientNet-Lite0 on ImageNet",
    "E ImageNet animals, efficientnet-lite0": "EfficientNet-Lite0 on animals of ImageNet",
    "B efficientnet-lite0": "EfficientNet-Lite0 on CIFAR-10",
    "B cifar-resnet20": "ResNet-20 on CIFAR-10",
}
SUMS = {
    "sum": "sum (MDSEns)",
    "sum of unit vectors": "sum, unit vectors",
    "standardized sum of unit vectors": "sum, unit and standardized",
}
INK = "#1d3557"
# Blue is seen, white is chance, red is taken for more usual than usual pictures.
SCALE = [[0.0, "#c1432f"], [0.5, "#ffffff"], [1.0, "#2a6f97"]]
WIDTH, HEIGHT = 1180, 760


def draw(found: dict[str, dict[str, dict[str, float]]]) -> go.Figure:
    """One panel for each model and in-distribution set; rows are out-of-distribution sets."""
    figure = make_subplots(
        rows=2,
        cols=2,
        subplot_titles=list(TITLES.values()),
        horizontal_spacing=0.16,
        vertical_spacing=0.34,
        row_heights=[0.42, 0.58],
    )
    for place, name in enumerate(TITLES):
        rows = found[name]
        layers = [row for row in rows if "sum" not in row]
        columns = [*layers, *SUMS]
        sets = list(rows[columns[0]])
        values = [[rows[column][where] for column in columns] for where in reversed(sets)]
        labels = [layer.removeprefix("blocks.") for layer in layers] + list(SUMS.values())
        figure.add_trace(
            go.Heatmap(
                z=values,
                x=labels,
                y=list(reversed(sets)),
                zmin=0,
                zmax=1,
                colorscale=SCALE,
                showscale=False,
                text=[[f"{value:.2f}" for value in row] for row in values],
                texttemplate="%{text}",
                textfont={"size": 12},
                xgap=2,
                ygap=2,
            ),
            row=place // 2 + 1,
            col=place % 2 + 1,
        )
        figure.add_vline(
            len(layers) - 0.5, line={"color": INK, "width": 2}, row=place // 2 + 1, col=place % 2 + 1
        )
    figure.update_xaxes(type="category", tickangle=-35)
    figure.update_layout(
        width=WIDTH,
        height=HEIGHT,
        plot_bgcolor="white",
        paper_bgcolor="white",
        font={"family": "Inter, Helvetica, Arial, sans-serif", "size": 13, "color": INK},
        margin={"l": 130, "r": 20, "t": 40, "b": 130},
    )
    return figure


def main(file: str) -> None:
    """Write the picture."""
    from playwright.sync_api import sync_playwright

    figure = draw(json.loads(Path(file).read_text()))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_content(figure.to_html(config={"displayModeBar": False}))
        page.add_style_tag(content="body { margin: 0 }")
        page.wait_for_selector(".heatmaplayer")
        page.screenshot(path=str(OUT))
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
