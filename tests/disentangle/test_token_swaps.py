"""The study of swaps between tokens: its pairs, and its measures by hand."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import entropy

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def swaps() -> Iterator[Any]:
    """The script; it and what it imports of the benchmarks are forgotten after the tests."""
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    yield import_module("disentangle_token_swaps")
    sys.path.remove(str(FOLDER))
    for name in set(sys.modules) - before:
        if (FOLDER / f"{name}.py").exists():
            del sys.modules[name]


@pytest.mark.parametrize("seed", range(5))
def test_one_token_of_each_query_gets_a_donor_of_another_identity(swaps: Any, seed: int) -> None:
    generator = np.random.default_rng(seed)
    query = np.repeat(np.arange(40), generator.integers(1, 9, size=40))
    identity = generator.geometric(0.4, size=len(query))  # few, as of words
    receivers, donors = swaps.partners(query, identity, seed)
    assert (query[receivers] == np.arange(40)).all()
    assert sorted(donors) == list(range(40))  # each gives once
    assert (identity[receivers][donors] != identity[receivers]).all()
    with pytest.raises(SystemExit, match="more than half"):
        swaps.partners(query, np.zeros(len(query), dtype=int), seed)


def test_effects_are_those_of_distributions_by_hand(swaps: Any) -> None:
    logits = torch.randn(3, 6, 9, generator=torch.Generator().manual_seed(0))
    p, donor, q = (torch.softmax(x.double(), dim=1).numpy() for x in logits)
    found = swaps.effects(*(swaps.log_probabilities(x) for x in logits))
    assert found["kl"] == pytest.approx(entropy(p, q, axis=1))
    assert found["toward"] == pytest.approx(entropy(donor, p, axis=1) - entropy(donor, q, axis=1))
    assert (found["kept"] == (q.argmax(1) == p.argmax(1))).all()
    assert (found["donor"] == (q.argmax(1) == donor.argmax(1))).all()
    # The donor's own distribution is as near to the donor as can be.
    own = swaps.effects(*(swaps.log_probabilities(logits[k]) for k in (0, 1, 1)))
    assert own["toward"] == pytest.approx(entropy(donor, p, axis=1))
    assert own["donor"].all()
