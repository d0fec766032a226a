"""What all verbs share: ``--quiet``, ``--strict``, ``--debug``, and the handling of interrupts."""

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

_NARROWEST, _WIDEST = 24, 88  # columns: an option needs 24, and lines above 88 are hard to read
_EVERYWHERE = {
    "quiet": "Print nothing but errors; --json and --out still write.",
    "strict": "Exit with status 1 if a verdict is not 'found'.",
    "debug": "Show the traceback behind a one-line error.",
}


class Program(TyperGroup):
    """The program; it lists its verbs in the order of a typical session."""

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
        "compare",
        "translate",
        "migrate",
        "stitch",
        "shorten",
        "report",
    )

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """As in the base class, but help wraps at the terminal's width also below the parser's 50 columns."""
        columns = shutil.get_terminal_size().columns
        extra.setdefault("terminal_width", max(_NARROWEST, min(columns, _WIDEST) - 1))
        return super().make_context(info_name, args, parent, **extra)

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in ``order`` first, then all others."""
        known = list(super().list_commands(ctx))
        return [name for name in self.order if name in known] + [n for n in known if n not in self.order]


def verb(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function as a command that also takes the common options."""
    hints = get_type_hints(function, include_extras=True)
    own = [p.replace(annotation=hints[p.name]) for p in inspect.signature(function).parameters.values()]
    common = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[bool, typer.Option(f"--{name}", help=text)],
        )
        for name, text in _EVERYWHERE.items()
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
            # Handled here, because versions of the parser differ in their handling of Ctrl-C.
            print("repdyn: interrupted; run the same command again to continue", file=sys.stderr)
            raise SystemExit(130) from None

    # Typer reads options and help from these attributes.
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__signature__ = inspect.Signature([*own, *common])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in (*own, *common)}
    return command


def _check_json(path: Path | None) -> None:
    """Raise if the path of ``--json`` cannot be written, before the computation starts."""
    if path is None or str(path) == "-":
        return
    above = next((folder for folder in path.absolute().parents if folder.exists()), Path("/"))
    if path.is_dir() or not above.is_dir():
        raise RepdynError(f"--json {path}: is a folder or lies below a file; give the path of a file")
