"""What the studies share: where data lie, rows that are kept, parts that are made once, times, tables.

A study is a loop over cells. Each cell is a row of a ``.jsonl`` file, and an interrupted study goes on
where it was. A row carries a digest of the code that made it: rows of other code are not used.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from scipy.stats import t as student

from repdyn.intervals import Estimate, bootstrap

__all__ = [
    "Rows",
    "clock",
    "code_of",
    "data",
    "in_a_process",
    "keep",
    "made_once",
    "mean_of",
    "mean_of_parts",
    "measuring",
    "median",
    "once_json",
    "over_seeds",
    "own_memory",
    "paired",
    "parser_of",
    "peak_resident",
    "seconds",
    "table",
    "timed",
]

Row = dict[str, Any]
Made = TypeVar("Made")
ROOT = Path(__file__).resolve().parents[1]


def data(*parts: str) -> Path:
    """A path below the folder of shared data: ``$REPDYN_DATA``, else ``shared/data`` beside the project.

    Raises
    ------
    SystemExit
        If it is not there.
    """
    path = Path(os.environ.get("REPDYN_DATA") or ROOT.parent / "shared" / "data").joinpath(*parts)
    if not path.exists():
        raise SystemExit(f"{path}: is not there; set REPDYN_DATA to the folder of the data")
    return path


def _folder(name: str) -> Path:
    """A folder, made if it is not there."""
    Path(name).mkdir(parents=True, exist_ok=True)
    return Path(name)


_SHARED: dict[str, Any] = {
    "cache": {"type": _folder, "required": True, "help": "folder that keeps finished stages"},
    "json": {"type": Path, "help": "file for the figures"},
    "out": {"type": Path, "required": True, "help": "file of rows; those that it holds are not made again"},
    "minutes": {"type": float, "default": float("inf"), "help": "start no run after so many"},
    "seed": {"type": int, "default": 0},
    "seeds": {"type": int, "default": 3},
}


def parser_of(description: str | None, *shared: str, **defaults: Any) -> argparse.ArgumentParser:
    """A parser whose help is a script's docstring, with options that scripts share.

    Parameters
    ----------
    description
        ``__doc__`` of the script.
    shared
        Names of options: ``cache``, ``json``, ``minutes``, ``out``, ``seed``, ``seeds``.
    defaults
        More of them, by their default here.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in shared:
        parser.add_argument(f"--{name}", **_SHARED[name])
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", **{**_SHARED[name], "default": value, "required": False})
    return parser


@cache
def code_of(*sources: str) -> str:
    """Digest of source files: paths from the project's root, folders with all Python files in them.

    Examples
    --------
    >>> code_of("repdyn/ood", "benchmarks/ood.py") == code_of("repdyn/ood", "benchmarks/ood.py")
    True
    """
    digest = hashlib.sha256()
    for source in sources:
        path = ROOT / source
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        for file in files:
            digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


class Rows:
    """Rows of a study in a ``.jsonl`` file, each appended when it is done.

    Parameters
    ----------
    file
        The file; it need not be there.
    key
        Names of the entries that identify a cell.
    sources
        What makes a row, for :func:`code_of`. Rows of other code are left out; none are where this is empty.
    """

    def __init__(self, file: Path, key: Sequence[str], sources: Sequence[str] = ()) -> None:
        self.file, self.key = file, tuple(key)
        self.code = code_of(*sources) if sources else None
        self.rows, other = [], 0
        for row in _lines(file):
            if self.code in (None, row.get("code")):
                self.rows.append(row)
            else:
                other += 1
        if other:
            print(f"{file}: {other} rows of other code are not used", flush=True)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def get(self, *key: Any) -> Row | None:
        """The last row of a cell."""
        for row in reversed(self.rows):
            if tuple(row.get(name) for name in self.key) == key:
                return row
        return None

    def add(self, row: Row) -> Row:
        """Append a row. It is on disk when this returns."""
        row = row if self.code is None else {**row, "code": self.code}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a") as lines:
            lines.write(json.dumps(row) + "\n")
        self.rows.append(row)
        return row

    def once(self, *key: Any, make: Callable[[], Row]) -> Row:
        """The row of a cell, made and appended if it is missing."""
        found = self.get(*key)
        return self.add(dict(zip(self.key, key)) | make()) if found is None else found

    def complete(
        self, cells: Iterable[Sequence[Any]], make: Callable[..., Row], minutes: float = float("inf")
    ) -> None:
        """Make the rows of cells that are missing, in order; none is begun after so many minutes."""
        begun = time.monotonic()
        for key in cells:
            if self.get(*key) is None:
                if time.monotonic() - begun > 60 * minutes:
                    return
                self.once(*key, make=partial(make, *key))


