import numpy as np
import pytest

from repdyn.errors import RepdynError
from repdyn.paths import RepresentationPaths
from repdyn.translation import (
    LinearTranslation,
    PathTranslation,
    cycle_consistency,
    translate,
    translate_path,
)


def related(planted, count: int = 400) -> tuple[RepresentationPaths, RepresentationPaths, np.ndarray]:
    x, _ = planted.clusters(count, seed=5)
    a = RepresentationPaths.from_arrays({"first": x, "last": np.tanh(x)})
    q, r = planted.rotation(24, 3), planted.rotation(24, 4)
    b = RepresentationPaths.from_arrays({"one": x @ q, "two": np.tanh(x) @ r + 1})
    return a, b, np.column_stack([np.arange(count)] * 2)


def test_every_depth_has_its_translation_and_they_agree_along_the_path(planted, tmp_path) -> None:
    a, b, pairs = related(planted)
    path = translate_path(a, b, pairs=pairs)
    assert path.points == (("first", "one"), ("last", "two"))
    assert path.verdict == "found"
    for of_a, of_b in path.points:
        assert np.allclose(path[of_a, of_b](np.asarray(a[of_a])), np.asarray(b[of_b]), atol=1e-2)
    assert path.path_agreement[0] == pytest.approx(path.self_agreement[0], abs=0.1)
    assert path.path_agreement[0] > 5 * 10 / 400
    assert np.array_equal(translate(a, b, pairs=pairs).matrix, path.translations[-1].matrix)
    path.save(tmp_path / "p")
    again = PathTranslation.load(tmp_path / "p")
    assert again.to_dict() == path.to_dict()
    assert "first -> one" in repr(again)


def test_depths_of_unrelated_maps_do_not_agree_along_the_path(planted) -> None:
    a, b, pairs = related(planted)
    path = translate_path(a, b, pairs=pairs)
    turned = LinearTranslation(planted.rotation(24, 8), np.zeros(24), path.translations[0].offset_b)
    raw = [[np.asarray(paths[name]) for name in paths.points] for paths in (a, b)]
    broken = PathTranslation.of(path.points, (turned, path.translations[1]), *raw, seed=0)
    assert broken.path_agreement[0] < 0.5 * path.path_agreement[0]


def test_an_unknown_pair_of_points_is_told(planted) -> None:
    a, b, pairs = related(planted)
    with pytest.raises(RepdynError, match="no pair of points"):
        translate_path(a, b, pairs=pairs)["first", "two"]


def test_true_translations_come_back_and_wrong_ones_do_not(planted) -> None:
    x, _ = planted.clusters(300, seed=6)
    turns = [LinearTranslation(planted.rotation(24, k), np.zeros(24), np.zeros(24)) for k in range(3)]
    back = (turns[2] @ turns[1] @ turns[0]).inverse
    assert cycle_consistency([*turns, back], x).value == 1
    wrong = LinearTranslation(planted.rotation(24, 9), np.zeros(24), np.zeros(24))
    assert cycle_consistency([*turns, wrong], x).value < 0.2


@pytest.mark.slow
def test_three_models_of_three_widths_translated_apart_and_without_pairs_come_back(planted) -> None:
    samples = [planted.clusters(1500, seed=k)[0] for k in (1, 2, 4)]
    models = [planted.read(x, seed, width) for x, seed, width in zip(samples, (10, 20, 30), (24, 30, 27))]
    cycle = [translate(models[k], models[(k + 1) % 3], candidates=12) for k in range(3)]
    assert [t.verdict for t in cycle] == ["found"] * 3
    assert [t.matrix.shape for t in cycle] == [(24, 30), (30, 27), (27, 24)]
    held = planted.read(planted.clusters(300, seed=3)[0], 10, 24)
    assert cycle_consistency(cycle, held["10.1"]).low > 0.5
    beside = translate(models[2], planted.read(samples[0], 40, 24), candidates=12)
    assert cycle_consistency([*cycle[:2], beside], held["10.1"]).high < 0.2


def test_what_is_no_cycle_is_told() -> None:
    eye, x = LinearTranslation(np.eye(3), np.zeros(3), np.zeros(3)), np.zeros((5, 3))
    wide = LinearTranslation(np.ones((3, 4)), np.zeros(3), np.zeros(4))
    with pytest.raises(RepdynError, match="no cycle"):
        cycle_consistency([eye, wide], x)
    with pytest.raises(RepdynError, match="empty"):
        cycle_consistency([], x)
    with pytest.raises(RepdynError, match="width 3"):
        cycle_consistency([eye], np.zeros((5, 2)))
    with pytest.raises(RepdynError, match="finite"):
        cycle_consistency([eye], x * np.nan)


def test_the_old_names_of_the_agreement_warn(planted) -> None:
    a, b, pairs = related(planted, 100)
    path = translate_path(a, b, pairs=pairs)
    for old, new in (("along", path.path_agreement), ("own", path.self_agreement)):
        with pytest.warns(DeprecationWarning, match=f"{old} was renamed"):
            np.testing.assert_array_equal(getattr(path, old), new)
        assert path.to_dict()[old] == new.tolist()
