"""What every verb has: ``--quiet``, ``--strict`` and ``--debug``, and an interrupt that says how to go on."""

from __future__ import annotations

import inspect
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperGroup

from repdyn.cli import context
from repdyn.errors import RepdynError
from repdyn.provenance import sign

__all__ = ["Program", "verb"]

_NARROWEST, _WIDEST = 24, 88  # columns: less cannot hold an option, more is hard to read
_EVERYWHERE = {
    "quiet": "Print nothing but errors; --json and --out still write.",
    "strict": "Exit with status 1 where a verdict is not 'found'.",
    "debug": "Show the traceback behind a one-line error.",
}


class Program(TyperGroup):
    """Verbs in the order in which a user meets them."""

    order = (
        "demo",
        "doctor",
        "points",
        "trace",
        "paths",
        "koopman",
        "field",
        "ood",
        "disentangle",
        "topology",
        "translate",
        "stitch",
        "report",
    )

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """As it is, but help as narrow as the terminal: the parser's own never goes below 50 columns."""
        columns = shutil.get_terminal_size().columns
        extra.setdefault("terminal_width", max(_NARROWEST, min(columns, _WIDEST) - 1))
        return super().make_context(info_name, args, parent, **extra)

    def list_commands(self, ctx: Any) -> list[str]:
        """Those of ``order`` first, any others after them."""
        known = list(super().list_commands(ctx))
        return [name for name in self.order if name in known] + [n for n in known if n not in self.order]


def verb(function: Callable[..., Any]) -> Callable[..., Any]:
    """A command that takes the options of all commands, beside its own."""
    hints = get_type_hints(function, include_extras=True)
    own = [p.replace(annotation=hints[p.name]) for p in inspect.signature(function).parameters.values()]
    common = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[bool, typer.Option(f"--{name}", help=says)],
        )
        for name, says in _EVERYWHERE.items()
    ]

    def command(**given: Any) -> Any:
        for name in _EVERYWHERE:
            if given.pop(name):
                context.command().flags.add(name)
        _check_json(given.get("json"))
        try:
            result = function(**given)
            if isinstance(given.get("out"), Path):
                sign(given["out"], given.get("seed"))
            return result
        except KeyboardInterrupt:
            # Here, because what the parser makes of Ctrl-C differs between its versions.
            print("repdyn: interrupted; run the same command again to continue", file=sys.stderr)
            raise SystemExit(130) from None

    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__signature__ = inspect.Signature([*own, *common])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in (*own, *common)}
    return command


def _check_json(path: Path | None) -> None:
    """Refuse a place for the figures that cannot be written, before hours are spent on them."""
    if path is None or str(path) == "-":
        return
    above = next((folder for folder in path.absolute().parents if folder.exists()), Path("/"))
    if path.is_dir() or not above.is_dir():
        raise RepdynError(f"--json {path}: is a folder, or lies below a file; give the name of a file")
