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
    "A efficientnet-lite0": "EfficientNet-Lite0, fitted to ImageNet (last row: to its animals)",
    "B efficientnet-lite0": "EfficientNet-Lite0, fitted to CIFAR-10",
    "B cifar-resnet20": "ResNet-20, fitted to CIFAR-10",
}
ANIMALS = "E ImageNet animals, efficientnet-lite0"
SUMS = {
    "sum": "sum of<br>all (MDSEns)",
    "sum of unit vectors": "sum, unit<br>vectors",
    "standardized sum of unit vectors": "sum, unit and<br>standardized",
}
INK = "#1d3557"
# Blue is seen, white is chance, red is taken for more usual than usual pictures.
SCALE = [[0.0, "#c1432f"], [0.5, "#ffffff"], [1.0, "#2a6f97"]]
WIDTH, HEIGHT = 1120, 880


def draw(found: dict[str, dict[str, dict[str, float]]]) -> go.Figure:
    """One panel for each model and in-distribution set; rows are out-of-distribution sets."""
    figure = make_subplots(rows=3, cols=1, subplot_titles=list(TITLES.values()), vertical_spacing=0.14)
    for place, name in enumerate(TITLES, 1):
        panel = {"row": place, "col": 1}
        rows = found[name]
        if name.startswith("A "):
            near = {row: own["held-out classes"] for row, own in found[ANIMALS].items()}
            rows = {row: {**own, "other classes": near[row]} for row, own in rows.items()}
        layers = [row for row in rows if "sum" not in row]
        columns = [*layers, *SUMS]
        sets = list(reversed(rows[columns[0]]))
        figure.add_trace(
            go.Heatmap(
                z=[[rows[column][where] for column in columns] for where in sets],
                x=[layer.removeprefix("blocks.") for layer in layers] + list(SUMS.values()),
                y=sets,
                zmin=0,
                zmax=1,
                colorscale=SCALE,
                showscale=False,
                text=[[f"{rows[column][where]:.2f}" for column in columns] for where in sets],
                texttemplate="%{text}",
                textfont={"size": 12},
                xgap=2,
                ygap=2,
            ),
            **panel,
        )
        figure.add_vline(len(layers) - 0.5, line={"color": INK, "width": 3}, **panel)
    figure.update_xaxes(type="category", tickangle=-40)
    figure.update_layout(
        width=WIDTH,
        height=HEIGHT,
        plot_bgcolor="white",
        paper_bgcolor="white",
        font={"family": "Inter, Helvetica, Arial, sans-serif", "size": 13, "color": INK},
        margin={"l": 130, "r": 20, "t": 40, "b": 90},
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
