"""Detectors compared by one resampling: a difference of equals is none, a clear one is found."""

from __future__ import annotations

import numpy as np

from repdyn.ood.comparison import IN_DISTRIBUTION, MEAN, compare, separation


def test_judged_against_chosen_rivals() -> None:
    generator = np.random.default_rng(0)
    inside, foreign = generator.normal(size=300), {k: generator.normal(size=200) for k in "ab"}
    scores = {
        name: {IN_DISTRIBUTION: inside + shift, **foreign}
        for name, shift in {"weak": 0.1, "middle": 1.0, "copy": 1.0, "strong": 3.0}.items()
    }
    found = compare(scores, seed=0)
    table = found.table()
    exact = [separation(inside + 1, foreign[k]).auroc[0] for k in "ab"]
    assert table["middle"]["a"]["auroc"].value == exact[0]
    assert table["middle"][MEAN]["auroc"].value == np.mean(exact)
    assert found.against("strong", ["weak", "middle"]).verdict == {"a": "found", "b": "found", MEAN: "found"}
    equal = found.against("copy", ["weak", "middle"])
    assert equal.best_control["a"] == "middle"
    assert equal.difference["a"].low == equal.difference["a"].high == 0
    assert set(equal.verdict.values()) == {"inconclusive"}
    assert found.against("middle", ["strong"]).verdict[MEAN] == "not found"
