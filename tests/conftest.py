"""What all tests share: where real data is, and quiet, bounded threads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing in the tests may reach for a hub


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data and small pretrained models; the test skips where it is absent."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("REPDYN_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}; set REPDYN_DATA")
    return folder


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--run-tutorials``: also those that take a minute or more."""
    parser.addoption("--run-tutorials", action="store_true", help="run every tutorial")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The stand-in device must be there before autograd counts the devices, at the first backward pass."""
    if any(item.path.name == "test_devices.py" for item in items):
        from tests.stand_in import stand_in  # loads torch

        stand_in()
