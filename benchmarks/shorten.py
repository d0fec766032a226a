"""Shortened networks beside other ways to leave out blocks: what is lost, what was expected, how fast.

    REPDYN_DATA=… python benchmarks/shorten.py --cache FOLDER [--models minilm-l6 …] [--seed 0]

A run of blocks is replaced by the map of :func:`repdyn.shorten`, which is fitted without labels. On the same
samples, in closed form and without training:

=================  =====================================================================================
dropped            the blocks are left out
rescaled           each channel is rescaled in a rotated basis (as LinearPatch, arXiv 2505.24680)
ghosted            ridge regression of what the blocks add on their input, no offset (arXiv 2605.15491)
least squares      an affine map of each token, hardly shrunk
=================  =====================================================================================

These four are run twice: on the blocks that repdyn chose, and on those whose input and output have the least
angle, the usual choice. The better of the two on the test samples stands in the table, to their advantage.
Work: perplexity of SmolLM2-135M on docstrings; a linear probe on CLINC150's intents; correlation with the
judgments of STS-B; the own head of a ResNet-20 on CIFAR-10. Differences are paired over test samples. The
expected loss was stated before the test samples were run; whether the two differ is judged with the interval
of both, because the test samples are few too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from harness import Rows, parser_of
from numpy.typing import NDArray
from scipy.linalg import hadamard
from scipy.stats import spearmanr
from stored_texts import rows_of, smollm2

import repdyn
from repdyn.intervals import Estimate, bootstrap, difference_interval
from repdyn.koopman.readout import LinearProbe
from repdyn.linalg import ridge
from repdyn.shortening import PointwiseMap, shorten
from repdyn.shortening.blocks import Block, Passthrough, blocks_of, replaceable, replaced
from repdyn.shortening.fitting import read_tokens
from repdyn.shortening.outputs import loss_between, outputs_of
from repdyn.shortening.settings import ShortenSettings
from repdyn.tracing import TracedModel

SOURCES = ("benchmarks/shorten.py", "repdyn/shortening")
SETTINGS = ShortenSettings()
OURS = "repdyn"
Real = NDArray[np.float64]


@dataclass(frozen=True)
class Work:
    """A model, samples to fit on, samples to test on, and the score of each test sample.

    Attributes
    ----------
    score
        Function from a model to one number for each test unit; their mean, or ``pooled`` of them, is the
        figure, and more is better.
    """

    load: Callable[[], TracedModel]
    fit: Sequence[Any]
    test: Sequence[Any]
    score: Callable[[TracedModel], Real]
    pooled: Callable[[Real], float]
    removed: tuple[int, ...]
    figure: str


def embeddings(model: TracedModel, samples: Sequence[Any]) -> Real:
    """Pooled output, ``(N, D)``."""
    return outputs_of(model, samples, 32).values


def mean(scores: Real) -> float:
    """The mean over samples."""
    return float(scores.mean())


def clinc(model: str, removed: tuple[int, ...], seed: int, fit: int, test: int) -> Work:
    """Intents by a linear probe on the whole model's embeddings of 2 000 other queries."""
    rows, draw = rows_of("clinc150"), np.random.default_rng(seed)
    train = [row for row in rows if row["split"] == "train"]
    train = [train[k] for k in draw.permutation(len(train))]
    held = [row for row in rows if row["split"] == "test" and not row["label"].startswith("oos")]
    held = [held[k] for k in draw.permutation(len(held))[:test]]
    probed = train[fit : fit + 2000]
    labels = np.array([row["label"] for row in held])
    probe: list[LinearProbe] = []

    def score(shortened: TracedModel) -> Real:
        if not probe:
            whole = embeddings(repdyn.load(model), [row["text"] for row in probed])
            probe.append(LinearProbe().fit(whole, np.array([row["label"] for row in probed]), seed=seed))
        found = embeddings(shortened, [row["text"] for row in held])
        return np.asarray(probe[0].predict(found) == labels, dtype=np.float64)

    return Work(
        lambda: repdyn.load(model),
        [row["text"] for row in train[:fit]],
        [row["text"] for row in held],
        score,
        mean,
        removed,
        "accuracy",
    )


