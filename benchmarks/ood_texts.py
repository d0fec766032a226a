"""Texts for the out-of-distribution benchmark, setting C: queries in scope against real ones out of scope."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from ood_samples import Drawn, Setting, Traced, drawn, in_memory
from stored_texts import rows_of, smollm2

import repdyn

__all__ = ["SENTENCE_ENCODERS", "clinc", "queries", "traced_texts"]

LANGUAGE_MODEL = "SmolLM2-135M"
SENTENCE_ENCODERS = ("all-MiniLM-L6-v2", "paraphrase-MiniLM-L3-v2", LANGUAGE_MODEL)
POOL = {"train": 6000, "val": 1500, "test": 1500, "oos_test": 1000, "banking": 1500}
"""Texts of each part that the language model reads, always the same: a text takes it 50 milliseconds."""


def clinc(cache: Path, sizes: Mapping[str, int]) -> list[Setting]:
    """CLINC150 against its out-of-scope queries and Banking77, through each sentence encoder."""
    texts = queries()
    found = []
    for name in SENTENCE_ENCODERS:
        splits = {split: traced_texts(name, split, rows, cache) for split, rows in texts.items()}

        def draw(seed: int, splits: dict[str, Traced] = splits) -> Drawn:
            generator = np.random.default_rng(seed)
            fit = _some(splits["train"], int(0.8 * len(splits["train"].paths)), generator)
            calibration, test, banking, scope = (
                _some(splits[part], sizes["test"], generator)
                for part in ("val", "test", "banking", "oos_test")
            )
            return drawn(fit, calibration, test, {"out of scope": scope, "Banking77": banking})

        found.append(Setting(f"C {name}", draw))
    return found


def _some(traced: Traced, count: int, generator: np.random.Generator) -> Traced:
    return traced.take(np.sort(generator.permutation(len(traced.paths))[:count]))


def queries() -> dict[str, list[dict[str, str]]]:
    """Rows of both corpora by part: CLINC150's splits, and Banking77's test split."""
    splits: dict[str, list[dict[str, str]]] = {}
    for row in rows_of("clinc150"):
        splits.setdefault(row["split"], []).append(row)
    banking = [row for row in rows_of("banking77") if row["split"] == "test"]
    return {name: splits[name] for name in ("train", "val", "test", "oos_test")} | {"banking": banking}


def traced_texts(model: str, split: str, rows: list[dict[str, str]], cache: Path) -> Traced:
    """Paths of one part through one model; kept, and an interrupted trace goes on."""
    pool = "auto"
    if model == LANGUAGE_MODEL:
        encoder, pool = smollm2(), "mean"  # the last token of a query is its question mark
        points = ["embed_tokens", *encoder.default_points[9::7], encoder.default_points[-1]]
        chosen = np.random.default_rng(0).permutation(len(rows))[: POOL[split]]
        rows = sorted((rows[k] for k in chosen), key=lambda row: len(row["text"]))  # less padding
    else:
        encoder = repdyn.load(f"packaged:{model}")
        points = ["embeddings", *(point for point in encoder.default_points if point != encoder.final)]
    sentences, labels = [row["text"] for row in rows], [row["label"] for row in rows]
    out = cache / f"{model}-{split}-{len(rows)}.paths"
    paths = repdyn.trace(encoder, sentences, points=points, pool=pool, labels=labels, out=out, batch_size=64)
    lengths = np.array([[len(text), len(text.split())] for text in sentences], dtype=float)
    return Traced(in_memory(paths, labels), lengths)
