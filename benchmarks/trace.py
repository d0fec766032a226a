"""What reading a model costs: every block output, pooled in hooks, against the bare forward pass.

Bare and traced passes alternate in one process, on the same prepared inputs; the figure is the median of the
paired ratios of processor time. A model's own way of giving intermediate outputs, pooled afterwards, stands
beside it.

    python benchmarks/trace.py --pairs 15 --json trace.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers
from torch import Tensor

from repdyn.intervals import bootstrap
from repdyn.tracing import TracedModel
from repdyn.tracing.passes import Passes
from repdyn_adapters.timm import TimmAdapter
from repdyn_adapters.transformers import TransformersAdapter

Run = Callable[[], object]


def timm_model(batch: int) -> tuple[TracedModel, Any, Run]:
    """A ViT-Tiny at 224 pixels: 12 blocks of 197 tokens."""
    module = timm.create_model("vit_tiny_patch16_224").eval()
    pictures = torch.randn((batch, 3, 224, 224), generator=torch.Generator().manual_seed(0))

    def own() -> list[Tensor]:
        _, found = module.forward_intermediates(pictures, output_fmt="NLC")
        return [entry.mean(1) for entry in found]

    return TimmAdapter().wrap(module, "vit_tiny_patch16_224"), pictures, own


def transformers_model(batch: int) -> tuple[TracedModel, Any, Run]:
    """A BERT of MiniLM's size, 6 layers of 384, on 64 tokens with padding."""
    config = transformers.BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    module = transformers.BertModel(config).eval()
    rng = np.random.default_rng(0)
    model = TransformersAdapter().wrap(module, "")
    inputs = model.prepare(
        [rng.integers(1000, 30000, length) for length in np.linspace(32, 64, batch).astype(int)]
    )
    mask = inputs["attention_mask"].unsqueeze(-1)

    def own() -> list[Tensor]:
        found = module(**inputs, output_hidden_states=True).hidden_states[1:]
        return [(state * mask).sum(1) / mask.sum(1) for state in found]

    return model, inputs, own


def seconds(run: Run) -> float:
    """Processor time of one call, after another that brings caches and allocator to where it leaves them."""
    run()
    start = time.process_time()
    run()
    return time.process_time() - start


def measure(model: TracedModel, inputs: Any, own: Run, batch: int, pairs: int) -> dict[str, Any]:
    """Paired ratios to the bare forward pass of the same batch."""
    module = model.module
    call = (lambda: module(**inputs)) if isinstance(inputs, dict) else (lambda: module(inputs))
    ratios: dict[str, list[float]] = {"hooks": [], "own": [], "bare again": []}
    bare_seconds = []
    sample = inputs[0] if isinstance(inputs, Tensor) else inputs["input_ids"][0]
    with torch.inference_mode():
        for number in range(pairs + 2):
            bare = seconds(call)
            with Passes(model, None, "auto", sample, np.dtype(np.float32), None) as passes:
                hooked = seconds(lambda: passes.run(inputs, batch))
            found = {"hooks": hooked, "own": seconds(own), "bare again": seconds(call)}
            if number >= 2:  # the first passes warm caches and allocators up
                bare_seconds.append(bare)
                for name, value in found.items():
                    # The mean of the bare pass before and after takes slow drifts of the machine out.
                    ratios[name].append(value / ((bare + found["bare again"]) / 2))
    return {
        "model": model.name,
        "bare seconds": float(np.median(bare_seconds)),
        **{
            name: bootstrap(lambda x: float(np.median(x)), np.asarray(values), seed=0).to_dict()
            for name, values in ratios.items()
        },
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    print(f"{'model':<28}{'bare, s':>9}  {'hooks, pooled inside':>24}  {'the own way, pooled after':>26}")
    for make in (timm_model, transformers_model):
        model, inputs, own = make(arguments.batch)
        row = measure(model, inputs, own, arguments.batch, arguments.pairs)
        shown = [
            f"{row[k]['value']:.3f} [{row[k]['low']:.3f}, {row[k]['high']:.3f}]" for k in ("hooks", "own")
        ]
        print(f"{row['model']:<28}{row['bare seconds']:>9.2f}  {shown[0]:>24}  {shown[1]:>26}")
        rows.append(row)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
