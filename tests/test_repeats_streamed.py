"""Equal rows found in passes over blocks: the groups that are found where all rows are held."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from repdyn.repeats import groups_of_equal_rows
from repdyn.repeats_streamed import groups_in_blocks


def streamed(x: np.ndarray, size: int) -> np.ndarray:
    read: list[int] = []

    def blocks() -> Iterator[dict[str, np.ndarray]]:
        read.append(0)
        for start in range(0, len(x), size):
            yield {"x": x[start : start + size]}

    found = groups_in_blocks(blocks, lambda name, chosen: x[chosen], len(x))["x"]
    assert len(read) <= 3
    return found


def plain(kind: str) -> np.ndarray:
    g = np.random.default_rng(2)
    if kind == "different":
        return g.normal(size=(500, 12))
    if kind == "copies":
        return g.normal(size=(60, 3)).astype(np.float16)[g.integers(60, size=400)]
    if kind == "nearly equal":
        x = np.repeat(g.normal(size=(70, 40)), 5, axis=0)[g.permutation(350)]
        return x + 1e-6 * g.normal(size=x.shape)
    if kind == "outlier coordinates":
        x = np.repeat(g.normal(size=(90, 30)).astype(np.float32), 2, axis=0)
        x[:, :2] *= 3000
        x[1::2] *= 1 + 1e-6
        return x
    if kind == "not finite":
        x = np.repeat(g.normal(size=(50, 4)), 2, axis=0)
        x[10:14, 1] = np.nan
        x[30, 2] = np.inf
        return x
    if kind == "constant where the scale is looked for":
        x = np.zeros((9000, 3))
        x[np.arange(8) * 1000 + 1, np.arange(8) % 3] = g.normal(size=8)
        return x
    if kind == "many":
        return np.repeat(g.normal(size=(6000, 6)), 2, axis=0)[g.permutation(12_000)]
    return np.ones((50, 4))


@pytest.mark.parametrize("size", [1, 7, 64, 20_000])
@pytest.mark.parametrize(
    "kind",
    [
        "different",
        "copies",
        "nearly equal",
        "outlier coordinates",
        "not finite",
        "constant where the scale is looked for",
        "many",
        "all equal",
    ],
)
def test_the_groups_of_rows_that_are_held(kind: str, size: int) -> None:
    x = plain(kind)
    if size == 1:
        x = x[:400]
    np.testing.assert_array_equal(streamed(x, size), groups_of_equal_rows(x))


def test_several_arrays_at_once_and_none_at_all() -> None:
    g = np.random.default_rng(0)
    a, b = g.normal(size=(30, 2))[g.integers(30, size=200)], g.normal(size=(200, 5))
    found = groups_in_blocks(
        lambda: ({"a": a[k : k + 50], "b": b[k : k + 50]} for k in range(0, 200, 50)),
        lambda name, chosen: {"a": a, "b": b}[name][chosen],
        200,
    )
    np.testing.assert_array_equal(found["a"], np.unique(found["a"])[found["a"]])
    assert len(np.unique(found["a"])) == len(np.unique(a, axis=0))
    np.testing.assert_array_equal(found["b"], np.arange(200))
    assert groups_in_blocks(lambda: [], lambda name, chosen: a, 0) == {}


def test_rows_are_read_again_only_where_they_may_be_equal() -> None:
    x = np.random.default_rng(1).normal(size=(2000, 8))
    x[100] = x[7] + 1e-9
    asked: list[int] = []

    def rows(name: str, chosen: np.ndarray) -> np.ndarray:
        asked.extend(chosen.tolist())
        return x[chosen]

    found = groups_in_blocks(lambda: [{"x": x}], rows, len(x))["x"]
    assert found[100] == 7
    assert set(asked) == {7, 100}
