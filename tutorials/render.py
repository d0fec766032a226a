"""Run a tutorial and write it as a page of the site, with what it printed and the pictures it drew.

    python tutorials/render.py tutorials/1_your_first_path.py …

Pictures need Chromium and playwright. Pages go to ``docs/tutorials``, pictures to ``docs/images/tutorials``;
both are kept in the repository, because running six tutorials takes longer than building a site should.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 800  # pixels of a picture on the page
_SHOWN = "_shown"
_TO_THE_END = """
(name) => Plotly.animate(document.querySelector('.plotly-graph-div'), [name],
                         {mode: 'immediate', frame: {duration: 0}, transition: {duration: 0}})
"""


@dataclass(frozen=True)
class Cell:
    """One cell of a percent script."""

    kind: str
    source: str
    line: int


def cells(script: Path) -> list[Cell]:
    """The cells of a tutorial; comments of Markdown cells are uncommented."""
    found = []
    text = script.read_text(encoding="utf-8")
    for match in re.finditer(
        r"^# %%(?P<kind> \[markdown\])?\n(?P<source>.*?)(?=^# %%|\Z)", text, re.M | re.S
    ):
        line = text[: match.start("source")].count("\n") + 1
        source = match["source"].strip("\n")
        if match["kind"]:
            lines = [re.sub(r"^# ?", "", one) for one in source.splitlines()]
            found.append(Cell("markdown", "\n".join(lines), line))
        else:
            found.append(Cell("code", source, line))
    return found


def run(script: Path) -> Iterator[tuple[Cell, str, Any]]:
    """Run a tutorial cell by cell; yields each with what it printed and the value of its last line."""
    namespace: dict[str, Any] = {"__name__": "tutorial"}
    for cell in cells(script):
        printed, value = io.StringIO(), None
        if cell.kind == "code":
            tree = ast.parse("\n" * (cell.line - 1) + cell.source, str(script))
            if tree.body and isinstance(tree.body[-1], ast.Expr):  # a notebook shows what its last line is
                shown = tree.body[-1]
                kept = ast.Assign([ast.Name(_SHOWN, ast.Store())], shown.value)
                tree.body[-1] = ast.copy_location(kept, shown)
            with contextlib.redirect_stdout(printed):
                exec(compile(ast.fix_missing_locations(tree), str(script), "exec"), namespace)  # ours
            value = namespace.pop(_SHOWN, None)
        yield cell, printed.getvalue(), value


def page(script: Path, images: Path) -> str:
    """The tutorial as Markdown; its pictures are written to ``images``."""
    parts = []
    pictures = 0
    for cell, printed, value in run(script):
        if cell.kind == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        if printed.strip():
            parts.append(f"```text\n{printed.rstrip()}\n```")
        if hasattr(value, "to_image"):
            pictures += 1
            picture = images / f"{script.stem}-{pictures}.png"
            _draw(value, picture)
            meta = value.layout.meta
            parts.append(f"![{meta['alt']}](../images/tutorials/{picture.name})\n\n*{meta['caption']}*")
    source = f"tutorials/{script.name}"
    parts.append(
        f"*Made by `python tutorials/render.py {source}`; figures differ with your Python's version.*"
    )
    return "\n\n".join(parts) + "\n"


def _draw(figure: Any, out: Path) -> None:
    from playwright.sync_api import sync_playwright

    chromium = next(p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n)))
    bare = figure.update_layout(title=None, margin_t=38, width=WIDTH)
    html = bare.to_html(
        include_plotlyjs=True, full_html=True, config={"displayModeBar": False}, auto_play=False
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox"],
            timeout=0,  # a busy machine is slow, not broken
        )
        tab = browser.new_page(viewport={"width": WIDTH, "height": 900})
        tab.set_default_timeout(0)
        tab.set_content(html)
        tab.wait_for_selector(".main-svg")
        if figure.frames:  # a page cannot play: it shows where the animation ends
            tab.evaluate(_TO_THE_END, figure.frames[-1].name)
        tab.wait_for_timeout(800)
        out.parent.mkdir(parents=True, exist_ok=True)
        tab.locator(".plot-container").first.screenshot(path=str(out))
        browser.close()


def main(scripts: list[str]) -> None:
    """Render each script; a page appears whole or not at all."""
    for name in scripts:
        script = Path(name).resolve()
        text = page(script, ROOT / "docs" / "images" / "tutorials")
        out = ROOT / "docs" / "tutorials" / f"{script.stem}.md"
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = out.with_suffix(f".{os.getpid()}.part")
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(out)
        print(out)


if __name__ == "__main__":
    main(sys.argv[1:])
