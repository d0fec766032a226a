"""What must stay true of the package as a whole."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

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


def test_wheel_and_sdist_hold_the_package_and_nothing_else(tmp_path: Path):
    """Built from a copy in which stray files lie, as they do where somebody works."""
    pytest.importorskip("hatchling", reason="wheel and sdist are built with hatchling")
    copy = tmp_path / "clone"
    for name in ("repdyn", "adapters", "tests", "docs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "CITATION.cff", "CHANGELOG.md"):
        shutil.copy(ROOT / name, copy / name)
    for stray in ("repdyn/scratch.ipynb", "repdyn/paths/big.npy", "notes.py", "adapters/notes.txt"):
        (copy / stray).write_text("")
    for kind in ("wheel", "sdist"):
        built = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(tmp_path / "dist")]
        subprocess.run(built, cwd=copy, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    (sdist,) = (tmp_path / "dist").glob("*.tar.gz")
    code = {
        str(file.relative_to(base))
        for base in (copy, copy / "adapters")
        for package in ("repdyn", "repdyn_adapters")
        for file in (base / package).rglob("*")
        if file.suffix in (".py", ".html") or file.name == "py.typed"
    }
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in in_wheel if ".dist-info/" not in name} == code
    with tarfile.open(sdist) as file:
        in_sdist = {name.partition("/")[2] for name in file.getnames()}
    beside = {"pyproject.toml", "README.md", "LICENSE", "CITATION.cff", "CHANGELOG.md", "PKG-INFO"}
    adapted = {f"adapters/{name}" if name.startswith("repdyn_adapters/") else name for name in code}
    assert in_sdist - {".gitignore"} == adapted | beside


def test_the_classifiers_are_the_versions_that_are_supported():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [
        c.rsplit(" ", 1)[1]
        for c in project["classifiers"]
        if c.startswith("Programming Language :: Python ::")
    ]
    assert f">={named[0]}" == project["requires-python"]
    assert named == [f"3.{minor}" for minor in range(11, 11 + len(named))]


CONDA_NAMES = {"torch": "pytorch"}  # the others have one name in both indexes


def test_the_conda_recipe_is_of_the_present_project():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, (backend,) = settings["project"], settings["build-system"]["requires"]
    recipe = yaml.safe_load((ROOT / "recipe" / "recipe.yaml").read_text())
    listed = recipe["requirements"]["run"]
    assert listed[0] == "python >=${{ python_min }}"
    assert f">={recipe['context']['python_min']}" == project["requires-python"]
    assert recipe["context"]["version"] == project["version"]
    wanted = {}
    for requirement in map(Requirement, project["dependencies"]):
        wanted[CONDA_NAMES.get(requirement.name, requirement.name)] = requirement.specifier
    assert {r.name: r.specifier for r in map(Requirement, listed[1:])} == wanted
    scripts = [f"{name} = {target}" for name, target in project["scripts"].items()]
    assert recipe["build"]["python"]["entry_points"] == scripts
    assert backend in {text.replace(" ", "") for text in recipe["requirements"]["host"]}


def test_the_lowest_versions_go_together(tmp_path: Path):
    """Here only that there is such a set; ``.ci/lowest`` installs and tests it."""
    if importlib.util.find_spec("uv") is None:
        pytest.skip("pip install uv")
    out = tmp_path / "lowest.txt"
    arguments = ["pip", "compile", "--quiet", "--resolution", "lowest-direct", "--python-version", "3.11"]
    done = subprocess.run(
        [sys.executable, "-m", "uv", *arguments, str(ROOT / "pyproject.toml"), "-o", str(out)],
        capture_output=True,
        text=True,
    )
    if done.returncode and any(word in done.stderr for word in ("fetch", "request", "connect", "network")):
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr
    found = {one.name: one for one in map(Requirement, re.findall(r"^\w\S+==\S+", out.read_text(), re.M))}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for wanted in map(Requirement, project["dependencies"]):
        (version,) = (one.version for one in found[wanted.name.replace("_", "-")].specifier)
        bounds = [one.version for one in wanted.specifier if one.operator == ">="]
        assert wanted.specifier.contains(version)
        # The lowest that exists: `>=5` is 5.0.0.
        assert Version(version).release[:1] == Version(bounds[0]).release[:1], (wanted, version)
