"""Detectors and the clustering by level sets are estimators of scikit-learn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone, is_outlier_detector
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris, make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score, roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from repdyn import ood
from repdyn.errors import RepdynError
from repdyn.paths import RepresentationPaths
from repdyn.topology import LevelSetClustering, LevelSetTree

DETECTORS = (
    ood.PathDetector(),
    ood.MahalanobisDetector(),
    ood.RelativeMahalanobisDetector(),
    ood.KNNDetector(),
    ood.MixtureDetector(),
    ood.EnergyTrajectoryDetector(),
    ood.EnergyDetector(),
    ood.UnionDetector(),
    ood.ReconstructionDetector(torch.tanh, torch.sin),
    ood.ResidualDetector(torch.tanh, torch.sin),
    ood.TrajectoryDetector(torch.tanh, torch.sin, steps=2),
    ood.AttractorDetector(torch.tanh, torch.sin, starts=20, max_steps=5),
)
"""Detectors of one matrix without labels. RelativePathDetector needs labels that help, GuidedEnergyDetector
needs logits beside the vectors: what scikit-learn's checks give them they refuse."""

FEW = "fewer than the 20 different samples that a threshold at a true-positive rate of 95 % needs"
EXPECTED = {
    "check_n_features_in_after_fitting": f"fits 15 samples, {FEW}",
    "check_estimators_nan_inf": f"fits 10 samples, {FEW}; predict flags a sample that is not finite",
    "check_classifier_data_not_an_array": f"fits 12 samples, {FEW}",
    "check_fit2d_1feature": f"fits 10 samples, {FEW}, and says so instead of '1 feature'",
}
DIFFERENT = {"check_estimators_dtypes": f"fits 20 samples of which 19 differ, {FEW}"}
OWN = {
    "PathDetector": DIFFERENT,
    "MahalanobisDetector": DIFFERENT,
    "RelativeMahalanobisDetector": DIFFERENT,
    "MixtureDetector": DIFFERENT,
    "UnionDetector": DIFFERENT,
    "KNNDetector": {"check_fit2d_1sample": "says that k must be below the number of samples"},
}


def expected(estimator: Any) -> dict[str, str]:
    """What cannot hold, by name, with the reason."""
    return {**EXPECTED, **OWN.get(type(estimator).__name__, {})}


def run(check: Callable[..., None], estimator: Any, cannot_hold: dict[str, str]) -> None:
    """Run a check; the error of one that cannot hold loses its traceback.

    pytest reads a traceback line by line with the source of scikit-learn's checks, which takes a third of a
    second each time; of an expected failure nobody sees it.
    """
    try:
        check(estimator)
    except Exception as error:
        if getattr(check, "func", check).__name__ in cannot_hold:
            raise error.with_traceback(None) from None
        raise


def checks_of(estimators: list[Any], expected_failed_checks: Callable[[Any], dict[str, str]]) -> Any:
    """The checks of scikit-learn as a list. Up to 1.6 they are a generator, for which pytest 9 warns."""
    checks = parametrize_with_checks(estimators, expected_failed_checks=expected_failed_checks)
    names, pairs = checks.args
    return pytest.mark.parametrize(names, list(pairs), **checks.kwargs)


@checks_of(list(DETECTORS), expected)
def test_detectors_pass_the_checks_of_scikit_learn(estimator: Any, check: Callable[..., None]) -> None:
    run(check, estimator, expected(estimator))


NO_PEAK = {"check_methods_sample_order_invariance": "asks for 2 clusters of a density with one peak: refused"}
MIXTURE = {"check_fit2d_1sample": "a mixture needs 5 points; the error says so instead of '1 sample'"}


def expected_of_clusters(estimator: Any) -> dict[str, str]:
    """What cannot hold of a clustering."""
    return {**NO_PEAK, **(MIXTURE if estimator.density == "mixture" else {})}


@checks_of([LevelSetClustering(), LevelSetClustering(density="mixture")], expected_of_clusters)
def test_the_clustering_passes_the_checks_of_scikit_learn(estimator: Any, check: Callable[..., None]) -> None:
    run(check, estimator, expected_of_clusters(estimator))


