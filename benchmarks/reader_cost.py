"""What the reader, a monitored model and a scored stream cost beside the bare forward pass, in one process.

    REPDYN_DATA=… python benchmarks/reader_cost.py [--pairs 40] [--json reader.json]
    REPDYN_DATA=… python benchmarks/reader_cost.py --stream-only

The bare pass and the one that is measured take turns on the same batch; a figure is the median over pairs of
the ratio of processor times (on a GPU: of wall times, synchronized), with its bootstrap interval. The model
is all-MiniLM-L6-v2 (extra ``demo``); the detector is fitted on queries of CLINC150, the stream is of other
ones. For EfficientNet-Lite0, and for the paths in memory that are scored, points are noise in 50 classes:
cost does not depend on the content. One thread, set here.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from harness import clock, data, keep, median, paired, parser_of
from PIL import Image
from stored_pictures import jpegs
from stored_texts import queries

import repdyn
from repdyn import devices
from repdyn.cli import streams
from repdyn.intervals import Estimate
from repdyn.ood import DriftMonitor, MonitoredModel, PathDetector, UnionDetector
from repdyn.paths import RepresentationPaths
from repdyn.tracing import TracedModel

BATCH = 32
FITTED = 2000
CLASSES = 50
LENGTHS = (32, 10)
"""Tokens of a text: a sentence, a query."""
STREAM_FITTED = 60
"""Pictures that the detector of the picture stream is fitted on."""


def shown(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """The same row, printed."""
    ratio = Estimate(row["value"], row["low"], row["high"])
    print(f"{name:<48}{ratio}  bare {row['bare ms']:.1f} ms, {row['pairs']} pairs", flush=True)
    return row


def passes(
    what: str, model: TracedModel, detector: PathDetector, inputs: Any, count: int, pairs: int
) -> dict[str, Any]:
    """Ratios to the bare pass of the reader and of a monitored model, on inputs that are on the device."""
    monitored, found = MonitoredModel(model, detector), {}

    def bare() -> object:
        with torch.no_grad():
            return model.module(**inputs) if isinstance(inputs, Mapping) else model.module(inputs)

    with torch.no_grad(), model.reader() as read:
        for name, run in (("reader", read.prepared), ("MonitoredModel", monitored.prepared)):
            label = f"{name}, {what}"
            found[label] = shown(label, paired(bare, partial(run, inputs, count), pairs, model.device))
    return found


def token_inputs(tokens: int, device: torch.device) -> dict[str, torch.Tensor]:
    """A batch of random tokens without padding."""
    ids = torch.randint(1000, 20000, (BATCH, tokens), generator=torch.Generator().manual_seed(0)).to(device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def noise_paths(model: TracedModel, inputs: Any, count: int, size: int, classes: int) -> RepresentationPaths:
    """Noise in ``classes`` clusters, with the points and widths that the model's reader has."""
    with torch.no_grad(), model.reader() as read:
        widths = {name: x.shape[1] for name, x in read.prepared(inputs, count).items()}
    generator = np.random.default_rng(0)
    labels = generator.integers(classes, size=size)
    arrays = {
        name: (generator.normal(size=(size, w)) + generator.normal(size=(classes, w))[labels]).astype("f4")
        for name, w in widths.items()
    }
    return RepresentationPaths.from_arrays(arrays, labels=labels)


