"""What a detector costs: beside the model's forward pass, and on features that are there already.

    python benchmarks/ood_overhead.py [--json overhead.json]

Real models (extra ``bench``), inputs of the size they are used at, random in content: cost does not depend
on it. The model alone and the model with the detector's module on its points take turns; the figure is the
median over rounds of the ratio, less one. ``score_samples`` is timed on 20 000 paths in memory, of 50
classes. All in processor seconds, which other programs on the machine disturb least.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from harness import keep, parser_of
from pairs import median
from torch import Tensor, nn

import repdyn
from repdyn.ood import PathDetector, UnionDetector
from repdyn.paths import RepresentationPaths
from repdyn.progress import track

ROWS, FITTED, CLASSES = 20_000, 3000, 50
TOKENS = 32
"""Of a sentence; a query of CLINC150 has about ten, so its overhead is three times as large."""


class Taps:
    """Pooled outputs of some modules, kept while ``on``."""

    def __init__(self, points: dict[str, nn.Module]) -> None:
        self.on, self.seen = False, dict[str, Tensor]()
        for name, module in points.items():
            module.register_forward_hook(self._keep(name))

    def _keep(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            if self.on:
                x = output[0] if isinstance(output, tuple) else output
                self.seen[name] = x.mean((2, 3)) if x.ndim == 4 else x.mean(1)

        return hook


def models() -> dict[str, tuple[nn.Module, dict[str, nn.Module], tuple[Tensor, ...]]]:
    """Module, blocks, and a batch for each."""
    text = repdyn.load("packaged:all-MiniLM-L6-v2").module
    picture = repdyn.load("packaged:efficientnet-lite0").module
    layers = {f"layer.{k}": layer for k, layer in enumerate(text.encoder.layer)}
    blocks = {f"blocks.{k}": block for k, block in enumerate(picture.blocks)}
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1000, 20000, (32, TOKENS), generator=generator)
    return {
        f"MiniLM-L6, 32 x {TOKENS} tokens": (text, layers, (tokens,)),
        "EfficientNet-Lite0, 8 x 224 px": (
            picture, blocks, (torch.randn((8, 3, 224, 224), generator=generator),)
        ),
    }  # fmt: skip


def measure(
    module: nn.Module, points: dict[str, nn.Module], batch: tuple[Tensor, ...], rounds: int
) -> dict[str, Any]:
    """Overhead of the detector's module, and how many paths ``score_samples`` does in a second."""
    module.eval().requires_grad_(False)
    taps = Taps(points)
    with torch.inference_mode():
        taps.on = True
        module(*batch)
    widths = {name: x.shape[1] for name, x in taps.seen.items()}
    generator = np.random.default_rng(0)
    arrays = {
        name: generator.normal(size=(ROWS, width)).astype(np.float32) + 1 for name, width in widths.items()
    }
    labels = generator.integers(CLASSES, size=ROWS)
    for x in arrays.values():
        x += generator.normal(size=(CLASSES, x.shape[1]))[
            labels
        ]  # classes, or the union would not ask for them
    paths = RepresentationPaths.from_arrays(arrays, labels=labels)
    detector = PathDetector().fit(paths.subset(np.arange(FITTED)))
    beside_it = detector.as_module()
    alone, beside = [], []
    with torch.inference_mode():
        for _ in track(range(rounds), "taking turns"):
            taps.on = False
            begun = time.process_time()
            module(*batch)
            middle = time.process_time()
            taps.on = True
            module(*batch)
            beside_it(taps.seen)
            beside.append(time.process_time() - middle)
            alone.append(middle - begun)
    ratio = np.array(beside[2:]) / np.array(alone[2:]) - 1
    rates = {}
    for kind in (PathDetector, UnionDetector):
        fitted = kind().fit(paths.subset(np.arange(FITTED)))
        begun = time.process_time()
        fitted.score_samples(paths)
        rates[kind.__name__] = ROWS / (time.process_time() - begun)
    return {
        "points": len(widths),
        "dimensions": sum(widths.values()),
        "overhead": median(ratio).to_dict(),
        "milliseconds of a pass": 1e3 * float(np.median(alone)),
        "inputs a processor second": rates,
    }


def main() -> None:
    parser = parser_of(__doc__, "json")
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    results = {}
    for name, (module, points, batch) in models().items():
        results[name] = measure(module, points, batch, options.rounds)
        print(name, json.dumps(results[name], indent=1), sep="\n", flush=True)
    keep(options.json, results)


if __name__ == "__main__":
    main()
