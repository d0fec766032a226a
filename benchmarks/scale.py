"""How long and how much memory each step takes as a store grows, each in a process of its own.

    python benchmarks/scale.py --cache FOLDER --out scale.jsonl
    python benchmarks/scale.py --cache FOLDER --out scale.jsonl --sizes 300000 --steps fit,score

The stores are synthetic and written once into ``--cache``: samples of twenty classes at 12 points of width
768 in float16 (18 KB a sample: 0.18 GB for 10 000, 1.8 GB for 100 000, 18 GB for a million), each point a
rotation of the one before with a nonlinearity. Three coordinates are a thousand times as wide as the others,
as in language models, and one sample in a thousand occurs twice.

A line of ``--out`` is one step at one size; what is there is not measured again. The peak is that of the
process's own memory (RssAnon, read every 20 ms): mapped files, which the system takes back when it needs
their pages, do not count. "growth" is the power p of time ~ size^p between two sizes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from harness import Rows, in_a_process, measuring, parser_of

import repdyn
import repdyn.topology
from repdyn import ood
from repdyn.errors import RepdynError
from repdyn.koopman import controls
from repdyn.ood import load_detector
from repdyn.paths import PathsWriter, open_paths

POINTS, WIDTH, CLASSES = 12, 768, 20
SEED = 2026
WRITTEN = 2000  # rows made at a time


def main() -> None:
    parser = parser_of(__doc__, "cache", "out")
    parser.add_argument("--sizes", default="10000,100000", help="Samples, separated by commas.")
    parser.add_argument("--steps", default=",".join(STEPS), help="Some of the steps.")
    parser.add_argument("--width", type=int, default=WIDTH, help="Of every point.")
    parser.add_argument("--step", help=argparse.SUPPRESS)  # one step, in the process that this is
    given = parser.parse_args()
    sizes = [int(size) for size in given.sizes.split(",")]
    if given.step:
        print(json.dumps(measured(given.step, given.cache, sizes[0], given.width)))
        return
    rows = Rows(given.out, ("step", "size", "width"), ("benchmarks/scale.py", "repdyn"))
    for size in sizes:
        steps = given.steps.split(",")
        for seed in (0, 1) if "translate" in steps else (0,):
            write(given.cache, size, given.width, seed)
        for step in steps:
            row = rows.once(
                step, size, given.width, make=partial(apart, step, given.cache, size, given.width)
            )
            print(described(row, list(rows)), flush=True)


def described(row: dict[str, Any], known: list[dict[str, Any]]) -> str:
    """One step in words, with its growth from the next smaller size."""
    line = f"{row['step']:>14} {row['size']:>9,} x {POINTS} x {row['width']}  "
    if "error" in row:
        return line + f"failed: {row['error']}"
    line += f"{row['wall']:8.1f} s, CPU {row['cpu']:8.1f} s, peak {row['peak']:5.2f} GB"
    smaller = [
        other
        for other in known
        if other["step"] == row["step"] and other["width"] == row["width"] and other["size"] < row["size"]
    ]
    if smaller and "cpu" in (before := max(smaller, key=lambda other: other["size"])):
        growth = math.log(row["cpu"] / before["cpu"]) / math.log(row["size"] / before["size"])
        line += f", growth {growth:4.2f} from {before['size']:,}"
    return line + (f"; {row['note']}" if row.get("note") else "")


def apart(step: str, cache: Path, size: int, width: int) -> dict[str, Any]:
    """What :func:`measured` gives, of another process."""
    words = ("--cache", cache, "--out", os.devnull, "--width", width, "--sizes", size, "--step", step)
    return in_a_process(__file__, *words)


def measured(step: str, cache: Path, size: int, width: int) -> dict[str, Any]:
    """Run one step here: seconds, peak of this process's own memory, and the note of the step."""
    place = where(cache, size, width, 0)
    prepared = PREPARED.get(step, lambda *_: None)(cache, size, width)
    with measuring() as row:
        note = STEPS[step](place, prepared)
    return {**row, "note": note or ""}


def where(cache: Path, size: int, width: int, seed: int) -> Path:
    return cache / f"{size}x{POINTS}x{width}-{seed}.paths"


