"""Data to try repdyn on without a download: texts and planted sets with known answers."""

from __future__ import annotations

from repdyn.datasets.corpus import (
    Corpus,
    code_snippets,
    documentation_corpus,
    letter_statistics,
    shuffled_characters,
)

__all__ = [
    "Corpus",
    "code_snippets",
    "documentation_corpus",
    "letter_statistics",
    "shuffled_characters",
]
