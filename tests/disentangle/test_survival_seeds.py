"""Every gradient is finite from every seed; apart from the kinds of sequences, which take as long."""

from __future__ import annotations

import warnings

import pytest

from repdyn.disentangle.sequences import read_sequences
from tests.disentangle.planted import hard_sequences
from tests.disentangle.stepping import model_of, stays_finite


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SKD", "SSMSKD"])
def test_a_hundred_of_a_hundred_seeds_survive(name: str) -> None:
    batch = read_sequences(hard_sequences("near-static", count=4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        survived = [stays_finite(model_of(name), batch, steps=10, seed=seed) for seed in range(100)]
    assert sum(survived) == 100