def flowers() -> tuple[np.ndarray, np.ndarray]:
    """Two species of iris, and the third as the outliers."""
    x, y = load_iris(return_X_y=True)
    return x[y < 2], x[y == 2]


def names(estimator: Any) -> str:
    return type(estimator).__name__


@pytest.mark.parametrize("kind", [np.float64, np.float32])
@pytest.mark.parametrize("detector", DETECTORS, ids=names)
def test_a_matrix_scores_as_paths_of_one_point(detector: Any, kind: Any) -> None:
    usual, foreign = (x.astype(kind) for x in flowers())
    point = detector.point_of_matrix()
    by_paths = clone(detector).fit(RepresentationPaths.from_arrays({point: usual}))
    by_matrix = clone(detector).fit(usual)
    expected = by_paths.score_samples(RepresentationPaths.from_arrays({point: foreign}))
    assert by_matrix.threshold_ == by_paths.threshold_ == by_matrix.offset_
    given = torch.from_numpy(foreign)
    for one in (foreign, foreign.tolist() if kind is np.float64 else foreign, pd.DataFrame(foreign).values):
        np.testing.assert_allclose(by_matrix.score_samples(one), expected, rtol=1e-12)
        np.testing.assert_allclose(by_paths.score_samples(one), expected, rtol=1e-12)
    assert isinstance(by_matrix.score_samples(given), torch.Tensor)
    np.testing.assert_allclose(by_matrix.score_samples(given).numpy(), expected, rtol=1e-12)
    held_out = usual[::2]
    a = by_matrix.calibrate(held_out).threshold_
    assert a == by_paths.calibrate(RepresentationPaths.from_arrays({point: held_out})).threshold_


@pytest.mark.parametrize("detector", DETECTORS[:4], ids=names)
def test_signs_are_those_of_scikit_learn(detector: Any) -> None:
    usual, foreign = flowers()
    fitted = clone(detector).fit(usual)
    both = np.concatenate([usual, foreign])
    normal = np.arange(len(both)) < len(usual)
    assert is_outlier_detector(fitted)
    assert roc_auc_score(normal, fitted.score_samples(both)) > 0.85  # higher is more normal
    np.testing.assert_allclose(fitted.decision_function(both), fitted.score_samples(both) - fitted.offset_)
    np.testing.assert_array_equal(fitted.predict(both), np.where(fitted.decision_function(both) < 0, -1, 1))
    assert (fitted.predict(foreign) == -1).mean() > 3 * (fitted.predict(usual) == -1).mean()
    np.testing.assert_array_equal(clone(detector).fit_predict(usual), fitted.predict(usual))


def test_labels_are_the_labels_of_paths() -> None:
    x, y = make_blobs(300, 6, centers=3, random_state=0)
    paths = RepresentationPaths.from_arrays({"vectors": x}, labels=y)
    detector = ood.PathDetector().fit(x, y)
    assert detector.class_means_ == {"vectors": 3}
    np.testing.assert_array_equal(detector.score_samples(x), ood.PathDetector().fit(paths).score_samples(x))
    named = ood.PathDetector().fit(x, np.array(["a", "b", "c"], dtype=object)[y])
    np.testing.assert_array_equal(named.score_samples(x), detector.score_samples(x))
    relative = ood.RelativePathDetector().fit(x, y.astype(object))
    assert relative.score_samples(x).shape == (300,)
    with pytest.raises(RepdynError, match="labels of their own"):
        ood.PathDetector().fit(paths, y)


def test_a_pipeline_and_a_search_run() -> None:
    usual, foreign = flowers()
    pipeline = make_pipeline(StandardScaler(), ood.KNNDetector())
    scaled = StandardScaler().fit(usual)
    alone = ood.KNNDetector().fit(scaled.transform(usual))
    np.testing.assert_array_equal(
        pipeline.fit(usual).score_samples(foreign), alone.score_samples(scaled.transform(foreign))
    )
    np.testing.assert_array_equal(pipeline.predict(foreign), alone.predict(scaled.transform(foreign)))
    x, y = np.concatenate([usual, foreign]), np.repeat([1, -1], [100, 50])
    search = GridSearchCV(
        ood.KNNDetector(), {"k": [1, 25]}, scoring=lambda one, x, y: roc_auc_score(y, one.score_samples(x))
    )
    order = np.random.default_rng(0).permutation(150)
    assert search.fit(x[order], y[order]).best_estimator_.k in (1, 25)


