"""The commands: one module per verb, thin. ``repdyn --help`` lists them."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """The program ``repdyn``.

    The exit status is 0 on success and 1 if ``--strict`` is given and a verdict is not ``"found"`` or drift
    was found. It is 2 for bad input, 70 for an internal error of repdyn, and 130 on an interrupt.
    """
    from repdyn.cli.app import app
    from repdyn.cli.console import run

    raise SystemExit(run(app))
