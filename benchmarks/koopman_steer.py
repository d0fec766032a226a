"""Steering by fitted linear dynamics: the least-energy direction, beside the mean difference of classes.

    REPDYN_DATA=… python benchmarks/koopman_steer.py --cache FOLDER [--models minilm-l6 …] [--pairs 4]

Queries of one intent of CLINC150 are steered towards another one. The output is the last point along the
difference of the two class means there, found on training queries. At each depth a direction of unit length
is added to the running model (``patched``): at every token where the model pools the mean, else at the last
one. Directions, all from training queries:

================  =========================================================================================
least energy      ``gain(model, paths, readout=…).strongest``, from maps of single tokens
mean difference   of the two classes at that depth, of pooled representations
true gradient     mean over queries of the gradient of the output, by the model itself
random            a random direction
================  =========================================================================================

Printed per depth, mean over pairs of intents: the rise of the output for a push of 2 % of a token's length,
relative to that of the true gradient; and the share of test queries of the first intent that lie nearer to
the second one's mean, along the difference of means, after a push of 30 %.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from harness import over_seeds, parser_of
from koopman_models import SETTINGS, load
from numpy.typing import NDArray
from stored_texts import queries, rows_of
from torch import Tensor

import repdyn
from repdyn.koopman import gain
from repdyn.tracing import TracedModel

MODELS = ("minilm-l3", "minilm-l6", "smollm2")
WAYS = ("least energy", "mean difference", "true gradient", "random")
SMALL, LARGE = 0.02, 0.3  # of the median length of a token at that depth
Real = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """Training and test queries of two intents."""

    names: tuple[str, str]
    train: tuple[list[str], list[str]]
    test: list[str]


def pairs(count: int) -> list[Pair]:
    """Random pairs of intents, always the same."""
    rows = [row for row in rows_of("clinc150") if row["split"] in ("train", "test")]
    names = sorted({row["label"] for row in rows})
    drawn = np.random.default_rng(0).permutation(len(names))[: 2 * count].reshape(count, 2)

    def texts(name: str, split: str) -> list[str]:
        return [row["text"] for row in rows if (row["label"], row["split"]) == (name, split)]

    found = []
    for one, other in drawn:
        both = names[one], names[other]
        found.append(Pair(both, (texts(both[0], "train"), texts(both[1], "train")), texts(both[0], "test")))
    return found


class Steered:
    """A model whose pooled last point is read while directions are added to an earlier one."""

    def __init__(self, model: TracedModel, points: Sequence[str]) -> None:
        self.model, self.points = model, tuple(points)

    def last(self, texts: Sequence[str], point: str = "", push: Real | Tensor | None = None) -> Tensor:
        """Pooled last point ``(N, D)`` with ``push`` added to ``point``."""
        given = self.model.prepare(list(texts))
        mask = given["attention_mask"].double()
        held: list[Tensor] = []
        end = self.model.module.get_submodule(self.model.points[self.points[-1]].module)
        hook = end.register_forward_hook(
            lambda _, __, out: held.append(out if torch.is_tensor(out) else out[0])
        )
        added = {} if push is None else {point: self._adds(torch.as_tensor(push), mask)}
        try:
            self.model.patched(added)(given)
        finally:
            hook.remove()
        return self._pooled(held[-1].double(), mask)

    def _last_token(self, mask: Tensor) -> Tensor:
        return (mask * torch.arange(1, mask.shape[1] + 1)).argmax(dim=1)

    def _pooled(self, tokens: Tensor, mask: Tensor) -> Tensor:
        if self.model.pooling == "last":
            return tokens[torch.arange(len(tokens)), self._last_token(mask)]
        return (tokens * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)

    def _adds(self, push: Tensor, mask: Tensor) -> Callable[[Tensor], Tensor]:
        """A function that adds a direction where the model pools."""
        where = torch.ones_like(mask)
        if self.model.pooling == "last":
            where = torch.nn.functional.one_hot(self._last_token(mask), mask.shape[1]).double()

        def add(tokens: Tensor) -> Tensor:
            return tokens + (where[..., None] * push).to(tokens.dtype)

        return add

    def gradient(self, texts: Sequence[str], point: str, readout: Tensor) -> Real:
        """Mean gradient of the output for a push at a point."""
        width = self.model.read(texts[:1], [point])[point].shape[1]
        push = torch.zeros(width, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad((self.last(texts, point, push) @ readout).mean(), push)
        return slope.numpy()


def unit(x: Real) -> Real:
    """A vector of length one."""
    found: Real = x / np.linalg.norm(x)
    return found


def steer(steered: Steered, paths: Any, pair: Pair) -> dict[str, dict[str, list[float]]]:
    """Rise and share for each way and depth."""
    model, points = steered.model, steered.points
    means = []
    for texts in pair.train:
        parts = [model.read(texts[k : k + 25], list(points)) for k in range(0, len(texts), 25)]
        means.append({p: np.concatenate([np.asarray(own[p]) for own in parts]).mean(axis=0) for p in points})
    gap = (means[1][points[-1]] - means[0][points[-1]]).astype(np.float64)
    readout = torch.from_numpy(unit(gap))
    middle = float(readout @ torch.from_numpy((means[0][points[-1]] + means[1][points[-1]]) / 2).double())
    least = gain(model, paths, readout=readout.numpy()).strongest
    tokens, draw = paths.tokens_as_samples(), np.random.default_rng(0)
    sizes = {p: float(np.median(np.linalg.norm(np.asarray(tokens[p][:2000]), axis=1))) for p in points[:-1]}
    before = steered.last(pair.test) @ readout
    found: dict[str, dict[str, list[float]]] = {way: {"rise": [], "share": []} for way in WAYS}
    for number, point in enumerate(points[:-1]):
        size = sizes[point]
        ways = {
            "least energy": least[number],
            "mean difference": unit((means[1][point] - means[0][point]).astype(np.float64)),
            "true gradient": unit(steered.gradient(pair.train[0][:24], point, readout)),
            "random": unit(draw.standard_normal(len(least[number]))),
        }
        for way, direction in ways.items():
            with torch.no_grad():
                small, large = (
                    steered.last(pair.test, point, by * size * direction) @ readout for by in (SMALL, LARGE)
                )
            found[way]["rise"].append(float((small - before).detach().mean()) / (SMALL * size))
            found[way]["share"].append(float((large > middle).double().mean()))
    return found


def main() -> None:
    """Trace what has not been traced, then print each model's table."""
    parser = parser_of(__doc__, "cache")
    parser.add_argument("--models", nargs="*", choices=MODELS, default=MODELS)
    parser.add_argument("--texts", type=int, default=1000, help="queries that maps are fitted to")
    parser.add_argument("--pairs", type=int, default=4, help="pairs of intents")
    given = parser.parse_args()
    for name in given.models:
        model = load(SETTINGS[name])
        points = ["embeddings", *model.default_points[:-1]] if name != "smollm2" else None
        store = given.cache / f"gain-{name}-none-{given.texts}.paths"
        texts = queries("train", given.texts)
        paths = repdyn.trace(model, texts, points=points, pool="none", out=store)
        steered = Steered(model, paths.points)
        rows = [steer(steered, paths, pair) for pair in pairs(given.pairs)]
        print(f"\n{name}, {given.pairs} pairs of intents: rise relative to the true gradient, share steered")
        print(f"  {'':20}" + "".join(f"{way:>34}" for way in WAYS))
        for number, point in enumerate(paths.points[:-1]):
            cells = []
            for way in WAYS:
                rise = over_seeds([r[way]["rise"][number] / r["true gradient"]["rise"][number] for r in rows])
                share = over_seeds([r[way]["share"][number] for r in rows])
                cells.append(f"{f'{rise}  {share.value:.2f}':>34}")
            print(f"  {point:20}" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
