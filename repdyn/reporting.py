"""One HTML page of any results: the heading, the picture and the summary line of each kind."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repdyn.artifacts import load_artifact
from repdyn.errors import RepdynError
from repdyn.provenance import made_by, present_command, without_folders
from repdyn.saved import load_result

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from repdyn.paths import RepresentationPaths
    from repdyn.views.report import Section

__all__ = ["Entry", "entry", "open_result", "report", "write_page"]

# Headings by class; the default heading is the title of the picture.
_TITLES = {
    "AttackReport": "Can the forgotten class be recovered?",
    "AttractorHistory": "Attractors through training",
    "Attractors": "Attractors of the encode-decode map",
    "Autonomy": "Does one map serve every depth?",
    "Comparison": "How alike two models are",
    "DepthFactors": "Static and dynamic factors through depth",
    "DriftReport": "Have the inputs drifted?",
    "EditedKoopman": "Accuracy before and after an unlearning edit",
    "Excitation": "Which inputs excite which mode",
    "Fidelity": "Is depth linear in a lifted space?",
    "FieldAlignment": "Do two fields move the same data in the same way?",
    "KoopmanSpectrum": "The Koopman spectrum",
    "LevelSetTree": "The tree of density level sets",
    "LinearTranslation": "From one model's latents to another's",
    "Memorization": "Are attractors copies of training samples?",
    "Migration": "Can the vectors of an index be translated?",
    "OODEvaluation": "Is this input unlike the training data?",
    "PathPersistence": "Shape through depth",
    "Probing": "Probing without data",
    "StitchingEvaluation": "B's head on A's translated representations",
    "Swap": "Swaps",
    "SwapGrid": "Swaps between all pairs",
    "TranslationEvaluation": "How good the translation is",
    "TreeMatch": "Two trees, matched",
    "RepresentationPaths": "Representation paths",
}
# Kinds of estimators, which have no picture; the results computed with them have one.
_ESTIMATORS = ("detector", "disentangle", "flow", "koopman", "surrogate")
# Subfolders in which verbs save results about the folder's estimator.
_WITHIN = ("fidelity", "evaluation", "tree", "persistence", "excitation", "attack", "depth")
# Metadata of paths that the page shows.
_ORIGIN = ("model", "digest", "pooling", "preprocessing", "data", "seed", "dtype", "versions")
# Results whose picture contains their printed table, whose rows are indented by four spaces.
_TABLED = ("OODEvaluation",)
_CLUSTERS = 8  # the number of colors in the palette
_CLUSTERED = 2000  # maximum samples drawn, so that the band of a single sample stays visible


@dataclass(frozen=True, eq=False)
class Entry:
    """One result on the page.

    Attributes
    ----------
    section
        What is drawn.
    headline
        One line for the summary table.
    provenance
        Where it came from.
    """

    section: Section
    headline: str
    provenance: Mapping[str, Any] = field(default_factory=dict)


def report(
    results: Mapping[str, Any] | Iterable[Any], out: str | os.PathLike[str], *, force: bool = False
) -> Path:
    """Any results on one HTML page that opens without a network.

    Parameters
    ----------
    results
        Whatever draws itself (paths, a fidelity, attractors, a swap, …), or the folder that it or a verb was
        saved in, in the order of the page. A mapping names them.
    out
        The file to write.
    force
        Replace a report that is there.

    Returns
    -------
    pathlib.Path
        ``out``.

    Raises
    ------
    RepdynError
        If a result has no picture, or its picture nothing finite to show; nothing is written then.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from repdyn import RepresentationPaths, report
    >>> x = np.random.default_rng(0).normal(size=(2, 30, 3))
    >>> paths = RepresentationPaths.from_arrays({"first": x[0], "second": x[1]})
    >>> report({"noise": paths}, f"{tempfile.mkdtemp()}/all.html").name
    'all.html'
    """
    named = results.items() if isinstance(results, Mapping) else ((None, one) for one in results)
    entries: list[Entry] = []
    for name, result in named:
        if isinstance(result, str | os.PathLike):
            entries += open_result(Path(result))
        elif hasattr(result, "plot"):
            entries.append(entry(result, _TITLES.get(type(result).__name__, ""), name))
        else:
            raise RepdynError(
                f"report: a {type(result).__name__} has no picture; give a result computed with "
                "it, such as kae.fidelity(paths), or a folder that a result was saved in"
            )
    return write_page(entries, Path(out), force=force, made="repdyn.report, from Python")


def entry(
    result: Any,
    title: str,
    name: str | None = None,
    made: Mapping[str, Any] | None = None,
    figure: go.Figure | None = None,
) -> Entry:
    """Draw any result that plots itself.

    Parameters
    ----------
    result
        Has ``plot()``; ``verdict`` and ``meta`` are used where they are there.
    title
        Its heading; its picture's own where empty.
    name
        Which one it is, where there may be several.
    made
        How it was made: command, seed, versions.
    figure
        Its picture, where it is another than ``plot()`` gives.
    """
    from repdyn.views.report import Section

    verdict = getattr(result, "verdict", None)
    if isinstance(verdict, Mapping):  # one verdict per set; the mean over sets represents all
        verdict = verdict.get("mean of sets", next(iter(verdict.values()), None))
    lines = without_folders(repr(result)).splitlines()
    if type(result).__name__ in _TABLED:  # the picture contains the table
        lines = [line for line in lines if not line.startswith("    ")]
    meta = getattr(result, "meta", {})
    if figure is None:
        try:
            figure = result.plot()
        except RepdynError as error:
            # A translation without a map has nothing to draw, but a reason to print.
            if verdict != "inconclusive" or getattr(result, "evidence", True):
                raise
            lines += ["", f"There is no picture: {getattr(result, 'reason', '') or error}"]
    if not title:
        title = type(result).__name__ if figure is None else str(figure.layout.meta["title"])
    title = title + (f": {name}" if name else "")
    return Entry(
        Section(title, figure, text="\n".join(lines), verdict=verdict if isinstance(verdict, str) else None),
        _HEADLINES[type(result).__name__](result) if type(result).__name__ in _HEADLINES else lines[0],
        {
            key: without_folders(value) if isinstance(value, str) else value
            for key, value in (
                {key: meta[key] for key in _ORIGIN if meta.get(key)} | dict(made or {})
            ).items()
        },
    )


def open_result(path: Path) -> list[Entry]:
    """Read what a verb wrote, of whatever kind, and draw it.

    Parameters
    ----------
    path
        A store of paths, a fitted result, or a folder that holds results.

    Raises
    ------
    RepdynError
        If it is none of these, or has nothing to draw.
    """
    from repdyn.paths import open_paths

    if not path.exists():
        raise RepdynError(f"{path}: there is no such file or folder")
    if (path / "zarr.json").is_file():
        paths = open_paths(path)
        return [entry(paths, "Representation paths", path.name), *_clusters(paths, path.name)]
    within = [
        found
        for name in _WITHIN
        if (path / name / "config.json").is_file()
        for found in open_result(path / name)
    ]
    if within and not (path / "config.json").is_file():
        return within
    kind = load_artifact(path).kind
    if kind in _ESTIMATORS and not within:
        raise RepdynError(
            f"{path}: a {kind!r} has no picture; give the results computed with it: koopman fit "
            "saves them in its folder, ood evaluate --out writes them"
        )
    if kind in _ESTIMATORS:
        return within
    result = load_result(path)
    return [entry(result, _TITLES.get(type(result).__name__, ""), path.name, made_by(path)), *within]


def write_page(entries: Sequence[Entry], out: Path, *, force: bool, made: str = "") -> Path:
    """Write the page: a summary with verdicts first, a section for each result, provenance last.

    ``made`` is how the page came about; the present command where empty.
    """
    import platform
    from importlib.metadata import version

    import repdyn
    from repdyn.views.report import write_report

    summary = [
        {"verdict": e.section.verdict or "–", "result": e.section.title, "in one line": e.headline}
        for e in entries
    ]
    provenance: dict[str, Any] = {
        "this page": made or present_command(),
        "repdyn": repdyn.__version__,
        "python": platform.python_version(),
    }
    provenance |= {name: version(name) for name in ("torch", "numpy", "plotly")}
    provenance |= {e.section.title: e.provenance for e in entries if e.provenance}
    return write_report(out, [e.section for e in entries], summary, provenance, force=force)


def _clusters(paths: RepresentationPaths, name: str) -> list[Entry]:
    """Entry for the flow of clusters through depth; empty for too few samples or paths of tokens."""
    import numpy as np
    from sklearn.cluster import MiniBatchKMeans

    from repdyn.views.cluster_flow import cluster_flow
    from repdyn.views.report import Section

    if len(paths) < 2 * _CLUSTERS or len(paths.points) < 2:
        return []
    some = np.arange(len(paths))
    if len(paths) > _CLUSTERED:
        some = np.sort(np.random.default_rng(0).choice(len(paths), _CLUSTERED, replace=False))
    seen = paths.subset(some)
    columns = [np.asarray(seen[point], dtype=np.float32) for point in seen.points]
    if any(column.ndim != 2 for column in columns):
        return []
    means = [MiniBatchKMeans(_CLUSTERS, n_init=3, random_state=0) for _ in columns]
    membership = np.stack([k.fit_predict(column) for k, column in zip(means, columns)])
    figure = cluster_flow(membership, seen.labels, list(seen.points))
    how = f"k-means with {_CLUSTERS} clusters at each depth (seed 0) on {len(some)} of {len(paths)} samples."
    return [Entry(Section(f"Clusters through depth: {name}", figure, text=how), how)]


def _fidelity(result: Any) -> str:
    name, best = next(iter(result.fvu)), result.best_control
    return (
        f"unexplained at {result.points[-1]}: {name} {result.fvu[name][-1]}, "
        f"best control ({best}) {result.fvu[best][-1]}"
    )


def _ood(result: Any) -> str:
    cells = {
        name: row.get("mean of sets", next(iter(row.values())))["auroc"] for name, row in result.table.items()
    }
    best = max((name for name in cells if name != result.detector), key=lambda name: cells[name].value)
    return f"AUROC: {result.detector} {cells[result.detector]}, best control ({best}) {cells[best]}"


def _translation(result: Any) -> str:
    return "top-1: " + ", ".join(f"{name} {value}" for name, value in result.top1.items())


def _reason(result: Any) -> str:
    return str(result.reason)


_HEADLINES = {
    "Fidelity": _fidelity,
    "OODEvaluation": _ood,
    "TranslationEvaluation": _translation,
    "Comparison": _reason,
    "LinearTranslation": _reason,
    "Migration": _reason,
    "TreeMatch": _reason,
}