def test_parameters_survive_clone_save_and_load(tmp_path: Path) -> None:
    usual, _ = flowers()
    members = {"near": ood.KNNDetector(3), "far": ood.PathDetector(seed=2)}
    union = ood.UnionDetector(members, seed=5)
    again = clone(union)
    assert again.members is not members
    assert again.members["near"].get_params() == members["near"].get_params()
    for one in (ood.PathDetector(("vectors",), seed=4), ood.KNNDetector(7, point="vectors", bank=90), union):
        one.fit(usual).save(tmp_path / "one")
        loaded = ood.load_detector(tmp_path / "one")
        wanted = {k: v for k, v in one.get_params(deep=False).items() if k != "members"}
        assert {k: v for k, v in loaded.get_params(deep=False).items() if k != "members"} == wanted
        np.testing.assert_array_equal(loaded.score_samples(usual), one.score_samples(usual))
    single = ood.load_detector(tmp_path / "one")
    assert not hasattr(clone(single), "threshold_")


def test_a_detector_without_saved_parameters_is_read(tmp_path: Path) -> None:
    usual, _ = flowers()
    fitted = ood.KNNDetector(7).fit(usual)
    fitted.save(tmp_path / "one")
    file = tmp_path / "one" / "config.json"
    config = json.loads(file.read_text())
    del config["repdyn"]["sha256"]
    del config["parameters"]  # as version 0.1 wrote it
    file.write_text(json.dumps(config))
    loaded = ood.KNNDetector.load(tmp_path / "one")
    assert loaded.get_params() == fitted.get_params()
    np.testing.assert_array_equal(loaded.score_samples(usual), fitted.score_samples(usual))
    for damage in ({"k": {"a": 1}}, ["k"], {"k": [1.5]}):
        file.write_text(json.dumps({**config, "parameters": damage}))
        with pytest.raises(RepdynError, match="is damaged"):
            ood.KNNDetector.load(tmp_path / "one")


def test_what_a_detector_cannot_read_is_refused() -> None:
    usual = flowers()[0].astype(np.float32)
    with pytest.raises(RepdynError, match="reads vectors and logits"):
        ood.GuidedEnergyDetector().fit(usual)
    guided = ood.GuidedEnergyDetector().fit({"x": usual, "logits": usual[:, :3]})
    paths = RepresentationPaths.from_arrays({"x": usual}, logits=usual[:, :3])
    np.testing.assert_array_equal(
        guided.score_samples({"x": usual, "logits": usual[:, :3]}), guided.score_samples(paths)
    )
    two = ood.PathDetector().fit({"a": usual, "b": usual**2})
    with pytest.raises(RepdynError, match=r"reads 2 points \('a', 'b'\), a matrix holds one"):
        two.predict(usual)
    with pytest.raises(RepdynError, match="are 2; give paths"):
        ood.PathDetector(("a", "b")).fit(usual)
    with pytest.raises(RepdynError, match="X has 3 features, but KNNDetector is expecting 4"):
        ood.KNNDetector().fit(usual).predict(usual[:, :3])
    with pytest.raises(RepdynError, match="Expected 2D array, got 1D"):
        ood.KNNDetector().fit(usual[:, 0])
    with pytest.raises(NotFittedError, match="fit"):
        ood.KNNDetector().predict(usual)


