"""The program and its verbs. Only signatures are imported here: a verb loads what it needs when it runs."""

from __future__ import annotations

import typer

from repdyn.cli import demo, field, koopman, ood, points, report, topology, trace, translate

__all__ = ["app"]

app = typer.Typer(
    name="repdyn",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=(
        "How a network's representations move through depth, "
        "and how two networks' representations relate.\n\n"
        "MODEL is timm:NAME[@CHECKPOINT], hf:NAME_OR_DIR, module:package.attr or packaged:NAME. "
        "DATA is images:DIR, npz:FILE#X,Y, csv:FILE#TEXT,LABEL, hf:NAME#SPLIT, digits or docstrings. "
        "Every verb takes --debug, which shows the traceback behind a one-line error."
    ),
)


def _print_version(asked: bool) -> None:
    if asked:
        from repdyn import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _program(
    version: bool = typer.Option(
        False, "--version", help="Print the version and stop.", callback=_print_version, is_eager=True
    ),
) -> None:
    pass


koopman_verbs = typer.Typer(
    no_args_is_help=True, help="Koopman autoencoders over paths.", rich_markup_mode=None
)
koopman_verbs.command("fit")(koopman.fit)
ood_verbs = typer.Typer(no_args_is_help=True, help="Inputs unlike the training data.", rich_markup_mode=None)
ood_verbs.command("fit")(ood.fit)
ood_verbs.command("score")(ood.score)
ood_verbs.command("evaluate")(ood.evaluate)

app.command("demo")(demo.demo)
app.command("points")(points.points)
app.command("trace")(trace.trace)
app.add_typer(koopman_verbs, name="koopman")
app.command("field")(field.field)
app.add_typer(ood_verbs, name="ood")
app.command("topology")(topology.topology)
app.command("translate")(translate.translate)
app.command("report")(report.report)
