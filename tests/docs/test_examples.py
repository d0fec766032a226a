"""The examples in the docstrings of every module print what the docstrings say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (ROOT / "repdyn", ROOT / "adapters" / "repdyn_adapters")

NOT_RUN = {
    "repdyn.saved.load_result": "opens a saved translation of two downloaded models",
    "repdyn.ood.generation.GenerationMonitor": "downloads a language model",
    "repdyn.publishing.HubMixin.push_to_hub": "writes to the Hub; tests/test_hub.py does, to a stand-in",
    "repdyn.saved.push_folder": "writes to the Hub; tests/test_hub.py does, to a stand-in",
    "repdyn.paths.publishing.StoreOnHub.push_to_hub": "writes to the Hub; a test does, to a stand-in",
    "repdyn.migration.plan.Migration.apply_to_database": "needs a server; a test has one",
    "repdyn_adapters.ray.RayEngine": "starts a cluster; tests/adapters/test_ray.py does",
}
"""Docstrings with examples that are marked to be skipped, and the reason."""


def modules_with_examples() -> list[str]:
    """Names of all modules whose source holds an example."""
    files = [file for package in PACKAGES for file in sorted(package.rglob("*.py"))]
    return [_name(file) for file in files if ">>> " in file.read_text("utf-8")]


def _name(file: Path) -> str:
    package = next(package for package in PACKAGES if package in file.parents)
    parts = file.relative_to(package.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_print_what_the_docstring_says(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    found = doctest.DocTestFinder(exclude_empty=True).find(module, name)
    # doctest does not see the docstrings of attributes and of functions inside functions.
    written = len(re.findall(r"^\s*>>> ", Path(module.__file__).read_text("utf-8"), re.MULTILINE))
    assert sum(len(docstring.examples) for docstring in found) == written
    report: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    for docstring in found:
        skipped = any(doctest.SKIP in example.options for example in docstring.examples)
        assert skipped == (docstring.name in NOT_RUN), docstring.name
        runner.run(docstring, out=report.append)
    assert not runner.failures, "".join(report)


def test_every_exception_is_a_docstring_with_examples():
    for name in NOT_RUN:
        assert "# doctest: +SKIP" in pkgutil.resolve_name(name).__doc__, name


def test_a_wrong_example_is_found():
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    assert doctest.DocTestRunner(verbose=False).run(wrong, out=lambda _: None).failed == 1
