"""What SmolLM2-135M says next after a token has got the static part of another token's path.

    python benchmarks/disentangle_token_swaps.py --cache FOLDER [--seeds 2]

Paths, training tokens and settings of SKD are those of ``disentangle_tokens.py``, and so is the folder. For
each test query, one token after the first is drawn, and another such token of another query, with another
identity, is its donor. The query ends at the token, so that the network's logits are those of what follows
it. The state of the token at one point is changed, and the network runs on from there.

Replaced: the state is what the decoder makes of latents.

- reconstruction: of the token's own latents;
- static part: of the latents with the donor's static part;
- random direction: the reconstruction, moved as far as by the static part, in a random direction;
- donor: the donor's own state, whole.

Added: the state keeps what the autoencoder does not explain, and only moves. All steps have the length by
which the donor's static part moves the reconstruction; the other splits of the same rank, the dynamic part
and the donor's state give directions only.

KL(unchanged || changed) is in nats. ``toward`` is by how much the changed network is nearer to what the
network says after the donor, in KL(donor || .); negative is away. Intervals are over queries.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from disentangle_paths import HIDDEN, LATENTS, PLAN, STATIC
from disentangle_tokens import language_model, queries, tokens
from harness import mean_of, once_json, parser_of
from numpy.typing import NDArray

from repdyn.disentangle import SKD
from repdyn.disentangle.depth import rank_splits
from repdyn.disentangle.swaps import exchange
from repdyn.intervals import bootstrap_mean
from repdyn.paths import RepresentationPaths
from repdyn.tracing import TracedModel

SOURCES = ("benchmarks/disentangle_token_swaps.py", "benchmarks/disentangle_tokens.py", "repdyn/disentangle")
POINTS = ("layers.5", "layers.14", "layers.23")
REPLACED = ("reconstruction", "static part", "random direction", "donor")
ADDED = ("static part", "dynamic part", "random direction", "mean components", "random split", "donor")
PAIRS = (  # of which the difference of KL(unchanged || changed) is reported
    ("replaced: static part", "replaced: reconstruction"),
    ("replaced: static part", "replaced: random direction"),
    ("added: static part", "added: random direction"),
    ("added: static part", "added: mean components"),
    ("added: static part", "added: random split"),
    ("added: static part", "added: dynamic part"),
    ("added: static part", "added: donor"),
)
_BATCH = 30  # queries that run on at a time
Array = NDArray[np.float32]


def main() -> None:
    """Run what has not been run, then print all."""
    arguments = parser_of(__doc__, "cache", seeds=2).parse_args()
    runs = [
        once_json(
            arguments.cache / f"disentangle-token-swaps-{seed}.json",
            partial(run, arguments.cache, seed),
            SOURCES,
        )
        for seed in range(arguments.seeds)
    ]
    print(table(runs))


def run(cache: Path, seed: int) -> dict[str, Any]:
    """One fit, and what its swaps do to the next token."""
    train, test = (RepresentationPaths.from_arrays(tokens(part, cache)[0]) for part in ("train", "test"))
    model = SKD(STATIC, LATENTS, HIDDEN).fit(train, seed=seed, **PLAN)
    network = Continued(language_model(), queries("test")[0], seed)
    network.check(test)
    donors, own = network.donors, test.subset(network.receivers)
    splits = rank_splits(model, train, own, seed)
    frames, points = model.frames_, test.points
    assert frames is not None
    found: dict[str, Any] = {"swaps": len(donors), "points": {}}

    for point in POINTS:
        depth, x = points.index(point), np.asarray(own[point])

        def shown(z: Array, depth: int = depth) -> Array:
            return np.asarray(frames.lower(torch.from_numpy(model.decode(z)[:, depth]), depth).numpy())

        before, moved = shown(splits["spectral"].latents), {}
        for name, split, part in (
            ("static part", "spectral", "static"),
            ("dynamic part", "spectral", "dynamic"),
            ("mean components", "mean components", "static"),
            ("random split", "random", "static"),
        ):
            parts = splits[split]
            moved[name] = shown(exchange(parts, parts.take(donors), part)[0]) - before
        moved["donor"] = x[donors] - x
        moved["random direction"] = np.random.default_rng(seed).standard_normal(x.shape).astype(np.float32)
        length = np.linalg.norm(moved["static part"], axis=1, keepdims=True)
        steps = {name: by / np.linalg.norm(by, axis=1, keepdims=True) * length for name, by in moved.items()}
        states = {
            "replaced: reconstruction": before,
            "replaced: static part": before + moved["static part"],
            "replaced: random direction": before + steps["random direction"],
            "replaced: donor": x[donors],
            **{f"added: {name}": x + steps[name] for name in ADDED},
        }
        clean = network.unchanged
        changes = {name: effects(clean, clean[donors], network(point, new)) for name, new in states.items()}
        found["points"][point] = {
            "lengths": {
                name: float(np.median(np.linalg.norm(by, axis=1) / np.linalg.norm(x - x.mean(0), axis=1)))
                for name, by in (moved | {"reconstruction's error": before - x}).items()
                if name != "random direction"
            },
            "changes": {
                name: {what: bootstrap_mean(values, seed=seed).to_dict() for what, values in change.items()}
                | {"median": float(np.median(change["kl"]))}
                for name, change in changes.items()
            },
            "differences": {
                f"{one} - {other}": bootstrap_mean(
                    changes[one]["kl"] - changes[other]["kl"], seed=seed
                ).to_dict()
                for one, other in PAIRS
            },
        }
    return found


class Continued:
    """The language model from a point on, with the state of one token of each query replaced."""

    def __init__(self, model: TracedModel, texts: list[str], seed: int) -> None:
        self.model, prepared = model, model.prepare(texts)
        mask = np.asarray(prepared["attention_mask"]).astype(bool)
        query, column = mask.nonzero()
        later = np.flatnonzero((np.cumsum(mask, axis=1) - 1)[mask] > 0)
        query, column = query[later], column[later]
        self.receivers, self.donors = partners(query, np.asarray(prepared["input_ids"])[mask][later], seed)
        self._ends = column[self.receivers]
        # Queries of similar length together; each ends at its token.
        order = np.argsort(self._ends, kind="stable")
        self._batches, self._kept = [], []
        logits = torch.empty(0)
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            width = int(self._ends[rows].max()) + 1
            ended = np.arange(width) <= self._ends[rows][:, None]
            batch = {
                **prepared,
                "input_ids": prepared["input_ids"][rows, :width],
                "attention_mask": torch.from_numpy(mask[rows, :width] & ended).to(
                    prepared["attention_mask"].dtype
                ),
            }
            kept: dict[str, torch.Tensor] = {}
            keep = {point: partial(_keep, kept, point) for point in POINTS}
            with torch.no_grad():
                found = model.patched(keep)(batch)
            logits = logits if len(logits) else torch.empty(len(order), found.shape[1])
            logits[torch.from_numpy(rows)] = found
            self._batches.append((rows, batch))
            self._kept.append(kept)
        self.unchanged = log_probabilities(logits)

    def check(self, paths: RepresentationPaths) -> None:
        """Stop if the states of the tokens are not those of the stored paths."""
        for point in POINTS:
            stored = np.asarray(paths[point])[self.receivers]
            for (rows, _), kept in zip(self._batches, self._kept):
                here = kept[point][range(len(rows)), self._ends[rows]].numpy()
                if np.abs(here - stored[rows]).max() > 1e-3 * np.abs(stored).max():
                    raise SystemExit(f"{point}: the stored paths are of other tokens; remove them")

    @torch.no_grad()
    def __call__(self, point: str, states: Array) -> NDArray[np.float64]:
        """Logarithms of the probabilities of the next token ``(N, vocabulary)``, from ``(N, width)``."""
        logits = torch.empty(self.unchanged.shape)
        for (rows, batch), kept in zip(self._batches, self._kept):
            x = kept[point].clone()
            x[range(len(rows)), self._ends[rows]] = torch.from_numpy(states[rows])
            logits[torch.from_numpy(rows)] = self.model.run_from(point, x, batch)
        return log_probabilities(logits)


def _keep(kept: dict[str, torch.Tensor], point: str, x: torch.Tensor) -> torch.Tensor:
    kept[point] = x
    return x


def partners(
    query: NDArray[np.int64], identity: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One random token of each query, as rows; and for each the place among them of another identity's."""
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(len(query))
    receivers = shuffled[np.unique(query[shuffled], return_index=True)[1]]
    # In an order with equal identities side by side, a step by the largest group reaches another one.
    _, group, counts = np.unique(identity[receivers], return_inverse=True, return_counts=True)
    if counts.max() * 2 > len(receivers):
        raise SystemExit("more than half of the drawn tokens are the same one; there are no donors for it")
    order = np.argsort(generator.permutation(len(counts))[group], kind="stable")
    donors = np.empty(len(order), dtype=np.int64)
    donors[order] = np.roll(order, counts.max())
    return receivers, donors


