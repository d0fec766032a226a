"""The commands: one module per verb, thin. ``repdyn --help`` lists them."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """The program ``repdyn``: exit status 0 done, 2 bad input, 130 interrupted."""
    from repdyn.cli.app import app
    from repdyn.cli.console import run

    raise SystemExit(run(app))
