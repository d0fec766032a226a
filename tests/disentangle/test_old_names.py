"""Public names of version 0.1 work for one release, with a warning."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import repdyn.datasets
import repdyn.disentangle
from repdyn.disentangle import SKD, Factors


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LabelledClips", "LabeledClips"),
        ("dsprites", "dsprites"),
        ("moving_dsprites", "moving_dsprites"),
        ("sprites", "sprites"),
    ],
)
def test_data_sets_are_found_where_they_were(old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"moved to repdyn.datasets.{new}"):
        assert getattr(repdyn.disentangle, old) is getattr(repdyn.datasets, new)


def test_loss_weights_are_found_under_their_old_name() -> None:
    with pytest.warns(DeprecationWarning, match="LossWeights"):
        assert repdyn.disentangle.Weights is repdyn.disentangle.LossWeights


def test_a_name_that_never_was_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'sprite'"):
        _ = repdyn.disentangle.sprite


def test_parts_and_devices_under_their_old_names() -> None:
    rows = np.arange(24, dtype="float32").reshape(2, 3, 4)
    parts = Factors(rows, 2 * rows, np.ones((2, 3), bool))
    with pytest.warns(DeprecationWarning, match="renamed part"):
        np.testing.assert_array_equal(parts.some([1, 3]), rows * np.array([0, 1, 0, 1]))
    model = SKD(2, 3, 4)
    model.build((4,), None, seed=0)
    with pytest.warns(DeprecationWarning, match="renamed device"):
        assert model.place == torch.device("cpu")
    with pytest.warns(DeprecationWarning, match="standardize"):
        assert torch.equal(model.standardise(torch.ones(1, 4)), torch.ones(1, 4))
