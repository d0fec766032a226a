"""Draw the README's first picture: ``python docs/images/first_lines.py`` writes ``first-lines.png``.

A residual network of four blocks is trained on scikit-learn's handwritten digits, and test digits are traced
through it. The picture shows ``paths.plot()`` at the first and at the last block. Needs Chromium and
Playwright (``pip install playwright``), and half a minute.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import repdyn

OUT = Path(__file__).with_name("first-lines.png")
SIDE, WIDTH = 500, 64


class Block(nn.Module):
    """A step of the residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 128), nn.GELU(), nn.Linear(128, WIDTH)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.step(x)


class Digits(nn.Module):
    """Pixels, four blocks, ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(64, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def trained(x: torch.Tensor, y: torch.Tensor) -> Digits:
    """The network after 400 steps on all of the data."""
    torch.manual_seed(0)
    model = Digits()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.05)
    for _ in range(400):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def main() -> None:
    """Write the picture."""
    from playwright.sync_api import sync_playwright

    digits = load_digits()
    x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    model = trained(x[:1200], y[:1200])
    right = (model(x[1200:]).argmax(1) == y[1200:]).float().mean()
    paths = repdyn.trace(model, x[1200:], labels=y[1200:])
    print(
        paths,
        f"accuracy on the {len(paths)} test digits {right:.3f}",
        paths.plot().layout.meta["caption"],
        sep="\n",
    )
    figure = paths.plot()
    figure.update_layout(title=None, margin_t=20, width=SIDE, height=SIDE + 90)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 2 * SIDE, "height": SIDE + 90})
        drawn = [figure.to_html(full_html=False, include_plotlyjs=k == 0, auto_play=False) for k in range(2)]
        page.set_content(f"<div style='display: flex'><div>{drawn[0]}</div><div>{drawn[1]}</div></div>")
        page.add_style_tag(content="body { margin: 0 } .modebar-container { display: none }")
        page.wait_for_function("document.querySelectorAll('.scatterlayer .trace').length > 20")
        last = figure.frames[-1].name
        page.evaluate(
            f"Plotly.animate(document.querySelectorAll('.js-plotly-plot')[1], ['{last}'],"
            " {mode: 'immediate', transition: {duration: 0}, frame: {duration: 0, redraw: true}})"
        )
        page.wait_for_timeout(2000)
        page.screenshot(path=str(OUT))
        browser.close()


if __name__ == "__main__":
    main()
