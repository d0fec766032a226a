"""What must stay true of the package as a whole."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import repdyn

ROOT = Path(__file__).parents[1]
HEAVY = {
    "timm",
    "transformers",
    "nnsight",
    "ripser",
    "gudhi",
    "ray",
    "plotly",
    "torchvision",
    "sklearn",
    "ot",
}


def modules_after(statement: str) -> set[str]:
    program = (
        f"{statement}; import sys, json; print(json.dumps(sorted(m.split('.')[0] for m in sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_repdyn_is_light():
    assert not modules_after("import repdyn") & (HEAVY | {"torch", "numpy"})


def test_the_command_line_starts_without_the_science():
    assert not modules_after("import repdyn.cli.app") & (HEAVY | {"torch"})


@pytest.mark.parametrize("name", [n for n in repdyn.__all__ if n != "__version__"])
def test_every_public_name_is_there_and_documented(name):
    assert getattr(repdyn, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        repdyn.colour  # noqa: B018


def test_the_folder_adapters_is_not_a_package():
    # A package of that name exists on PyPI, and the same users install it.
    assert not (ROOT / "adapters" / "__init__.py").exists()


def test_adapters_are_found_through_their_entry_points():
    found = {point.name for point in entry_points(group="repdyn.adapters")}
    assert {"timm", "hf", "module", "packaged"} <= found
