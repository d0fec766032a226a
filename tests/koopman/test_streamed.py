"""Fits that do not hold their data: the numbers of fits that do."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from repdyn.errors import RepdynError
from repdyn.koopman import KoopmanAutoencoder, controls
from repdyn.koopman.frames import PointFrames
from repdyn.koopman.settings import ControlSettings, SpectrumSettings
from repdyn.koopman.states import Held, Streamed, frame_rows, read_points, survey
from repdyn.koopman.training import Plan
from repdyn.paths import RepresentationPaths, open_paths

SIZE = 500


def planted(kind: str = "plain", size: int = SIZE) -> RepresentationPaths:
    g = np.random.default_rng(0)
    x, turn = g.normal(size=(size, 10)), np.linalg.qr(g.normal(size=(10, 10)))[0]
    if kind == "equal rows":
        x[1::2] = x[0::2]
    arrays = {}
    for k in range(4):
        own = x.copy()
        if kind == "outlier coordinates":
            own[:, 0] *= 2000
        if kind == "far from zero":
            own += 500
        if kind == "widths differ" and k == 1:
            own = own[:, :7]
        dtype = "float16" if kind == "float16" else "float64" if kind == "float64" else "float32"
        arrays[f"layer{k}"] = own.astype(dtype)
        x = 0.8 * x + np.tanh(x @ turn)
    return RepresentationPaths.from_arrays(arrays)


KINDS = ["plain", "equal rows", "outlier coordinates", "float16", "float64", "far from zero", "widths differ"]


@pytest.fixture
def streaming(monkeypatch: pytest.MonkeyPatch) -> Any:
    def begin() -> None:
        monkeypatch.setattr("repdyn.koopman.autoencoder.Plan", partial(Plan, memory=0))
        monkeypatch.setattr("repdyn.koopman.autoencoder.nearby", lambda paths, most=0: paths)
        monkeypatch.setattr("repdyn.koopman.states._ROWS", 64)
        monkeypatch.setattr("repdyn.koopman.states.STRETCH", 150)
        for name, settings in (("controls", ControlSettings), ("spectrum", SpectrumSettings)):
            module = import_module(f"repdyn.koopman.{name}")
            monkeypatch.setattr(module, "_SETTINGS", settings(held_bytes=0))
            monkeypatch.setattr(module, "nearby", lambda paths, most=0: paths)
        monkeypatch.setattr("repdyn.paths.columns._HELD_BYTES", 0)
        monkeypatch.setattr("repdyn.paths.sampling._BLOCK_SAMPLES", 64)

    return begin


def stored(paths: RepresentationPaths, place: Any) -> RepresentationPaths:
    paths.save(place)
    return open_paths(place)


@pytest.mark.parametrize("operator", ["generator", "per_step", "least_squares"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_ends_with_the_same_numbers(kind: str, operator: str, streaming: Any, tmp_path: Any) -> None:
    paths = planted(kind)

    def fit(given: RepresentationPaths) -> KoopmanAutoencoder:
        return KoopmanAutoencoder(6, (8,), operator=operator).fit(given, epochs=4, seed=1, batch_size=50)

    held = fit(paths)
    streaming()
    streamed = fit(stored(paths, tmp_path / "a.paths"))
    for name, losses in held.history_.items():
        np.testing.assert_allclose(streamed.history_[name], losses, rtol=2e-3, atol=1e-6, err_msg=name)
    x = np.asarray(paths["layer0"])[:20]
    expected, found = (kae.propagate(x, "layer0", "layer3") for kae in (held, streamed))
    scale = np.asarray(paths["layer3"], dtype=np.float64).std()
    np.testing.assert_allclose(found, expected, atol=5e-3 * scale)


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_those_that_are_held(kind: str, streaming: Any, tmp_path: Any) -> None:
    paths = planted(kind)
    states = read_points(paths)
    frames = PointFrames(paths.widths).fit(states)
    held = Held(torch.stack([frames.lift(x, n) for n, x in enumerate(states)]))
    streaming()
    spread = survey(paths)
    own = PointFrames(paths.widths).fit_to(spread.moments, frame_rows(paths), len(paths))
    for name, value in frames.named_buffers():
        torch.testing.assert_close(own.get_buffer(name), value, rtol=1e-4, atol=1e-5, msg=name)
    streamed = Streamed(stored(paths, tmp_path / "a.paths"), own)
    g = torch.Generator().manual_seed(0)
    rows, depths = torch.randint(SIZE, (400,), generator=g), torch.randint(4, (400,), generator=g)
    torch.testing.assert_close(streamed.at(rows, depths), held.at(rows, depths), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(streamed.variance, held.variance, rtol=1e-3, atol=1e-4)
    order = torch.randperm(SIZE, generator=g)[:480].view(12, 40)
    depths = torch.tensor([1, 2, 3, 3]).repeat_interleave(10)
    pairs = zip(held.batches(order, depths, True), streamed.batches(order, depths, True), strict=True)
    for one, other in pairs:
        for a, b in zip(one, other):
            torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-3)
    blocks = torch.cat(list(streamed.blocks(rows)), dim=1)
    torch.testing.assert_close(blocks, held.all(rows), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_controls_predict_the_same(kind: str, streaming: Any, tmp_path: Any) -> None:
    paths = planted(kind)
    held = controls(paths)
    streaming()
    streamed = controls(stored(paths, tmp_path / "a.paths"))
    assert list(streamed) == list(held)
    assert streamed.penalties == held.penalties
    x = np.asarray(paths["layer0"])[:30]
    for name in held:
        for point, one, other in zip(paths.points[1:], held[name](x), streamed[name](x)):
            scale = np.asarray(paths[point], dtype=np.float64).std(axis=0)
            np.testing.assert_allclose(other / scale, one / scale, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_spectrum_is_the_same(kind: str, streaming: Any, tmp_path: Any) -> None:
    paths = planted(kind)
    kae = KoopmanAutoencoder(6, (8,)).fit(paths, epochs=2, seed=1)
    held = kae.spectrum(paths)
    streaming()
    streamed = kae.spectrum(stored(paths, tmp_path / "a.paths"))
    # Which of a conjugate pair comes first is a matter of rounding, and so are their resampled intervals.
    found, expected = (np.sort_complex(one.eigenvalues) for one in (streamed, held))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    for name in ("residuals", "variation", "gram", "cross"):
        np.testing.assert_allclose(getattr(streamed, name), getattr(held, name), rtol=1e-4, atol=1e-6)
    for name in ("residuals_high", "modulus_low"):
        np.testing.assert_allclose(getattr(streamed, name), getattr(held, name), rtol=0.05)
    scale = np.abs(held.modes).max()
    np.testing.assert_allclose(np.abs(streamed.modes) / scale, np.abs(held.modes) / scale, atol=1e-4)
    assert (streamed.pairs, streamed.steps) == (held.pairs, held.steps)
    with pytest.raises(RepdynError, match="cannot certify"):
        kae.spectrum(paths.subset(np.arange(3)))


def test_a_value_that_is_not_finite_is_named(streaming: Any) -> None:
    from repdyn.paths.columns import VectorColumn

    paths = planted()
    x = np.array(paths["layer2"])
    x[321, 4] = np.inf
    bad = RepresentationPaths(
        {
            point: VectorColumn.of(x if point == "layer2" else np.asarray(paths[point]))
            for point in paths.points
        },
        logits=None,
        read_labels=lambda: None,
        read_ids=lambda: np.array([f"image {k}" for k in range(SIZE)]),
        meta={},
    )
    streaming()
    for fit in (KoopmanAutoencoder(6, (8,)).fit, controls):
        with pytest.raises(RepdynError, match=r"'layer2', sample 321.*image 321"):
            fit(bad)
    constant = {"a": np.random.default_rng(0).normal(size=(50, 3)), "b": np.ones((50, 3))}
    with pytest.raises(RepdynError, match="'b' is constant"):
        KoopmanAutoencoder(2, (4,)).fit(RepresentationPaths.from_arrays(constant), epochs=1)


def test_a_broken_off_fit_goes_on(streaming: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from repdyn.koopman import training

    streaming()
    paths, file = planted(), tmp_path / "fit.safetensors"

    def fit(given: RepresentationPaths, checkpoint: Any = None) -> KoopmanAutoencoder:
        return KoopmanAutoencoder(6, (8,)).fit(given, epochs=6, batch_size=50, checkpoint=checkpoint)

    straight = fit(paths)
    whole = training._Run.epoch

    def breaks(run: Any) -> None:
        if run.done == 3:
            raise KeyboardInterrupt
        whole(run)

    monkeypatch.setattr(training._Run, "epoch", breaks)
    with pytest.raises(KeyboardInterrupt):
        fit(paths, file)
    monkeypatch.setattr(training._Run, "epoch", whole)
    resumed = fit(paths, file)
    assert resumed.history_ == straight.history_
    with pytest.raises(RepdynError, match="another fit, with other data"):
        fit(planted("far from zero"), file)


@pytest.fixture
def url() -> Any:
    yield "memory://bucket/a.paths"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def test_a_remote_store_is_read_in_stretches(
    url: str, streaming: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = planted(size=4000)
    paths.save(url)
    fetched: list[int] = []
    cat = MemoryFileSystem.cat_file

    def counted(self: Any, path: str, start: Any = None, end: Any = None) -> bytes:
        data = cat(self, path, start=start, end=end)
        fetched.append(len(data))
        return data

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    opened = open_paths(url)
    whole = KoopmanAutoencoder(6, (8,)).fit(opened, epochs=2, batch_size=100)
    store = sum(np.asarray(paths[point]).nbytes for point in paths.points)
    assert sum(fetched) <= 1.1 * store  # it is small, and fetched once
    fetched.clear()
    for point, x in zip(paths.points, read_points(opened)):
        np.testing.assert_array_equal(x, np.asarray(paths[point]))
    assert sum(fetched) <= 1.1 * store
    fetched.clear()
    streaming()
    monkeypatch.setattr("repdyn.koopman.states.STRETCH", 4000)
    streamed = KoopmanAutoencoder(6, (8,)).fit(open_paths(url), epochs=2, batch_size=100)
    # Moments and equal samples (twice), frames, start, two epochs, and their looks at the validation part.
    assert sum(fetched) <= 12 * store
    assert streamed.history_["validation"][-1] < 1.2 * whole.history_["validation"][-1]