def write(cache: Path, size: int, width: int, seed: int) -> None:
    """Write one store, unless it is there; the second, for translation, holds 4 points (2 of a million)."""
    place = where(cache, size, width, seed)
    try:
        open_paths(place)
        return
    except RepdynError:
        pass
    second = 4 if size < 1_000_000 else 2  # a quarter of the disk that all points need
    points = [f"blocks.{k}" for k in range(POINTS if seed == 0 else second)]
    shared = np.random.default_rng(SEED)  # both models see one world
    means = shared.normal(size=(CLASSES, 32)) * 2
    own = np.random.default_rng(SEED + 1 + seed)
    lift = (own.normal(size=(32, width)) / 6).astype(np.float32)
    turns = [np.linalg.qr(own.normal(size=(width, width)))[0].astype(np.float32) for _ in points]
    wide = np.ones(width, dtype=np.float32)
    wide[own.choice(width, 3, replace=False)] = 1000
    labels = np.random.default_rng(SEED + 10 + seed).integers(CLASSES, size=size)
    meta = {"model": f"synthetic {seed}", "digest": str(seed), "data": f"synthetic {size}"}
    writer = PathsWriter.open(
        place, points, dict.fromkeys(points, width), size, meta, dtype="float16", labels=labels
    )
    for rows in writer.missing:
        parts: dict[str, list[Any]] = {point: [] for point in points}
        for start in range(rows.start, rows.stop, WRITTEN):
            stop = min(start + WRITTEN, rows.stop)
            draw = np.random.default_rng((SEED, seed, start))
            x = means[labels[start:stop]] + draw.normal(size=(stop - start, 32))
            copied = np.flatnonzero(np.arange(start, stop) % 1000 == 999)
            copied = copied[copied > 0]
            x[copied] = x[copied - 1]
            noise = draw.normal(size=(stop - start, width)).astype(np.float32) * 0.3
            noise[copied] = noise[copied - 1]
            x = x.astype(np.float32) @ lift + noise
            labels[start + copied] = labels[start + copied - 1]
            for point, turn in zip(points, turns):
                x = 0.7 * x + np.tanh(x @ turn)
                parts[point].append((x * wide).astype(np.float16))
        arrays = {point: np.concatenate(found) for point, found in parts.items()}
        ids = [str(k) for k in rows]
        writer.write_chunk(rows.start, arrays, ids, labels[rows.start : rows.stop])
    writer.finish()


def opened(place: Path, _: Any) -> None:
    repdyn.open_paths(place)


def iterate(place: Path, _: Any) -> None:
    for block in repdyn.open_paths(place).iterate():
        for x in block.values():
            x.astype(np.float32)


def kept(name: str) -> Callable[[Path, int, int], Path]:
    """Where a fitted detector is kept, for the step that scores."""
    return lambda cache, size, width: cache / f"{size}x{width}.{name}"


def fit_detector(name: str) -> Callable[[Path, Path], str]:
    def fit(place: Path, detector: Path) -> str:
        fitted = getattr(ood, name)().fit(repdyn.open_paths(place))
        fitted.save(detector)
        return "; ".join(repr(fitted).split("\n  ")[1:])

    return fit


def score_detector(place: Path, detector: Path) -> None:
    scores = load_detector(detector).score_samples(repdyn.open_paths(place))
    assert np.isfinite(scores).all()


def koopman(place: Path, _: Any) -> str:
    fitted = repdyn.KoopmanAutoencoder().fit(repdyn.open_paths(place), epochs=2)
    left, epochs = fitted.history_["start"][0], len(fitted.history_["validation"])
    return f"{left:.4f} unexplained in closed form; {epochs} epochs trained"


def spectrum_of(place: Path, kae: Any) -> str:
    return f"{int(kae.spectrum(repdyn.open_paths(place)).certified.sum())} certified"


def small_koopman(cache: Path, size: int, width: int) -> Any:
    """An autoencoder fitted to the first thousand samples: what it costs to fit one is another step."""
    paths = repdyn.open_paths(where(cache, size, width, 0))
    first = {point: np.asarray(paths[point][:1000]) for point in paths.points}
    few = repdyn.RepresentationPaths.from_arrays(first)
    return repdyn.KoopmanAutoencoder(latent_dim=64).fit(few, epochs=1)


def fit_controls(place: Path, _: Any) -> None:
    controls(repdyn.open_paths(place))


def translate(place: Path, other: Path) -> str:
    found = repdyn.translate(repdyn.open_paths(place), repdyn.open_paths(other))
    return f"{found.verdict}: {found.reason}"[:160]


def tree(place: Path, _: Any) -> str:
    paths = repdyn.open_paths(place)
    return repr(repdyn.LevelSetTree.fit(paths[paths.points[-1]])).splitlines()[0]


def persistence(place: Path, _: Any) -> str:
    return repr(repdyn.persistence(repdyn.open_paths(place))).splitlines()[0]


def report(place: Path, _: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        repdyn.report({"paths": repdyn.open_paths(place)}, Path(folder) / "report.html")


STEPS: dict[str, Callable[[Path, Any], str | None]] = {
    "open": opened,
    "iterate": iterate,
    "path fit": fit_detector("PathDetector"),
    "path score": score_detector,
    "union fit": fit_detector("UnionDetector"),
    "union score": score_detector,
    "koopman": koopman,
    "spectrum": spectrum_of,
    "controls": fit_controls,
    "translate": translate,
    "tree": tree,
    "persistence": persistence,
    "report": report,
}
PREPARED: dict[str, Callable[[Path, int, int], Any]] = {
    "path fit": kept("path"),
    "path score": kept("path"),
    "union fit": kept("union"),
    "union score": kept("union"),
    "spectrum": small_koopman,
    "translate": lambda cache, size, width: where(cache, size, width, 1),
}


if __name__ == "__main__":
    main()
