"""EfficientNet-Lite0 and a detector as one ONNX graph: differences from the module, and speed.

    python benchmarks/ood_onnx.py [--json onnx.json]

Detectors are fitted on 200 pictures of the ImageNet sample at 160 px, and score 50 others and 50 textures.
The graph runs in ONNX Runtime on one thread, as the module does. Needs the extras ``onnx`` and ``bench``.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from harness import data, keep, parser_of
from stored_pictures import jpegs, square

import repdyn
from repdyn.ood import GuidedEnergyDetector, MonitoredModel, PathDetector, UnionDetector

SIDE, FITTED, SCORED, BATCH = 160, 200, 50, 20
KINDS = (PathDetector, GuidedEnergyDetector, UnionDetector)


def main() -> None:
    """Export and compare each kind."""
    parser = parser_of(__doc__, "json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pictures = [square(p, SIDE) for p in jpegs(data("images", "imagenet_sample_160.npz"))]
    order = np.random.default_rng(0).permutation(len(pictures))
    usual = [pictures[k] for k in order[:FITTED]]
    new = [pictures[k] for k in order[FITTED : FITTED + SCORED]]
    new += [square(p, SIDE) for p in jpegs(data("images", "textures_dtd10_160.npz"), count=SCORED)]
    model = repdyn.load("packaged:efficientnet-lite0")
    paths = repdyn.trace(model, usual)
    batches = [model.prepare(new[start : start + BATCH]) for start in range(0, len(new), BATCH)]
    found = {}
    for kind in KINDS:
        found[kind.__name__] = _compare(MonitoredModel(model, kind().fit(paths)), batches)
        print(kind.__name__, found[kind.__name__], flush=True)
    keep(options.json, found)


def _compare(monitored: MonitoredModel, batches: list[torch.Tensor]) -> dict[str, Any]:
    """Largest differences of scores and outputs, flags that differ, and processor seconds of both."""
    monitored.prepared(batches[0])
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "graph.onnx"
        program = torch.onnx.export(
            monitored.as_module(),
            (batches[0],),
            dynamo=True,
            verbose=False,
            dynamic_shapes={"inputs": {0: torch.export.Dim("count")}},
            input_names=["pictures"],
            output_names=["output", "scores", "flagged"],
        )
        onnx.save(program.model_proto, graph)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])
        begun = time.process_time()
        ours = [monitored.prepared(batch) for batch in batches]
        middle = time.process_time()
        theirs = [session.run(None, {"pictures": batch.numpy()}) for batch in batches]
        ended = time.process_time()
    scores = np.concatenate([answer.scores.numpy() for answer in ours])
    output = np.concatenate([answer.output.numpy() for answer in ours])
    flagged = np.concatenate([answer.flagged.numpy() for answer in ours])
    others = [np.concatenate([answer[k] for answer in theirs]) for k in range(3)]
    return {
        "scores": float(np.abs(scores - others[1]).max()),
        "relative": float((np.abs(scores - others[1]) / np.abs(scores).clip(1e-9)).max()),
        "outputs": float(np.abs(output - others[0]).max()),
        "flags": int((flagged != others[2]).sum()),
        "flagged": int(flagged.sum()),
        "seconds": [middle - begun, ended - middle],
    }


if __name__ == "__main__":
    main()
