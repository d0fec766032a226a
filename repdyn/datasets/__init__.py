"""Data to try repdyn on without a download: texts and planted sets with known answers."""

from __future__ import annotations

from repdyn.datasets.corpus import (
    Corpus,
    code_snippets,
    documentation_corpus,
    letter_statistics,
    shuffled_characters,
)
from repdyn.datasets.planted import PLANTED, PlantedSet
from repdyn.datasets.sequences import LabeledSequences, air_quality, melodies
from repdyn.datasets.sprites import LabeledClips, dsprites, moving_dsprites, sprites

__all__ = [
    "PLANTED",
    "Corpus",
    "LabeledClips",
    "LabeledSequences",
    "PlantedSet",
    "air_quality",
    "code_snippets",
    "documentation_corpus",
    "dsprites",
    "letter_statistics",
    "melodies",
    "moving_dsprites",
    "shuffled_characters",
    "sprites",
]
