"""The program and its verbs. Only signatures are imported here; a verb imports the rest when it runs."""

from __future__ import annotations

import typer

from repdyn.cli import (
    compare,
    demo,
    disentangle,
    doctor,
    field,
    koopman,
    migrate,
    ood,
    paths,
    points,
    report,
    shorten,
    stitch,
    topology,
    trace,
    translate,
)
from repdyn.cli.verb import Program, verb

__all__ = ["app"]

# A line that starts with \b switches off wrapping for its paragraph, at any width of the terminal.
_HELP = """\
How a network's representations move through depth, and how two networks' representations relate.

\b
See it, on real pretrained models:
  repdyn demo
\b
Your own model and data:
  repdyn points hf:NAME
  repdyn trace hf:NAME \\
    csv:q.csv#text --out a.paths
  repdyn koopman fit a.paths \\
    --out a.kae
  repdyn report a.paths a.kae
\b
Two models, no pairs:
  repdyn translate a.paths b.paths \\
    --out ab.translation

MODEL is timm:NAME[@CHECKPOINT], hf:NAME_OR_DIR, module:package.attr or packaged:NAME.

DATA is images:DIR, npz:FILE#X,Y, csv:FILE#TEXT,LABEL, hf:NAME#SPLIT, digits or docstrings.
"""
_EPILOG = """\
\b
Every verb takes --quiet, --strict,
--debug, and most take --json FILE
(- for stdout).
\b
Exit status: 0 done
  1 a check failed (doctor,
    paths verify), nothing was
    written (migrate), or with
    --strict a verdict is not
    'found' or drift was found
  2 bad input
  70 internal error of repdyn
  130 interrupted
"""


def _group(help_text: str) -> typer.Typer:
    return typer.Typer(no_args_is_help=True, help=help_text, rich_markup_mode=None)


app = typer.Typer(
    name="repdyn",
    cls=Program,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=_HELP,
    epilog=_EPILOG,
)


def _print_version(given: bool) -> None:
    if given:
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


koopman_verbs = _group("Is depth linear in a lifted space?")
koopman_verbs.command("fit", short_help="Fit a Koopman autoencoder and controls.")(verb(koopman.fit))
koopman_verbs.command("spectrum", short_help="Eigenvalues of depth, with residuals.")(verb(koopman.spectrum))
koopman_verbs.command("forget", short_help="Forget a class by an operator edit.")(verb(koopman.forget))
disentangle_verbs = _group("Static and dynamic factors through depth.")
disentangle_verbs.command("fit", short_help="Fit a model of factors and controls.")(verb(disentangle.fit))
ood_verbs = _group("Inputs unlike the training data.")
ood_verbs.command("fit", short_help="Fit a detector to in-distribution paths.")(verb(ood.fit))
ood_verbs.command("score", short_help="Score paths, count those it flags.")(verb(ood.score))
ood_verbs.command("evaluate", short_help="Compare a detector with its controls.")(verb(ood.evaluate))

paths_verbs = _group("Inspect, verify, merge, import and export stores of paths.")
paths_verbs.command("info", short_help="Contents and provenance of a store.")(verb(paths.info))
paths_verbs.command("verify", short_help="Recompute checksums, name damaged chunks.")(verb(paths.verify))
paths_verbs.command("merge", short_help="Merge stores of the same model.")(verb(paths.merge))
paths_verbs.command("import", short_help="Files of vectors as a store.")(verb(paths.import_vectors))
paths_verbs.command("export", short_help="Export to Parquet or safetensors.")(verb(paths.export))

app.command("demo", short_help="Run all steps on two pretrained models.")(verb(demo.demo))
app.command("doctor", short_help="Check the installation.")(verb(doctor.doctor))
app.command("points", short_help="List the points of a model.")(verb(points.points))
app.command("trace", short_help="Trace a model's paths to disk.")(verb(trace.trace))
app.add_typer(paths_verbs, name="paths")
app.add_typer(koopman_verbs, name="koopman")
app.command("field", short_help="Attractors of an encode-decode map.")(verb(field.field))
app.add_typer(ood_verbs, name="ood")
app.add_typer(disentangle_verbs, name="disentangle")
app.command("topology", short_help="Level-set tree, persistence through depth.")(verb(topology.topology))
app.command("translate", short_help="Map one model's latents to another's.")(verb(translate.translate))
app.command("compare", short_help="How alike two models or depths are.")(verb(compare.compare))
app.command("migrate", short_help="Change the embedding model of an index.")(verb(migrate.migrate))
app.command("stitch", short_help="Feed A's representations into B's head.")(verb(stitch.stitch))
app.command("shorten", short_help="Replace blocks by a map, state the loss.")(verb(shorten.shorten))
app.command("report", short_help="Write results as one HTML page.")(verb(report.report))
