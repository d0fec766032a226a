import numpy as np
import pytest

from repdyn.errors import RepdynError
from repdyn.paths import RepresentationPaths
from repdyn.translation import evaluate_translation, translate


@pytest.fixture(scope="module")
def solved(planted):
    a, b, held_a, held_b = planted.two_models(depths=2)
    return translate(a, b, candidates=12, seed=1), a, b, held_a, held_b


def test_planted_models_are_translated_without_pairs(solved) -> None:
    t, _, _, held_a, held_b = solved
    assert t.verdict == "found", t.reason
    assert t.interval[0] <= t.confidence <= t.interval[1]
    found = evaluate_translation(t, held_a, held_b)
    assert found.top1["translation"].value > 0.6
    assert found.top1["translation"].low > found.top1["identity"].high


def test_scale_and_offset_are_the_target_models(solved) -> None:
    t, a, b, _, _ = solved
    moved, there = t(np.asarray(a["a1"])), np.asarray(b["b1"])
    assert np.allclose(moved.mean(0), there.mean(0), atol=0.5)
    assert np.sqrt(((moved - moved.mean(0)) ** 2).sum(1).mean()) == pytest.approx(
        np.sqrt(((there - there.mean(0)) ** 2).sum(1).mean()), rel=0.1
    )


def test_same_seed_same_map(planted) -> None:
    a, b, _, _ = planted.two_models(count=400)
    one, other = (translate(a, b, candidates=2, seed=5) for _ in range(2))
    assert np.array_equal(one.matrix, other.matrix)
    assert one.to_dict() == other.to_dict()


@pytest.mark.parametrize("seed", range(3))
def test_gaussians_of_equal_covariance_are_not_found(seed: int, planted) -> None:
    generator = np.random.default_rng(seed)
    spread = np.linspace(2, 0.3, 20)
    a, b = (generator.normal(size=(600, 20)) * spread for _ in range(2))
    t = translate(
        RepresentationPaths.from_arrays({"x": a}),
        RepresentationPaths.from_arrays({"x": b @ planted.rotation(20, 1)}),
        candidates=6,
        seed=seed,
    )
    assert t.verdict != "found"


def test_shuffled_features_are_not_found(planted) -> None:
    a, b, _, _ = planted.two_models(count=600)
    generator = np.random.default_rng(0)
    shuffled = generator.permuted(np.asarray(b["b0"]), axis=0)
    t = translate(a, RepresentationPaths.from_arrays({"x": shuffled}), candidates=6)
    assert t.verdict != "found"


def paired(count: int, planted) -> tuple[RepresentationPaths, RepresentationPaths]:
    x, _ = planted.clusters(count, seed=5)
    y = 2 * x @ planted.rotation(24, 3) + 1
    return RepresentationPaths.from_arrays({"x": x}), RepresentationPaths.from_arrays({"y": y})


def test_all_pairs_give_the_exact_map(planted) -> None:
    a, b = paired(300, planted)
    t = translate(a, b, pairs=np.column_stack([np.arange(300)] * 2))
    assert t.verdict == "found"
    assert t.interval[0] <= t.confidence <= t.interval[1]
    assert np.allclose(t(np.asarray(a["x"])), np.asarray(b["y"]), atol=1e-2)


def test_pairs_of_unrelated_inputs_are_not_found(planted) -> None:
    a, b = paired(300, planted)
    wrong = np.column_stack([np.arange(300), np.random.default_rng(0).permutation(300)])
    assert translate(a, b, pairs=wrong).verdict == "not found"


def test_few_pairs_steer_the_search(planted) -> None:
    a, b = paired(600, planted)
    few = np.column_stack([np.arange(24)] * 2)
    t = translate(a, b, pairs=few, candidates=1)
    assert t.verdict == "found"
    held_a, held_b = paired(900, planted)
    found = evaluate_translation(t, np.asarray(held_a["x"])[600:], np.asarray(held_b["y"])[600:])
    assert found.top1["translation"].value > 0.8


def test_points_other_than_the_last_can_be_chosen(planted) -> None:
    x, _ = planted.clusters(300, seed=5)
    y = x @ planted.rotation(24, 3)
    a = RepresentationPaths.from_arrays({"first": x, "last": np.tanh(x)})
    b = RepresentationPaths.from_arrays({"first": y, "last": np.tanh(y)})
    pairs = np.column_stack([np.arange(300)] * 2)
    t = translate(a, b, pairs=pairs, points=("first", "first"))
    assert np.allclose(t(x), y, atol=1e-2)
    with pytest.raises(RepdynError, match="nearest: 'last'"):
        translate(a, b, points=("lst", "last"))


def test_few_points_are_inconclusive_with_the_reason() -> None:
    small = RepresentationPaths.from_arrays({"x": np.random.default_rng(0).normal(size=(50, 6))})
    t = translate(small, small)
    assert t.verdict == "inconclusive"
    assert "too few" in t.reason


def test_duplicates_constant_columns_and_more_columns_than_points_do_not_break(planted) -> None:
    generator = np.random.default_rng(0)
    wide = generator.normal(size=(220, 300))
    wide[:, 5] = 2
    wide[100:] = wide[:120]
    t = translate(
        RepresentationPaths.from_arrays({"x": wide}),
        RepresentationPaths.from_arrays({"x": generator.normal(size=(220, 40))}),
        candidates=1,
    )
    assert t.verdict != "found"
    assert t.matrix.shape == (300, 40)


def test_a_density_of_one_peak_is_inconclusive_with_the_reason() -> None:
    """Points evenly on a line have no peak to match, nor have two."""
    line = np.linspace(0, 1, 240)[:, None] * np.array([[1.0, 2.0, -1.0]])
    a, b = (RepresentationPaths.from_arrays({"x": v}) for v in (line, 3 * line[:, ::-1]))
    t = translate(a, b, candidates=1)
    assert t.verdict != "found"
    assert t.reason


@pytest.mark.slow
def test_different_classes_and_very_different_sizes_are_never_found_wrongly(planted) -> None:
    x, _ = planted.clusters(900, seed=5)
    few, labels = planted.clusters(260, seed=6)
    turned = few[labels < 5] if (labels < 5).sum() > 210 else few
    for other in (turned, few):
        y = other @ planted.rotation(24, 3)
        a, b = (RepresentationPaths.from_arrays({"x": v}) for v in (x, y))
        t = translate(a, b, candidates=3)
        moved = t(x)
        near = np.abs(moved - x @ planted.rotation(24, 3)).mean() < np.abs(x).mean()
        assert t.verdict != "found" or near


def test_bad_input_is_told(planted) -> None:
    a, b = paired(300, planted)
    with pytest.raises(RepdynError, match="candidates"):
        translate(a, b, candidates=0)
    with pytest.raises(RepdynError, match="row numbers"):
        translate(a, b, pairs=[[0.5, 1.0]])
    with pytest.raises(RepdynError, match="outside"):
        translate(a, b, pairs=[[0, 300]])
    broken = np.random.default_rng(0).normal(size=(300, 4))
    broken[7, 2] = np.nan
    with pytest.raises(RepdynError, match="not finite"):
        translate(RepresentationPaths.from_arrays({"x": broken}), b)
    same = RepresentationPaths.from_arrays({"x": np.ones((300, 4))})
    with pytest.raises(RepdynError, match="all points are the same"):
        translate(same, b)
    tokens = RepresentationPaths.from_arrays(
        {"x": np.zeros((300, 2, 4))}, masks={"x": np.ones((300, 2), dtype=bool)}
    )
    with pytest.raises(RepdynError, match="keeps tokens"):
        translate(tokens, b)
