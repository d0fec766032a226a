"""Depth as time: where the label is, known by construction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from repdyn.disentangle import SKD, DepthFactors, Factors, depth_factors, depth_swaps
from repdyn.disentangle.depth import _explained, _share
from repdyn.errors import RepdynError
from repdyn.intervals import Estimate
from repdyn.paths import RepresentationPaths


class Known(SKD):
    """Latents are the states themselves, and the true static part is known: what is measured is exact."""

    def encode(self, sequences: Any) -> NDArray[np.float32]:
        return np.asarray(self.read(sequences).values.numpy())

    def decode(self, z: Any) -> NDArray[np.float32]:
        return np.asarray(z, dtype=np.float32)

    def factors(self, sequences: Any) -> Factors:
        z = self.encode(sequences)
        static = z @ self.projector
        return Factors(static, z - static, np.ones(z.shape[:2], dtype=bool))

    projector: NDArray[np.float32]


def staying_label(count: int, seed: int) -> RepresentationPaths:
    """The label's direction stays through depth; two others, of more variance, turn slowly."""
    generator = np.random.default_rng(seed)
    label = generator.integers(2, size=count)
    turning = 6 * generator.standard_normal((count, 2))
    mixing = np.linalg.qr(np.random.default_rng(5).standard_normal((6, 3)))[0].T
    arrays = {}
    for depth in range(5):
        turn = 0.3 * depth
        rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        hidden = np.column_stack([2.0 * label - 1, turning @ rotation])
        arrays[f"block{depth}"] = (hidden @ mixing).astype(np.float32)
    return RepresentationPaths.from_arrays(arrays, labels=label)


def label_direction() -> NDArray[np.float32]:
    """Of the last block, in its own coordinates."""
    return np.linalg.qr(np.random.default_rng(5).standard_normal((6, 3)))[0].T[0].astype(np.float32)


def head(x: NDArray[np.float32]) -> NDArray[np.float32]:
    along = x @ label_direction()
    return np.stack([-along, along], axis=1)


TRAIN, TEST = staying_label(160, 0), staying_label(80, 1)


@pytest.fixture(scope="module")
def model() -> Known:
    model = Known(1, 6, 8).fit(TRAIN, epochs=1)
    assert model.frames_ is not None
    last = len(TRAIN.points) - 1
    origin, tip = torch.zeros(1, 6), torch.from_numpy(label_direction())[None]
    axis = (model.frames_.lift(tip, last) - model.frames_.lift(origin, last)).detach().numpy()
    axis /= np.linalg.norm(axis)
    model.projector = axis.T @ axis
    return model


@pytest.fixture(scope="module")
def found(model: Known) -> DepthFactors:
    return depth_factors(model, TEST, TRAIN, head=head)


def test_the_label_is_read_where_it_was_put(found: DepthFactors) -> None:
    assert found.verdict == "found"
    assert found.advantage.low > 0.2
    assert set(found.probes) == {"spectral", "random", "mean components"} == set(found.static_share)
    for depth in range(5):
        assert found.probes["spectral"]["static"][depth].value > 0.99
        assert found.probes["spectral"]["dynamic"][depth].value < 0.7
        assert found.probes["mean components"]["static"][depth].value < 0.7  # it takes what varies most
    assert found.explained.value == pytest.approx(1, abs=1e-6)
    # The label has variance 1 of 73.
    assert found.static_share["spectral"].value == pytest.approx(1 / 73, rel=0.3)
    assert "swap of static parts" in repr(found)


def test_the_head_follows_whoever_gave_the_label(found: DepthFactors) -> None:
    assert found.swaps is not None
    assert found.swaps["spectral"]["donor"].value == 1
    assert found.swaps["spectral"]["receiver"].value == 0
    assert found.swaps["mean components"]["receiver"].value > 0.9