def stsb(model: str, removed: tuple[int, ...], seed: int, fit: int, test: int) -> Work:
    """Rank correlation of the cosine of two sentences with people's judgment."""
    rows, draw = rows_of("stsb_en"), np.random.default_rng(seed)
    train = list(dict.fromkeys(row[side] for row in rows if row["split"] != "test" for side in "ab"))
    train = [train[k] for k in draw.permutation(len(train))[:fit]]
    held = [row for row in rows if row["split"] == "test"]
    held = [held[k] for k in draw.permutation(len(held))[:test]]
    judged = np.array([float(row["score"]) for row in held])

    def score(shortened: TracedModel) -> Real:
        one, other = (embeddings(shortened, [row[side] for row in held]) for side in "ab")
        sizes = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        return np.stack([(one * other).sum(axis=1) / sizes, judged], axis=1)

    def pooled(scores: Real) -> float:
        return float(spearmanr(scores[:, 0], scores[:, 1]).statistic)

    texts = [row[side] for row in held for side in "ab"]
    return Work(lambda: repdyn.load(model), train, texts, score, pooled, removed, "rank correlation")


def docstrings(removed: tuple[int, ...], seed: int, fit: int, test: int) -> Work:
    """Log perplexity of the first forty words of docstrings; of each sample ``-nll`` and its tokens."""
    from repdyn.cli.data import read_data

    texts = [" ".join(text.split()[:40]) for text in read_data("docstrings").inputs]
    texts = list(dict.fromkeys(text for text in texts if len(text.split()) >= 20))
    texts = [texts[k] for k in np.random.default_rng(seed).permutation(len(texts))[: fit + test]]

    def score(shortened: TracedModel) -> Real:
        return outputs_of(shortened, texts[fit:], 32).values * [-1.0, 1.0]

    def pooled(scores: Real) -> float:
        return float(scores[:, 0].sum() / scores[:, 1].sum())

    return Work(smollm2, texts[:fit], texts[fit:], score, pooled, removed, "minus log perplexity")


def resnet20(removed: tuple[int, ...], seed: int, fit: int, test: int) -> Work:
    """CIFAR-10 by the network's own head."""
    from cifar_networks import cifar_resnet
    from stored_pictures import labeled_jpegs

    opened, labels = labeled_jpegs("cifar10_jpeg", "_test")
    chosen = np.random.default_rng(seed).permutation(len(opened))[: fit + test]
    pictures, held = [np.asarray(opened[k]) for k in chosen], labels[chosen[fit:]]

    def score(shortened: TracedModel) -> Real:
        found = outputs_of(shortened, pictures[fit:], 64).values
        return np.asarray(found.argmax(axis=1) == held, dtype=np.float64)

    return Work(lambda: cifar_resnet(20), pictures[:fit], pictures[fit:], score, mean, removed, "accuracy")


L6, L3 = "packaged:all-MiniLM-L6-v2", "packaged:paraphrase-MiniLM-L3-v2"
WORK: dict[str, Callable[[int], Work]] = {
    "minilm-l3 clinc150": lambda seed: clinc(L3, (1, 2), seed, 1000, 1000),
    "minilm-l6 clinc150": lambda seed: clinc(L6, (1, 2, 3), seed, 1000, 1000),
    "minilm-l3 sts-b": lambda seed: stsb(L3, (1, 2), seed, 1000, 1000),
    "minilm-l6 sts-b": lambda seed: stsb(L6, (1, 2, 3), seed, 1000, 500),
    "resnet20 cifar-10": lambda seed: resnet20((1, 2, 3), seed, 600, 2000),
    "smollm2 docstrings": lambda seed: docstrings((3, 8, 12), seed, 100, 40),
}


