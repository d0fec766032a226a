"""Surrogates: what is chosen, what is warned of, what is kept."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from repdyn.errors import RepdynError
from repdyn.fields import SurrogateAutoencoder, SurrogateWarning
from repdyn.fields.settings import SURROGATE
from repdyn.fields.surrogate import Trial, choose_trial
from repdyn.paths import RepresentationPaths, drawn_rows, open_paths
from repdyn.paths.columns import VectorColumn

GOOD = Trial(0.1, 0.2, 0.1, 0.9, 0.0, 8, 256, 0.9)


def clustered(n: int = 400, seed: int = 0) -> RepresentationPaths:
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((4, 24))
    label = generator.integers(4, size=n)
    x = 3 * centres[label] + 0.3 * generator.standard_normal((n, 24))
    return RepresentationPaths.from_arrays(
        {"in": x.astype(np.float32), "out": x.astype(np.float32)}, labels=label
    )


@pytest.fixture(scope="module")
def surrogate() -> SurrogateAutoencoder:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SurrogateWarning)
        return SurrogateAutoencoder(4, (32,), epochs=10).fit(clustered(), "out")


class TestChoice:
    def test_best_reconstruction_among_the_usable(self) -> None:
        trials = [replace(GOOD, unexplained=0.05, diverged=0.1), GOOD, replace(GOOD, unexplained=0.4)]
        assert choose_trial(trials) == (1, ())

    def test_one_attractor_is_not_usable(self) -> None:
        assert choose_trial([replace(GOOD, unexplained=0.05, attractors=1), GOOD])[0] == 1

    def test_divergence_weighs_most(self) -> None:
        expanding, single = replace(GOOD, diverged=0.05), replace(GOOD, attractors=1)
        index, notes = choose_trial([expanding, single])
        assert index == 1
        assert "one attractor" in notes[0]

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"diverged": 0.1}, "expands"),
            ({"attractors": 0}, "no attractor"),
            ({"attractors": 1}, "one attractor"),
            ({"attractors": 250}, "as many attractors as starts"),
            ({"converged": 0.2}, "20%"),
        ],
    )
    def test_each_failing_is_said(self, change: dict[str, float], said: str) -> None:
        _, notes = choose_trial([replace(GOOD, **change)])  # type: ignore[arg-type]
        assert any(said in note for note in notes)


class TestFit:
    def test_held_out_samples_are_rebuilt(self, surrogate: SurrogateAutoencoder) -> None:
        assert surrogate.reconstruction_.high < 0.5
        x = clustered()["out"]
        unit = torch.nn.functional.normalize(torch.from_numpy(np.asarray(x)))
        rebuilt = surrogate.decode(surrogate.encode(x))
        assert float((rebuilt - unit).square().mean() / (unit - unit.mean(0)).square().mean()) < 0.5

    def test_the_sweep_is_shown(self, surrogate: SurrogateAutoencoder) -> None:
        assert len(surrogate.sweep_) > 3
        assert "*" in repr(surrogate)
        gains = [trial.gain for trial in surrogate.sweep_]
        assert gains[-1] < gains[0]

    def test_length_of_a_feature_does_not_matter(self, surrogate: SurrogateAutoencoder) -> None:
        x = torch.from_numpy(np.asarray(clustered()["out"]))[:5]
        torch.testing.assert_close(surrogate.encode(7 * x), surrogate.encode(x))

    def test_foreign_samples_move_further(self, surrogate: SurrogateAutoencoder) -> None:
        x = np.asarray(clustered(seed=0)["out"])
        foreign = np.random.default_rng(5).standard_normal(x.shape)
        assert surrogate.residual(foreign).median() > surrogate.residual(x).median()

    def test_round_trip(self, surrogate: SurrogateAutoencoder, tmp_path: Path) -> None:
        surrogate.save_pretrained(tmp_path / "s")
        again = SurrogateAutoencoder.from_pretrained(tmp_path / "s")
        x = clustered()["out"][:9]
        torch.testing.assert_close(again.encode(x), surrogate.encode(x), rtol=0, atol=0)
        assert repr(again) == repr(surrogate)

    def test_same_seed_same_numbers_and_global_state_untouched(self) -> None:
        def fit() -> SurrogateAutoencoder:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SurrogateWarning)
                return SurrogateAutoencoder(3, (8,), penalty=0.1, noise=0.1, epochs=2).fit(
                    clustered(60), "out"
                )

        before = torch.random.get_rng_state()
        x = clustered(60)["out"]
        torch.testing.assert_close(fit().encode(x), fit().encode(x), rtol=0, atol=0)
        assert torch.equal(before, torch.random.get_rng_state())

    def test_a_strong_penalty_leaves_one_attractor_and_warns(self) -> None:
        with pytest.warns(SurrogateWarning, match="one attractor"):
            SurrogateAutoencoder(4, (32,), penalty=100.0, epochs=5).fit(clustered(), "out")


def pretended(monkeypatch: pytest.MonkeyPatch, weak: float, strong: float) -> list[float]:
    """Fields that diverge up to one penalty and have one attractor from another on; what was tried."""
    tried: list[float] = []

    def made_up(
        encoder: object, decoder: object, test: object, penalty: float, *, seed: int, settings: object
    ) -> Trial:
        tried.append(penalty)
        if penalty < weak:
            return replace(GOOD, penalty=penalty, diverged=0.2)
        return replace(GOOD, penalty=penalty, attractors=1 if penalty > strong else 8)

    monkeypatch.setattr("repdyn.fields.surrogate.try_field", made_up)
    return tried


class TestGap:
    def test_a_usable_penalty_between_two_of_the_sweep_is_found(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pretended(monkeypatch, 0.035, 0.045)
        found = SurrogateAutoencoder(2, (4,), epochs=1).fit(clustered(40), "out")
        assert 0.035 <= found.penalty_ <= 0.045
        assert found.notes_ == ()
        penalties = [trial.penalty for trial in found.sweep_]
        assert penalties == sorted(penalties)
        assert repr(found).count("*") == 1

    def test_a_usable_penalty_below_the_sweep_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tried = pretended(monkeypatch, 0.001, 0.0025)
        found = SurrogateAutoencoder(2, (4,), epochs=1).fit(clustered(40), "out")
        assert 0.001 <= found.penalty_ <= 0.0025
        assert found.notes_ == ()
        assert len(tried) == 8

    def test_the_search_ends_where_there_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tried = pretended(monkeypatch, 0.04, 0.04)
        with pytest.warns(SurrogateWarning, match="one attractor"):
            SurrogateAutoencoder(2, (4,), epochs=1).fit(clustered(40), "out")
        assert len(tried) == 10
        assert max(tried[6:]) / min(tried[6:]) < 2

    @pytest.mark.parametrize(("weak", "strong"), [(0.0, 0.2), (0.0, -1.0), (9.0, 9.0)])
    def test_without_a_gap_nothing_more_is_tried(
        self, weak: float, strong: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tried = pretended(monkeypatch, weak, strong)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SurrogateWarning)
            SurrogateAutoencoder(2, (4,), epochs=1).fit(clustered(40), "out")
        assert len(tried) == 6


class TestBadInput:
    def test_unknown_point_names_the_nearest(self) -> None:
        with pytest.raises(RepdynError, match="'out'"):
            SurrogateAutoencoder().fit(clustered(30), "uot")

    def test_too_few(self) -> None:
        with pytest.raises(RepdynError, match="too few"):
            SurrogateAutoencoder().fit(clustered(10), "out")

    def test_another_width(self, surrogate: SurrogateAutoencoder) -> None:
        with pytest.raises(RepdynError, match=r"\(N, 24\)"):
            surrogate.encode(np.zeros((2, 5), dtype=np.float32))


def test_of_many_samples_some_are_drawn_and_their_number_is_said(tmp_path: Path) -> None:
    paths = clustered()
    width = paths.widths[paths.points[0]]
    settings = replace(SURROGATE, held_bytes=4 * width * 150)
    fitted = SurrogateAutoencoder(4, (16,), penalty=0.1, epochs=2, settings=settings)
    paths.save(tmp_path / "a.paths")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted.fit(open_paths(tmp_path / "a.paths"), paths.points[0])
    assert fitted.samples_ == (150, 400)
    assert "150 samples drawn from 400" in repr(fitted)
    fitted.save_pretrained(tmp_path / "surrogate")
    again = SurrogateAutoencoder.from_pretrained(tmp_path / "surrogate")
    assert again.samples_ == (150, 400)
    assert repr(again) == repr(fitted)


def test_a_sample_that_is_not_finite_is_named_by_its_number_among_all(tmp_path: Path) -> None:
    x = np.ones((400, 3), np.float32) * np.arange(1, 401)[:, None]
    x[[3, 42], 1] = np.inf  # the second is drawn
    column = VectorColumn.of(x)
    paths = RepresentationPaths(
        {"x": column},
        logits=None,
        read_labels=lambda: None,
        read_ids=lambda: np.arange(400).astype(str),
        meta={},
    )
    assert 42 in drawn_rows(400, 100, 0)
    fitted = SurrogateAutoencoder(settings=replace(SURROGATE, held_bytes=4 * 3 * 100))
    with pytest.raises(RepdynError, match="x: sample 42 is not finite"):
        fitted.fit(paths, "x")
