"""The plane that the points share."""

from __future__ import annotations

import numpy as np

from repdyn.paths.arrays import columns_of_arrays
from repdyn.paths.projection import project


def test_a_plane_in_many_dimensions_is_found() -> None:
    generator = np.random.default_rng(0)
    plane = np.linalg.qr(generator.normal(size=(20, 2)))[0].T
    flat = generator.normal(size=(300, 2)) * [3, 1]
    columns = columns_of_arrays({"a": flat @ plane, "b": 50 * flat @ plane + 7}, {}, None)[0]
    projected, explained = project(columns, seed=0)
    np.testing.assert_allclose(explained, 1, atol=1e-9)
    # The same picture at both points: position and scale are not what is looked at.
    np.testing.assert_allclose(projected[0], projected[1], atol=1e-9)
    centred = flat - flat.mean(axis=0)
    expected = np.linalg.norm(centred, axis=1) / np.sqrt((centred**2).sum(axis=1).mean())
    np.testing.assert_allclose(np.linalg.norm(projected[0], axis=1), expected, atol=1e-9)


def test_where_the_width_changes_the_picture_is_turned_onto_the_one_before() -> None:
    generator = np.random.default_rng(0)
    flat = generator.normal(size=(300, 2)) * [3, 1]
    first, second = (np.linalg.qr(generator.normal(size=(width, 2)))[0].T for width in (20, 9))
    columns = columns_of_arrays({"a": flat @ first, "b": flat @ second}, {}, None)[0]
    projected, _ = project(columns, seed=0)
    np.testing.assert_allclose(projected[0], projected[1], atol=1e-9)


def test_one_entry_constants_and_tokens_have_a_picture_too() -> None:
    words = np.random.default_rng(0).normal(size=(30, 4, 3))
    mask = np.ones((30, 4), bool)
    mask[0] = False
    given = {"one": np.arange(30.0)[:, None], "constant": np.ones((30, 6)), "words": words}
    projected, explained = project(columns_of_arrays(given, {"words": mask}, None)[0], seed=0)
    assert projected.shape == (3, 30, 2)
    assert np.isfinite(projected).all()
    np.testing.assert_allclose(explained[:2], [1, 0], atol=1e-9)


def test_the_seed_decides() -> None:
    columns = columns_of_arrays({"a": np.random.default_rng(0).normal(size=(200, 40))}, {}, None)[0]
    np.testing.assert_array_equal(project(columns, 1)[0], project(columns, 1)[0])