def test_a_matrix_that_is_not_finite_cannot_be_fitted_and_is_flagged() -> None:
    usual, _ = flowers()
    hole = usual.copy()
    hole[3, 1], hole[7, 0] = np.nan, np.inf
    with pytest.raises(RepdynError, match="contains NaN; leave out the samples"):
        ood.PathDetector().fit(hole)
    fitted = ood.PathDetector().fit(usual)
    np.testing.assert_array_equal(fitted.predict(hole)[[3, 7]], [-1, -1])
    np.testing.assert_array_equal(
        np.delete(fitted.predict(hole), [3, 7]), np.delete(fitted.predict(usual), [3, 7])
    )


def test_a_fit_to_paths_forgets_the_width_of_a_matrix(tmp_path: Path) -> None:
    usual, foreign = flowers()
    np.save(tmp_path / "usual.npy", usual)
    detector = ood.PathDetector().fit(pd.DataFrame(usual, columns=list("abcd")))
    assert list(detector.feature_names_in_) == list("abcd")
    with pytest.warns(UserWarning, match="feature names"):
        detector.predict(foreign)
    detector.fit(tmp_path / "usual.npy")
    assert not hasattr(detector, "feature_names_in_")
    np.testing.assert_array_equal(
        detector.score_samples(foreign), ood.PathDetector().fit(usual).score_samples(foreign)
    )
    np.testing.assert_array_equal(
        detector.score_samples(tmp_path / "usual.npy"), detector.score_samples(usual)
    )


def test_evaluation_recommendation_and_drift_take_matrices() -> None:
    generator = np.random.default_rng(0)
    label = np.arange(400) % 8
    x = (generator.normal(size=(8, 6))[label] + 0.1 * generator.normal(size=(400, 6))).astype(np.float32)
    as_paths = {
        name: RepresentationPaths.from_arrays({"vectors": own})
        for name, own in {"fit": x[:200], "test": x[200:], "foreign": x[200:] + 2}.items()
    }
    detector = ood.PathDetector().fit(x[:200])
    found = ood.evaluate(detector, x[200:], {"foreign": x[200:] + 2})
    wanted = ood.evaluate(detector, as_paths["test"], {"foreign": as_paths["foreign"]})
    assert found.to_dict() == wanted.to_dict()
    candidates = {"kNN": ood.KNNDetector(), "Mahalanobis": ood.MahalanobisDetector()}
    advice = ood.recommend(x[:200], candidates)
    assert advice.to_dict() == ood.recommend(as_paths["fit"], candidates).to_dict()
    for one in (detector, ood.KNNDetector().fit(x[:200])):
        monitor = ood.DriftMonitor(one, window=50)
        np.testing.assert_array_equal(
            monitor.update(x[200:] + 2).scores, one.score_samples(as_paths["foreign"])
        )


def test_clusters_are_the_leaves_of_the_tree() -> None:
    x, y = make_blobs(240, 5, centers=4, cluster_std=0.5, random_state=3)
    fitted = LevelSetClustering().fit(x)
    np.testing.assert_array_equal(fitted.labels_, LevelSetTree.fit(x).assignment)
    assert adjusted_rand_score(y, fitted.labels_) == 1.0
    two = LevelSetClustering(2, neighbors=10).fit(torch.from_numpy(x))
    np.testing.assert_array_equal(two.labels_, LevelSetTree.fit(x, neighbors=10).cut(2))
    means = KMeans(4, n_init=3, random_state=0).fit_predict(x)
    pipeline = make_pipeline(StandardScaler(), LevelSetClustering(4))
    assert adjusted_rand_score(means, pipeline.fit_predict(x)) == 1.0
    assert clone(two).get_params() == two.get_params()
    with pytest.raises(RepdynError, match="n_leaves: expected 1 to"):
        LevelSetClustering(100).fit(x)


def test_a_point_of_a_store_is_clustered(tmp_path: Path) -> None:
    x, y = make_blobs(120, 3, centers=2, cluster_std=0.5, random_state=1)
    paths = RepresentationPaths.from_arrays({"a": x}, labels=y)
    paths.save(tmp_path / "a.paths")
    import repdyn

    stored = repdyn.open_paths(tmp_path / "a.paths")
    fitted = LevelSetClustering().fit(stored["a"])
    assert fitted.n_features_in_ == 3
    assert adjusted_rand_score(y, fitted.labels_) == 1.0
