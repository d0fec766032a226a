"""One small, made-up example of every picture, with known contents."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from repdyn.views.alignment import alignment
from repdyn.views.cluster_flow import cluster_flow
from repdyn.views.depth_factors import depth_factors
from repdyn.views.fidelity import fidelity
from repdyn.views.field import field
from repdyn.views.forgetting import attack, excitation, forgetting
from repdyn.views.memorization import memorization
from repdyn.views.ood import ood
from repdyn.views.path_flow import path_flow
from repdyn.views.persistence import persistence
from repdyn.views.probing import probing
from repdyn.views.replication import replication
from repdyn.views.spectrum import pseudospectrum, spectrum
from repdyn.views.swaps import swaps
from repdyn.views.tracking import tracking
from repdyn.views.translation import translation
from repdyn.views.trees import tree, two_trees

POINTS = tuple(["embed"] + [f"blocks.{k}" for k in range(7)])


def with_interval(values: np.ndarray, half: float) -> list[dict[str, float]]:
    return [{"value": float(v), "low": float(v - half), "high": float(v + half)} for v in values]


def example_path_flow() -> go.Figure:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, size=400)
    angle = labels * np.pi / 3
    centre = 3 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    noise = rng.normal(size=(400, 2))
    positions = np.stack([noise * (1 - 0.06 * k) + centre * (k / 7) ** 1.5 for k in range(8)])
    names = np.array(["numpy", "scipy", "torch", "email", "http", "ast"])
    return path_flow(positions, names[labels], POINTS, np.linspace(0.2, 0.55, 8))


def example_cluster_flow() -> go.Figure:
    """Six classes that are told apart ever better with depth."""
    rng = np.random.default_rng(9)
    labels = rng.integers(0, 6, 500)
    membership = np.stack(
        [np.where(rng.random(500) < 0.25 + 0.1 * k, labels, rng.integers(0, 6, 500)) for k in range(8)]
    )
    names = np.array(["numpy", "scipy", "torch", "email", "http", "ast"])
    return cluster_flow(membership, names[labels], POINTS)


def example_fidelity() -> go.Figure:
    depth = np.arange(8)
    fvu = {
        "Koopman autoencoder": with_interval(0.05 + 0.015 * depth, 0.012),
        "identity": with_interval(0.2 + 0.11 * depth, 0.03),
        "affine": with_interval(0.1 + 0.05 * depth, 0.02),
        "shared linear map": with_interval(0.15 + 0.06 * depth, 0.02),
        "random features": with_interval(0.12 + 0.03 * depth, 0.02),
    }
    accuracy = {
        "Koopman autoencoder": with_interval(0.9 - 0.01 * depth, 0.02),
        "identity": with_interval(0.8 - 0.09 * depth, 0.03),
        "affine": with_interval(0.85 - 0.04 * depth, 0.03),
    }
    return fidelity(POINTS, fvu, accuracy)


def flow_field() -> dict[str, Any]:
    """A field with a known answer: attractors at (±1, 0), a saddle at the origin, split by x = 0."""
    rng = np.random.default_rng(1)
    starts = rng.uniform([-2, -1.5], [2, 1.5], size=(600, 2))

    def velocity(z: np.ndarray) -> np.ndarray:
        return np.stack([z[..., 0] - z[..., 0] ** 3, -z[..., 1]], axis=-1)

    z, path = starts.copy(), [starts.copy()]
    for _ in range(120):
        z = z + 0.1 * velocity(z)
        path.append(z.copy())
    grid = np.stack(np.meshgrid(np.linspace(-2, 2, 18), np.linspace(-1.5, 1.5, 14)), axis=-1).reshape(-1, 2)
    v = velocity(grid)
    basin = (starts[:, 0] > 0).astype(int)
    basin[:12] = -1
    return {
        "starts2d": starts,
        "ends2d": z,
        "attractors2d": np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]),
        "basin": basin,
        "status": ["fixed point", "fixed point", "slow point"],
        "stable": np.array([True, True, False]),
        "explained": 1.0,
        "trajectories2d": np.stack(path, axis=1)[:25],
        "velocity": (grid[:, 0], grid[:, 1], v[:, 0], v[:, 1]),
        "planar": True,
    }


def example_field() -> go.Figure:
    return field(**flow_field())


def example_field_projected() -> go.Figure:
    return field(**{**flow_field(), "explained": 0.31, "velocity": None, "planar": False})


def example_ood() -> go.Figure:
    rng = np.random.default_rng(2)
    scores = {
        "held-out prose": rng.normal(0, 1, 1000),
        "source code": rng.normal(-3.2, 1.4, 800),
        "shuffled characters": rng.normal(-6, 1.8, 800),
    }
    table = {
        detector: {
            name: {
                "auroc": {"value": a, "low": a - 0.01, "high": min(1, a + 0.01)},
                "fpr95": {"value": 1.2 - a, "low": 1.16 - a, "high": 1.24 - a},
            }
            for name in ("source code", "shuffled characters")
        }
        for detector, a in {
            "path detector": 0.97,
            "kNN, last point": 0.91,
            "Mahalanobis, last point": 0.88,
        }.items()
    }
    depth = np.arange(8)
    profiles = {
        name: np.abs(rng.normal(size=(len(s), 8))) + np.abs(s)[:, None] * depth / 7
        for name, s in scores.items()
    }
    low, median, high = np.quantile(profiles["held-out prose"], [0.05, 0.5, 0.95], axis=0)
    return ood(
        scores,
        "held-out prose",
        -1.65,
        table,
        {"points": POINTS, "low": low, "median": median, "high": high, "samples": profiles},
    )


def example_persistence() -> go.Figure:
    rng = np.random.default_rng(3)
    diagrams = {}
    for k, point in enumerate(POINTS):
        death = np.append(rng.gamma(2, 0.15, 60), np.inf)
        born = rng.uniform(0.2, 0.9, 25)
        loops = np.stack([born, born + rng.gamma(1.2, 0.06, 25)], axis=1)
        loops[0] = [0.4, 0.5 + 0.12 * k]
        diagrams[point] = [np.stack([np.zeros(61), death], axis=1), loops]
    return persistence(diagrams)


def random_tree(seed: int, leaves: int) -> dict[str, Any]:
    """A merge tree by joining random neighbours, deepest saddle last; leaves come first."""
    rng = np.random.default_rng(seed)
    parent = np.full(2 * leaves - 1, -1)
    height = np.zeros(2 * leaves - 1)
    death = np.zeros(2 * leaves - 1)
    mass = np.zeros(2 * leaves - 1)
    height[:leaves] = rng.uniform(1.2, 2, leaves)
    mass[:leaves] = rng.dirichlet(np.full(leaves, 2.0))
    alive = list(range(leaves))
    for node in range(leaves, 2 * leaves - 1):
        level = 1.15 * (1 - (node - leaves + 1) / leaves)
        k = int(rng.integers(len(alive) - 1))
        pair = [alive[k], alive.pop(k + 1)]
        alive[k] = node
        parent[pair] = node
        death[pair] = level
        height[node] = level
        mass[node] = mass[pair].sum()
    label = [f"cluster {k}" for k in range(leaves)] + [""] * (leaves - 1)
    return {"parent": parent, "height": height, "death": death, "mass": mass, "label": label}


def example_two_trees(leaves: int = 14) -> go.Figure:
    rng = np.random.default_rng(4)
    a, b = random_tree(5, leaves), random_tree(6, leaves - 2)
    order = rng.permutation(leaves)[: leaves - 4]
    pairs = np.stack([order, np.arange(leaves - 4)], axis=1)
    return two_trees(a, b, pairs, rng.uniform(0.35, 0.98, len(pairs)))


def example_tree() -> go.Figure:
    return tree(random_tree(5, 14))


def example_translation() -> go.Figure:
    rng = np.random.default_rng(7)
    bars = {
        "from trees, no pairs": {"value": 0.59, "low": 0.55, "high": 0.63},
        "random match": {"value": 0.01, "low": 0.004, "high": 0.02},
        "shuffled tree": {"value": 0.03, "low": 0.02, "high": 0.05},
        "paired upper bound": {"value": 0.97, "low": 0.95, "high": 0.98},
    }
    confusion = rng.poisson(1, size=(12, 12)) + np.diag(rng.poisson(40, 12))
    return translation(bars, confusion, [f"package {k}" for k in range(12)], "found")


def example_spectrum() -> go.Figure:
    rng = np.random.default_rng(8)
    modulus, angle = rng.uniform(0.3, 1.0, 16), rng.uniform(0.1, 2.6, 16)
    half = modulus * np.exp(1j * angle)
    values = np.concatenate([half, half.conj(), [1.0, 0.9, 0.6]])
    residual = np.concatenate([np.tile(rng.gamma(1.5, 0.1, 16), 2), [0.01, 0.03, 0.3]])
    size = np.abs(values)
    return spectrum(values, residual, 0.15, size - 0.03, size + 0.03, np.arange(8))


def example_pseudospectrum() -> go.Figure:
    axis = np.linspace(-1.2, 1.2, 21)
    places = axis[None] + 1j * axis[:, None]
    values = np.array([0.9, 0.5 + 0.4j, 0.5 - 0.4j])
    residual = np.abs(places[..., None] - values).min(axis=-1)
    return pseudospectrum(axis, axis, residual, values, np.array([True, True, False]))


def pair(before: float, after: float) -> dict[str, dict[str, float]]:
    first, second = with_interval(np.array([before, after]), 0.02)
    return {"before": first, "after": second}


def example_forgetting() -> go.Figure:
    per_class = {f"class {k}": pair(0.97, 0.97 - 0.01 * k) for k in range(6)}
    return forgetting(pair(0.98, 0.0), pair(0.97, 0.95), per_class)


def example_attack() -> go.Figure:
    names = ("probe", "head, target", "fine-tuned, target", "fine-tuned, others")
    rows = {"not edited": (0.99, 0.98, 0.97, 0.98), "edited": (0.8, 0.0, 0.7, 0.9)}
    return attack({n: dict(zip(names, with_interval(np.array(v), 0.03))) for n, v in rows.items()}, 0.5)


def example_excitation() -> go.Figure:
    values = np.random.default_rng(3).gamma(2.0, 0.5, (6, 12))
    return excitation(values, [f"class {k}" for k in range(6)], np.arange(12) < 5)


def example_translation_stitched() -> go.Figure:
    stitching = {
        "through the translation": {"value": 0.71, "low": 0.67, "high": 0.75},
        "random orthogonal map": {"value": 0.09, "low": 0.07, "high": 0.12},
        "B's own body (ceiling)": {"value": 0.93, "low": 0.91, "high": 0.95},
    }
    bars = {"translation": {"value": 0.6, "low": 0.5, "high": 0.7}, "random": 0.01}
    return translation(bars, None, None, "found", stitching)


def moving_squares() -> np.ndarray:
    """Three rows by three columns of clips: a square whose colour is its row's and whose way its column's."""
    colors = np.array([[1.0, 0.3, 0.1], [0.2, 0.7, 0.3], [0.2, 0.4, 1.0]])
    clips = np.zeros((3, 3, 8, 24, 24, 3))
    for r, color in enumerate(colors):
        for c in range(3):
            for t in range(8):
                y, x = (2 * t, 2 + 2 * t, 9)[c], (9, 2 + 2 * t, 2 * t)[c]
                clips[r, c, t, y : y + 6, x : x + 6] = color
    return clips


def example_swaps() -> go.Figure:
    return swaps(
        moving_squares(),
        ["static of 1", "static of 2", "static of 3"],
        ["dynamic of 1", "dynamic of 2", "dynamic of 3"],
        "Colour should follow the row and motion the column.",
    )


def example_memorization() -> go.Figure:
    rng = np.random.default_rng(10)
    return memorization(rng.uniform(0.9, 1, 20), rng.uniform(0.4, 0.9, 300), "found")


def example_depth_factors() -> go.Figure:
    depth = np.arange(6)
    probes = {
        split: {
            "static": with_interval(static + 0.01 * depth, 0.03),
            "dynamic": with_interval(0.6 - 0.02 * depth, 0.03),
        }
        for split, static in (("spectral", 0.5), ("random", 0.3), ("mean components", 0.4))
    }
    return depth_factors([f"blocks.{k}" for k in depth], probes, 0.2, "found")


def example_probing() -> go.Figure:
    atoms = np.array([1, 2, 4, 8, 16])
    error = {"attractors (20)": 0.6 / atoms, "random": 0.9 - 0.02 * atoms, "data itself": 0.4 / atoms}
    return probing(atoms, {name: with_interval(row, 0.03) for name, row in error.items()}, "found")


def example_alignment() -> go.Figure:
    steps = np.array([0, 1, 2, 4, 8, 16])
    explained = {
        "states": with_interval(0.9 - 0.02 * steps, 0.03),
        "velocities": with_interval(0.6 - 0.03 * steps, 0.05),
    }
    return alignment(steps, explained, with_interval(0 * steps + 0.02, 0.02))


def example_tracking() -> go.Figure:
    steps = np.arange(0, 1200, 200)
    shares = np.random.default_rng(11).dirichlet(np.ones(10), len(steps)) * 0.9
    return tracking(
        steps,
        shares,
        np.array([[2, 2, 0, 0], [4, 2, 0, 0], [5, 1, 0, 0], [4, 0, 0, 1], [4, 0, 0, 0], [3, 0, 1, 0]]),
    )


def example_replication() -> go.Figure:
    evidence = {
        "agreement of two halves": 0.36,
        "retrieval between halves": 0.87,
        "fit of the first half": 0.43,
        "margin of the best different map": 0.12,
        "lead in standard errors": 5.3,
        "different maps that fit as well": 38,
    }
    return replication(evidence, "found", "two maps from disjoint halves agree")


EXAMPLES: dict[str, Callable[[], go.Figure]] = {
    "alignment": example_alignment,
    "memorization": example_memorization,
    "depth_factors": example_depth_factors,
    "probing": example_probing,
    "replication": example_replication,
    "tracking": example_tracking,
    "path_flow": example_path_flow,
    "cluster_flow": example_cluster_flow,
    "fidelity": example_fidelity,
    "spectrum": example_spectrum,
    "pseudospectrum": example_pseudospectrum,
    "forgetting": example_forgetting,
    "attack": example_attack,
    "excitation": example_excitation,
    "field": example_field,
    "field_projected": example_field_projected,
    "ood": example_ood,
    "persistence": example_persistence,
    "tree": example_tree,
    "two_trees": example_two_trees,
    "translation": example_translation,
    "translation_stitched": example_translation_stitched,
    "swaps": example_swaps,
}


@pytest.fixture(scope="session", params=sorted(EXAMPLES))
def example(request: pytest.FixtureRequest) -> go.Figure:
    return EXAMPLES[request.param]()


@pytest.fixture(scope="session")
def examples() -> dict[str, go.Figure]:
    return {name: make() for name, make in EXAMPLES.items()}


@pytest.fixture(scope="session")
def made() -> SimpleNamespace:
    """The makers of examples, for tests that vary them."""
    return SimpleNamespace(
        random_tree=random_tree,
        flow_field=flow_field,
        example_ood=example_ood,
        with_interval=with_interval,
        moving_squares=moving_squares,
    )
