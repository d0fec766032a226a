"""Intervals of a loss hold the true one, which is known here, as often as they say; also of few samples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from repdyn.shortening.outputs import DIVERGENCE, LOG_PERPLEXITY, UNEXPLAINED, Outputs, loss_between

Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]
DRAWS = 200


def texts(g: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Texts of 5 to 60 tokens, each of which loses 0.3 nats more or less: some become more likely."""
    tokens = g.integers(5, 60, size=count).astype(float)
    more = tokens * (0.3 + 0.3 * g.normal(size=count))
    own = np.stack([4 * tokens, tokens], axis=1)
    return own, own + np.stack([more, np.zeros(count)], axis=1)


def decisions(g: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Two classes of equal probability; logits that move by normal shifts: few samples lose much."""
    shift = 2 * g.normal(size=count)
    even = np.full((count, 2), np.log(0.5))
    return even, np.stack([-np.logaddexp(0, -shift), -np.logaddexp(0, shift)], axis=1)


def vectors(g: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Normal vectors with errors of log-normal size."""
    own = g.normal(size=(count, 8))
    return own, own + 0.3 * np.exp(0.5 * g.normal(size=(count, 1))) * g.normal(size=(count, 8))


def divergence() -> float:
    """Mean of log cosh(s / 2), the divergence of a shift s, over the shifts of ``decisions``."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    return float((weights * np.log(np.cosh(nodes))).sum() / weights.sum())


@pytest.mark.parametrize("count", [20, 100])
@pytest.mark.parametrize(
    ("kind", "draw", "truth"),
    [
        (LOG_PERPLEXITY, texts, 0.3),
        (DIVERGENCE, decisions, divergence()),
        (UNEXPLAINED, vectors, 0.09 * np.exp(0.5)),
    ],
)
def test_the_interval_of_a_loss_holds_the_true_one(kind: str, draw: Draw, truth: float, count: int) -> None:
    held = 0
    for seed in range(DRAWS):
        own, other = draw(np.random.default_rng(seed), count)
        found, _ = loss_between(Outputs(kind, own), Outputs(kind, other), seed)
        held += found.low <= truth <= found.high
    assert held >= 0.94 * DRAWS  # 19 of 20, less two thirds of a standard error of so many draws


def test_decisions_that_all_stay_the_same_are_not_certain() -> None:
    own = np.log(np.full((20, 2), [0.9, 0.1]))
    _, same = loss_between(Outputs(DIVERGENCE, own), Outputs(DIVERGENCE, own), 0)
    assert same is not None
    assert (same.value, same.high) == (1, 1)
    assert same.low == pytest.approx(0.84, abs=0.01)  # the exact interval of 20 of 20


def test_texts_of_one_token_lose_nothing() -> None:
    none = Outputs(LOG_PERPLEXITY, np.zeros((5, 2)))
    found, _ = loss_between(none, none, 0)
    assert (found.value, found.low, found.high) == (0, 0, 0)
