"""Planted models and scripts of the benchmarks as fixtures: test modules here are no package."""

import importlib.util
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="session")
def planted() -> ModuleType:
    spec = importlib.util.spec_from_file_location("planted", Path(__file__).with_name("planted.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a script of the benchmarks, and forgets all of them after the test."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = [file.stem for file in BENCHMARKS.glob("*.py")]
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    yield import_module
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(before)
