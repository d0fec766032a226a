"""Controls: exact where they should be, penalties chosen on held-out rows, equal to scikit-learn's ridge."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from repdyn.errors import RepdynError
from repdyn.koopman import controls
from repdyn.koopman.controls import held_out_rows, ridge_by_validation
from repdyn.koopman.settings import ControlSettings
from repdyn.paths import RepresentationPaths


def _unexplained(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.square(found - true).sum() / np.square(true - true.mean(0)).sum())


def test_a_linear_system_is_explained_by_every_linear_control(train, test) -> None:
    fitted = controls(train)
    assert list(fitted) == ["identity", "affine", "shared affine", "per-step affine", "random features"]
    for name in ("affine", "per-step affine", "random features"):
        for predicted, point in zip(fitted[name](test["layer0"]), test.points[1:]):
            assert _unexplained(predicted, test[point]) < 1e-3, name
    # One frame serves all points, so that the steps of a rotating system are one map.
    assert not fitted.relative
    assert _unexplained(fitted["shared affine"](test["layer0"])[-1], test["layer3"]) < 1e-3
    assert np.array_equal(fitted["identity"](test["layer0"])[1], test["layer0"])


def test_widths_may_differ_and_identity_is_then_absent() -> None:
    draw = np.random.default_rng(0)
    x = draw.standard_normal((100, 3))
    paths = RepresentationPaths.from_arrays({"a": x, "b": np.c_[x, x], "c": x[:, :2] * 2})
    fitted = controls(paths)
    assert "identity" not in fitted
    assert [p.shape for p in fitted["affine"](x)] == [(100, 6), (100, 2)]
    assert _unexplained(fitted["affine"](x)[1], 2 * x[:, :2]) < 1e-4


@pytest.mark.parametrize("shape", [(60, 8), (12, 40)])
def test_maps_equal_scikit_learn_and_the_penalty_is_the_best_on_held_out_rows(shape: tuple[int, int]) -> None:
    draw = np.random.default_rng(0)
    x = draw.standard_normal(shape) / np.arange(1, shape[1] + 1)
    y = x[:, :2] + 0.1 * draw.standard_normal((shape[0], 2))
    held_out = held_out_rows(len(x), torch.Generator().manual_seed(0))
    (found,), (penalty,) = ridge_by_validation(torch.from_numpy(x), [torch.from_numpy(y)], held_out)
    unit = np.square(x).sum() / min(shape)
    peer = Ridge(alpha=penalty * unit, fit_intercept=False).fit(x, y)
    assert np.allclose(found.numpy(), peer.coef_.T, atol=1e-8)

    fit, judge = ~held_out.numpy(), held_out.numpy()
    fit_unit = np.square(x[fit]).sum() / min(x[fit].shape)

    def error(p: float) -> float:
        model = Ridge(alpha=p * fit_unit, fit_intercept=False).fit(x[fit], y[fit])
        return float(np.square(model.predict(x[judge]) - y[judge]).sum())

    assert error(penalty) <= min(error(p) for p in ControlSettings().penalties) + 1e-8


def test_one_point_is_refused() -> None:
    with pytest.raises(RepdynError, match="one point"):
        controls(RepresentationPaths.from_arrays({"only": np.eye(5)}))


def test_a_name_that_is_no_control_is_a_missing_key(train) -> None:
    with pytest.raises(KeyError):
        controls(train)["quadratic"]