def test_parts_are_exchanged_at_any_point(model: Known) -> None:
    seen = []

    def middle(x: NDArray[np.float32]) -> NDArray[np.float32]:
        seen.append(x)
        return head(x)  # the label's direction is the same at every depth

    swaps = depth_swaps(model, TEST, TRAIN, middle, point="block2")
    assert swaps["spectral"]["donor"].value == 1
    # The first that the head is given is what was there.
    assert seen[0] == pytest.approx(np.asarray(TEST["block2"]), abs=1e-4)
    with pytest.raises(RepdynError, match="point: there is no 'block9'"):
        depth_swaps(model, TEST, TRAIN, middle, point="block9")
    with pytest.raises(RepdynError, match="the same class for every"):
        depth_swaps(model, TEST, TRAIN, lambda x: np.eye(2)[np.zeros(len(x), dtype=int)])


def test_it_is_drawn_with_its_controls(found: DepthFactors) -> None:
    figure = found.plot()
    drawn = {trace.name: trace.y for trace in figure.data if trace.name and trace.showlegend is not False}
    assert set(drawn) == {"spectral", "random (control)", "mean components (control)"}
    assert list(drawn["spectral"]) == [value.value for value in found.probes["spectral"]["static"]]
    assert "Verdict: found" in figure.layout.meta["caption"]


def test_printed_columns_name_their_point_and_hold_its_figures() -> None:
    points = ("encoder.layer.4", "blocks.0", "a.long.path.to.encoder.layer.5")
    figures = tuple(Estimate(value, 0.0, 1.0) for value in (0.125, 0.25, 0.5))
    one = Estimate(0.4, 0.3, 0.5)
    probes = {"spectral": {"static": figures, "dynamic": figures[::-1]}}
    shown = repr(DepthFactors(points, {}, one, probes, None, 0.1, one)).splitlines()
    header, static, dynamic = (line for line in shown if line.startswith("    "))
    assert header.split() == ["encoder.layer.4", "blocks.0", "…encoder.layer.5"]
    for row, values in ((static, ["0.125", "0.250", "0.500"]), (dynamic, ["0.500", "0.250", "0.125"])):
        assert row.split()[2:] == values
        for name, value in zip(header.split(), values):  # right-aligned below the name
            assert row.index(value) + len(value) == header.index(name) + len(name)


def test_saved_and_read_again(found: DepthFactors, tmp_path: Path) -> None:
    found.save(tmp_path / "d")
    assert DepthFactors.load(tmp_path / "d").to_dict() == found.to_dict()


def test_paths_without_labels_and_models_of_clips_are_refused() -> None:
    train = staying_label(40, 0)
    bare = RepresentationPaths.from_arrays({point: np.asarray(train[point]) for point in train.points})
    model = SKD(1, 3, 6).fit(train, epochs=1)
    with pytest.raises(RepdynError, match="test paths have no labels"):
        depth_factors(model, bare, train)
    x = np.zeros((8, 4, 3), np.float32)
    with pytest.raises(RepdynError, match="not fitted to representation paths"):
        depth_factors(SKD(1, 3, 6).fit(x, epochs=1), train, train)


def test_copies_of_inputs_do_not_narrow_a_share() -> None:
    draw = np.random.default_rng(0)
    static = np.repeat(draw.normal(size=(30, 1, 4)), 3, axis=1).astype(np.float32)
    dynamic = draw.normal(size=(30, 3, 4)).astype(np.float32)
    rows = np.repeat(np.arange(30), 20)
    one = Factors(static, dynamic, np.ones((30, 3), dtype=bool))
    many = Factors(static[rows], dynamic[rows], np.ones((600, 3), dtype=bool))
    plain, copied = _share(one, 0, np.arange(30)), _share(many, 0, rows)
    assert copied.value == pytest.approx(plain.value, rel=1e-5)
    assert (copied.low, copied.high) == pytest.approx((plain.low, plain.high), rel=1e-4)
    assert _share(many, 0, np.arange(600)).high - copied.value < 0.5 * (copied.high - copied.value)
    left, whole = draw.exponential(size=(2, 30))
    once, again = _explained(left, whole, 0, np.arange(30)), _explained(left[rows], whole[rows], 0, rows)
    assert (again.low, again.high) == pytest.approx((once.low, once.high))
