"""The commands: one module per verb, thin. ``repdyn --help`` lists them."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """The program ``repdyn``.

    Its exit status is 0 when done, 1 when done but ``--strict`` and not every verdict is ``"found"`` or drift
    was, 2 for bad input, 70 for a fault of repdyn itself, 130 when interrupted.
    """
    from repdyn.cli.app import app
    from repdyn.cli.console import run

    raise SystemExit(run(app))
