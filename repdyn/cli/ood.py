"""``repdyn ood``: inputs unlike the training data, beside what a detector must beat."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from repdyn.cli.options import Json, PathsStore, Seed

__all__ = ["evaluate", "fit", "score"]

Saved = Annotated[Path, typer.Argument(help="A detector that `repdyn ood fit` wrote.", show_default=False)]


def fit(
    paths: PathsStore,
    out: Annotated[Path, typer.Option(help="The folder to write, say a.detector.")],
    json: Json = None,
) -> None:
    """Fit the path detector to in-distribution paths.

    Example: repdyn ood fit a.paths --out a.detector
    """
    from repdyn.cli.console import say, write_json
    from repdyn.ood import PathDetector
    from repdyn.paths import open_paths

    stored = open_paths(paths)
    detector = PathDetector().fit(stored)
    detector.save(out)
    say(f"{out}: a path detector over {len(stored.points)} points, fitted on {len(stored)} paths")
    say(f"  threshold {detector.threshold_:.4g}: 5 % of paths like these score below it")
    write_json(json, {"ood": {"threshold": detector.threshold_, "samples": len(stored)}})


def score(
    detector: Saved,
    paths: PathsStore,
    out: Annotated[
        Path | None, typer.Option(help="Write id, score and flag of each sample to this CSV.")
    ] = None,
    json: Json = None,
) -> None:
    """Score paths by a fitted detector and count those it flags.

    Example: repdyn ood score a.detector new.paths --out scores.csv
    """
    import csv

    from repdyn.cli.console import say, write_json
    from repdyn.intervals import bootstrap_mean
    from repdyn.ood import load_detector
    from repdyn.paths import open_paths

    fitted = load_detector(detector)
    stored = open_paths(paths)
    scores = fitted.score_samples(stored)
    flagged = scores < fitted.threshold_
    share = bootstrap_mean(flagged.astype(float))
    say(
        f"{int(flagged.sum())} of {len(scores)} flagged: share {share}; "
        "of data like the training's 0.05 is expected"
    )
    if out is not None:
        with out.open("w", newline="", encoding="utf-8") as lines:
            writer = csv.writer(lines)
            writer.writerow(["id", "score", "flagged"])
            writer.writerows(zip(stored.ids.tolist(), scores.tolist(), flagged.astype(int).tolist()))
    write_json(json, {"ood": {"flagged": share, "threshold": fitted.threshold_, "scores": scores}})


def evaluate(
    detector: Saved,
    paths: PathsStore,
    against: Annotated[
        list[str], typer.Option(help="NAME=STORE of an out-of-distribution set; repeat for more.")
    ],
    training: Annotated[
        Path, typer.Option(help="The store the detector was fitted on; the controls fit it too.")
    ],
    out: Annotated[Path | None, typer.Option(help="Keep the evaluation in this folder.")] = None,
    seed: Seed = 0,
    json: Json = None,
) -> None:
    """Compare a detector with kNN, Mahalanobis and energy on known out-of-distribution sets.

    Example: repdyn ood evaluate a.detector held-out.paths --against code=code.paths --training a.paths
    """
    from repdyn.cli.console import say, write_json
    from repdyn.errors import RepdynError
    from repdyn.ood import KNNDetector, MahalanobisDetector, load_detector
    from repdyn.ood import evaluate as measure
    from repdyn.paths import open_paths

    sets = {}
    for pair in against:
        name, equals, store = pair.partition("=")
        if not (name and equals and store):
            raise RepdynError(f"--against {pair!r}: write NAME=STORE")
        sets[name] = open_paths(store)
    fitted_on = open_paths(training)
    controls = {"kNN": KNNDetector().fit(fitted_on), "Mahalanobis": MahalanobisDetector().fit(fitted_on)}
    found = measure(load_detector(detector), open_paths(paths), sets, controls=controls, seed=seed)
    say(repr(found))
    if out is not None:
        found.save(out)
    write_json(json, {"ood": found.to_dict()})
