"""Propagation: rollouts with re-encoding are what single hops compose to."""

from __future__ import annotations

import numpy as np
import pytest

from repdyn.errors import RepdynError
from repdyn.koopman import KoopmanAutoencoder


@pytest.fixture(scope="module")
def kae(train):
    return KoopmanAutoencoder(8, (16,)).fit(train, epochs=10, batch_size=64)


def test_re_encoding_at_every_point_is_going_from_point_to_point(kae, test) -> None:
    x = test["layer0"]
    for point in ("layer1", "layer2", "layer3"):
        before = f"layer{int(point[-1]) - 1}"
        x = kae.propagate(x, before, point)
        found = kae.propagate(test["layer0"], "layer0", point, reencode_every=1)
        assert np.allclose(found, x, atol=1e-4)
    backwards = kae.propagate(kae.propagate(test["layer3"], 3, 1.0), 1, 0)
    assert np.allclose(kae.propagate(test["layer3"], 3, 0, reencode_every=2), backwards, atol=1e-4)


def test_no_re_encoding_where_the_way_is_shorter(kae, test) -> None:
    whole = kae.propagate(test["layer0"], "layer0", "layer3")
    assert np.array_equal(kae.propagate(test["layer0"], 0, 3, reencode_every=3), whole)
    assert not np.array_equal(kae.propagate(test["layer0"], 0, 3, reencode_every=0.5), whole)
    same = kae.propagate(test["layer0"], 0, 0, reencode_every=1)
    assert np.allclose(same, kae.decode(kae.encode(test["layer0"], "layer0"), "layer0"), atol=1e-5)
    for wrong in (0, -1.0, float("nan")):
        with pytest.raises(RepdynError, match="reencode_every must be positive"):
            kae.propagate(test["layer0"], 0, 3, reencode_every=wrong)
