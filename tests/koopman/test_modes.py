"""Modes: the inputs that excite one are the planted ones; labels explain what they should and no more."""

from __future__ import annotations

import numpy as np
import pytest

from repdyn.errors import RepdynError
from repdyn.koopman import KoopmanAutoencoder
from repdyn.koopman.modes import Excitation, excitation, explained_by_label
from repdyn.paths import RepresentationPaths


@pytest.fixture(scope="module")
def found() -> tuple[KoopmanAutoencoder, RepresentationPaths]:
    """Two modes that decay differently; class 1 excites the slow one strongly, class 0 does not."""
    draw = np.random.default_rng(0)
    labels = draw.integers(2, size=300)
    x = draw.standard_normal((300, 2)) * np.array([0.2, 1.0])
    x[:, 0] += np.where(labels == 1, np.where(draw.random(300) < 0.5, 2.0, -2.0), 0.0)
    arrays = {f"layer{k}": x * np.array([0.95, 0.5]) ** k for k in range(3)}
    paths = RepresentationPaths.from_arrays(arrays, labels=labels)
    return KoopmanAutoencoder(2, ()).fit(paths, epochs=30, batch_size=64), paths


def test_the_planted_inputs_excite_the_slow_mode(found) -> None:
    kae, paths = found
    spectrum = kae.spectrum(paths, resamples=10)
    told = excitation(spectrum, kae, paths, count=20)
    slow = int(np.abs(np.abs(spectrum.eigenvalues) - 0.95).argmin())
    assert set(np.asarray(paths.labels)[told.top[slow]]) == {1}
    assert told.by_class[1, slow] > 3 * told.by_class[0, slow]
    assert told.amplitude.shape == (300, 2)
    assert np.all(np.diff(told.amplitude[told.top[slow], slow]) <= 0)
    assert "most in class 1" in repr(told)
    assert set(told.verdicts) <= {"found", "not found", "inconclusive"}


def test_labels_explain_what_lies_between_them() -> None:
    code = np.repeat([0, 1], 200)
    draw = np.random.default_rng(0)
    values = np.stack([np.where(code == 1, 1.0, -1.0), draw.standard_normal(400)], axis=1)
    share = explained_by_label(values, code)
    assert share[0] == pytest.approx(1)
    assert share[1] < 0.05


def test_shuffles_of_repeated_samples_give_the_chance_of_the_different_ones(found) -> None:
    kae, paths = found
    first, last = (np.asarray(paths[p])[:40] for p in (paths.points[0], paths.points[-1]))
    middle = np.asarray(paths[paths.points[1]])[:40]
    labels = np.random.default_rng(5).integers(2, size=40)
    few = RepresentationPaths.from_arrays(
        dict(zip(paths.points, (first, middle, last))), labels=labels, meta=paths.meta
    )
    rows = np.repeat(np.arange(40), 6)
    many = few.subset(rows)
    spectrum = kae.spectrum(few, resamples=5)
    one, several = (excitation(spectrum, kae, x, seed=3) for x in (few, many))
    np.testing.assert_allclose(several.chance, one.chance)
    np.testing.assert_allclose(several.explained, one.explained)
    # The chance level is that of labels shuffled over 40 samples, not over 240: computed anew.
    values = spectrum.eigenfunctions(kae.encode(first, paths.points[0]))
    draw = np.random.default_rng(9)
    own = np.quantile(
        [explained_by_label(values, draw.permutation(labels)) for _ in range(400)], 0.95, axis=0
    )
    np.testing.assert_allclose(several.chance, own, rtol=0.5)
    assert several.verdicts == one.verdicts


def test_a_saved_excitation_is_the_same_and_is_drawn(found, tmp_path) -> None:
    kae, paths = found
    told = excitation(kae.spectrum(paths, resamples=5), kae, paths)
    told.save(tmp_path / "e")
    assert Excitation.load(tmp_path / "e").to_dict() == told.to_dict()
    assert len(told.plot().data) == 1


def test_without_labels_there_are_no_classes(found) -> None:
    kae, paths = found
    bare = RepresentationPaths.from_arrays({p: np.asarray(paths[p]) for p in paths.points})
    told = excitation(kae.spectrum(bare, resamples=5), kae, bare)
    assert set(told.verdicts) == {"inconclusive"}
    with pytest.raises(RepdynError, match="no labels"):
        told.plot()


def test_nonsense_is_refused(found) -> None:
    kae, paths = found
    spectrum = kae.spectrum(paths, resamples=5)
    with pytest.raises(RepdynError, match="count"):
        excitation(spectrum, kae, paths, count=0)
    other = KoopmanAutoencoder(3, ()).fit(paths, epochs=1)
    with pytest.raises(RepdynError, match="the spectrum of this autoencoder"):
        excitation(spectrum, other, paths)
