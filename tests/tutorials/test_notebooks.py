"""The tutorials are notebooks that Jupyter reads, and the short ones run from top to bottom in a kernel."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "tutorials").glob("[0-9]_*.py"))
QUICK = ("1_",)
TINY = """# %% [markdown]
# # Title

# %%
import numpy as np

import repdyn

x = np.random.default_rng(0).normal(size=(120, 4))
repdyn.compare(x, np.tanh(x))

# %%
repdyn.translate(x, x, pairs=np.column_stack([np.arange(120)] * 2))

# %%
repdyn.LevelSetTree.fit(x).plot()
"""


def _load():
    spec = importlib.util.spec_from_file_location("tutorial_notebooks", ROOT / "tutorials" / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


notebooks = _load()


@pytest.fixture
def kernel(monkeypatch):
    for needed in ("nbclient", "nbformat", "ipykernel"):
        pytest.importorskip(needed, reason="notebooks run with the extra repdyn[notebook]")
    # The kernel is another process: it finds this checkout, as the tests do.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "adapters")]))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")


@pytest.mark.parametrize("script", SCRIPTS, ids=[script.stem for script in SCRIPTS])
def test_a_notebook_holds_the_whole_script(script: Path) -> None:
    made = notebooks.notebook(script, "owner/name")
    badge, install, *cells = made["cells"]
    assert f"github/owner/name/blob/main/notebooks/{script.stem}.ipynb" in "".join(badge["source"])
    assert '%pip install --quiet "repdyn[demo] @ git+https://github.com/owner/name"' in "".join(
        install["source"]
    )
    text = script.read_text(encoding="utf-8")
    for cell in cells:
        for line in cell["source"]:
            assert line.rstrip("\n") in text
    code = "".join("".join(cell["source"]) + "\n" for cell in cells if cell["cell_type"] == "code")
    compile(code, str(script), "exec")
    assert len({cell["id"] for cell in made["cells"]}) == len(made["cells"])
    json.dumps(made)
    first = notebooks.notebook(script)["cells"][0]  # no badge without a repository
    assert first["cell_type"] == "code"
    assert '%pip install --quiet "repdyn[demo]"' in "".join(first["source"])


def test_the_format_is_jupyters() -> None:
    nbformat = pytest.importorskip("nbformat", reason="notebooks run with the extra repdyn[notebook]")
    for script in SCRIPTS:
        nbformat.validate(nbformat.reads(json.dumps(notebooks.notebook(script)), as_version=4))


def html_of(executed) -> list[str]:
    outputs = [out for cell in executed["cells"] for out in cell.get("outputs", [])]
    return ["".join(out["data"]["text/html"]) for out in outputs if "text/html" in out.get("data", {})]


@pytest.mark.slow
def test_results_draw_themselves_and_carry_plotly_once(kernel, tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(TINY)
    executed = notebooks.execute(notebooks.notebook(tmp_path / "tiny.py"), tmp_path)
    first, second, plot = html_of(executed)
    assert "<b>found</b>" in first
    assert "mutual neighbors" in first
    assert len(first) > 1_000_000 > len(second) + len(plot)
    assert "newPlot" in second
    assert "newPlot" in plot  # plotly's own output would be blank in the exported notebook


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=[script.stem for script in SCRIPTS])
def test_each_runs_from_top_to_bottom(script, kernel, request, tmp_path, monkeypatch, shared_data) -> None:
    if not script.stem.startswith(QUICK) and not request.config.getoption("--run-tutorials"):
        pytest.skip("takes a minute or more: pytest --run-tutorials")
    monkeypatch.setenv("REPDYN_DATA", str(shared_data))
    executed = notebooks.execute(notebooks.notebook(script), tmp_path)
    assert any(cell.get("outputs") for cell in executed["cells"])
