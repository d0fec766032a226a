"""Every gradient is finite, on sequences made to break it."""

from __future__ import annotations

import pytest

from repdyn.disentangle.sequences import read_sequences
from tests.disentangle.planted import hard_sequences
from tests.disentangle.stepping import MODELS, model_of, stays_finite

KINDS = ("near-static", "constant", "all the same", "nothing", "impulse", "exploding", "alternating", "noise")


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", KINDS)
def test_hundreds_of_steps_on_hard_sequences(name: str, kind: str) -> None:
    batch = read_sequences(hard_sequences(kind, count=4))
    assert stays_finite(model_of(name), batch, steps=200, seed=0)


@pytest.mark.parametrize("name", MODELS)
def test_a_few_steps_on_near_static_sequences(name: str) -> None:
    batch = read_sequences(hard_sequences("near-static", count=4))
    assert stays_finite(model_of(name), batch, steps=20, seed=1)
