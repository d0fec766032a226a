"""In a real JupyterLab, driven by Chromium: notebooks run from top to bottom and their figures are drawn."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CHROMIUM = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)
TINY = """# %%
import numpy as np

import repdyn

x = np.random.default_rng(0).normal(size=(120, 4))
repdyn.compare(x, np.tanh(x))

# %%
repdyn.translate(x, x, pairs=np.column_stack([np.arange(120)] * 2))

# %%
repdyn.LevelSetTree.fit(x).plot()

# %%
repdyn.RepresentationPaths.from_arrays({"first": x, "last": np.tanh(x)})
"""
BROKEN = """# %%
from IPython.display import HTML, display

display(HTML("<script>console.error('the page complains')</script>"))

# %%
raise ValueError("the cell fails")
"""
RAN = """() => {
  const panel = window.jupyterapp?.shell.currentWidget, cells = panel?.content?.model?.cells;
  if (!cells || panel.sessionContext.session?.kernel?.status !== 'idle') return null;
  const code = [...cells].filter(cell => cell.type === 'code');
  const outputs = code.flatMap(cell => cell.outputs.toJSON());
  const errors = outputs.filter(out => out.output_type === 'error').map(out => out.evalue);
  if (!errors.length && code.some(cell => cell.executionCount === null)) return null;
  return {code: code.length, ran: code.filter(cell => cell.executionCount !== null).length, errors};
}"""
READY = "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
# Lab draws only the cells in sight, so that the page is scrolled to its end.
FIGURES = """async () => {
  const outer = document.querySelector('.jp-WindowedPanel-outer');
  for (let top = 0; top < outer.scrollHeight; top += 300) {
    outer.scrollTop = top;
    await new Promise(done => setTimeout(done, 100));
  }
  return [...document.querySelectorAll('.repdyn-figure')].map(place => ({
    drawn: place.querySelectorAll('.main-svg').length, wide: place.clientWidth, high: place.clientHeight,
  }));
}"""


@dataclass(frozen=True)
class Shown:
    """What a notebook looks like in Lab after all its cells were run."""

    code: int
    ran: int
    errors: list[str]
    figures: list[dict[str, int]]
    tables: list[str]
    complaints: list[str]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address and folder of a server of its own, with no settings of the user."""
    needed = ("jupyterlab", "ipykernel", "playwright")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing or CHROMIUM is None:
        lacking = ", ".join([*missing, *([] if CHROMIUM else ["Chromium"])])
        pytest.skip(f"needs {lacking}: pip install jupyterlab ipykernel playwright; apt-get install chromium")
    folder = tmp_path_factory.mktemp("lab")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    paths = os.pathsep.join([str(ROOT), str(ROOT / "adapters")])
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser"),
        *(f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=tests"),
        *("--LabApp.news_url=None", f"--ServerApp.root_dir={folder}"),
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    with open(folder / "server.log", "wb") as log:
        server = subprocess.Popen(
            command,
            cwd=folder,
            stdout=log,
            stderr=log,
            env={**os.environ, **own, "PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"},
        )
        try:
            address = f"http://127.0.0.1:{port}"
            while not _answers(f"{address}/api/status?token=tests"):
                assert server.poll() is None, (folder / "server.log").read_text()
                time.sleep(0.2)
            yield address, folder
        finally:
            server.terminate()  # it ends its kernels
            server.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


def _notebooks() -> Any:
    spec = importlib.util.spec_from_file_location("notebooks_for_lab", ROOT / "tutorials" / "notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def run_in(lab: tuple[str, Path], script: Path) -> Shown:
    """Open a script as a notebook in Lab, choose "Run All Cells" from the menu, and look."""
    from playwright.sync_api import sync_playwright

    address, folder = lab
    name = f"{script.stem}.ipynb"
    (folder / name).write_text(json.dumps(_notebooks().notebook(script)), encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=0)
        tab = browser.new_page(viewport={"width": 1400, "height": 1000})
        tab.set_default_timeout(0)
        complaints: list[str] = []
        tab.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.goto(f"{address}/lab/tree/{name}?token=tests&reset")
        tab.wait_for_function(READY)
        tab.click('text="Run"')
        tab.click('text="Run All Cells"')
        ran = tab.wait_for_function(RAN).json_value()
        figures = tab.evaluate(FIGURES)
        tables = tab.eval_on_selector_all(".jp-OutputArea table", "all => all.map(one => one.innerText)")
        browser.close()
    return Shown(ran["code"], ran["ran"], ran["errors"], figures, tables, complaints)


@pytest.mark.slow
def test_results_are_drawn(lab: tuple[str, Path], tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(TINY)
    shown = run_in(lab, tmp_path / "tiny.py")
    assert (shown.ran, shown.errors, shown.complaints) == (5, [], [])  # with the cell that installs
    assert len(shown.figures) == 3
    assert all(one["drawn"] and one["wide"] > 400 and one["high"] > 200 for one in shown.figures)
    assert any("(120, 4)" in text and "float64" in text for text in shown.tables)


@pytest.mark.slow
def test_errors_of_cells_and_of_the_page_are_seen(lab: tuple[str, Path], tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    shown = run_in(lab, tmp_path / "broken.py")
    assert shown.errors == ["the cell fails"]
    assert shown.complaints == ["the page complains"]


@pytest.mark.slow
def test_the_first_tutorial_runs_from_top_to_bottom(
    lab: tuple[str, Path], request: pytest.FixtureRequest
) -> None:
    if not request.config.getoption("--run-tutorials"):
        pytest.skip("takes a minute or more: pytest --run-tutorials")
    shown = run_in(lab, ROOT / "tutorials" / "1_your_first_path.py")
    assert shown.ran == shown.code > 5
    assert (shown.errors, shown.complaints) == ([], [])
    assert len(shown.figures) == 1
    assert all(one["drawn"] and one["wide"] > 400 and one["high"] > 200 for one in shown.figures)
