"""A percent script becomes a page: words, code, what it printed, the value of its last line."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = """# ---
# jupyter: {}
# ---

# %% [markdown]
# # Title
# Words.

# %%
x = 20
print("first")
x + 1

# %%
y = x
"""


@pytest.fixture
def render():
    path = Path(__file__).parents[2] / "tutorials" / "render.py"
    spec = importlib.util.spec_from_file_location("tutorial_render_again", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_cells_run_in_one_namespace_and_give_their_last_value(render, tmp_path):
    (tmp_path / "t.py").write_text(SCRIPT)
    ran = [(cell.kind, printed, value) for cell, printed, value in render.run(tmp_path / "t.py")]
    assert ran == [("markdown", "", None), ("code", "first\n", 21), ("code", "", None)]
    page = render.page(tmp_path / "t.py", tmp_path)
    assert page.startswith("# Title\nWords.\n\n```python\nx = 20")
    assert "```text\nfirst\n```" in page


def test_a_failing_cell_names_its_line(render, tmp_path):
    (tmp_path / "t.py").write_text(SCRIPT + "\n# %%\n1 / 0\n")
    with pytest.raises(ZeroDivisionError) as failed:
        list(render.run(tmp_path / "t.py"))
    assert failed.traceback[-1].lineno == (SCRIPT + "\n# %%\n").count("\n")
