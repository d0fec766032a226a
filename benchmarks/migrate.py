"""Change of the embedding model of an index: how much of a full re-embedding a translated index keeps.

    python benchmarks/migrate.py --cache CACHE --out migrate.jsonl [--models minilm-l6:minilm-l3 …] [--sets …]

The index holds documents under the old model. Queries come from the new model. Each way makes new vectors of
the old ones; nDCG@10 and recall@10 are given as a share of those of the index embedded again:

- ``nothing``: the old vectors are searched as they are (where widths agree), and ``random``: by chance;
- ``ridge``, ``Procrustes`` with 100, 500, 2000 pairs (documents embedded again);
- ``repdyn`` with 0, 20, 100, 500 pairs, and other texts that only the new model reads, with its decision.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from harness import Rows, parser_of, table
from migrate_data import SETS, embedded, read_set
from numpy.typing import NDArray

import repdyn
from repdyn.intervals import ratio_interval
from repdyn.migration import Migration, documents_found
from repdyn.translation import LinearTranslation, fit_orthogonal, fit_ridge

MODELS = ("minilm-l6:minilm-l3", "minilm-l3:minilm-l6", "wordllama:minilm-l6")
FITTED = (100, 500, 2000)
SEARCHED = (0, 20, 100, 500)
SOURCES = ("benchmarks/migrate.py", "benchmarks/migrate_data.py", "repdyn/migration", "repdyn/translation")
CUT = 10

Floats = NDArray[np.floating[Any]]


def scores(index: Floats, queries: Floats, relevant: list[list[int]]) -> tuple[Floats, Floats]:
    """nDCG@10 and recall@10 of each query, by cosine; relevance is one or zero."""
    unit = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (index, queries)]
    nearest = np.argsort(-(unit[1] @ unit[0].T), axis=1, kind="stable")[:, :CUT]
    gains = 1 / np.log2(np.arange(2, CUT + 2))
    ndcg, recall = [], []
    for row, answers in zip(nearest, relevant):
        hit = np.isin(row, answers)
        most = min(CUT, len(answers))
        ndcg.append((hit * gains).sum() / gains[:most].sum() if most else 0.0)
        recall.append(hit.sum() / most if most else 0.0)
    return np.array(ndcg), np.array(recall)


def ways(
    old: Floats, again: Floats, others: Floats, queries: Floats
) -> Iterator[tuple[str, int, Callable[[], Any]]]:
    """Name, number of pairs, and what gives the new vectors of the index."""
    generator = np.random.default_rng(0)
    order = generator.permutation(len(old))
    if old.shape[1] == again.shape[1]:
        yield "nothing", 0, lambda: old
    yield "random", 0, lambda: generator.normal(size=again.shape)
    for count in FITTED:
        if count <= len(old):
            chosen = order[:count]
            yield "ridge", count, lambda chosen=chosen: fit_ridge(old[chosen], again[chosen])
            yield "Procrustes", count, lambda chosen=chosen: fit_orthogonal(old[chosen], again[chosen])
    for count in SEARCHED:
        if count <= len(old):
            chosen = order[:count]
            new = np.concatenate([again[chosen], others])
            pairs = np.stack([chosen, np.arange(count)], axis=1) if count else None
            yield "repdyn", count, lambda new=new, pairs=pairs: repdyn.migrate(old, new, pairs=pairs)


def measured(models: str, name: str, cache: Path, rows: Rows, least: int, most: int) -> None:
    """All ways of one set and two models; a row each."""
    before, after = models.split(":")
    read = read_set(name)
    answered = [k for k, answers in enumerate(read.relevant) if answers]
    relevant = [read.relevant[k] for k in answered]
    old = embedded(name, before, "index", cache)
    again, others = (embedded(name, after, part, cache) for part in ("index", "others"))
    queries = embedded(name, after, "queries", cache)[answered]
    full = scores(again, queries, relevant)
    stays = scores(old, embedded(name, before, "queries", cache)[answered], relevant)
    for way, pairs, make in ways(old, again, others, queries):
        if not least <= pairs <= most or rows.get(models, name, way, pairs) is not None:
            continue
        begun = time.perf_counter()
        made = make()
        wall = time.perf_counter() - begun
        row: dict[str, Any] = {"models": models, "set": name, "way": way, "pairs": pairs, "seconds": wall}
        if isinstance(made, Migration):
            row |= {"decision": made.decision, "verdict": made.translation.verdict, "map": made.map}
            row["found"] = {key: value.to_dict() for key, value in made.found.items()}
        moved = made(old) if isinstance(made, Migration | LinearTranslation) else made
        for figure, own, whole, stay in zip(
            ("ndcg", "recall"), scores(moved, queries, relevant), full, stays
        ):
            row[figure] = ratio_interval(own, whole).to_dict()
            row[f"{figure} embedded again"] = float(whole.mean())
            row[f"{figure} old model"] = float(stay.mean())
        rows.add(row)
        shown = row["ndcg"]
        print(
            f"{models} {name} {way} {pairs}: nDCG {shown['value']:.2f} "
            f"[{shown['low']:.2f}, {shown['high']:.2f}] of {row['ndcg embedded again']:.2f} "
            f"{row.get('decision', '')} {wall:.0f} s",
            flush=True,
        )


def calibrate(models: str, name: str, cache: Path, held_out: int = 150) -> None:
    """Share of held-out documents that are found beside the nDCG of the queries: a line for each map."""
    before, after = models.split(":")
    read = read_set(name)
    answered = [k for k, answers in enumerate(read.relevant) if answers]
    old, again = (embedded(name, model, "index", cache) for model in (before, after))
    queries = embedded(name, after, "queries", cache)[answered]
    relevant = [read.relevant[k] for k in answered]
    full = scores(again, queries, relevant)[0].mean()
    order = np.random.default_rng(1).permutation(len(old))
    test = order[-held_out:]
    for fit in (fit_ridge, fit_orthogonal):
        for count in (30, 70, 150, 350, 700):
            moved = fit(old[order[:count]], again[order[:count]])(old)
            share = scores(moved, queries, relevant)[0].mean() / full
            found = documents_found(moved, again[test], test).mean()
            print(models, name, fit.__name__, count, f"nDCG share {share:.2f} found {found:.2f}", flush=True)


def guiding(models: str, name: str, cache: Path) -> None:
    """Ridge on the pairs beside the search that they guide: held-out documents found, and nDCG of queries."""
    before, after = models.split(":")
    read = read_set(name)
    answered = [k for k, answers in enumerate(read.relevant) if answers]
    relevant = [read.relevant[k] for k in answered]
    old = embedded(name, before, "index", cache).astype(float)
    again, others = (embedded(name, after, part, cache).astype(float) for part in ("index", "others"))
    queries = embedded(name, after, "queries", cache)[answered]
    full = scores(again, queries, relevant)[0].mean()
    order = np.random.default_rng(7).permutation(len(old))
    for count in (100, 200, 500):
        new = np.concatenate([again[order[:count]], others])
        known = np.stack([order[:count], np.arange(count)], axis=1)
        test, train = known[: int(0.3 * count)], known[int(0.3 * count) :]
        fitted = fit_ridge(old[train[:, 0]], new[train[:, 1]])
        searched = repdyn.translate(old, new, pairs=train)
        found = [documents_found(t(old), new[test[:, 1]], test[:, 0]).mean() for t in (fitted, searched)]
        final = fit_ridge(old[known[:, 0]], new[known[:, 1]])
        kept = [scores(t(old), queries, relevant)[0].mean() / full for t in (final, searched)]
        print(
            f"{models} {name} {count}: found ridge {found[0]:.2f} search {found[1]:.2f}, "
            f"nDCG share ridge {kept[0]:.2f} search {kept[1]:.2f}",
            flush=True,
        )


def main() -> None:
    """Measure what is missing, then print the table."""
    parser = parser_of(__doc__, "cache", "out")
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--sets", nargs="*", default=SETS)
    parser.add_argument("--least-pairs", type=int, default=0)
    parser.add_argument("--most-pairs", type=int, default=10**9)
    parser.add_argument("--calibrate", action="store_true", help="print what held-out documents say instead")
    parser.add_argument("--guiding", action="store_true", help="print ridge beside the search instead")
    given = parser.parse_args()
    if given.calibrate or given.guiding:
        for models in given.models:
            for name in given.sets:
                (calibrate if given.calibrate else guiding)(models, name, given.cache)
        return
    rows = Rows(given.out, ("models", "set", "way", "pairs"), SOURCES)
    for models in given.models:
        for name in given.sets:
            measured(models, name, given.cache, rows, given.least_pairs, given.most_pairs)
    for figure in ("ndcg", "recall"):
        print(f"\n{figure}@10, share of the index embedded again")
        cells = sorted({(row["way"], row["pairs"]) for row in rows})
        lines = []
        for models in given.models:
            for name in given.sets:
                line = [models, name]
                for way, pairs in cells:
                    row = rows.get(models, name, way, pairs)
                    line.append("" if row is None else f"{row[figure]['value']:.2f}" + _mark(row))
                lines.append(line)
        print(table(["models", "set", *(f"{way} {pairs}" for way, pairs in cells)], lines))


def _mark(row: dict[str, Any]) -> str:
    """What repdyn decided: ``+`` migrate, ``=`` keep the vectors, ``-`` embed again."""
    return {"migrate": "+", "keep the vectors": "=", "embed again": "-"}.get(row.get("decision", ""), "")


if __name__ == "__main__":
    main()
