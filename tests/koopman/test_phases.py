"""Planted phases: their number and places are recovered, and none is invented."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from repdyn.errors import RepdynError
from repdyn.koopman import KoopmanAutoencoder, Phases, phases
from repdyn.koopman.operators import OPERATORS, Piecewise
from repdyn.koopman.phases import change_points
from repdyn.paths import RepresentationPaths


def rotates(draw: np.random.Generator, width: int) -> np.ndarray:
    a = draw.standard_normal((width, width))
    return 0.97 * expm(0.2 * (a - a.T))


def symmetric(draw: np.random.Generator, width: int) -> np.ndarray:
    _, vectors = np.linalg.eigh(sum(x + x.T for x in [draw.standard_normal((width, width))]))
    return vectors @ np.diag(np.linspace(0.75, 1.1, width)) @ vectors.T


def near_identity(draw: np.random.Generator, width: int) -> np.ndarray:
    return np.eye(width) + 0.2 * draw.standard_normal((width, width)) / width**0.5


def planted(
    steps: list[np.ndarray], seed: int = 0, samples: int = 200, noise: float = 0.02, wide: float = 1.0
) -> RepresentationPaths:
    """Paths of these steps, with an offset that differs between steps."""
    draw, offsets = np.random.default_rng(seed), np.random.default_rng(77)
    width = len(steps[0])
    x, scale = draw.standard_normal((samples, width)), np.array([wide] + [1.0] * (width - 1))
    arrays = [x * scale]
    for step in steps:
        x = x @ step + noise * draw.standard_normal(x.shape) + 0.3 * offsets.standard_normal(width)
        arrays.append(x * scale)
    return RepresentationPaths.from_arrays({f"p{n}": a.astype("float32") for n, a in enumerate(arrays)})


LAYOUTS = [
    ([(rotates, 4), (symmetric, 4)], (0, 4)),
    ([(near_identity, 2), (rotates, 3), (symmetric, 3)], (0, 2, 5)),
    ([(symmetric, 1), (near_identity, 5)], (0, 1)),
    ([(rotates, 6)], (0,)),
    ([(near_identity, 6)], (0,)),
]


@pytest.mark.parametrize(("layout", "expected"), LAYOUTS, ids=lambda value: str(len(value)))
@pytest.mark.parametrize(
    "change", [{}, {"noise": 0.3}, {"samples": 60}, {"noise": 0.0}, {"wide": 1e3}], ids=str
)
def test_planted_phases_are_recovered(layout: list, expected: tuple, change: dict) -> None:
    for seed in range(4):  # 20 of 20 for each layout
        draw = np.random.default_rng(100 + seed)
        steps = [step for kind, count in layout for step in [kind(draw, 6)] * count]
        assert change_points(planted(steps, seed, **change), seed=seed) == expected


def test_the_number_and_the_places_have_intervals_and_a_verdict(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    one, other = rotates(draw, 5), symmetric(draw, 5)
    steps = [one] * 3 + [other] * 4
    found = phases(planted(steps, 1), planted(steps, 0))
    assert found.starts == (0, 3)
    assert (found.number.low, found.number.high) == (2, 2)
    assert (found.places[0].low, found.places[0].high) == (3, 3)
    assert found.verdict == "found"
    assert found.autonomous == "found"
    # One map for both leaves more than one for each; the steps' own maps explain no more.
    assert all(a.value > b.value for a, b in zip(found.one, found.piecewise))
    assert sum(a.low for a in found.one) > 5 * sum(b.high for b in found.piecewise)
    assert found.ratio.high < 1.05
    for values, step in zip(found.eigenvalues, (one, other)):
        true = np.linalg.eigvals(step)
        assert max(np.abs(values - value).min() for value in true) < 0.02
    assert np.abs(found.eigenvalues[1].imag).max() < 0.02  # a symmetric map turns nothing
    found.save(tmp_path / "phases")
    assert repr(Phases.load(tmp_path / "phases")) == repr(found)
    assert "begins at point 3 [3, 3]" in repr(found)
    figure = found.plot()
    assert len(figure.data) >= 3
    # A step leads to the point at its number, so a phase begins between two of them.
    begins = [shape.x0 for shape in figure.layout.shapes if shape.x0 == shape.x1]
    assert begins == [start - 0.5 for start in found.starts[1:]]


def test_one_map_and_a_map_for_every_step_are_not_called_phases() -> None:
    draw = np.random.default_rng(1)
    same = [near_identity(draw, 4)] * 5
    found = phases(planted(same, 1), planted(same, 0))
    assert (found.verdict, found.starts) == ("not found", (0,))
    assert "one map" in found.reason
    each = [symmetric(draw, 4) for _ in range(5)]
    found = phases(planted(each, 1), planted(each, 0))
    assert (found.verdict, len(found.starts)) == ("not found", 5)
    assert found.autonomous == "not found"
    assert "each of the 5 steps" in found.reason


def test_a_change_that_the_data_barely_show_has_an_interval_that_holds_the_truth() -> None:
    draw = np.random.default_rng(3)
    one = near_identity(draw, 4)
    steps = [one] * 4 + [one + 0.03 * draw.standard_normal((4, 4))] * 4
    held, verdicts = 0, set()
    for seed in range(12):
        paths = planted(steps, seed, samples=100, noise=0.25)
        found = phases(paths, paths, seed=seed)
        held += found.number.low <= 2 <= found.number.high
        verdicts.add(found.verdict)
    assert held >= 11
    assert "inconclusive" in verdicts


def test_copies_of_samples_are_no_evidence() -> None:
    draw = np.random.default_rng(4)
    # With fewer different samples than dimensions, a step's own map fits them and nothing else.
    paths = planted([near_identity(draw, 12)] * 4, samples=14, noise=0.3)
    copies = paths.subset(np.repeat(np.arange(14), 10))
    assert change_points(copies) == (0,)


def test_a_piecewise_autoencoder_finds_saves_and_decomposes_its_phases(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    one, other = rotates(draw, 6), symmetric(draw, 6)
    paths = planted([one] * 4 + [other] * 4, noise=0.0)
    kae = KoopmanAutoencoder(latent_dim=6, hidden=(), operator="piecewise").fit(paths, epochs=4)
    assert kae.phase_starts_ == (0, 4)
    for phase, step in enumerate((one, other)):
        planted_values = np.linalg.eigvals(step)
        spectral = kae.spectrum(paths, phase=phase, resamples=10)
        assert spectral.certified.all()
        trained = np.linalg.eigvals(kae.operator_.steps()[4 * phase].detach().double().numpy())
        for values in (spectral.eigenvalues, trained):
            assert max(np.abs(values - value).min() for value in planted_values) < 2e-3
    # No one operator of the whole path has these eigenvalues.
    assert not kae.spectrum(paths, resamples=10).certified.all()
    kae.save_pretrained(tmp_path / "kae")
    again = KoopmanAutoencoder.from_pretrained(tmp_path / "kae")
    x = np.asarray(paths["p0"])
    assert again.phase_starts_ == (0, 4)
    for depth in (2.5, 4, 6.5, 8):
        assert np.array_equal(again.propagate(x, 0, depth), kae.propagate(x, 0, depth))
    last = np.asarray(paths["p8"], dtype=np.float64)
    error = np.square(kae.propagate(x, 0, 8) - last).sum() / np.square(last - last.mean(axis=0)).sum()
    assert error < 1e-4
    with pytest.raises(RepdynError, match="one of 2 phases, 0 to 1, got 2"):
        kae.spectrum(paths, phase=2)


def test_widths_that_differ_are_relative_to_frames() -> None:
    draw = np.random.default_rng(0)
    x = draw.standard_normal((200, 4))
    arrays = {f"a{n}": x @ np.diag([1, 0.9, 0.8, 0.7]) ** n for n in range(4)}
    paths = RepresentationPaths.from_arrays({**arrays, "wide": x @ draw.standard_normal((4, 6))})
    found = phases(paths, paths)
    assert found.relative
    assert "relative to frames" in repr(found)


def test_unrelated_maps_of_narrow_points_are_not_called_one_phase() -> None:
    """A frame as wide as the widest point has room for the maps of all narrower ones."""
    draw = np.random.default_rng(0)
    states = [draw.standard_normal((600, 4))]
    for width in (4, 4, 4, 64):
        moved = states[-1] @ draw.standard_normal((4, width)) / 2
        states.append(moved + 0.1 * draw.standard_normal(moved.shape))
    paths = RepresentationPaths.from_arrays({f"p{n}": x.astype(np.float32) for n, x in enumerate(states)})
    found = phases(paths, paths)
    assert found.starts == (0,)  # what the search sees: each step's map is a random one of its own
    assert found.verdict == found.autonomous == "inconclusive"
    assert "narrower points" in found.reason
    equal = RepresentationPaths.from_arrays({p: np.asarray(paths[p]) for p in paths.points[:4]})
    assert phases(equal, equal).verdict == "not found"


@pytest.mark.parametrize("points", [2, 3])
def test_a_short_path_is_refused_before_the_fit(points: int) -> None:
    paths = planted([np.eye(3)] * (points - 1))
    with pytest.raises(RepdynError, match=f"at least 4 points, which has 3 steps, got {points} points"):
        KoopmanAutoencoder(operator="piecewise").fit(paths, epochs=1)
    with pytest.raises(RepdynError, match="trace more points"):
        phases(paths, paths)


def test_bad_input_is_named() -> None:
    paths = planted([np.eye(3)] * 4)
    with pytest.raises(RepdynError, match="training paths"):
        phases(paths, planted([np.eye(3)] * 5))
    with pytest.raises(RepdynError, match="8 different samples are too few"):
        change_points(paths.subset(np.arange(8)))
    with pytest.raises(RepdynError, match="supervise='last'"):
        KoopmanAutoencoder(operator="piecewise", supervise="last").fit(paths, epochs=1)
    for starts in ((), (1,), (0, 0), (0, 4)):
        with pytest.raises(RepdynError, match="increasing step numbers"):
            Piecewise(2, 4, starts)


def test_flows_of_a_piecewise_operator_compose_and_have_gradients() -> None:
    assert OPERATORS["piecewise"] is Piecewise
    operator = Piecewise(3, 5, (0, 2)).double()  # in float32 the rounding depends on the processor
    with torch.no_grad():
        operator.weight.copy_(0.3 * torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0)))
        operator.drift.copy_(torch.randn(5, 3, generator=torch.Generator().manual_seed(1)))
    whole = operator.matrix(0, 5)
    parts = torch.linalg.matrix_exp(2 * operator.weight[0]) @ torch.linalg.matrix_exp(3 * operator.weight[1])
    assert torch.allclose(whole, parts, atol=1e-12)
    assert torch.allclose(operator.from_first()[-1], operator.flow(0, 5), atol=1e-12)
    assert torch.allclose(operator.matrix(4, 1) @ operator.matrix(1, 4), torch.eye(3).double(), atol=1e-12)
    operator.from_first().sum().backward()
    assert bool((operator.weight.grad != 0).all())


def test_what_was_drawn_is_said_and_saved(tmp_path: Path) -> None:
    # More than the 60 000 states that phases and the closed-form start are fitted on.
    draw = np.random.default_rng(0)
    paths = planted([rotates(draw, 4)] * 3 + [symmetric(draw, 4)] * 3, samples=9000, noise=0.1)
    found = phases(paths, paths)
    assert found.starts == (0, 3)
    assert found.drawn_from == 9000
    assert found.samples < 9000
    assert f"{found.samples} of 9000 samples" in repr(found)
    found.save(tmp_path / "phases")
    assert Phases.load(tmp_path / "phases").samples == found.samples
    kae = KoopmanAutoencoder(latent_dim=4, hidden=()).fit(paths, epochs=1)
    states = len(paths.points) * kae.history_["start_samples"][0]
    assert 50_000 < states <= 60_000
    few = KoopmanAutoencoder(latent_dim=4, hidden=()).fit(paths.subset(np.arange(200)), epochs=1)
    assert 100 < few.history_["start_samples"][0] < 200  # without the validation part
