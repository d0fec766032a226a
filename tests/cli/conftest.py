"""The program as a user calls it."""

from __future__ import annotations

import io
import sys

import pytest

from repdyn.cli import main


@pytest.fixture
def command(monkeypatch, capsys):
    """Run ``repdyn`` with arguments: its exit status, stdout and stderr."""

    def run(*arguments: object, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["repdyn", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return run
