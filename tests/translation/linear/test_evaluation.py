import numpy as np
import pytest

from repdyn.errors import RepdynError
from repdyn.intervals import Estimate
from repdyn.paths import RepresentationPaths
from repdyn.translation import LinearTranslation, TranslationEvaluation, evaluate_translation, fit_orthogonal


def setting(noise: float = 0.1) -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng(0)
    labels = np.repeat(["a", "b", "c", "d"], 50)
    x = 3 * np.repeat(generator.normal(size=(4, 8)), 50, axis=0) + generator.normal(size=(200, 8))
    q, _ = np.linalg.qr(generator.normal(size=(8, 8)))
    return x, x @ q + noise * generator.normal(size=x.shape) + 5, labels, q


def test_the_true_map_retrieves_and_random_does_not() -> None:
    x, y, labels, q = setting()
    t = LinearTranslation(q, np.zeros(8), np.zeros(8), verdict="found")
    found = evaluate_translation(t, x[100:], y[100:], labels=labels[100:], ceiling=(x[:100], y[:100]))
    assert found.top1["translation"].value > 0.9
    assert found.top1["paired"].value > 0.9
    assert found.top1["random"].value < 0.2
    assert found.top1["identity"].value < 0.2
    assert found.class_agreement["translation"].value > 0.9
    assert found.top5["translation"].value >= found.top1["translation"].value
    assert found.confusion is not None
    assert found.confusion.sum() == 100


def test_retrieval_agrees_with_a_plain_loop() -> None:
    x, y, _, q = setting(noise=1.0)
    t = LinearTranslation(q, np.zeros(8), np.zeros(8))
    moved, target = x @ q, y
    moved, target = moved - moved.mean(0), target - target.mean(0)
    ranks, closer, cosine = [], [], []
    for i in range(200):
        to = [moved[i] @ v / np.linalg.norm(moved[i]) / np.linalg.norm(v) for v in target]
        back = [target[i] @ v / np.linalg.norm(target[i]) / np.linalg.norm(v) for v in moved]
        ranks.append(1 + sum(c > to[i] for c in to))
        closer += [sum(c > own[i] for c in own) / 199 for own in (to, back)]
        cosine.append(to[i])
    found = evaluate_translation(t, x, y)
    for most, figure in ((1, found.top1), (5, found.top5), (10, found.top10)):
        assert figure["translation"].value == pytest.approx(np.mean(np.array(ranks) <= most))
    assert found.mean_rank["translation"].value == pytest.approx(np.mean(ranks))
    assert found.foscttm["translation"].value == pytest.approx(np.mean(closer))
    assert found.cosine["translation"].value == pytest.approx(np.mean(cosine))
    assert f"FOSCTTM {found.foscttm['translation']}" in repr(found)


def test_an_unrelated_map_is_at_chance_by_every_figure() -> None:
    g = np.random.default_rng(1)
    x, y = g.normal(size=(400, 40)), g.normal(size=(400, 40))
    found = evaluate_translation(LinearTranslation(np.eye(40), np.zeros(40), np.zeros(40)), x, y)
    assert found.foscttm["translation"].low < 0.5 < found.foscttm["translation"].high
    assert found.mean_rank["translation"].low < 200.5 < found.mean_rank["translation"].high
    assert abs(found.cosine["translation"].value) < 0.02


def test_a_map_to_one_place_retrieves_by_chance() -> None:
    x, y, _, _ = setting()
    t = LinearTranslation(np.zeros((8, 8)), np.zeros(8), np.zeros(8))
    found = evaluate_translation(t, x, y)
    assert found.top1["translation"].value == 0
    assert found.foscttm["translation"].value == pytest.approx(0.5)
    assert found.mean_rank["translation"].value == pytest.approx(100.5)


def test_widths_that_differ_have_no_identity() -> None:
    x, y, _, _ = setting()
    found = evaluate_translation(fit_orthogonal(x[:100], y[:100, :5]), x[100:], y[100:, :5])
    assert "identity" not in found.top1
    assert found.confusion is None


def test_paths_are_read_at_their_last_point() -> None:
    x, y, labels, q = setting()
    t = LinearTranslation(q, np.zeros(8), np.zeros(8))
    a = RepresentationPaths.from_arrays({"first": 0 * x, "last": x}, labels=labels)
    b = RepresentationPaths.from_arrays({"last": y})
    assert evaluate_translation(t, a, b).to_dict() == evaluate_translation(t, x, y, labels=labels).to_dict()


def test_saved_is_loaded(tmp_path) -> None:
    x, y, labels, q = setting()
    t = LinearTranslation(q, np.zeros(8), np.zeros(8), verdict="found")
    found = evaluate_translation(t, x[100:], y[100:], labels=labels[100:], ceiling=(x[:100], y[:100]))
    found.save(tmp_path / "e")
    again = TranslationEvaluation.load(tmp_path / "e")
    assert again.to_dict() == found.to_dict()
    assert np.array_equal(again.confusion, found.confusion)
    assert {"top1", "paired", "random", "identity", "verdict"} <= set(found.to_dict())
    assert "translation" in repr(again)
    assert again.plot().data
    stitched = {
        "through the translation": Estimate(0.7, 0.6, 0.8, 0.95),
        "random": Estimate(0.1, 0.0, 0.2, 0.95),
    }
    assert (0.7, 0.1) in {tuple(trace.x) for trace in again.plot(stitched).data if trace.type == "bar"}


def test_items_in_the_ceiling_are_left_out() -> None:
    x, y, _, q = setting()
    t = LinearTranslation(q, np.zeros(8), np.zeros(8))
    clean = evaluate_translation(t, x[:100], y[:100], ceiling=(x[100:], y[100:]))
    leaky = evaluate_translation(t, x[:100], y[:100], ceiling=(x[50:], y[50:]))
    assert leaky.to_dict() == clean.to_dict()
    with pytest.raises(RepdynError, match="disjoint"):
        evaluate_translation(t, x[:100], y[:100], ceiling=(x[50:100], y[50:100]))


def test_bad_input_is_told() -> None:
    x, y, labels, q = setting()
    t = LinearTranslation(q, np.zeros(8), np.zeros(8))
    for arguments in (
        (x[:10], y[:9]),
        (x[:, :7], y),
        (x * np.nan, y),
    ):
        with pytest.raises(RepdynError, match="evaluate_translation"):
            evaluate_translation(t, *arguments)
    with pytest.raises(RepdynError, match="labels"):
        evaluate_translation(t, x, y, labels=labels[:5])
    with pytest.raises(RepdynError, match="ceiling"):
        evaluate_translation(t, x, y, ceiling=(x[:, :3], y))


def test_items_are_told_apart_beside_an_outlier_coordinate() -> None:
    """The true map with errors as large as half of the ordinary coordinates, one coordinate 1e4 as wide."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, 12)) * np.array([1e4, *[1.0] * 11])
    y = x + 0.5 * generator.normal(size=x.shape)
    t = LinearTranslation(np.eye(12), np.zeros(12), np.zeros(12), 1.0, "found", "")
    scale = np.array([1e-4 * np.sqrt(11), *[1.0] * 11])  # the wide one counts as much as all others together
    a, b = (v * scale - (v * scale).mean(0) for v in (x, y))
    cosine = (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    expected = (cosine.argmax(1) == np.arange(300)).mean()
    found = evaluate_translation(t, x, y).top1["translation"].value
    assert expected > 0.5
    assert found == pytest.approx(expected, abs=0.05)
