import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repdyn.errors import RepdynError
from repdyn.translation.trees.assignment import assignment_objective, quadratic_assignment


def symmetric(size: int, seed: int, layers: int = 1) -> np.ndarray:
    m = np.random.default_rng(seed).normal(size=(layers, size, size))
    return m + m.transpose(0, 2, 1)


@given(st.integers(0, 1000), st.integers(1, 2))
@settings(deadline=None, max_examples=10)
def test_small_problems_reach_the_optimum(seed: int, layers: int) -> None:
    a, b = symmetric(5, seed, layers), symmetric(5, seed + 1, layers)
    unary = np.random.default_rng(seed).normal(size=(5, 5))
    best = max(assignment_objective(a, b, np.array(p), unary) for p in itertools.permutations(range(5)))
    _, values = quadratic_assignment(a, b, unary, starts=64, polished=16, seed=seed)
    assert values[0] == pytest.approx(best)


def test_permuted_geometry_is_recovered() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(40, 12))
    order = generator.permutation(40)
    found, _ = quadratic_assignment(x @ x.T, x[order] @ x[order].T, starts=32, seed=0)
    assert np.array_equal(order[found[0]], np.arange(40))


@pytest.mark.parametrize(("size", "layers", "linear"), [(9, 2, 1.0), (17, 1, 0.0), (24, 4, 30.0)])
def test_no_swap_of_two_improves_what_is_returned(size: int, layers: int, linear: float) -> None:
    # Diagonals are not zero; the last case is nearly a linear assignment.
    a, b = symmetric(size, 0, layers), symmetric(size, 1, layers)
    unary = linear * np.random.default_rng(2).normal(size=(size, size))
    found, values = quadratic_assignment(a, b, unary, starts=4, polished=1)
    for i, j in itertools.combinations(range(size), 2):
        swapped = found[0].copy()
        swapped[[i, j]] = swapped[[j, i]]
        assert assignment_objective(a, b, swapped, unary) <= values[0] + 1e-9


def test_same_seed_same_answer_and_objectives_are_ordered() -> None:
    a, b = symmetric(12, 0), symmetric(12, 1)
    one, other = (quadratic_assignment(a, b, starts=8, seed=3) for _ in range(2))
    assert np.array_equal(one[0], other[0])
    assert np.all(np.diff(one[1]) <= 0)
    assert np.allclose([assignment_objective(a, b, p) for p in one[0]], one[1])


@pytest.mark.parametrize("shapes", [((3, 3), (4, 4)), ((3, 4), (3, 4)), ((0, 0), (0, 0))])
def test_wrong_shapes_are_refused(shapes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    with pytest.raises(RepdynError, match="quadratic_assignment"):
        quadratic_assignment(np.zeros(shapes[0]), np.zeros(shapes[1]))


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(RepdynError, match="finite"):
        quadratic_assignment(np.full((3, 3), np.nan), np.eye(3))
