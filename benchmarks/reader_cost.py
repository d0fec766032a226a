"""What the reader, a monitored model and a scored stream cost beside the bare forward pass, in one process.

    REPDYN_DATA=… python benchmarks/reader_cost.py [--pairs 40] [--json reader.json]
    REPDYN_DATA=… python benchmarks/reader_cost.py --stream-only

The bare pass and the one that is measured take turns on the same batch; a figure is the median over pairs of
the ratio of processor times (on a GPU: of wall times, synchronized), with its bootstrap interval. The model
is all-MiniLM-L6-v2 (extra ``demo``); the detector is fitted on queries of CLINC150, the stream is of other
ones. One thread, set here.
"""

from __future__ import annotations

import io
from functools import partial
from typing import Any

import numpy as np
import torch
from harness import keep, parser_of
from pairs import clock, median, paired
from stored_texts import queries

import repdyn
from repdyn import devices
from repdyn.cli import streams
from repdyn.ood import DriftMonitor, PathDetector
from repdyn.tracing import TracedModel

BATCH = 32
FITTED = 2000
LENGTHS = (32, 10)
"""Tokens of a text: a sentence, a query."""


def told(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """The same row, printed."""
    shown = f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    print(f"{name:<48}{shown}  bare {row['bare ms']:.1f} ms, {row['pairs']} pairs", flush=True)
    return row


def passes(model: TracedModel, detector: PathDetector, pairs: int) -> dict[str, Any]:
    """The reader and the monitored model on prepared inputs that are on the device already."""
    from repdyn.ood import MonitoredModel

    device, found = model.device, {}
    monitored = MonitoredModel(model, detector)
    for tokens in LENGTHS:
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(1000, 20000, (BATCH, tokens), generator=generator).to(device)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

        def bare(inputs: dict[str, torch.Tensor] = inputs) -> object:
            with torch.no_grad():
                return model.module(**inputs)

        with model.reader() as read:
            name = f"reader, {BATCH} x {tokens} tokens"
            found[name] = told(name, paired(bare, partial(read.prepared, inputs, BATCH), pairs, device))
        name = f"MonitoredModel, {BATCH} x {tokens} tokens"
        with torch.no_grad():
            measured = partial(monitored.prepared, inputs, BATCH)
            found[name] = told(name, paired(bare, measured, pairs, device))
    return found


def stream(model: TracedModel, detector: PathDetector, pairs: int) -> dict[str, Any]:
    """Throughput of a scored stream of lines, over that of the bare model; each tokenizes its texts."""
    texts = queries("test", (pairs + 3) * BATCH)
    tracer = streams.Tracer(model, detector.points_, detector.source_["pooling"], None)
    monitor = DriftMonitor(detector)
    parts = streams.lines(io.BytesIO("\n".join(texts).encode()), tracer, BATCH)
    ratios, base = [], []
    for number in range(len(texts) // BATCH):
        batch = texts[number * BATCH : (number + 1) * BATCH]
        begun = clock(model.device)
        paths, _ = next(parts)
        monitor.update(paths)
        middle = clock(model.device)
        with torch.no_grad():
            inputs = model.prepare(batch)
            model.module(**devices.to(inputs, model.device))
        end = clock(model.device)
        if number >= 3:
            ratios.append((end - middle) / (middle - begun))
            base.append(end - middle)
    return {**median(ratios).to_dict(), "bare ms": 1e3 * float(np.median(base)), "pairs": len(ratios)}


def main() -> None:
    """Print what was asked for."""
    parser = parser_of(__doc__, "json")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--stream-only", action="store_true")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = repdyn.load("packaged:all-MiniLM-L6-v2")
    model.module.to(options.device)
    detector = PathDetector().fit(repdyn.trace(model, queries("train", FITTED)))
    results = {} if options.stream_only else passes(model, detector, options.pairs)
    name = f"stream, {BATCH} queries at a time: throughput"
    results[name] = told(name, stream(model, detector, options.pairs))
    keep(options.json, results)


if __name__ == "__main__":
    main()