def _lines(file: Path) -> Iterator[Row]:
    """Rows of a file; a last line that was cut short by an interrupt is left out."""
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def made_once(path: Path, make: Callable[[Path], object]) -> Path:
    """A file or a folder that ``make`` writes at the path that it is given, if it is not there.

    An interrupted ``make`` leaves nothing at ``path``; what it had written is beside it, and is given to the
    next ``make``, which may resume.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f"{path.stem}.partial{path.suffix}")
        make(scratch)
        scratch.rename(path)
    return path


def once_json(
    file: Path,
    make: Callable[[], Made],
    sources: Sequence[str] = (),
    default: Callable[[Any], Any] | None = None,
) -> Made:
    """JSON values of a file, made if it is not there.

    Its name gains the digest of ``sources``, so that figures of other code are made anew.
    """
    if sources:
        file = file.with_stem(f"{file.stem}-{code_of(*sources)}")
    made_once(file, lambda scratch: scratch.write_text(json.dumps(make(), indent=1, default=default)))
    found: Made = json.loads(file.read_text())
    return found


def keep(file: Path | None, figures: object) -> None:
    """Write figures as JSON, where a file was named."""
    if file is not None:
        file.write_text(json.dumps(figures, indent=1) + "\n")


@contextmanager
def seconds() -> Iterator[Callable[[], float]]:
    """Processor seconds of this process since the block began; after the block, those of the block."""
    begun, ended = time.process_time(), None
    yield lambda: (time.process_time() if ended is None else ended) - begun
    ended = time.process_time()


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """A row that holds, after the block, its ``seconds`` and ``processor seconds``."""
    row: dict[str, float] = {}
    wall, cpu = time.perf_counter(), time.process_time()
    yield row
    row |= {"seconds": time.perf_counter() - wall, "processor seconds": time.process_time() - cpu}


_WARM_UPS = 3  # pairs that fill caches and allocators, and are left out


def clock(device: torch.device) -> float:
    """Processor seconds; on another device, wall seconds once its work is done."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def paired(
    bare: Callable[[], object], measured: Callable[[], object], pairs: int, device: torch.device
) -> dict[str, Any]:
    """The median ratio of the second to the first, taking turns; which comes first alternates."""
    ratios, base = [], []
    for number in range(pairs + _WARM_UPS):
        taken = {}
        for run in (bare, measured) if number % 2 else (measured, bare):
            begun = clock(device)
            run()
            taken[run] = clock(device) - begun
        if number >= _WARM_UPS:
            ratios.append(taken[measured] / taken[bare])
            base.append(taken[bare])
    return {**median(ratios).to_dict(), "bare ms": 1e3 * float(np.median(base)), "pairs": pairs}


def median(values: Sequence[float]) -> Estimate:
    """The median with its bootstrap interval."""
    return bootstrap(lambda x: float(np.median(x)), np.asarray(values), seed=0)


@contextmanager
def measuring() -> Iterator[Row]:
    """A row that holds, after the block, its seconds and the peak of this process's own memory.

    ``wall`` and ``cpu`` in seconds; ``before`` and ``peak`` in GB, of the memory that no file is behind,
    read every 20 ms: mapped files, whose pages the system takes back when it needs them, do not count.
    """
    row: Row = {"before": own_memory() / 1e9}
    peak, stop = [own_memory()], threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            peak[0] = max(peak[0], own_memory())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        yield row
    finally:
        row.update(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)
        stop.set()
        watcher.join()
        row["peak"] = max(peak[0], own_memory()) / 1e9


def own_memory() -> int:
    """Bytes of this process that no file is behind."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


def peak_resident() -> float:
    """Highest resident memory of this process so far in MiB, with Python and its libraries."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_a_process(*command: object, limit: float | None = None) -> Row:
    """The row that a Python script prints as its last line; ``{"error": …}`` where there is none in time."""
    words = [sys.executable, *map(str, command)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {limit:.0f} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"error": f"exit {done.returncode}: {lines[-1][:200] if lines else ''}"}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def mean_of(estimates: Sequence[Mapping[str, float]]) -> Estimate:
    """Over seeds, of values and of interval ends: an interval over samples for a fit of any seed."""
    return Estimate(*(float(np.mean([one[end] for one in estimates])) for end in ("value", "low", "high")))


def mean_of_parts(estimates: Sequence[Mapping[str, float]]) -> Estimate:
    """Over test parts that share no sample, with the interval of a mean of independent estimates."""
    value = mean_of(estimates).value
    low, high = (
        float(np.sqrt(np.square([one["value"] - one[end] for one in estimates]).sum()) / len(estimates))
        for end in ("low", "high")
    )
    return Estimate(value, value - low, value + high)


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean and its 95 % interval by Student's t: seeds are few."""
    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return Estimate(float(x.mean()), float("nan"), float("nan"))
    half = float(student.ppf(0.975, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5)
    return Estimate(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; numbers with three decimals."""

    def cell(value: object) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    lines = [header, ["---"] * len(header), *([cell(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