def rates(what: str, paths: RepresentationPaths) -> dict[str, Any]:
    """Paths in memory that a detector scores in a processor second."""
    found = {}
    for kind in (PathDetector, UnionDetector):
        fitted = kind().fit(paths.subset(np.arange(len(paths) // 7)))
        begun = time.process_time()
        fitted.score_samples(paths)
        rate = len(paths) / (time.process_time() - begun)
        found[f"{kind.__name__}, {what}"] = {"paths a processor second": rate}
        print(f"{kind.__name__ + ', ' + what:<48}{rate:,.0f} paths a processor second", flush=True)
    return found


def stream(
    model: TracedModel, detector: PathDetector, given: list[str], size: int, read: Callable[[str], Any]
) -> dict[str, Any]:
    """Throughput of a scored stream of lines, over that of the bare model, which prepares the same inputs.

    ``read`` makes an input of a line: the text itself, or the picture of that name.
    """
    tracer = streams.Tracer(model, detector.points_, detector.source_["pooling"], None)
    monitor = DriftMonitor(detector)
    parts = streams.lines(io.BytesIO("\n".join(given).encode()), tracer, size)
    ratios, base = [], []
    for number in range(len(given) // size):
        batch = given[number * size : (number + 1) * size]
        begun = clock(model.device)
        paths, _ = next(parts)
        monitor.update(paths)
        middle = clock(model.device)
        with torch.no_grad():
            inputs = devices.to(model.prepare([read(line) for line in batch]), model.device)
            model.module(**inputs) if isinstance(inputs, Mapping) else model.module(inputs)
        end = clock(model.device)
        if number >= 3:
            ratios.append((end - middle) / (middle - begun))
            base.append(end - middle)
    return {**median(ratios).to_dict(), "bare ms": 1e3 * float(np.median(base)), "pairs": len(ratios)}


def picture_stream(model: TracedModel, pairs: int, size: int = 8) -> dict[str, Any]:
    """The same of pictures: files of the ImageNet sample, read, prepared and scored."""
    pictures = jpegs(data("images", "imagenet_sample_160.npz"))
    with tempfile.TemporaryDirectory() as folder:
        names = [f"{folder}/{k}.jpg" for k in range(len(pictures))]
        for name, picture in zip(names, pictures):
            picture.save(name, "JPEG", quality=90)
        detector = PathDetector().fit(repdyn.trace(model, pictures[:STREAM_FITTED], batch_size=size))
        rest = names[STREAM_FITTED:]
        given = (rest * (1 + (pairs + 3) * size // len(rest)))[: (pairs + 3) * size]
        return stream(model, detector, given, size, opened)


def opened(name: str) -> Image.Image:
    """The picture of a file."""
    with Image.open(name) as picture:
        return picture.convert("RGB")


def main() -> None:
    """Print the figures that the options name."""
    parser = parser_of(__doc__, "json")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--paths", type=int, default=20_000, help="in memory, scored by two detectors")
    parser.add_argument("--stream-only", action="store_true")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = repdyn.load("packaged:all-MiniLM-L6-v2", device=options.device)
    detector = PathDetector().fit(repdyn.trace(model, queries("train", FITTED)))
    results: dict[str, Any] = {}
    if not options.stream_only:
        for tokens in LENGTHS:
            tokenized = token_inputs(tokens, model.device)
            results |= passes(f"{BATCH} x {tokens} tokens", model, detector, tokenized, BATCH, options.pairs)
        pictures = repdyn.load("packaged:efficientnet-lite0", device=options.device)
        pixels = torch.randn((8, 3, 224, 224), generator=torch.Generator().manual_seed(0)).to(model.device)
        noise = noise_paths(pictures, pixels, 8, options.paths, CLASSES)
        fitted = PathDetector().fit(noise.subset(np.arange(len(noise) // 7)))
        results |= passes("8 pictures of 224 px", pictures, fitted, pixels, 8, options.pairs)
        results |= rates("EfficientNet-Lite0", noise)
        results |= rates("MiniLM-L6", noise_paths(model, tokenized, BATCH, options.paths, CLASSES))
    texts = queries("test", (options.pairs + 3) * BATCH)
    name = f"stream, {BATCH} queries at a time: throughput"
    results[name] = shown(name, stream(model, detector, texts, BATCH, lambda text: text))
    pictures = repdyn.load("packaged:efficientnet-lite0", device=options.device)
    name = "stream, 8 pictures of 224 px at a time: throughput"
    results[name] = shown(name, picture_stream(pictures, options.pairs))
    keep(options.json, results)


if __name__ == "__main__":
    main()