def log_probabilities(logits: torch.Tensor) -> NDArray[np.float64]:
    """In float64, since divergences are differences of them."""
    return np.asarray(torch.log_softmax(logits.double(), dim=1).numpy())


def effects(
    unchanged: NDArray[np.float64], donor: NDArray[np.float64], changed: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """What a change does to each next-token distribution; all are logarithms ``(N, vocabulary)``."""
    best = changed.argmax(axis=1)
    return {
        "kl": divergence(unchanged, changed),
        "kept": (best == unchanged.argmax(axis=1)).astype(float),
        "donor": (best == donor.argmax(axis=1)).astype(float),
        "toward": divergence(donor, unchanged) - divergence(donor, changed),
    }


def divergence(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL(p || q) in nats ``(N,)``, from logarithms."""
    return np.asarray((np.exp(p) * (p - q)).sum(axis=1))


def table(runs: list[dict[str, Any]]) -> str:
    """Everything, mean over seeds."""
    lines = [f"{runs[0]['swaps']} swaps, one token of each query, {len(runs)} seeds"]
    for point, first in runs[0]["points"].items():
        of = [one["points"][point] for one in runs]
        lengths = {name: np.mean([one["lengths"][name] for one in of]) for name in first["lengths"]}
        lines += [
            f"\n{point}; lengths relative to the state's distance from the mean, medians: "
            + ", ".join(f"{name} {value:.2f}" for name, value in lengths.items()),
            f"  {'':<28}{'KL, nats':>24}{'median':>8}{'same token':>24}{'donor’s token':>24}{'toward':>24}",
        ]
        for name in first["changes"]:
            rows = [one["changes"][name] for one in of]
            kl, *rest = (
                f"{mean_of([row[what] for row in rows])!r:>24}" for what in ("kl", "kept", "donor", "toward")
            )
            median = np.mean([row["median"] for row in rows])
            lines.append(f"  {name:<28}{kl}{median:>8.3f}{''.join(rest)}")
        lines.append("  differences of KL:")
        for name in first["differences"]:
            lines.append(f"    {name:<56}{mean_of([one['differences'][name] for one in of])}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