def rotation(width: int) -> torch.Tensor:
    """An orthogonal matrix with entries of about one size: Hadamard's, times a random one for odd factors."""
    power = width & -width
    odd = np.linalg.qr(np.random.default_rng(0).standard_normal((width // power,) * 2))[0]
    return torch.from_numpy(np.kron(hadamard(power) / power**0.5, odd))


def map_of(block: Block, weight: torch.Tensor, bias: torch.Tensor | None = None) -> PointwiseMap:
    """``y = x + x W + b`` in place of a block."""
    found = PointwiseMap(block.width, 0, block.axis, block.packed)
    with torch.no_grad():
        found.weight.copy_(weight)
        if bias is not None:
            found.bias.copy_(bias)
    return found.requires_grad_(False).eval()


def rivals(x: torch.Tensor, y: torch.Tensor, block: Block) -> dict[str, torch.nn.Module]:
    """The other maps, from tokens that enter and leave a run."""
    x, y = x.double(), y.double()
    one = torch.eye(block.width, dtype=torch.float64)
    turn = rotation(block.width)
    size = (y @ turn).abs().mean(dim=0) / (x @ turn).abs().mean(dim=0)
    mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
    unit = float(x.square().sum()) / block.width
    least = ridge(x - mean_x, y - mean_y, 1e-10 * unit)
    return {
        "dropped": Passthrough(block.packed),
        "rescaled": map_of(block, turn @ torch.diag(size) @ turn.T - one),
        "ghosted": map_of(block, ridge(x, y - x, 1e-4 * unit)),
        "least squares": map_of(block, least - one, mean_y - mean_x @ least),
    }


def angle(x: torch.Tensor, y: torch.Tensor) -> float:
    """Mean angle between what enters and what leaves."""
    return float(torch.arccos(torch.nn.functional.cosine_similarity(x, y, dim=1).clamp(-1, 1)).mean())


def usual_run(model: TracedModel, blocks: list[Block], count: int, samples: Sequence[Any]) -> list[Block]:
    """The run whose input and output have the least angle."""
    starts = replaceable(blocks, count)
    ends: dict[str, Block] = {}
    for start in starts:
        run = blocks[start : start + count]
        ends |= {f"{run[0].point}:input": run[0], run[-1].point: run[-1]}
    held = read_tokens(model, ends, samples[:64], torch.Generator().manual_seed(0), SETTINGS)
    found = {
        start: angle(held[f"{blocks[start].point}:input"], held[blocks[start + count - 1].point])
        for start in starts
    }
    best = min(found, key=lambda start: found[start])
    return blocks[best : best + count]


def seconds_of(models: Sequence[TracedModel], samples: Sequence[Any]) -> list[float]:
    """Median seconds of a pass, taken in turns."""
    inputs = [model.prepare(list(samples[:32])) for model in models]
    spent: list[list[float]] = [[] for _ in models]
    with torch.no_grad():
        for _ in range(7):
            for number, (model, given) in enumerate(zip(models, inputs)):
                began, run = time.perf_counter(), model.module
                run(**given) if isinstance(given, Mapping) else run(given)
                spent[number].append(time.perf_counter() - began)
    return [float(np.median(own)) for own in spent]


def cell(name: str, count: int, seed: int) -> dict[str, Any]:
    """One model, one number of blocks: all methods on the same samples."""
    work = WORK[name](seed)
    model = work.load()
    short = shorten(model, work.fit, count, seed=seed)
    blocks = blocks_of(model, work.fit[:2])
    numbers = {block.point: number for number, block in enumerate(blocks)}
    start = numbers[short.shortening.removed[0]]
    runs = [blocks[start : start + count], usual_run(model, blocks, count, work.fit)]
    if runs[0][0].point == runs[1][0].point:
        runs = runs[:1]
    true = outputs_of(model, work.test, 32)
    whole, ours = work.score(model), work.score(short.model)
    lost = loss_between(true, outputs_of(short.model, work.test, 32), seed)[0]
    scores: dict[str, list[Real]] = {}
    for run in runs:
        ends = {f"{run[0].point}:input": run[0], run[-1].point: run[-1]}
        held = read_tokens(model, ends, work.fit, torch.Generator().manual_seed(seed), SETTINGS)
        for method, stand_in in rivals(*(held[end] for end in ends), run[0]).items():
            scores.setdefault(method, []).append(work.score(replaced(model, run, stand_in)))
    table = {"whole": whole, OURS: ours}
    table |= {method: max(own, key=work.pooled) for method, own in scores.items()}
    ahead = {
        method: bootstrap(lambda a, b: work.pooled(a) - work.pooled(b), ours, own, seed=seed).to_dict()
        for method, own in table.items()
        if method not in ("whole", OURS)
    }
    slow, fast = seconds_of([model, short.model], work.fit)
    expected = short.shortening.expected
    return {
        "figure": work.figure,
        "removed": list(short.shortening.removed),
        "blocks": len(blocks),
        "map": short.shortening.map,
        "scores": {
            m: bootstrap(lambda own: work.pooled(own), own, seed=seed).to_dict() for m, own in table.items()
        },
        "ahead": ahead,
        "loss": short.shortening.loss,
        "expected": expected.to_dict(),
        "lost": lost.to_dict(),
        "within": bool(expected.low <= lost.value <= expected.high),
        "gap": difference_interval(lost, expected, 0.0).to_dict(),
        "faster": slow / fast,
        "samples": [len(work.fit), len(work.test)],
    }


def show(rows: Sequence[dict[str, Any]]) -> str:
    """The table, the cells that are ahead, and the expected losses."""
    lines, ahead, behind, within, equal = [], 0, 0, 0, 0
    for row in rows:
        share = f"{row['count']} of {row['blocks']} blocks"
        lines.append(
            f"{row['name']}, {share} ({row['removed'][0]} on), seed {row['seed']}: {row['figure']}, "
            f"{row['samples'][0]} samples to fit, {row['samples'][1]} to test"
        )
        for method, own in row["scores"].items():
            gap = row["ahead"].get(method)
            note = "" if gap is None else f"   repdyn more by {Estimate(**gap)}"
            lines.append(f"  {method:16}{Estimate(**own)}{note}")
        expected, lost = (Estimate(**row[name]) for name in ("expected", "lost"))
        gap = Estimate(**row["gap"])
        lines.append(f"  {row['loss']}: expected {expected}, lost {lost}, more by {gap}")
        lines.append(f"  {row['faster']:.2f} times as fast; {row['map']}")
        ahead += all(own["value"] > 0 for own in row["ahead"].values())
        behind += any(own["high"] < 0 for own in row["ahead"].values())
        within += row["within"]
        equal += gap.low <= 0 <= gap.high
    lines.append(
        f"ahead of all others in {ahead} of {len(rows)} cells, behind one by more than its interval in "
        f"{behind}; lost within the expected interval in {within} of {len(rows)}, not shown to differ in "
        f"{equal}"
    )
    return "\n".join(lines)


def main() -> None:
    """Run the cells that have not been run, then print the table."""
    parser = parser_of(__doc__, "cache", "seed")
    parser.add_argument("--models", nargs="*", choices=list(WORK), default=list(WORK))
    arguments = parser.parse_args()
    kept = Rows(arguments.cache / "shorten.jsonl", ("name", "count", "seed"), SOURCES)
    done = []
    for name in arguments.models:
        for count in WORK[name](arguments.seed).removed:
            row = kept.once(
                name, count, arguments.seed, make=lambda n=name, c=count: cell(n, c, arguments.seed)
            )
            done.append(row)
            print(show([row]), flush=True)
    print("\n" + show(done))


if __name__ == "__main__":
    main()
