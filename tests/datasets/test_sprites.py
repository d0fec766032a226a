"""Generated clips: geometry, counts, labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from repdyn.datasets.sprites import dsprites, moving_dsprites, sprites
from repdyn.errors import RepdynError


def test_dsprites_stay_in_place_and_change_size_with_their_class() -> None:
    found = dsprites(60, size=32, seed=1)
    assert found.clips.shape == (60, 8, 3, 32, 32)
    assert list(found.static) == ["colour", "shape", "position_x", "position_y"]
    for clip, x, y in zip(found.clips, found.static["position_x"], found.static["position_y"]):
        lit = clip.max(axis=1) > 0
        rows, columns = (np.flatnonzero(lit[0].any(axis=axis)) for axis in (1, 0))
        centre = (np.array([x, y]) * 4 + 2) * 32 / 31 / 2 + 7.75
        # A heart's middle is not half-way between its ends.
        assert [columns.mean(), rows.mean()] == pytest.approx(centre.tolist(), abs=1.6)
    areas = {}
    for clip, scale, shape in zip(found.clips, found.dynamic["scale"], found.static["shape"]):
        areas.setdefault((int(scale), int(shape)), []).append((clip.max(axis=1) > 0).sum(axis=(1, 2)))
    for courses in areas.values():
        assert np.abs(np.stack(courses) - courses[0]).max() <= 30  # one course of size for each class


def test_squares_and_ellipses_have_their_areas() -> None:
    found = moving_dsprites(300, size=64)
    area = (found.clips.max(axis=2) > 0).sum(axis=(2, 3))
    assert area[found.static["shape"] == 0].max() == pytest.approx(19.2**2, rel=0.1)
    assert area[found.static["shape"] == 1].max() == pytest.approx(np.pi * 7.2 * 12.8, rel=0.04)
    assert (area > 0).all()


def test_colour_is_the_label() -> None:
    found = moving_dsprites(40, size=16)
    seen = found.clips.max(axis=(1, 3, 4))
    for colour in np.unique(found.static["colour"]):
        assert len(np.unique(seen[found.static["colour"] == colour], axis=0)) == 1


def test_parts_are_disjoint_and_repeatable() -> None:
    found = moving_dsprites(50, size=16)
    parts = found.split((0.6, 0.2, 0.2), seed=3)
    assert [len(part) for part in parts] == [30, 10, 10]
    keys = [{tuple(row) for row in np.stack(list(p.labels.values()), axis=1)} for p in parts]
    assert not keys[0] & keys[1]
    assert not keys[0] & keys[2]
    assert np.array_equal(parts[1].clips, found.split((0.6, 0.2, 0.2), seed=3)[1].clips)
    clip, labels = found[0]
    assert clip.max() <= 1
    assert set(labels) == {"colour", "shape", "scale", "position_x", "position_y"}


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(RepdynError, match="count: expected 1 to 11520"):
        dsprites(0)
    with pytest.raises(RepdynError, match="at least 8"):
        dsprites(1, size=4)
    with pytest.raises(RepdynError, match="are missing"):
        sprites({})
    with pytest.raises(RepdynError, match="shares: expected positive"):
        moving_dsprites(4, size=8).split((0.9, 0.2))


def test_sprites_of_the_real_layers(shared_data: Path) -> None:
    with np.load(shared_data / "images" / "sprites_layers.npz") as held:
        layers = {name: held[name] for name in held.files}
    train, test = sprites(layers, items=2, size=32)
    assert (len(train), len(test)) == (12 * 9, 4 * 9)
    assert train.clips.shape[1:] == (8, 3, 32, 32)
    assert set(train.dynamic["action"]) == set(range(9))
    # Frames move, and characters of different clothes look different.
    assert (train.clips != train.clips[:, :1]).any(axis=(1, 2, 3, 4)).all()
    first = train.clips[train.dynamic["action"] == 0]
    assert len(np.unique(first.reshape(len(first), -1), axis=0)) == 12
    # Items can be named; the first two are what two of them mean.
    np.testing.assert_array_equal(sprites(layers, items=(0, 1), size=32)[0].clips, train.clips)
    assert (sprites(layers, items=(0, 2), size=32)[0].clips != train.clips).any()
    for items in (1, (0, 0), (0, 7), (-1, 0), range(7)):
        with pytest.raises(RepdynError, match="2 to 6 of the 7 in every layer"):
            sprites(layers, items=items, size=32)
    # Fewer training characters are the first of them, and the test part stays.
    few, same = sprites(layers, items=2, size=32, characters=5)
    assert np.array_equal(few.clips, train.clips[: 5 * 9])
    assert np.array_equal(same.clips, test.clips)
    with pytest.raises(RepdynError, match="characters: expected 1 to 12"):
        sprites(layers, items=2, characters=13)


def test_sprites_are_composed_layer_by_layer(shared_data: Path) -> None:
    with np.load(shared_data / "images" / "sprites_layers.npz") as held:
        layers = {name: held[name] for name in held.files}
    train, _ = sprites(layers, items=(0, 3), size=16, characters=3)
    for row in (0, 13, 26):
        action, direction = divmod(int(train.dynamic["action"][row]), 3)
        picture = np.zeros((8, 64, 64, 3))
        worn = [layers[name][(0, 3)[label[row]]] for name, label in train.static.items()]
        for layer in (*worn, layers["shoes"][1]):
            opacity = layer[action, direction, ..., 3:] / 255
            picture = layer[action, direction, ..., :3] * opacity + picture * (1 - opacity)
        small = picture.reshape(8, 16, 4, 16, 4, 3).mean(axis=(2, 4)).transpose(0, 3, 1, 2)
        assert np.abs(train.clips[row] - small).max() <= 0.5 + 1e-4
