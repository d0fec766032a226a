"""``repdyn ood``: fit, apply and evaluate out-of-distribution detectors."""

from __future__ import annotations

import inspect
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from repdyn.cli.console import say, write_json
from repdyn.cli.context import command, refuse_existing
from repdyn.cli.options import Device, Force, Json, PathsStore, Seed

if TYPE_CHECKING:
    from contextlib import ExitStack

    from repdyn.cli.streams import Part
    from repdyn.ood.detector import Detector
    from repdyn.ood.drift import DriftMonitor
    from repdyn.paths import RepresentationPaths

__all__ = ["evaluate", "fit", "score"]

Saved = Annotated[Path, typer.Argument(help="A detector that `repdyn ood fit` wrote.", show_default=False)]
Rate = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Expected share of in-distribution data that is flagged.")
]
Autoencoder = Annotated[
    Path | None,
    typer.Option(
        help="A Koopman autoencoder that `repdyn koopman fit` wrote; it is read at the last point.",
        show_default=False,
    ),
]


def fit(
    paths: PathsStore,
    out: Annotated[Path, typer.Option(help="The folder to write, say a.detector.")],
    detector: Annotated[
        str,
        typer.Option(help="path, union, …; default: the best one in pseudo-OOD validation on the paths."),
    ] = "recommended",
    held_out: Annotated[
        Path | None, typer.Option(help="A store of held-out in-distribution paths; they set the threshold.")
    ] = None,
    autoencoder: Autoencoder = None,
    false_positive_rate: Rate = 0.05,
    force: Force = False,
    seed: Seed = 0,
    json: Json = None,
) -> None:
    """Fit a detector to in-distribution paths; default: the detector that pseudo-OOD validation recommends.

    Example: repdyn ood fit a.paths --out a.detector

    Example: repdyn ood fit a.paths --autoencoder a.kae --held-out held-out.paths --out a.detector
    """
    from repdyn.ood import conformal_threshold, false_positive_interval
    from repdyn.paths import open_paths

    named = _named(detector, seed) if autoencoder is None else None
    refuse_existing(out, force)
    stored = open_paths(paths)
    maps = None if autoencoder is None else _maps(autoencoder, stored)
    if maps is not None:
        named = _named_over(detector, maps, stored, seed)
    name, fresh, advice = (detector, named, None) if named is not None else _recommended(stored, maps, seed)
    fitted = fresh.fit(stored)
    if held_out is not None:
        fitted.calibrate(open_paths(held_out), false_positive_rate)
    else:
        # Not by `calibrate`, which scores paths that were not fitted on: these scores are cross-fitted.
        fitted.threshold_ = conformal_threshold(fitted.calibration_scores_, false_positive_rate)
    fitted.save(out)
    points = [point for point in fitted.points_ if point in stored.points]
    say(f"{out}: {name} detector over {len(points)} points, fitted on {len(stored)} paths")
    if maps is not None and held_out is None:
        say(
            "  the threshold may be too high if the autoencoder was trained on these paths: give others with "
            "--held-out"
        )
    low, high = false_positive_interval(len(fitted.calibration_scores_), false_positive_rate)
    interval = f"95 % interval {low:.1%} to {high:.1%}" if held_out is not None else "by cross-fitting"
    say(
        f"  threshold {fitted.threshold_:.4g}: expected false-positive rate {false_positive_rate:.1%} "
        f"({interval})"
    )
    figures = {
        "detector": name,
        "threshold": fitted.threshold_,
        "samples": len(stored),
        "recommendation": advice,
    }
    write_json(json, {"ood": {**figures, "false_positive_rate": false_positive_rate}})


