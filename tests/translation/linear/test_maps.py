import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repdyn.artifacts import save_artifact
from repdyn.errors import RepdynError
from repdyn.paths import RepresentationPaths, open_paths
from repdyn.translation import LinearTranslation, fit_affine, fit_orthogonal, fit_ridge


def pairs(count: int, d_a: int, d_b: int, noise: float = 0.0, seed: int = 0) -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng(seed)
    q, _ = np.linalg.qr(generator.normal(size=(max(d_a, d_b), max(d_a, d_b))))
    x = generator.normal(size=(count, d_a)) * np.linspace(2, 0.5, d_a)
    y = 1.7 * x @ q[:d_a, :d_b] + 4 + noise * generator.normal(size=(count, d_b))
    return x, y, q[:d_a, :d_b]


@given(st.integers(2, 8), st.integers(0, 50))
@settings(deadline=None, max_examples=15)
def test_orthogonal_recovers_rotation_scale_and_offset(width: int, seed: int) -> None:
    x, y, q = pairs(60, width, width, seed=seed)
    t = fit_orthogonal(x, y)
    assert np.allclose(t.matrix, 1.7 * q)
    assert np.allclose(t(x), y)


def test_a_wider_target_keeps_lengths() -> None:
    x, y, _ = pairs(80, 4, 9)
    t = fit_orthogonal(x, y)
    assert np.allclose(t(x), y)
    assert np.allclose(t.matrix @ t.matrix.T, 1.7**2 * np.eye(4))


def test_weights_silence_outliers() -> None:
    x, y, _ = pairs(60, 5, 5)
    broken = y.copy()
    broken[:10] = 100
    weights = np.r_[np.zeros(10), np.ones(50)]
    assert np.allclose(fit_orthogonal(x, broken, weights)(x), y)
    assert not np.allclose(fit_orthogonal(x, broken)(x), y, atol=1)


def test_ridge_equals_a_solve_of_the_normal_equations_at_some_penalty_and_beats_the_mean() -> None:
    x, y, _ = pairs(200, 6, 3, noise=0.5)
    held_x, held_y, _ = pairs(200, 6, 3, noise=0.5)
    t = fit_ridge(x, y)
    a, b = x - x.mean(0), y - y.mean(0)
    scale = (a**2).sum() / 6
    solved = [np.linalg.solve(a.T @ a + p * scale * np.eye(6), a.T @ b) for p in np.logspace(-5, 1, 13)]
    assert min(np.abs(t.matrix - m).max() for m in solved) < 1e-9
    assert ((t(held_x) - held_y) ** 2).mean() < 0.2 * ((held_y - y.mean(0)) ** 2).mean()


def test_ridge_stays_finite_on_duplicates_and_constant_columns() -> None:
    for rows in (5, 30):
        x = np.repeat(np.random.default_rng(0).normal(size=(rows, 8)), 4, axis=0)
        x[:, 3] = 1
        t = fit_ridge(x, x[:, :2])
        assert np.isfinite(t.matrix).all()
        # Five different rows do not tell seven coefficients, so that the penalty is not small.
        assert np.allclose(t(x), x[:, :2], atol=1e-2) == (rows == 30)


def test_affine_shrinks_to_procrustes_with_few_pairs_and_follows_shear_with_many() -> None:
    generator = np.random.default_rng(1)
    shear = np.eye(10) + 0.6 * np.triu(generator.normal(size=(10, 10)), 1)
    x = generator.normal(size=(2000, 10))
    y = x @ shear + 0.05 * generator.normal(size=(2000, 10))
    held = generator.normal(size=(500, 10))

    def error(t: LinearTranslation) -> float:
        return float(((t(held) - held @ shear) ** 2).mean())

    assert error(fit_affine(x, y)) < 0.01 * error(fit_orthogonal(x, y))
    few, pure, _ = pairs(12, 10, 10, noise=0.3)
    assert np.abs(fit_affine(few, pure).matrix - fit_orthogonal(few, pure).matrix).max() < 0.05


