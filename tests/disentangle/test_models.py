"""Both models: what they learn of planted sequences, how they are used, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from repdyn.disentangle import SKD, SSMSKD, LossWeights, training
from repdyn.disentangle.models import StructuredKoopman
from repdyn.disentangle.settings import TrainingSettings
from repdyn.errors import RepdynError
from repdyn.paths import RepresentationPaths
from tests.disentangle.planted import planted_sequences

SMALL = LossWeights(reconstruction=4.0)


@pytest.fixture(scope="module")
def fitted() -> dict[str, StructuredKoopman]:
    x, _, _ = planted_sequences()
    return {
        "SKD": SKD(static_dim=2, latent_dim=6, hidden=24, weights=SMALL).fit(
            x, epochs=40, learning_rate=1e-2
        ),
        "SSMSKD": SSMSKD(latent_dim=6, hidden=24, weights=SMALL).fit(x, epochs=40, learning_rate=1e-2),
    }


@pytest.mark.parametrize("name", ["SKD", "SSMSKD"])
def test_sequences_are_reconstructed_and_their_parts_sum(
    fitted: dict[str, StructuredKoopman], name: str
) -> None:
    x, _, _ = planted_sequences(seed=5)
    model = fitted[name]
    error = ((model.reconstruct(x) - x) ** 2).mean() / x.var()
    assert error < 0.2  # the mean has 1
    parts = model.factors(x)
    assert parts.static + parts.dynamic == pytest.approx(model.encode(x), abs=1e-5)
    assert sum(parts.part([n]) for n in range(parts.count)) == pytest.approx(parts.static, abs=1e-4)
    assert 0 <= parts.static_share <= 1
    assert model.predict(x).shape == x.shape
    assert model.predict(x)[:, 0] == pytest.approx(model.reconstruct(x)[:, 0], abs=1e-5)


@pytest.mark.parametrize("name", ["SKD", "SSMSKD"])
def test_the_spectrum_is_drawn_to_its_target(fitted: dict[str, StructuredKoopman], name: str) -> None:
    history = fitted[name].history_["spectral"]
    assert history[-1] < 0.6 * history[0]


def test_the_static_part_of_skd_tells_the_static_label(fitted: dict[str, StructuredKoopman]) -> None:
    from sklearn.linear_model import LogisticRegression

    x, static, _ = planted_sequences()
    new, new_static, _ = planted_sequences(seed=7)
    model = fitted["SKD"]
    of = [model.factors(part).static.mean(axis=1) for part in (x, new)]
    probe = LogisticRegression(C=1e3, max_iter=500).fit(of[0], static)
    assert probe.score(of[1], new_static) > 0.95  # chance is a third


@pytest.mark.parametrize("model", [SKD, SSMSKD])
@pytest.mark.parametrize("extraction", ["eigenvector", "coordinate"])
def test_either_extraction_with_either_model(model: type[StructuredKoopman], extraction: str) -> None:
    x, _, _ = planted_sequences(count=20)
    found = model(static_dim=2, latent_dim=5, hidden=6, extraction=extraction).fit(x, epochs=1)  # type: ignore[call-arg]
    parts = found.factors(x)
    assert parts.count == (2 if extraction == "eigenvector" else 5)
    assert "2 static factors (modes)" in repr(parts) or "5 static factors (latent coord" in repr(parts)


def test_same_seed_same_model_and_the_global_stream_is_left_alone() -> None:
    x, _, _ = planted_sequences(count=20)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = SSMSKD(latent_dim=4, hidden=6).fit(x, epochs=2, seed=1).encode(x)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(4)
    assert np.array_equal(first, SSMSKD(latent_dim=4, hidden=6).fit(x, epochs=2, seed=1).encode(x))
    assert not np.array_equal(first, SSMSKD(latent_dim=4, hidden=6).fit(x, epochs=2, seed=2).encode(x))


@pytest.mark.parametrize("model", [SKD, SSMSKD])
def test_saved_and_read_again(model: type[StructuredKoopman], tmp_path: Path) -> None:
    x, _, _ = planted_sequences(count=20)
    found = model(static_dim=1, latent_dim=4, hidden=6).fit(x, epochs=2)  # type: ignore[call-arg]
    found.save_pretrained(tmp_path / "m")
    read = model.from_pretrained(tmp_path / "m")
    assert np.array_equal(read.encode(x), found.encode(x))
    assert np.array_equal(read.swap(x[:3], x[3:6]).first, found.swap(x[:3], x[3:6]).first)
    other = SKD if model is SSMSKD else SSMSKD
    with pytest.raises(RepdynError, match="load it with that class"):
        other.from_pretrained(tmp_path / "m")


def test_clips_of_pixels() -> None:
    clips = np.random.default_rng(0).integers(0, 255, size=(6, 4, 3, 16, 16), dtype=np.uint8)
    model = SSMSKD(latent_dim=3, hidden=6, channels=(4, 4)).fit(clips, epochs=1)
    shown = model.reconstruct(clips)
    assert shown.shape == clips.shape
    assert 0 <= shown.min() <= shown.max() <= 1
    figure = model.swap(clips[:2], clips[2:4]).plot()
    assert len(figure.frames) == 4


def test_sequences_of_differing_lengths() -> None:
    x, _, _ = planted_sequences(count=24)
    lengths = [8 - (i % 4) for i in range(24)]
    ragged = [row[:length] for row, length in zip(x, lengths)]
    model = SSMSKD(latent_dim=3, hidden=6).fit(ragged, epochs=2)
    z = model.encode(ragged)
    assert z.shape == (24, 8, 3)
    assert np.array_equal(z[3, 5:], np.zeros((3, 3)))
    # A sequence's latents do not depend on how far others are padded.
    assert z[3, :5] == pytest.approx(model.encode([ragged[3]])[0], abs=1e-6)
    with pytest.raises(RepdynError, match="one length"):
        model.swap(ragged[:4], ragged[4:8])


def test_paths_with_depth_as_time_and_points_of_any_width() -> None:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((60, 4)).astype(np.float32)
    wide = x @ generator.standard_normal((4, 9)).astype(np.float32)
    paths = RepresentationPaths.from_arrays({"a": x, "b": wide, "c": wide * 2})
    model = SSMSKD(latent_dim=2, hidden=8).fit(paths, epochs=2)
    parts = model.factors(paths)
    assert parts.static.shape == (60, 3, 2)
    other = RepresentationPaths.from_arrays({"a": x, "b": x, "c": x})
    with pytest.raises(RepdynError, match="another model"):
        model.encode(other)
    with pytest.raises(RepdynError, match="one point"):
        SSMSKD().fit(RepresentationPaths.from_arrays({"a": x}))


def test_more_latents_than_transitions_work_with_a_warning() -> None:
    x, _, _ = planted_sequences(count=12, length=3)
    with pytest.warns(UserWarning, match="more than the 2 transitions"):
        model = SSMSKD(latent_dim=9, hidden=6).fit(x, epochs=2)
    assert np.isfinite(model.swap(x[:2], x[2:4]).first).all()


@pytest.mark.parametrize(
    ("sequences", "says"),
    [
        (np.zeros((5, 1, 3), np.float32), "sequence 0 has length 1"),
        ([np.zeros((4, 3)), np.zeros((1, 3))], "sequence 1 has length 1"),
        ([np.zeros((4, 3)), np.zeros((4, 2))], "one shape for all"),
        ([np.zeros((4, 1, 8, 8)), np.zeros((4, 1, 16, 16))], "one shape for all"),
        ([np.zeros((4, 1, 8, 8)), np.zeros((4, 3, 8, 8))], "one shape for all"),
        ([np.zeros((4, 1, 8, 8)), np.zeros((4, 8, 8))], "one shape for all"),
        (np.array([np.zeros((4, 3)), np.zeros((5, 3))], dtype=object), "differing lengths as a list"),
        (np.zeros((5, 3), np.float32), "expected \\(N, T, width\\)"),
        (np.zeros((0, 4, 3), np.float32), "at least one value"),
        ([], "no sequence"),
        (np.zeros((1, 4, 3), np.float32), "at least two"),
        (np.zeros((5, 4, 1, 20, 20), np.float32), "16 must divide"),
        (np.full((5, 4, 1, 16, 16), 2, np.float32), "expected floats in \\[0, 1\\]"),
    ],
)
def test_sequences_that_make_no_sense_are_refused(sequences: object, says: str) -> None:
    with pytest.raises(RepdynError, match=says):
        SSMSKD(latent_dim=3, hidden=4).fit(sequences, epochs=1)


def test_a_value_that_is_not_finite_is_named() -> None:
    x, _, _ = planted_sequences(count=10)
    x[4, 2, 1] = np.nan
    with pytest.raises(RepdynError, match="sequence 4, frame 2: a value is not finite"):
        SKD().fit(x, epochs=1)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"static_dim": 9, "latent_dim": 4}, "static_dim=9 must be from 1 to latent_dim=4"),
        ({"static_dim": 0}, "static_dim=0"),
        ({"latent_dim": 0}, "must be positive"),
        ({"extraction": "eigenvectors"}, "nearest: 'eigenvector'"),
        ({"static_dim": 2, "weights": LossWeights(constancy=1.0)}, "needs one static mode"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], says: str) -> None:
    x, _, _ = planted_sequences(count=10)
    with pytest.raises(RepdynError, match=says):
        SSMSKD(**settings).fit(x, epochs=1)  # type: ignore[arg-type]


def test_plans_and_uses_that_make_no_sense_are_refused() -> None:
    x, _, _ = planted_sequences(count=10)
    with pytest.raises(RepdynError, match="batch_size at least 2"):
        SKD(2, 3, 4).fit(x, batch_size=1)
    with pytest.raises(RepdynError, match="not fitted yet"):
        SKD().encode(x)
    model = SKD(2, 3, 4).fit(x, epochs=1)
    with pytest.raises(RepdynError, match="frames have shape"):
        model.encode(x[:, :, :2])
    with pytest.raises(RepdynError, match="must be 'static', 'dynamic' or numbers"):
        model.swap(x[:2], x[2:4], "statics")
    with pytest.raises(RepdynError, match="static factors 0 to 1"):
        model.swap(x[:2], x[2:4], [2])


def test_a_smaller_learning_rate_starts_from_the_best_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[torch.Tensor]] = []

    def judge(model: SSMSKD, *_: object) -> float:
        seen.append([p.detach().clone() for p in model.parameters()])
        return 1.0 + len(seen)  # never better than after the first epoch

    monkeypatch.setattr(training, "_validation_loss", judge)
    settings = TrainingSettings(plateau_patience=2, plateau_factor=1e-12)
    x = np.random.default_rng(0).standard_normal((12, 5, 3)).astype("float32")
    training.fit(
        SSMSKD(latent_dim=3, hidden=4), x, epochs=5, seed=0, batch_size=32, learning_rate=1e-3,
        validation=None, device=None, settings=settings,
    )  # fmt: skip
    # Epochs 2, 3 and 4 are worse; in the fifth the rate is next to nothing, so what it starts from remains.
    assert all(torch.allclose(p, q, atol=1e-6) for p, q in zip(seen[4], seen[0]))
    assert not all(torch.allclose(p, q, atol=1e-6) for p, q in zip(seen[3], seen[0]))