def _named(name: str, seed: int) -> Detector | None:
    """The unfitted detector of this name; None for ``"recommended"``."""
    from repdyn.errors import RepdynError, nearest_names
    from repdyn.ood import (
        EnergyDetector,
        EnergyTrajectoryDetector,
        GuidedEnergyDetector,
        KNNDetector,
        MahalanobisDetector,
        MixtureDetector,
        PathDetector,
        RelativeMahalanobisDetector,
        RelativePathDetector,
        UnionDetector,
    )

    kinds: dict[str, type[Detector]] = {
        "path": PathDetector,
        "union": UnionDetector,
        "nearest neighbors": KNNDetector,
        "mixture": MixtureDetector,
        "energy trajectory": EnergyTrajectoryDetector,
        "Mahalanobis": MahalanobisDetector,
        "relative Mahalanobis": RelativeMahalanobisDetector,
        "relative path": RelativePathDetector,
        "guided energy": GuidedEnergyDetector,
        "energy of the head": EnergyDetector,
    }
    name = {"nearest neighbours": "nearest neighbors"}.get(name, name)  # the spelling of version 0.1
    if name == "trajectory":
        raise RepdynError("--detector trajectory: reads an autoencoder; give one with --autoencoder")
    if name in kinds:
        kind = kinds[name]
        return kind(**({"seed": seed} if "seed" in inspect.signature(kind).parameters else {}))
    if name != "recommended":
        raise RepdynError(f"--detector {name!r}: unknown; {nearest_names(name, ('recommended', *kinds))}")
    return None


def _maps(autoencoder: Path, stored: RepresentationPaths | None) -> tuple[Any, Any]:
    """Encoder and decoder of a saved Koopman autoencoder at its last point.

    Parameters
    ----------
    autoencoder
        Its folder.
    stored
        The paths that it must fit, if they are known.
    """
    from repdyn.koopman import KoopmanAutoencoder

    model = KoopmanAutoencoder.from_pretrained(autoencoder)
    if stored is not None:
        model.check_paths(stored)
    field = model.field(model.points_[-1])
    return field.encode, field.decode


def _named_over(name: str, maps: tuple[Any, Any], stored: RepresentationPaths, seed: int) -> Detector | None:
    """The unfitted detector of this name that reads an autoencoder; None for ``"recommended"``."""
    from repdyn.errors import RepdynError
    from repdyn.ood import UnionDetector

    if name == "recommended":
        return None
    union = UnionDetector.from_autoencoder(*maps, stored.points, seed=seed)
    kinds = {"union": union, "trajectory": (union.members or {})["trajectory"]}
    if name not in kinds:
        raise RepdynError(
            f"--detector {name!r}: reads no autoencoder; with --autoencoder give {', '.join(kinds)} or "
            "recommended"
        )
    return kinds[name]


def _loaded(detector: Path, autoencoder: Path | None) -> Detector:
    """A saved detector with the autoencoder that it reads.

    Raises
    ------
    RepdynError
        If it reads one that is not given, reads none, or was fitted with another one.
    """
    from repdyn.errors import RepdynError
    from repdyn.ood import UnionDetector, load_detector
    from repdyn.ood.trajectories import FieldDetector

    fitted = load_detector(detector)
    parts = fitted.members_.values() if isinstance(fitted, UnionDetector) else (fitted,)
    reads = any(isinstance(part, FieldDetector) for part in parts)
    if reads and autoencoder is None:
        raise RepdynError(
            f"{detector}: reads an autoencoder; give the one that it was fitted with as --autoencoder"
        )
    if autoencoder is not None:
        if not (reads and isinstance(fitted, UnionDetector | FieldDetector)):
            raise RepdynError(f"--autoencoder: {detector} reads none")
        fitted.bind(*_maps(autoencoder, None))
    return fitted


def _recommended(
    stored: RepresentationPaths, maps: tuple[Any, Any] | None, seed: int
) -> tuple[str, Detector, Any]:
    """Name, unfitted detector and figures of the recommendation; the union if there is none."""
    from repdyn.errors import RepdynError
    from repdyn.ood import UnionDetector, recommend

    try:
        advice = recommend(stored, autoencoder=maps, seed=seed)
    except RepdynError as why:
        say(f"detectors were not compared; the union is used: {why}")
        if maps is not None:
            return "union", UnionDetector.from_autoencoder(*maps, stored.points, seed=seed), None
        return "union", UnionDetector(seed=seed), None
    say(repr(advice))
    return advice.best, advice.detector, advice.to_dict()


