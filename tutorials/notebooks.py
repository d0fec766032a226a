"""Write the tutorials as notebooks, and run one.

    python tutorials/notebooks.py [--repository OWNER/NAME] OUT tutorials/1_your_first_path.py …
    python tutorials/notebooks.py --execute OUT tutorials/1_your_first_path.py …

The first cell installs repdyn where it is missing. With a repository on GitHub it is installed from there,
and a badge above the cell opens the notebook in Colab; without one, it is installed from the package index.
``--execute`` runs each notebook with nbclient and keeps its outputs; the pictures draw themselves without
plotly's extension.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
_INSTALL = """\
# Installs repdyn where it is not installed yet, as in Colab.
import importlib.util

if importlib.util.find_spec("repdyn") is None:
    %pip install --quiet "{requirement}"
"""
_BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{repository}/blob/main/notebooks/{name}.ipynb)"
)


def _cells(script: Path) -> list[Any]:
    """The cells of a script, as the pages of the site are made of them."""
    spec = importlib.util.spec_from_file_location("tutorial_cells", HERE / "render.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return list(module.cells(script))


def notebook(script: Path, repository: str | None = None) -> dict[str, Any]:
    """A percent script as a notebook, in nbformat 4.5.

    Parameters
    ----------
    script
        The tutorial.
    repository
        ``OWNER/NAME`` on GitHub, for the badge and the first cell.
    """
    sources = [(cell.kind, cell.source) for cell in _cells(script)]
    badge = [("markdown", _BADGE.format(repository=repository, name=script.stem))] if repository else []
    cells = []
    requirement = f"repdyn[demo] @ git+https://github.com/{repository}" if repository else "repdyn[demo]"
    install = ("code", _INSTALL.format(requirement=requirement))
    for number, (kind, source) in enumerate([*badge, install, *sources]):
        cell: dict[str, Any] = {
            "cell_type": kind,
            "id": f"cell-{number}",
            "metadata": {},
            "source": source.strip("\n").splitlines(keepends=True),
        }
        if kind == "code":
            cell |= {"execution_count": None, "outputs": []}
        cells.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def execute(made: dict[str, Any], folder: Path, seconds: int = 3600) -> dict[str, Any]:
    """The notebook with the outputs of a run in a folder.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        If a cell fails; the message has the cell and its traceback.
    """
    import nbclient
    import nbformat

    read = nbformat.reads(json.dumps(made), as_version=4)
    client = nbclient.NotebookClient(read, timeout=seconds, resources={"metadata": {"path": str(folder)}})
    return dict(json.loads(nbformat.writes(client.execute())))


def main() -> None:
    """Write, and where asked run, each tutorial."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository")
    parser.add_argument("--execute", action="store_true")
    parser.add_argument("out", type=Path)
    parser.add_argument("scripts", nargs="+", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for script in given.scripts:
        made = notebook(script, given.repository)
        if given.execute:
            made = execute(made, given.out)
        file = given.out / f"{script.stem}.ipynb"
        scratch = file.with_suffix(".part")
        scratch.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        scratch.replace(file)
        print(file)


if __name__ == "__main__":
    main()
