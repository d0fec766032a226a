"""Draw the picture at the top of the README: ``python docs/images/two_trees.py`` writes ``two-trees.png``.

The two trees are planted, so that the picture shows every element: fourteen regions with names, of which
model B splits one and lacks two, one that both have and that is left unmatched, and matches of very
different confidence. Needs Chromium and Playwright (``pip install playwright``).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import linkage

from repdyn.views.trees import two_trees

NAMES = (
    "arrays", "linear algebra", "statistics", "optimisation", "plotting", "colours", "parsing", "regex",
    "networking", "e-mail", "files", "compression", "testing", "logging",
)  # fmt: skip
OUT = Path(__file__).with_name("two-trees.png")


def planted_tree(names: list[str], seed: int) -> dict[str, Any]:
    """A merge tree of regions: neighbours in the list join early, groups late."""
    rng = np.random.default_rng(seed)
    place = np.array(
        [
            [NAMES.index(n.split("·")[0].strip()) // 2 * 4 + NAMES.index(n.split("·")[0].strip()) % 2]
            for n in names
        ]
    )
    merges = linkage(place + rng.normal(0, 0.35, size=(len(names), 2)), "average")
    count = len(names)
    parent = np.full(2 * count - 1, -1)
    mass = np.append(rng.dirichlet(np.full(count, 6.0)), np.zeros(count - 1))
    level = np.ones(2 * count - 1)
    for k, (a, b, distance, _) in enumerate(merges):
        pair = [int(a), int(b)]
        parent[pair] = count + k
        mass[count + k] = mass[pair].sum()
        level[count + k] = 1 / (1 + distance)
    death = np.where(parent >= 0, level[parent], 0.0)
    return {
        "parent": parent,
        "height": level,
        "death": death,
        "mass": mass,
        "label": [*names, *[""] * (count - 1)],
    }


def main() -> None:
    """Write the picture."""
    from playwright.sync_api import sync_playwright

    of_a = list(NAMES)
    of_b = [n for n in NAMES if n not in ("colours", "logging")] + ["regex · 2"]
    rng = np.random.default_rng(0)
    pairs = [(of_a.index(n), of_b.index(n)) for n in of_b if n in of_a and n != "compression"]
    confidence = rng.beta(5, 1.2, size=len(pairs))
    confidence[[1, 6]] = 0.3, 0.12
    figure = two_trees(planted_tree(of_a, 1), planted_tree(of_b, 2), pairs, confidence)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": int(figure.layout.height)})
        page.set_content(
            figure.to_html(config={"displayModeBar": False}, default_height=figure.layout.height)
        )
        page.add_style_tag(content="body { margin: 0 }")
        page.wait_for_selector(".scatterlayer .trace")
        page.screenshot(path=str(OUT))
        browser.close()


if __name__ == "__main__":
    main()
