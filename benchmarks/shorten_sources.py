"""Why a shortened model loses more on STS-B's test sentences than was expected: they have other sources.

    python benchmarks/shorten_sources.py --cache FOLDER [--seeds 3] [--models minilm-l3 …]

STS-B's rows are in the order of their sources, which the sizes of its parts give: video captions, picture
captions, statements of SNLI, answers in forums, news, headlines. The answers are of ``answers-forums`` in the
development part and of ``answer-answer`` in the test part. ``repdyn.shorten`` is fitted to 1 000 sentences of
the development part, as in ``benchmarks/shorten.py``, or to 1 000 of both parts together. The loss that it
expects is compared with that on all sentences of either part that it was not given, and of each source.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from harness import Rows, parser_of
from shorten import L3, L6
from stored_texts import rows_of

import repdyn
from repdyn.shortening import shorten
from repdyn.shortening.outputs import Outputs, mean_loss, outputs_of
from repdyn.tracing import TracedModel

SOURCES = ("benchmarks/shorten_sources.py", "repdyn/shortening")
GIVEN = 1000
ORDER = {
    "dev": {
        "videos": 250,
        "pictures": 250,
        "SNLI": 125,
        "answers-forums": 375,
        "news": 250,
        "headlines": 250,
    },
    "test": {
        "videos": 250,
        "pictures": 250,
        "SNLI": 125,
        "answer-answer": 254,
        "news": 250,
        "headlines": 250,
    },
}
MODELS = {"minilm-l3": (L3, (1, 2)), "minilm-l6": (L6, (1, 2, 3))}


def sentences() -> dict[str, tuple[str, str]]:
    """Part and source of each sentence; one that occurs twice has its first."""
    found: dict[str, tuple[str, str]] = {}
    for part, sizes in ORDER.items():
        rows = [row for row in rows_of("stsb_en") if row["split"] == part]
        names = np.repeat(list(sizes), list(sizes.values()))
        for row, name in zip(rows, names, strict=True):
            for side in "ab":
                found.setdefault(row[side], (part, str(name)))
    return found


def cell(model: TracedModel, true: Outputs, parts: str, count: int, seed: int) -> dict[str, Any]:
    """A fit to sentences of some parts, its expected loss, and the loss on all others."""
    known = sentences()
    texts = list(known)
    own = [row for row, text in enumerate(texts) if known[text][0] in parts.split("+")]
    given = np.random.default_rng(seed).permutation(own)[:GIVEN]
    short = shorten(model, [texts[row] for row in given], count, seed=seed)
    changed = outputs_of(short.model, texts, 32)
    rest = np.setdiff1d(np.arange(len(texts)), given)
    groups: dict[str, list[int]] = {}
    for row in rest:
        part, source = known[texts[row]]
        for name in (part, f"{part}, {source}", "both"):
            groups.setdefault(name, []).append(row)

    def loss(rows: list[int]) -> float:
        return mean_loss(Outputs(true.kind, true.values[rows]), Outputs(true.kind, changed.values[rows]))

    expected = short.shortening.expected
    return {
        "expected": [expected.value, expected.low, expected.high],
        "lost": {name: [loss(rows), len(rows)] for name, rows in sorted(groups.items())},
        "removed": list(short.shortening.removed),
    }


def main() -> None:
    """Run what has not been run, then print it."""
    parser = parser_of(__doc__, "cache", "seeds")
    parser.add_argument("--models", nargs="*", choices=list(MODELS), default=list(MODELS))
    arguments = parser.parse_args()
    kept = Rows(arguments.cache / "shorten_sources.jsonl", ("name", "parts", "count", "seed"), SOURCES)
    for name in arguments.models:
        path, counts = MODELS[name]
        model = repdyn.load(path)
        true = outputs_of(model, list(sentences()), 32)
        cells = [(p, n, s) for s in range(arguments.seeds) for p in ("dev", "dev+test") for n in counts]
        for parts, count, seed in cells:
            make = partial(cell, model, true, parts, count, seed)
            row = kept.once(name, parts, count, seed, make=make)
            low, high = row["expected"][1:]
            lost = {
                key: f"{own:.3f}{'' if low <= own <= high else '*'}" for key, (own, _) in row["lost"].items()
            }
            print(
                f"{name}, {count} blocks, fitted to {parts}, seed {seed}: expected {row['expected'][0]:.3f} "
                f"[{low:.3f}, {high:.3f}], lost " + "; ".join(f"{key} {own}" for key, own in lost.items()),
                flush=True,
            )


if __name__ == "__main__":
    main()