def score(
    detector: Saved,
    source: Annotated[
        str,
        typer.Argument(
            help="A store or a file of vectors; with --model DATA, FILE.parquet#TEXTS, watch:DIR or - "
            "(stdin).",
            show_default=False,
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="The MODEL that traces the stream: the one whose paths the detector was fitted on."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write one row per sample to this CSV; default for streams: stdout.")
    ] = None,
    autoencoder: Autoencoder = None,
    window: Annotated[int, typer.Option(help="Samples per window of the drift report.")] = 500,
    drift: Annotated[Path | None, typer.Option(help="Save the drift report in this folder.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples of a stream per forward pass.")] = 32,
    idle: Annotated[
        float | None, typer.Option(min=0.0, help="Stop watching after this many seconds without a new file.")
    ] = None,
    device: Device = None,
    json: Json = None,
) -> None:
    """Score paths or a stream with a fitted detector, count the flagged samples, and report drift.

    Example: repdyn ood score a.detector new.paths --out scores.csv

    Example: repdyn ood score a.detector - --model packaged:all-MiniLM-L6-v2
    """
    import contextlib
    import csv
    import sys

    import numpy as np

    from repdyn.errors import RepdynError
    from repdyn.intervals import bootstrap_mean
    from repdyn.ood import DriftMonitor
    from repdyn.writing import whole_file

    fitted = _loaded(detector, autoencoder)
    monitor = DriftMonitor(fitted, window)
    live = model is not None and out is None
    # A stream may be endless: a byte for each sample is kept, and the scores if they are written at the end.
    flags, scores = bytearray(), array("d")
    with contextlib.ExitStack() as closing:
        parts = _parts(source, fitted, model, batch_size, idle, device, closing)
        file: TextIO | None = None
        if out is not None:
            scratch = closing.enter_context(whole_file(out))  # replaces `out` when all rows are written
            # Ids are file names, and those that are not UTF-8 hold characters that cannot be encoded.
            file = closing.enter_context(
                scratch.open("w", newline="", encoding="utf-8", errors="backslashreplace")
            )
        elif live:
            file = sys.stdout
        writer = None if file is None else csv.writer(file)
        if writer is not None:
            writer.writerow(["id", "score", "flagged", "p_value", "depth"])
        for ids, scored in _scored(parts, monitor, endless=source == "-" or source.startswith("watch:")):
            flags += scored.flagged.tobytes()
            if json is not None:
                scores.frombytes(scored.scores.astype(np.float64).tobytes())
            if writer is not None and file is not None:
                writer.writerows(_rows(ids, scored, fitted))
                file.flush()  # the reader of a pipe gets the rows of a part when it is scored
        if not flags:
            raise RepdynError(f"{source}: has no sample that can be scored ({monitor.skipped} skipped)")
    report = monitor.report()
    share = bootstrap_mean(np.frombuffer(flags, dtype=bool))
    # If stdout holds the rows, messages go to stderr.
    show = (lambda text: print(text, file=sys.stderr)) if live else say
    show(f"{sum(flags)} of {len(flags)} flagged: share {share}")
    show(repr(report))
    if drift is not None:
        report.save(drift)
    figures = {"flagged": share, "threshold": fitted.threshold_, "scores": scores.tolist()}
    # Drift is bad news, so it is recorded as an alarm and not as a verdict.
    if report.verdict == "drift found":
        command().alarms.append(report.verdict)
    fields = report.to_dict()
    fields["drift"] = fields.pop("verdict")
    write_json(json, {"ood": {**figures, "report": fields}})


def _parts(
    source: str,
    fitted: Detector,
    model: str | None,
    size: int,
    idle: float | None,
    device: str | None,
    closing: ExitStack,
) -> Iterator[Part]:
    """The source as parts to score: a store, a Parquet file, or a stream that ``model`` traces."""
    import sys

    from repdyn.cli import streams
    from repdyn.cli.data import is_data
    from repdyn.errors import RepdynError
    from repdyn.paths.importing import file_of_vectors, holds_vectors

    watching = source.startswith("watch:")
    # A path that exists is a store, even if its name looks like a DATA specification.
    data = not watching and not Path(source).exists() and is_data(source)
    file = None if watching or data or source == "-" else file_of_vectors(source)
    texts = file is not None and not holds_vectors(file)
    if (source == "-" or watching or data or texts) and model is None:
        raise RepdynError(f"{source}: holds inputs, not paths; give the model that traces them with --model")
    if file is not None and not texts:
        return streams.vectors(file)
    if not (source == "-" or watching or data or texts):
        return streams.store(source)
    pool = str(fitted.source_.get("pooling", "auto"))
    tracer = closing.enter_context(streams.Tracer(str(model), fitted.points_, pool, device))
    if source == "-":
        return streams.lines(sys.stdin.buffer, tracer, size)
    if data:
        return streams.data(source, tracer, size)
    if file is not None:
        return streams.parquet_texts(file.path, file.columns, tracer, size)
    return streams.watched(Path(source.removeprefix("watch:")), tracer, size, idle)


def _scored(parts: Iterator[Part], monitor: DriftMonitor, endless: bool) -> Iterator[tuple[Any, Any]]:
    """Ids and scores of each part; messages about unreadable inputs go to stderr.

    Ctrl-C ends an endless stream normally, and the report covers the samples before it.
    """
    import sys

    import numpy as np

    from repdyn.cli.streams import Broken

    try:
        for paths, complaints in parts:
            for complaint in complaints:
                print(f"repdyn: {' '.join(complaint.split())}", file=sys.stderr)
            if isinstance(paths, Broken):
                yield np.array(paths.ids), monitor.note_broken(len(paths.ids))
                continue
            monitor.skipped += len(complaints)
            if paths is not None:
                yield paths.ids, monitor.update(paths)
    except KeyboardInterrupt:
        if not endless:
            raise


def _rows(ids: Any, scored: Any, fitted: Detector) -> list[list[Any]]:
    """CSV rows: id, score, flagged, conformal p-value, and the point of the largest deviation."""
    from repdyn.ood import conformal_p_values

    p_values = conformal_p_values(fitted.calibration_scores_, scored.scores)
    depths = [""] * len(scored.scores)
    if scored.profile is not None:
        names = scored.points
        depths = [names[k] for k in scored.profile.argmax(axis=1)]
    return [
        [_cell(i), f"{s:.6g}", int(f), f"{p:.4g}", _cell(d)]
        for i, s, f, p, d in zip(ids.tolist(), scored.scores, scored.flagged, p_values, depths)
    ]


def _cell(text: str) -> str:
    """Escape a text that a spreadsheet would parse as a formula; numbers are unchanged."""
    try:
        float(text)
    except ValueError:
        return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
    return text


def evaluate(
    detector: Saved,
    paths: PathsStore,
    against: Annotated[
        list[str], typer.Option(help="NAME=STORE of an out-of-distribution set; repeat for more sets.")
    ],
    training: Annotated[
        Path,
        typer.Option(
            help="The store that the detector was fitted on; the controls are fitted on it as well."
        ),
    ],
    autoencoder: Autoencoder = None,
    out: Annotated[Path | None, typer.Option(help="Save the evaluation in this folder.")] = None,
    force: Force = False,
    seed: Seed = 0,
    json: Json = None,
) -> None:
    """Compare a detector with kNN, Mahalanobis and energy on known out-of-distribution sets.

    Example: repdyn ood evaluate a.detector held-out.paths --against code=code.paths --training a.paths
    """
    from repdyn.errors import RepdynError
    from repdyn.ood import KNNDetector, MahalanobisDetector
    from repdyn.ood import evaluate as measure
    from repdyn.paths import open_paths

    refuse_existing(out, force)
    sets = {}
    for pair in against:
        name, equals, store = pair.partition("=")
        if not (name and equals and store):
            raise RepdynError(f"--against {pair!r}: write NAME=STORE")
        sets[name] = open_paths(store)
    fitted_on = open_paths(training)
    controls = {
        "kNN": KNNDetector(seed=seed).fit(fitted_on),
        "Mahalanobis": MahalanobisDetector(seed=seed).fit(fitted_on),
    }
    evaluation = measure(
        _loaded(detector, autoencoder), open_paths(paths), sets, controls=controls, seed=seed
    )
    say(repr(evaluation))
    if out is not None:
        evaluation.save(out)
    write_json(json, {"ood": evaluation.to_dict()})
