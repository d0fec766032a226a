"""What reading a model costs: every block output, pooled, against the bare forward pass and beside peers.

Passes alternate in one process on the same prepared inputs, and a bare pass stands between any two; a figure
is the median of the ratios of processor time to the mean of the two bare passes around it, with a bootstrap
interval. "bare" is the bare pass against its neighbors: how far noise alone goes. Peers that change the
model (nnsight, torchvision) are given a copy of it.

    python benchmarks/trace.py --pairs 15 --json trace.json
    python benchmarks/trace.py --throughput 1500       # CLINC150 (in $REPDYN_DATA) through a real MiniLM
    python benchmarks/trace.py --memory                # peak memory, a process for each size

Needs the extras ``demo`` and ``test``. One thread, set here.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from harness import in_a_process, keep, median, parser_of, peak_resident, timed
from stored_texts import rows_of
from torch import Tensor, nn

import repdyn
from repdyn.intervals import Estimate
from repdyn.tracing import TracedModel
from repdyn.tracing.passes import Passes
from repdyn_adapters.timm import TimmAdapter

Run = Callable[[], object]
NAIVE_BATCH = 32


def vit(batch: int) -> tuple[TracedModel, dict[str, Any], dict[str, Run]]:
    """A ViT-Tiny at 224 pixels, random weights: 12 blocks of 197 tokens."""
    module = timm.create_model("vit_tiny_patch16_224").eval()
    pictures = torch.randn((batch, 3, 224, 224), generator=torch.Generator().manual_seed(0))

    def intermediates() -> list[Tensor]:
        _, found = module.forward_intermediates(pictures, output_fmt="NLC", return_prefix_tokens=True)
        return [mean(torch.cat([prefix, tokens], 1), None) for tokens, prefix in found]

    model = TimmAdapter().wrap(module, "vit_tiny_patch16_224")
    return model, {"x": pictures}, {"timm forward_intermediates": intermediates}


def minilm(batch: int) -> tuple[TracedModel, dict[str, Any], dict[str, Run]]:
    """The real all-MiniLM-L6-v2: 6 blocks, texts of 24 to 64 tokens, padded."""
    model = repdyn.load("packaged:all-MiniLM-L6-v2")
    texts = [" ".join(["word"] * int(count)) for count in np.linspace(22, 62, batch)]
    inputs = model.prepare(texts)

    def hidden_states() -> list[Tensor]:
        found = model.module(**inputs, output_hidden_states=True).hidden_states[1:]
        return [mean(state, inputs["attention_mask"]) for state in found]

    return model, inputs, {"HF output_hidden_states": hidden_states}


def mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over tokens, as all of the rivals pool."""
    if mask is None:
        return values.mean(1)
    real = mask.unsqueeze(-1).to(values.dtype)
    return (values * real).sum(1) / real.sum(1)


def peers(module: nn.Module, blocks: list[str], inputs: dict[str, Any]) -> dict[str, Run]:
    """The same blocks, pooled the same, by what others offer; each on a copy of the model."""
    import nnsight

    # It warns of every module whose part is called as one of its own attributes is.
    warnings.filterwarnings("ignore", message=".*which nnsight already serves.*")
    mask = inputs.get("attention_mask")
    watched = nnsight.NNsight(copy.deepcopy(module))
    seen = [watched.get(name) for name in blocks]

    def hooks() -> list[Tensor]:
        found: list[Tensor] = []
        handles = [
            module.get_submodule(name).register_forward_hook(
                lambda _m, _a, out: found.append(mean(out[0] if isinstance(out, tuple) else out, mask))
            )
            for name in blocks
        ]
        try:
            module(**inputs)
        finally:
            for handle in handles:
                handle.remove()
        return found

    def nnsight_trace() -> Any:
        with watched.trace(**inputs):
            found = nnsight.save([mean(block.output, mask) for block in seen])
        return found  # noqa: RET504  (the body of the trace is rewritten by nnsight: no return in it)

    def nnsight_cache() -> Any:
        with watched.trace(**inputs) as tracer:
            cache = tracer.cache(modules=seen)
        return [mean(cache[f"model.{name}"].output, mask) for name in blocks]

    found: dict[str, Run] = {
        "plain hooks": hooks,
        "nnsight trace": nnsight_trace,
        "nnsight cache": nnsight_cache,
    }
    try:
        from torchvision.models.feature_extraction import create_feature_extractor

        graph = create_feature_extractor(copy.deepcopy(module), {name: name for name in blocks}).eval()
        found["torchvision fx"] = lambda: [mean(out, mask) for out in graph(**inputs).values()]
    except Exception as error:  # whatever fx cannot follow
        print(f"  torchvision fx: cannot trace {type(module).__name__} ({str(error).splitlines()[0][:60]})")
    return found


