"""Editing: the closed form is the minimum it claims to be; classes go, others stay; nonsense is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import repdyn
from repdyn.errors import RepdynError
from repdyn.koopman import KoopmanAutoencoder
from repdyn.koopman.edited import EditedKoopman
from repdyn.koopman.editing import edit_operator, forget, reweighted, split
from repdyn.koopman.settings import EditSettings
from repdyn.paths import RepresentationPaths


@pytest.fixture(scope="module")
def paths() -> RepresentationPaths:
    """Four classes in separate clusters that one linear system moves."""
    draw = np.random.default_rng(0)
    y = draw.integers(4, size=400)
    x = 3 * np.eye(4)[y] + 0.3 * draw.standard_normal((400, 4))
    step = np.linalg.qr(draw.standard_normal((4, 4)))[0]
    return RepresentationPaths.from_arrays({"a": x, "b": x @ (np.eye(4) + step) / 2, "c": x @ step}, labels=y)


@pytest.fixture(scope="module")
def kae(paths) -> KoopmanAutoencoder:
    return KoopmanAutoencoder(8, (16,)).fit(paths, epochs=60, batch_size=64)


def test_closed_form_is_the_minimum_of_its_objective() -> None:
    draw = torch.Generator().manual_seed(0)
    harmful, clean, matrix, target = (
        torch.randn(n, 5, generator=draw, dtype=torch.float64) for n in (7, 40, 5, 7)
    )
    found = edit_operator(harmful, clean, matrix, target)
    found.requires_grad_()
    kept = clean.T @ clean
    preserve = 1e-4 * kept.diagonal().mean()
    objective = (
        (clean @ (found - matrix)).square().sum()
        + preserve * (found - matrix).square().sum()
        + 10 * (harmful @ found - target).square().sum()
    )
    (gradient,) = torch.autograd.grad(objective, found)
    assert gradient.abs().max() < 1e-9


def test_push_through_equals_the_published_form() -> None:
    draw = torch.Generator().manual_seed(1)
    harmful, clean, matrix, target = (
        torch.randn(n, 5, generator=draw, dtype=torch.float64) for n in (7, 40, 5, 7)
    )
    kept = clean.T @ clean
    kept += 1e-4 * kept.diagonal().mean() * torch.eye(5)
    inner = harmful @ torch.linalg.solve(kept, harmful.T) + 0.1 * torch.eye(7)
    change = torch.linalg.solve(kept, harmful.T) @ torch.linalg.solve(inner, target - harmful @ matrix)
    assert torch.allclose(edit_operator(harmful, clean, matrix, target), matrix + change, atol=1e-10)


def test_a_weight_of_two_is_a_row_twice() -> None:
    draw = torch.Generator().manual_seed(2)
    harmful, clean, matrix = (torch.randn(n, 5, generator=draw, dtype=torch.float64) for n in (7, 40, 5))
    place = torch.randn(5, generator=draw, dtype=torch.float64)
    twice = edit_operator(harmful, torch.cat([clean, clean]), matrix, place, torch.full((7,), 2.0))
    assert torch.allclose(edit_operator(harmful, clean, matrix, place, 1.0), twice, atol=1e-10)
    assert torch.allclose(
        edit_operator(harmful, clean, matrix, place, 6.0, torch.full((40,), 2.0)),
        edit_operator(harmful, clean, matrix, place, 3.0),
        atol=1e-10,
    )


def test_weighing_rows_near_the_border_parts_what_least_squares_does_not() -> None:
    # All rows have a score of 1, and those at y = 0 shall get -1. Of those that stay some lie near, at y = 4,
    # and most far off, at y = 10, where least squares keeps them; heavy rows at 0 drag the near ones along.
    y = np.concatenate([np.full(50, 0.0), np.full(50, 4.0), np.full(500, 10.0)])
    y += 0.02 * np.random.default_rng(0).standard_normal(600)
    z = torch.from_numpy(np.stack([np.ones(600), y], axis=1))
    matrix = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    harmful = np.arange(600) < 50
    sign = torch.where(torch.from_numpy(harmful), 1.0, -1.0)

    def amiss(edited: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(20 * sign * edited[:, 0])

    place = torch.tensor([-1.0, 0.0], dtype=torch.float64)
    rounds = reweighted(z, harmful, ~harmful, matrix, place, 30.0, amiss)
    wrong = [
        float((sign * (z @ edited)[:, 0] > 0).double().mean()) for edited in itertools.islice(rounds, 10)
    ]
    assert wrong[0] > 0.05
    assert wrong[-1] == 0


@pytest.mark.parametrize("label", [0, 3])
@pytest.mark.parametrize("redirect", ["mean", "nearest", 1])
def test_a_class_is_forgotten_and_the_others_stay(kae, paths, label, redirect) -> None:
    edited = kae.forget(paths, label=label, redirect=redirect)
    report = edited.report
    assert report.forgotten[0].value > 0.9
    assert report.forgotten[1].value < 0.05
    assert report.retained[1].value > report.retained[0].value - 0.03
    assert set(report.per_class) == {str(k) for k in range(4) if k != label}
    assert report.drift.value < 0.1
    assert "linear probe" in repr(edited)
    assert report.to_dict()["samples"] == list(report.samples)


def test_targets_may_lie_beyond_the_destination_where_least_squares_stops_short() -> None:
    # Targets next to retained rows: no linear map sends them the whole way and keeps the others.
    draw = np.random.default_rng(1)
    y = np.repeat(np.arange(3), 200)
    center = np.array([[4.0, 0, 0], [0, 4.0, 0], [1.5, 1.5, 1.0]])
    x = center[y] + 0.5 * draw.standard_normal((600, 3))
    near = RepresentationPaths.from_arrays({"a": x, "b": x}, labels=y)
    kae = KoopmanAutoencoder(3, ()).fit(near, epochs=2)
    forms = {"quantiles": (1.0,), "strengths": (1.0,), "reweighted": ()}
    plain, beyond = (
        forget(kae, near, label=2, settings=EditSettings(**forms, beyond=(share,))) for share in (0.0, 0.5)
    )
    both = forget(kae, near, label=2, settings=EditSettings(**forms, beyond=(0.0, 0.5)))
    assert plain.report.forgotten[1].value > 0.1
    assert beyond.report.forgotten[1].value < plain.report.forgotten[1].value / 2
    assert np.array_equal(both.matrix, beyond.matrix)


def test_several_labels_and_masks(kae, paths) -> None:
    both = kae.forget(paths, label=[0, 2], redirect=1).report
    assert set(both.per_class) == {"1", "3"}
    assert both.forgotten[1].value < 0.05
    masked = kae.forget(paths, mask=np.asarray(paths.labels) == 2, redirect=1)
    alone = kae.forget(paths, label=2, redirect=1)
    assert np.array_equal(masked.matrix, alone.matrix)


def test_a_mask_needs_no_labels(kae, paths) -> None:
    bare = RepresentationPaths.from_arrays({p: paths[p] for p in paths.points})
    found = kae.forget(bare, mask=np.asarray(paths.labels) == 2).report
    assert found.forgotten[1].value < 0.1
    assert set(found.per_class) == {"other"}


def test_the_head_may_judge(kae, paths) -> None:
    centres = torch.tensor(np.stack([paths["c"][paths.labels == k].mean(axis=0) for k in range(4)])).float()
    found = kae.forget(
        paths, label=1, redirect="nearest", quantile=1.0, head=lambda x: -torch.cdist(x, centres)
    )
    assert found.report.judge == "head"
    assert found.quantile == 1.0
    assert found.report.forgotten[1].value < 0.2


def test_a_head_of_fewer_classes_than_the_labels_is_refused(kae, paths) -> None:
    with pytest.raises(RepdynError, match="labels run from 0 to 3, but the head has classes 0 to 2"):
        kae.forget(paths, label=1, head=lambda x: x[:, :3])


def test_the_autoencoder_is_left_as_it_was(kae, paths) -> None:
    before = kae.propagate(paths["a"], "a", "c")
    edited = kae.forget(paths, label=0)
    assert np.array_equal(kae.propagate(paths["a"], "a", "c"), before)
    kept = paths.labels != 0
    moved = np.linalg.norm(edited.predict(paths["a"]) - before, axis=1)
    assert moved[~kept].mean() > 5 * moved[kept].mean()


def test_a_root_is_a_root_or_there_is_none(kae, paths) -> None:
    edited = kae.forget(paths, label=0)
    assert np.array_equal(edited.propagate(paths["a"], "c"), edited.predict(paths["a"]))
    root = edited.root
    if root is None:
        with pytest.raises(RepdynError, match="undefined between"):
            edited.propagate(paths["a"], "b")
    else:
        assert np.allclose(root @ root, edited.matrix, atol=1e-6)
        assert edited.propagate(paths["a"], "b").shape == (400, 4)
    with pytest.raises(RepdynError, match="no point 'd'"):
        edited.propagate(paths["a"], "d")


def test_a_saved_edit_is_the_same(kae, paths, tmp_path) -> None:
    edited = kae.forget(paths, label=0)
    edited.save(tmp_path / "edit")
    again = EditedKoopman.load(tmp_path / "edit")
    assert np.array_equal(again.predict(paths["a"]), edited.predict(paths["a"]))
    assert again.report.to_dict() == edited.report.to_dict()
    with pytest.raises(RepdynError, match="expected a 'koopman'"):
        KoopmanAutoencoder.from_pretrained(tmp_path / "edit")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"label": 7}, "no sample with label 7"),
        ({}, "either label="),
        ({"label": 1, "mask": np.ones(400, bool)}, "either label="),
        ({"mask": np.ones(3, bool)}, "shape"),
        ({"mask": np.zeros(400, bool)}, "selects no sample"),
        ({"label": [0, 1, 2, 3]}, "every sample is targeted"),
        ({"label": 1, "redirect": "random"}, "redirect must be"),
        ({"label": 1, "redirect": 1}, "this class are targeted"),
        ({"label": 1, "quantile": 0.0}, "quantile"),
    ],
)
def test_nonsense_is_refused(kae, paths, wanted, message) -> None:
    with pytest.raises(RepdynError, match=message):
        kae.forget(paths, **wanted)


def test_a_label_needs_labels(kae, paths) -> None:
    bare = RepresentationPaths.from_arrays({p: paths[p] for p in paths.points})
    with pytest.raises(RepdynError, match="no labels"):
        kae.forget(bare, label=1)


def test_every_sample_inside_the_ball_is_an_error() -> None:
    draw = np.random.default_rng(0)
    angle = draw.uniform(0, 2 * np.pi, 200)
    labels = (np.arange(200) < 100).astype(int)

    def paths_at(radius: np.ndarray, shift: float) -> RepresentationPaths:
        x = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        x[labels == 0, 0] += shift
        return RepresentationPaths.from_arrays({"a": x, "b": 2 * x}, labels=labels)

    # The class to forget surrounds the other: any ball about one of its members holds that.
    ring = paths_at(np.where(labels == 1, 3.0, 0.2), 0.0)
    with pytest.raises(RepdynError, match="every sample lies in the ball"):
        KoopmanAutoencoder(2, ()).fit(ring, epochs=5).forget(ring, label=1)
    # A few far members: the ball of all of them holds everything, smaller ones do not.
    far = paths_at(np.where(labels == 0, 0.2, np.where(np.arange(200) < 8, 9.0, 0.5)), 4.0)
    fitted = KoopmanAutoencoder(2, ()).fit(far, epochs=5)
    with pytest.raises(RepdynError, match="give a smaller quantile"):
        fitted.forget(far, label=1, quantile=1.0)
    assert fitted.forget(far, label=1).quantile < 1.0


def test_edited_paths_have_values_between_points_where_a_root_exists(kae, paths) -> None:
    turn = np.linalg.qr(np.random.default_rng(5).standard_normal((8, 8)))[0]
    edited = kae.forget(paths, label=0)
    # A map near the identity has a root, a reflection has none.
    near = EditedKoopman(kae, np.eye(8) + 0.1 * turn, 0.9, 10.0, 1, edited.report)
    assert near.root is not None
    assert np.allclose(near.root @ near.root, near.matrix)
    assert np.allclose(near.propagate(paths["a"], 2), near.predict(paths["a"]), atol=1e-5)
    half, whole = near.propagate(paths["a"], 0.5), near.propagate(paths["a"], "b")
    assert half.shape == whole.shape == (400, 4)
    assert "defined between its ends" in repr(near)
    mirror = EditedKoopman(kae, np.diag([-1.0] + [1.0] * 7), 0.9, 10.0, 1, edited.report)
    assert mirror.root is None
    assert "closed negative real axis" in repr(mirror)
    with pytest.raises(RepdynError, match="1 eigenvalue on the closed negative"):
        mirror.propagate(paths["a"], 0.5)
    with pytest.raises(RepdynError, match="depth must lie"):
        near.propagate(paths["a"], 2.5)


def test_the_edit_runs_in_the_real_model() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    model = repdyn.wrap(network)
    x = np.random.default_rng(0).standard_normal((200, 3)).astype(np.float32)
    traced = repdyn.trace(model, x, points=["0", "1"], labels=(x[:, 0] > 0).astype(int))
    edited = KoopmanAutoencoder(4, ()).fit(traced, epochs=5).forget(traced, label=1)
    logits = edited.run(model, traced["0"][:8], "1", torch.from_numpy(x[:8]))
    with torch.no_grad():
        expected = network[2](torch.as_tensor(edited.predict(traced["0"][:8])))
    assert torch.allclose(logits.detach(), expected, atol=1e-5)
    with pytest.raises(RepdynError, match="run_from"):
        edited.run(object(), traced["0"][:8])


@pytest.mark.parametrize("layout", ["NC", "NLC", "NCHW"])
def test_the_change_of_an_edit_is_added_at_every_place_of_the_real_last_point(layout: str) -> None:
    shape = {"NC": (3,), "NLC": (5, 3), "NCHW": (3, 2, 4)}[layout]
    axis = 1 if layout == "NCHW" else -1

    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            places = tuple(n for n in range(1, x.ndim) if n != axis % x.ndim)
            return x.mean(places) if places else x

    class Wider(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.movedim(axis, -1)).movedim(-1, axis)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torch.nn.Sequential(
            Wider(3, 4), torch.nn.Tanh(), Wider(4, 4), Mean(), torch.nn.Linear(4, 2)
        )
    model = repdyn.wrap(network, head=network[4], points={"0": layout, "2": layout})
    x = np.random.default_rng(0).standard_normal((200, *shape)).astype(np.float32)
    labels = (x.reshape(200, -1).sum(axis=1) > 0).astype(int)
    traced = repdyn.trace(model, x, points=["0", "2"], labels=labels)
    edited = KoopmanAutoencoder(4, ()).fit(traced, epochs=5).forget(traced, label=1)
    first = traced["0"][:8]
    change = edited.predict(first) - edited.kae.propagate(first, "0", "2")
    expected = network[4](torch.as_tensor(traced["2"][:8] + change))
    assert np.abs(change).max() > 0.01
    assert torch.allclose(edited.intervene(model, x[:8]), expected, atol=1e-5)


def test_drift_on_other_data_is_nought_for_no_edit_and_small_for_what_stays(kae, paths) -> None:
    edited = kae.forget(paths, label=0)
    idle = EditedKoopman(kae, edited.original, 1.0, 10.0, 0, edited.report)
    assert idle.drift(paths).value < 1e-6
    kept = paths.subset(np.flatnonzero(paths.labels != 0))
    gone = paths.subset(np.flatnonzero(paths.labels == 0))
    assert edited.drift(kept).value < 0.1 < edited.drift(gone).value


def test_the_report_is_drawn_and_says_whether_it_forgot(kae, paths) -> None:
    report = kae.forget(paths, label=0).report
    assert report.verdict == "found"
    assert len(report.plot().data) > 4


def test_a_wide_coordinate_does_not_freeze_the_others() -> None:
    draw = np.random.default_rng(3)
    harmful, clean = draw.standard_normal((30, 8)) + 2, draw.standard_normal((300, 8))
    matrix, place = draw.standard_normal((8, 8)), draw.standard_normal(8)

    def edited(scale: np.ndarray) -> torch.Tensor:
        given = (harmful * scale, clean * scale, matrix / scale[:, None], place)
        return edit_operator(*(torch.from_numpy(x) for x in given))

    scale = np.ones(8)
    # As least squares of numpy has it, by rows stacked on one another.
    ridge = 1e-4 * np.mean(np.sum(clean**2, axis=0))
    rows = np.concatenate([clean, np.sqrt(ridge) * np.eye(8), np.sqrt(10) * harmful])
    wanted = np.concatenate([clean @ matrix, np.sqrt(ridge) * matrix, np.sqrt(10) * np.tile(place, (30, 1))])
    plain = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    np.testing.assert_allclose(edited(scale).numpy(), plain, atol=1e-9)
    for width in (1e4, 1e8):
        scale[0] = width
        wide = edited(scale).numpy() * scale[:, None]
        np.testing.assert_allclose(wide, plain, atol=1e-3 * np.abs(plain).max())


def test_equal_samples_are_on_one_side_of_an_edits_split() -> None:
    groups = np.repeat(np.arange(40), 3)
    names, target = (groups % 4).astype(str), groups % 4 == 1
    parts = split(names, target, 0, groups)
    assert sorted(np.concatenate(parts).tolist()) == list(range(120))
    for k, one in enumerate(parts):
        for other in parts[k + 1 :]:
            assert not set(groups[one]) & set(groups[other])
    assert [len(part) for part in parts] == [72, 24, 24]
    for mine, other in zip(split(names, target, 5), split(names, target, 5, np.arange(120))):
        np.testing.assert_array_equal(mine, other)
    with pytest.raises(RepdynError, match="2 different targeted samples"):
        split(np.full(120, "a"), groups < 2, 0, groups)
