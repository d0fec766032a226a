"""One contract for all that is fitted: fit returns the object, seeds decide, unfitted use is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import repdyn
from repdyn import ood
from repdyn.disentangle import SKD, SSMSKD
from repdyn.errors import RepdynError
from repdyn.fields import EnergyField, SurrogateAutoencoder
from repdyn.koopman import KoopmanAutoencoder
from repdyn.paths import RepresentationPaths
from repdyn.topology import FlowAutoencoder

Make = Callable[[], Any]
Fit = Callable[[Any], Any]
Use = Callable[[Any], Any]


def paths(count: int = 300, seed: int = 0) -> RepresentationPaths:
    """Three classes in four dimensions at three depths, with logits."""
    draw = np.random.default_rng(seed)
    y = np.arange(count) % 3
    x = 3 * np.eye(4)[y] + 0.3 * draw.standard_normal((count, 4)) + 1
    return RepresentationPaths.from_arrays(
        {"a": x, "b": 0.9 * x, "c": 0.8 * x}, labels=y, logits=x[:, :3], meta={"model": "m", "digest": "d"}
    )


def clips() -> np.ndarray:
    """Two dozen sequences of eight frames, four wide."""
    return np.random.default_rng(1).normal(size=(24, 8, 4)).astype(np.float32)


def scores(detector: Any) -> np.ndarray:
    return np.asarray(detector.score_samples(paths(20, 1)))


def of_detector(make: Make) -> tuple[Make, Fit, Use]:
    return make, lambda one: one.fit(paths()), scores


DETECTORS: dict[str, Make] = {
    kind.__name__: kind
    for kind in (
        ood.PathDetector,
        ood.RelativePathDetector,
        ood.MahalanobisDetector,
        ood.RelativeMahalanobisDetector,
        ood.KNNDetector,
        ood.MixtureDetector,
        ood.EnergyTrajectoryDetector,
        ood.EnergyDetector,
        ood.GuidedEnergyDetector,
        ood.UnionDetector,
    )
}
ESTIMATORS: dict[str, tuple[Make, Fit, Use]] = {
    **{name: of_detector(make) for name, make in DETECTORS.items()},
    "KoopmanAutoencoder": (
        lambda: KoopmanAutoencoder(5, (8,)),
        lambda one: one.fit(paths(), epochs=2, seed=3),
        lambda one: np.asarray(one.encode(paths(20, 1)["a"], "a")),
    ),
    "SKD": (
        lambda: SKD(2, 6, hidden=8),
        lambda one: one.fit(clips(), epochs=1, seed=3),
        lambda one: np.asarray(one.encode(clips())),
    ),
    "SSMSKD": (
        lambda: SSMSKD(2, 6, hidden=8),
        lambda one: one.fit(clips(), epochs=1, seed=3),
        lambda one: np.asarray(one.encode(clips())),
    ),
    "SurrogateAutoencoder": (
        lambda: SurrogateAutoencoder(2, (8,), penalty=0.0, epochs=1, seed=3),
        lambda one: one.fit(paths(), "a"),
        lambda one: one.encode(torch.tensor(paths(20, 1)["a"], dtype=torch.float32)).detach().numpy(),
    ),
    "EnergyField": (
        lambda: EnergyField(seed=3),
        lambda one: one.fit(paths()["a"]),
        lambda one: np.asarray(one.settle(one.encode(paths(20, 1)["a"]))),
    ),
    "FlowAutoencoder": (
        lambda: FlowAutoencoder(1, layers=1, hidden=(8,), components=2),
        lambda one: one.fit(paths()["a"], steps=2, start_steps=2),
        lambda one: np.asarray(one.encode(paths(20, 1)["a"])),
    ),
}
pytestmark = [
    pytest.mark.filterwarnings("ignore::repdyn.fields.SurrogateWarning"),
    pytest.mark.filterwarnings("ignore::repdyn.fields.EnergyWarning"),
]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_fit_returns_the_object_and_the_same_seed_gives_the_same_numbers(name: str) -> None:
    make, fit, use = ESTIMATORS[name]
    first, second = make(), make()
    assert fit(first) is first
    fit(second)
    np.testing.assert_array_equal(use(first), use(second))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_what_is_not_fitted_says_so_in_one_line(name: str, tmp_path: Path) -> None:
    make, _, use = ESTIMATORS[name]
    assert name in repr(make())
    with pytest.raises(RepdynError, match="fit") as raised:
        use(make())
    assert "\n" not in str(raised.value)
    one = make()
    with pytest.raises(RepdynError, match="fit"):
        (one.save_pretrained if hasattr(one, "save_pretrained") else one.save)(tmp_path / "one")
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_saved_estimator_answers_as_before_and_opens_without_its_class(name: str, tmp_path: Path) -> None:
    make, fit, use = ESTIMATORS[name]
    fitted = fit(make())
    (fitted.save_pretrained if hasattr(fitted, "save_pretrained") else fitted.save)(tmp_path / "one")
    kind = type(fitted)
    read = (kind.from_pretrained if hasattr(kind, "from_pretrained") else kind.load)(tmp_path / "one")
    opened = repdyn.load_result(tmp_path / "one")
    for again in (read, opened):
        assert type(again) is kind
        np.testing.assert_allclose(use(again), use(fitted), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", [SurrogateAutoencoder, FlowAutoencoder])
def test_networks_are_still_saved_and_read_under_their_old_names(kind: Any, tmp_path: Path) -> None:
    make, fit, use = ESTIMATORS[kind.__name__]
    fitted = fit(make())
    with pytest.warns(DeprecationWarning, match="save was renamed save_pretrained"):
        fitted.save(tmp_path / "one")
    with pytest.warns(DeprecationWarning, match="load was renamed from_pretrained"):
        again = kind.load(tmp_path / "one")
    np.testing.assert_allclose(use(again), use(fitted), rtol=1e-6)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_never_changes_what_it_was_given(name: str) -> None:
    given = paths()
    before = {point: np.array(given[point]) for point in given.points}
    DETECTORS[name]().fit(given).score_samples(given)
    for point, array in before.items():
        np.testing.assert_array_equal(given[point], array)
