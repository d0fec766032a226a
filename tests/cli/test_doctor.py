"""The doctor says what is there, and its status says whether the chain works."""

from __future__ import annotations

import json
import sys

import pytest

from repdyn.cli import doctor, main


@pytest.fixture
def examine(monkeypatch, capsys, tmp_path):
    def run() -> tuple[int, str, dict]:
        monkeypatch.setattr(sys, "argv", ["repdyn", "doctor", "--json", str(tmp_path / "h.json")])
        with pytest.raises(SystemExit) as stopped:
            main()
        return (
            int(stopped.value.code or 0),
            capsys.readouterr().out,
            json.loads((tmp_path / "h.json").read_text()),
        )

    return run


def test_a_healthy_installation(examine):
    status, out, found = examine()
    assert status == 0, out
    assert set(found["self-test"].values()) == {"works"}
    assert {"timm", "hf", "module", "packaged"} <= set(found["adapters"])
    assert all(says.startswith("loads") for says in found["adapters"].values())
    assert found["versions"]["torch"]
    assert "cpu" in found["devices"]
    assert "demo" in found["extras"]
    assert out.strip().endswith("everything works")


def test_a_step_that_fails_is_named_and_those_that_need_it_are_not_tried(examine, monkeypatch):
    def broken(kept):
        raise OSError("no memory for it")

    monkeypatch.setattr(doctor, "_try_trace", broken)
    status, out, found = examine()
    assert status == 1
    assert found["self-test"]["trace"] == "OSError: no memory for it"
    assert "skipped: needs paths" in found["self-test"]["koopman"]
    assert "steps failed" in out


def test_an_adapter_that_does_not_load_is_said_not_raised(monkeypatch):
    from importlib import metadata

    class Broken:
        name = "myhub"
        dist = None

        def load(self):
            raise ImportError("no module my_hub")

    monkeypatch.setattr(metadata, "entry_points", lambda group: [Broken()])
    assert doctor._adapters() == {
        "myhub": "does not load: ImportError: no module my_hub (from an unknown package)"
    }
