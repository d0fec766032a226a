"""Reading mini-batches of whole paths: the store beside raw memory maps, zarr-python, safetensors and Lance.

Usage: python benchmarks/store.py [--samples 20000] [--points 12] [--width 384] [--repeats 5] [--json FILE]

Every reader yields the same batches (256 samples, all points) of the same numbers; their sums are compared.
Repeats go round the readers, so that a slow minute of the machine hits all of them, and medians are printed.
All is warm: what is compared is the way of reading, not the disk. A reader that is slow is stopped after two
seconds of a pass. Lance takes part where it is installed (pip install pylance).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from harness import keep, parser_of
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

try:
    import lance
    import pyarrow
except ImportError:
    lance = None

from repdyn.paths import PathsWriter, RepresentationPaths

BATCH = 256
ENOUGH = 2.0  # seconds of one pass
Order = NDArray[np.int64]
Reader = Callable[[], Iterator[dict[str, Any]]]


def main() -> None:
    """Write the same paths in every format, read them, print the table."""
    parser = parser_of(__doc__, "json", "seed")
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--points", type=int, default=12)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = compare(Path(folder), given)
    print(
        f"{'reader':42} {'sequential':>12} {'shuffled':>12} {'ratio':>7}   (MB/s, medians of {given.repeats})"
    )
    for name, found in figures.items():
        ratio = found["shuffled"] / found["sequential"]
        print(f"{name:42} {found['sequential']:12.0f} {found['shuffled']:12.0f} {ratio:7.2f}")
    keep(given.json, figures)


def compare(folder: Path, given: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Median throughput in MB/s of each reader, in order and shuffled."""
    points = [f"block{number}" for number in range(given.points)]
    paths = write(folder, points, given)
    size = len(paths)
    orders = {
        "sequential": np.arange(size),
        "shuffled": np.random.default_rng(given.seed).permutation(size),
    }
    speeds: dict[str, dict[str, list[float]]] = {}
    sample_bytes = given.points * given.width * 4
    for _ in range(given.repeats + 1):  # the first round warms the caches and is not counted
        for kind, order in orders.items():
            for name, reader in readers(folder, paths, points, order, kind, given.seed).items():
                read, seconds = run(reader, points)
                if read != size and seconds < ENOUGH:
                    raise SystemExit(f"{name}: read {read} samples of {size}")
                speeds.setdefault(name, {}).setdefault(kind, []).append(read * sample_bytes / 1e6 / seconds)
    check(folder, paths, points, orders["shuffled"], given.seed)
    return {
        name: {kind: statistics.median(found[1:]) for kind, found in kinds.items()}
        for name, kinds in speeds.items()
    }


def run(reader: Reader, points: list[str]) -> tuple[int, float]:
    """Samples read in one pass, or in as much of it as is enough, and the seconds it took."""
    read, start = 0, time.perf_counter()
    for batch in reader():
        read += len(batch[points[-1]])
        if time.perf_counter() - start >= ENOUGH:
            break
    return read, time.perf_counter() - start


def write(folder: Path, points: list[str], given: argparse.Namespace) -> RepresentationPaths:
    """The same random numbers as a store, one raw file, and a safetensors file; returns the store."""
    generator = np.random.default_rng(given.seed)
    widths = dict.fromkeys(points, given.width)
    writer = PathsWriter.open(folder / "a.paths", points=points, widths=widths, size=given.samples, meta={})
    for rows in writer.missing:
        arrays = {p: generator.standard_normal((len(rows), given.width), dtype=np.float32) for p in points}
        writer.write_chunk(rows.start, arrays, [str(row) for row in rows])
    paths = writer.finish()
    tensors = {point: np.asarray(paths[point]) for point in points}
    save_file(tensors, folder / "a.safetensors")
    np.concatenate(list(tensors.values()), axis=1).tofile(folder / "a.raw")
    if lance is not None:
        columns = {
            point: pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(array.reshape(-1)), given.width)
            for point, array in tensors.items()
        }
        lance.write_dataset(pyarrow.table(columns), folder / "a.lance")
    return paths


