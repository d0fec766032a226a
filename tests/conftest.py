"""What all tests share: where real data is, and quiet, bounded threads."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A stand-in for the Hugging Face Hub on this machine, an empty cache, and a token that may write."""
    from huggingface_hub import constants, hf_file_system, utils

    from tests.hub_stand_in import WRITES, serving

    with serving() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", WRITES)
        hf_file_system.HfFileSystem.clear_instance_cache()
        utils.disable_progress_bars()
        with warnings.catch_warnings():  # of huggingface_hub about its own library
            warnings.filterwarnings("ignore", "Use 'content=", DeprecationWarning)
            yield server
        utils.enable_progress_bars()
        hf_file_system.HfFileSystem.clear_instance_cache()
        utils.close_session()  # connections to this server