def test_inverse_and_composition() -> None:
    x, y, _ = pairs(50, 5, 5)
    t, back = fit_orthogonal(x, y), fit_orthogonal(y, x)
    assert np.allclose(t.inverse(t(x)), x)
    assert np.allclose((back @ t)(x), back(t(x)))
    assert np.allclose(t.inverse.inverse.matrix, t.matrix)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 50))
def test_a_probe_pulled_back_gives_what_it_gives_for_translated_points(a: int, b: int, seed: int) -> None:
    g = np.random.default_rng(seed)
    t = LinearTranslation(g.normal(size=(a, b)), g.normal(size=a), g.normal(size=b))
    x, weights, bias = g.normal(size=(6, a)), g.normal(size=(3, b)), g.normal(size=3)
    pulled, constant = t.pull(weights, bias)
    assert pulled.shape == (3, a)
    assert constant.shape == (3,)
    assert np.allclose(x @ pulled.T + constant, t(x) @ weights.T + bias)
    # A direction is the difference of two points: its image is the difference of their images.
    assert np.allclose(t.push(x[0] - x[1]), t(x[0]) - t(x[1]))
    # A steering vector changes a probe's output on B as its pulled probe's on A.
    assert np.allclose(t.push(x) @ weights.T, x @ pulled.T)


def test_a_pulled_classifier_is_that_of_the_other_space() -> None:
    from sklearn.linear_model import LogisticRegression

    g = np.random.default_rng(0)
    y = g.normal(size=(300, 4)) + 3 * np.eye(4)[g.integers(4, size=300)]
    labels = (y @ g.normal(size=4) > 0).astype(int)
    q = np.linalg.qr(g.normal(size=(4, 4)))[0]
    x = (y - 1) @ q.T / 2  # y = 2 x q + 1
    probe = LogisticRegression(max_iter=1000).fit(y, labels)
    weights, bias = LinearTranslation(2 * q, np.zeros(4), np.ones(4)).pull(probe.coef_, probe.intercept_)
    assert np.array_equal((x @ weights.T + bias > 0).ravel(), probe.predict(y) == 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64])
def test_directions_and_probes_keep_the_type_of_a_tensor(dtype: torch.dtype) -> None:
    t = LinearTranslation(np.array([[0.5, 1.0, 0.0]]), np.array([2.0]), np.zeros(3))
    direction, weights = torch.tensor([[2], [4]]).to(dtype), torch.tensor([2, 1, 5]).to(dtype)
    pushed, (pulled, bias) = t.push(direction), t.pull(weights, 1.0)
    kept = dtype if dtype.is_floating_point else torch.float32
    assert pushed.dtype == pulled.dtype == bias.dtype == kept
    assert pushed.tolist() == [[1.0, 2.0, 0.0], [2.0, 4.0, 0.0]]
    assert pulled.tolist() == [2.0]
    assert float(bias) == -3.0


@pytest.mark.parametrize("wrong", [np.zeros(2), np.zeros(()), np.zeros((4, 5))])
def test_directions_and_probes_of_another_width_are_told(wrong: np.ndarray) -> None:
    t = LinearTranslation(np.zeros((3, 4)), np.zeros(3), np.zeros(4))
    with pytest.raises(RepdynError, match="push: reads vectors of A's width 3"):
        t.push(wrong)
    with pytest.raises(RepdynError, match="pull: reads vectors of B's width 4"):
        t.pull(wrong)


def test_a_chain_is_as_credible_as_its_worst_link() -> None:
    eye, zero = np.eye(2), np.zeros(2)
    good = LinearTranslation(eye, zero, zero, 0.9, "found", "a")
    bad = LinearTranslation(eye, zero, zero, 0.1, "not found", "b")
    chain = good @ bad
    assert (chain.verdict, chain.confidence) == ("not found", 0.1)
    assert "b" in chain.reason
    assert chain.interval is None
    sure = LinearTranslation(eye, zero, zero, 0.8, "found", "c", interval=(0.7, 0.9))
    assert (good @ sure).interval == (sure @ good).interval == sure.inverse.interval == (0.7, 0.9)