def readers(
    folder: Path, paths: RepresentationPaths, points: list[str], order: Order, kind: str, seed: int
) -> dict[str, Reader]:
    """The ways of reading, each giving batches in the given order (or its own shuffle, where named)."""
    size, width = len(paths), paths.widths[points[0]]
    raw = np.memmap(folder / "a.raw", np.float32, "r", shape=(size, width * len(points)))
    packed = zarr.open_group(folder / "a.paths", mode="r")["paths"]
    batches = [order[start : start + BATCH] for start in range(0, size, BATCH)]

    def split(rows: NDArray[np.float32]) -> dict[str, Any]:
        # Each point's batch in memory of its own, as a network wants it and as all others here give it.
        parts = np.hsplit(rows, len(points))
        return {p: np.ascontiguousarray(part) for p, part in zip(points, parts)}

    def from_zarr(index: Order) -> NDArray[np.float32]:
        if kind == "sequential":
            return np.asarray(packed[int(index[0]) : int(index[-1]) + 1])
        return np.asarray(packed.oindex[np.sort(index)])

    def from_safetensors() -> Iterator[dict[str, Any]]:
        with safe_open(folder / "a.safetensors", framework="np") as file:
            slices = {point: file.get_slice(point) for point in points}
            for index in batches:
                if kind == "sequential":
                    yield {p: s[int(index[0]) : int(index[-1]) + 1] for p, s in slices.items()}
                else:  # no reading by index: row by row
                    yield {
                        p: np.concatenate([s[row : row + 1] for row in index.tolist()])
                        for p, s in slices.items()
                    }

    def from_safetensors_mapped() -> Iterator[dict[str, Any]]:
        arrays = map_safetensors(folder / "a.safetensors")
        return ({point: arrays[point][index] for point in points} for index in batches)

    def from_lance() -> Iterator[dict[str, Any]]:
        data = lance.dataset(folder / "a.lance")
        if kind == "sequential":
            found = data.to_batches(batch_size=BATCH)
        else:
            found = (data.take(index).combine_chunks().to_batches()[0] for index in batches)
        for batch in found:
            yield {p: batch.column(p).flatten().to_numpy().reshape(-1, width) for p in points}

    shuffle = kind == "shuffled"
    found: dict[str, Reader] = {
        "repdyn": lambda: paths.batches(BATCH, shuffle=shuffle, seed=seed),
        "repdyn, shuffled by blocks": lambda: paths.batches(
            BATCH, shuffle="blocks" if shuffle else False, seed=seed
        ),
        "raw packed file, numpy.memmap": lambda: (split(raw[index]) for index in batches),
        "safetensors, own header and numpy.memmap": from_safetensors_mapped,
        "safetensors, get_slice": from_safetensors,
        "zarr-python on our store": lambda: (split(from_zarr(index)) for index in batches),
    }
    if lance is not None:
        found["Lance"] = from_lance
    return found


def map_safetensors(file: Path) -> dict[str, NDArray[np.float32]]:
    """Tensors of a safetensors file as memory maps: its header's length, the JSON header, the numbers."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    return {
        name: np.memmap(file, np.float32, "r", 8 + length + known["data_offsets"][0], tuple(known["shape"]))
        for name, known in header.items()
    }


def check(folder: Path, paths: RepresentationPaths, points: list[str], order: Order, seed: int) -> None:
    """Stop if the readers do not yield the same numbers in the same order."""
    sums: dict[str, float] = {}
    for name, reader in readers(folder, paths, points, order, "shuffled", seed).items():
        if "blocks" in name:
            continue
        batch = next(iter(reader()))
        # zarr-python sorts within a batch: sums over the batch are what can be compared.
        sums[name] = float(sum(np.asarray(batch[point], np.float64).sum() for point in points))
    if max(sums.values()) - min(sums.values()) > 1e-6 * max(map(abs, sums.values())):
        raise SystemExit(f"the readers disagree: {sums}")


if __name__ == "__main__":
    main()