def seconds(run: Run) -> float:
    """Processor time of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def compare(model: TracedModel, inputs: dict[str, Any], own: dict[str, Run], pairs: int) -> dict[str, Any]:
    """Paired ratios to the bare forward pass of the same batch."""
    module = model.module
    blocks = [name for name in model.default_points if name in dict(module.named_modules())]
    given = inputs["input_ids" if "input_ids" in inputs else "x"]
    size, sample = len(given), given[0]
    prepared = inputs if "input_ids" in inputs else given
    passes = Passes(model, blocks, "mean", [sample], np.dtype(np.float32), None)
    runs: dict[str, Run] = {
        "repdyn": lambda: passes.run(prepared, size),
        **peers(module, blocks, inputs),
        **own,
    }

    def bare() -> object:
        return module(**inputs)

    ratios: dict[str, list[float]] = {name: [] for name in (*runs, "bare")}
    last = 0.0
    base = []
    with torch.inference_mode():
        for number in range(pairs + 1):
            last = seconds(bare)
            for name, run in {**runs, "bare": bare}.items():
                if name == "repdyn":
                    with passes:
                        taken = seconds(run)
                else:
                    taken = seconds(run)
                after = seconds(bare)
                if number:  # the first round warms caches and allocators up
                    ratios[name].append(taken / ((last + after) / 2))
                    base.append(after)
                last = after
    return {
        "model": model.name,
        "bare seconds": float(np.median(base)),
        "ratios": {name: median(values).to_dict() for name, values in ratios.items()},
    }


def queries(count: int) -> list[str]:
    """Random queries of CLINC150."""
    texts = [row["text"] for row in rows_of("clinc150")]
    chosen = np.random.default_rng(0).choice(len(texts), min(count, len(texts)), replace=False)
    return [texts[int(number)] for number in chosen]


def throughput(count: int, pairs: int) -> dict[str, Any]:
    """A trace against a loop that tokenizes and pads as the texts come, 32 at a time."""
    from transformers import AutoModel, AutoTokenizer

    from repdyn_adapters.packaged import _all_minilm_folder

    texts = queries(count)
    folder = _all_minilm_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    module = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    model = repdyn.load("packaged:all-MiniLM-L6-v2")

    def naive() -> list[np.ndarray]:
        found = []
        with torch.no_grad():
            for start in range(0, len(texts), NAIVE_BATCH):
                chosen = texts[start : start + NAIVE_BATCH]
                batch = tokenizer(chosen, padding=True, truncation=True, return_tensors="pt")
                states = module(**batch, output_hidden_states=True).hidden_states[1:]
                found.append(np.stack([mean(state, batch["attention_mask"]).numpy() for state in states]))
        return list(np.concatenate(found, axis=1))

    def traced() -> list[np.ndarray]:
        paths = repdyn.trace(model, texts, batch_size=NAIVE_BATCH)
        return [np.asarray(paths[name]) for name in paths.points]

    difference = max(float(np.abs(a - b).max()) for a, b in zip(naive(), traced(), strict=True))
    walls, processors, rates = [], [], []
    for _ in range(pairs):
        with timed() as theirs:
            naive()
        with timed() as ours:
            traced()
        walls.append(theirs["seconds"] / ours["seconds"])
        processors.append(theirs["processor seconds"] / ours["processor seconds"])
        rates.append(len(texts) / ours["processor seconds"])
    return {
        "texts": len(texts),
        "largest difference": difference,
        "wall": median(walls).to_dict(),
        "processor": median(processors).to_dict(),
        "texts per processor second": float(np.median(rates)),
    }


def peak_memory(count: int, joined: int) -> float:
    """Peak resident MiB of this process, which traces so many texts of so many joined queries to disk."""
    torch.set_num_threads(1)
    texts = queries(count)
    texts = [" ".join([text] * joined) for text in texts]
    model = repdyn.load("packaged:all-MiniLM-L6-v2")
    with tempfile.TemporaryDirectory() as folder:
        repdyn.trace(model, texts, out=Path(folder) / "a.paths")
    return peak_resident()


def memory() -> list[dict[str, Any]]:
    """Peak memory by number of samples, and by their length, each in a process of its own."""
    rows = []
    for count, joined in ((2_000, 1), (20_000, 1), (500, 1), (500, 8)):
        found = in_a_process(__file__, "--peak-of", count, "--joined", joined)
        print(f"{count:>7} texts of {joined} queries: {found}", flush=True)
        rows.append({"samples": count, "joined": joined, **found})
    return rows


def main() -> None:
    """Print the figures that the options name."""
    parser = parser_of(__doc__, "json")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--model", choices=["vit", "minilm"], help="one of the two")
    parser.add_argument("--throughput", type=int, metavar="TEXTS")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--joined", type=int, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if arguments.peak_of:
        print(json.dumps({"peak MiB": round(peak_memory(arguments.peak_of, arguments.joined))}))
        return
    if arguments.memory:
        result: Any = memory()
    elif arguments.throughput:
        result = throughput(arguments.throughput, arguments.pairs)
        print(json.dumps(result, indent=2))
    else:
        result = []
        for make in (make for make in (vit, minilm) if arguments.model in (None, make.__name__)):
            row = compare(*make(arguments.batch), arguments.pairs)
            result.append(row)
            print(f"{row['model']}, bare pass {row['bare seconds']:.2f} s")
            for name, ratio in row["ratios"].items():
                print(f"  {name:<28}{Estimate(**ratio)}", flush=True)
    keep(arguments.json, result)


if __name__ == "__main__":
    main()
