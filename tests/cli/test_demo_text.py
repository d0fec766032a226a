"""The four sentences that end the demonstration."""

from repdyn.cli.demo_text import meaning
from repdyn.intervals import Estimate
from repdyn.koopman import Fidelity


def sentences(verdict: str) -> tuple[str, ...]:
    fidelity = Fidelity.__new__(Fidelity)
    curves = {"Koopman autoencoder": [Estimate(0.3, 0.2, 0.4)], "affine": [Estimate(0.1, 0.0, 0.2)]}
    object.__setattr__(fidelity, "fvu", curves)
    translation = {
        "verdict": verdict,
        "confidence": {"value": 0.31, "low": 0.0, "high": 0.55},
        "top1": {"value": 0.042},
        "paired": {"value": 0.97},
        "random": {"value": 0.001},
    }
    figures = {
        "field": {"status": {"attractor": 0, "diverged": 500}, "attractors": 0},
        "ood": {"verdict": {"source code": "found", "shuffled": "not found"}},
        "translation": translation,
    }
    return meaning(fidelity, figures)


def test_the_last_sentences_say_the_verdict_and_what_to_expect_of_it() -> None:
    for verdict in ("found", "ambiguous", "not found"):
        *_, last = sentences(verdict)
        assert repr(verdict) in last
        assert "31% of that with pairs" in last
        assert "0% to 55%" in last
        assert "0.042" in last


def test_a_control_that_is_better_and_a_field_without_attractors_are_named() -> None:
    depth, field, ood, _ = sentences("found")
    assert "affine" in depth
    assert "30.0% of the last point's variance unexplained, more than the best control" in depth
    assert "10.0%" in depth
    assert "no attractors" in field
    assert "source code" in ood
    assert "shuffled" not in ood
