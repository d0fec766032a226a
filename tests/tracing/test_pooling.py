"""Pooling against the plain formula in float64, for every layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repdyn.errors import RepdynError
from repdyn.tracing.pooling import LAYOUTS, POOLINGS, as_tokens, find_pooling

SHAPES = {
    "NC": (3, 5),
    "NLC": (3, 7, 5),
    "LNC": (7, 3, 5),
    "NLSC": (3, 7, 2, 5),
    "SNLC": (2, 3, 7, 5),
    "NCL": (3, 5, 7),
    "NCHW": (3, 5, 2, 4),
    "NHWC": (3, 2, 4, 5),
    "N*C": (3, 2, 3, 4, 5),
    "NC*": (3, 5, 2, 3, 4),
}


def naive(values, layout):
    """Samples, positions, channels by explicit transposition."""
    array = values.double().numpy()
    if layout == "LNC":
        return array.transpose(1, 0, 2)
    if layout == "SNLC":
        return np.concatenate(list(array), axis=-1)
    if layout == "NLSC":  # the streams of a token, one after another
        return np.concatenate([array[:, :, stream] for stream in range(array.shape[2])], axis=-1)
    if layout[1] == "C" and array.ndim > 2:
        array = np.moveaxis(array, 1, -1)
    return array.reshape(len(array), -1, array.shape[-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_pooling_of_every_layout(layout, dtype):
    values = torch.randn(SHAPES[layout], generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = naive(values, layout)
    tokens = as_tokens(values, layout)
    for name, formula in {
        "mean": expected.mean(1),
        "gap": expected.mean(1),
        "cls": expected[:, 0],
        "last": expected[:, -1],
        "flatten": expected.reshape(3, -1),
    }.items():
        np.testing.assert_allclose(POOLINGS[name](tokens).double().numpy(), formula, rtol=1e-5, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), left=st.booleans(), seed=st.integers(0, 99)
)
def test_padding_is_never_seen(lengths, left, seed):
    rng = np.random.default_rng(seed)
    rows = [rng.normal(size=(length, 4)) for length in lengths]
    padded = torch.full((len(rows), 12, 4), float("nan"), dtype=torch.float64)
    mask = torch.zeros(len(rows), 12, dtype=torch.bool)
    for number, row in enumerate(rows):
        where = slice(12 - len(row), 12) if left else slice(0, len(row))
        padded[number, where] = torch.from_numpy(row)
        mask[number, where] = True
    tokens = as_tokens(padded, "NLC", mask)
    np.testing.assert_allclose(POOLINGS["mean"](tokens), np.stack([row.mean(0) for row in rows]), atol=1e-12)
    np.testing.assert_array_equal(POOLINGS["last"](tokens), np.stack([row[-1] for row in rows]))


def test_gap_leaves_class_and_register_tokens_out_and_mean_does_not():
    values = torch.arange(12.0).reshape(1, 6, 2)
    tokens = as_tokens(values, "NLC", prefix=2)
    torch.testing.assert_close(POOLINGS["gap"](tokens), values[:, 2:].mean(1))
    torch.testing.assert_close(POOLINGS["mean"](tokens), values.mean(1))


def test_long_half_precision_sums_keep_their_digits():
    values = torch.full((1, 5000, 1), 0.1, dtype=torch.bfloat16)
    assert float(POOLINGS["mean"](as_tokens(values, "NLC"))) == pytest.approx(
        float(values[0, 0, 0]), rel=1e-5
    )


def test_layout_that_contradicts_the_axes():
    with pytest.raises(RepdynError, match="NCHW has 4 axes"):
        as_tokens(torch.zeros(2, 3, 4), "NCHW")
    with pytest.raises(RepdynError, match=r"mask has shape \(2, 5\)"):
        as_tokens(torch.zeros(2, 3, 4), "NLC", torch.ones(2, 5, dtype=torch.bool))


def test_unknown_pooling_lists_the_nearest():
    with pytest.raises(RepdynError, match="'mean'"):
        find_pooling("meen")
    with pytest.raises(RepdynError, match="one length"):
        POOLINGS["flatten"](as_tokens(torch.zeros(1, 2, 3), "NLC", torch.ones(1, 2, dtype=torch.bool)))