def test_tensors_stay_tensors_and_carry_gradients() -> None:
    x, y, _ = pairs(30, 4, 4)
    t = fit_orthogonal(x, y)
    tensor = torch.tensor(x, dtype=torch.float32, requires_grad=True)
    moved = t(tensor)
    assert torch.allclose(moved, torch.tensor(y, dtype=torch.float32), atol=1e-4)
    moved.sum().backward()
    assert tensor.grad is not None
    assert torch.isfinite(tensor.grad).all()


def test_saved_is_loaded(tmp_path) -> None:
    x, y, _ = pairs(30, 4, 6)
    fitted = fit_orthogonal(x, y)
    t = LinearTranslation(
        fitted.matrix,
        fitted.offset_a,
        fitted.offset_b,
        0.8,
        "found",
        "because",
        {"agreement": 0.8},
        (0.7, 0.9),
    )
    t.save(tmp_path / "t")
    again = LinearTranslation.load(tmp_path / "t")
    assert np.array_equal(again(x), t(x))
    assert again.to_dict() == t.to_dict()
    assert again.interval == (0.7, 0.9)
    assert "found" in repr(again)
    assert again.plot().data


def test_a_column_on_disk_is_translated_as_the_array_it_holds(tmp_path) -> None:
    x, y, _ = pairs(20, 4, 3)
    RepresentationPaths.from_arrays({"last": x}).save(tmp_path / "x.paths")
    t = fit_orthogonal(x, y)
    column = open_paths(tmp_path / "x.paths")["last"]
    assert not isinstance(column, np.ndarray)
    assert np.allclose(t(column), t(x))


def test_bad_input_is_told() -> None:
    eye, zero = np.eye(3), np.zeros(3)
    with pytest.raises(RepdynError, match="matrix of shape"):
        LinearTranslation(eye, np.zeros(2), zero)
    with pytest.raises(RepdynError, match="verdict"):
        LinearTranslation(eye, zero, zero, verdict="yes")
    with pytest.raises(RepdynError, match="finite"):
        LinearTranslation(eye * np.nan, zero, zero)
    with pytest.raises(RepdynError, match="width 3"):
        LinearTranslation(eye, zero, zero)(np.zeros((2, 4)))
    with pytest.raises(RepdynError, match="width"):
        LinearTranslation(np.zeros((2, 2)), np.zeros(2), np.zeros(2)) @ LinearTranslation(eye, zero, zero)
    with pytest.raises(RepdynError, match="one N"):
        fit_orthogonal(np.zeros((3, 2)), np.zeros((4, 2)))
    with pytest.raises(RepdynError, match="finite"):
        fit_ridge(np.full((3, 2), np.inf), np.zeros((3, 2)))
    with pytest.raises(RepdynError, match="weights"):
        fit_orthogonal(np.eye(3), np.eye(3), weights=[-1, 1, 1])


def test_a_verdict_of_version_01_is_read_in_its_present_spelling(tmp_path, monkeypatch) -> None:
    t = LinearTranslation(
        np.eye(3), np.zeros(3), np.ones(3), 0.5, "neighborhoods", "r", {"settled directions": 2.0}
    )
    config = {**t.to_dict(), "verdict": "neighbourhoods"}
    arrays = {name: getattr(t, name) for name in ("matrix", "offset_a", "offset_b")}
    with monkeypatch.context() as patch:
        patch.setattr("repdyn.artifacts.SCHEMA_VERSION", 1)
        save_artifact(tmp_path / "t", "translation", config, arrays)
    again = LinearTranslation.load(tmp_path / "t")
    assert (again.verdict, dict(again.evidence)) == ("neighborhoods", {"agreed directions": 2.0})
    np.testing.assert_array_equal(again.matrix, t.matrix)
    with pytest.raises(RepdynError, match="verdict must be one of"):
        LinearTranslation(np.eye(3), np.zeros(3), np.ones(3), 0.5, "neighbourhoods")
