"""The field protocol: rivals on a known relation, figures against plain loops, draws without overlap."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from repdyn.paths import RepresentationPaths
from tests.translation.planted import clusters, rotation

Floats = NDArray[np.float64]


def retrieved(t: Any, q: Floats, classes: int) -> float:
    """Top-1 by a plain loop over points that no method has seen."""
    points, _ = clusters(100, seed=77, classes=classes)
    moved, target = np.asarray(t(points)), points @ q
    hits = 0
    for k in range(100):
        cosines = [(moved[k] - moved.mean(0)) @ y / np.linalg.norm(y) for y in target - target.mean(0)]
        hits += int(np.argmax(cosines)) == k
    return hits / 100


@pytest.mark.parametrize("name", ["wp", "wp in batches", "kmeans", "gw"])
def test_a_planted_rotation_is_recovered(bench: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "gw":
        pytest.importorskip("ot", reason="POT is a package of the extra bench")
    peers = bench("translation_peers")
    monkeypatch.setattr(peers, "RESTARTS", 6)
    q = rotation(24, seed=5)
    classes, seed = (30, 21) if name.startswith("wp") else (14, 1)
    x, other = (clusters(800, seed=one, classes=classes)[0] for one in (seed, seed + 1))
    y = other @ q
    t = {
        "wp": lambda: peers.wasserstein_procrustes(x, y, 0, 10_000, 8),
        "wp in batches": lambda: peers.wasserstein_procrustes(x, y, 0, 200, 20),
        "kmeans": lambda: peers.kmeans_aligner(x, y, 0),
        # Its coupling is exact for two readings of the same points alone.
        "gw": lambda: peers.gromov_wasserstein(x, x[::-1] @ q, False, 0),
    }[name]()
    assert retrieved(t, q, classes) > 0.8
    wrong = peers.LinearTranslation(rotation(24, seed=6), x.mean(0), y.mean(0))
    assert retrieved(wrong, q, classes) < 0.1


def test_known_pairs_decide_where_the_geometry_cannot(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = bench("translation_peers")
    monkeypatch.setattr(peers, "RESTARTS", 3)
    generator = np.random.default_rng(0)
    q = rotation(6, seed=1)
    x, y = generator.normal(size=(300, 6)), generator.normal(size=(300, 6))
    y[:60] = x[:60]
    pairs = np.column_stack([np.arange(60)] * 2)
    with_pairs, without = (
        peers.wasserstein_procrustes(x, y @ q, 0, 300, 10, known) for known in (pairs, None)
    )
    agreement = [
        float(np.trace(t.matrix.T @ q)) / np.linalg.norm(t.matrix) / 6**0.5 for t in (with_pairs, without)
    ]
    assert agreement[0] > 0.95
    assert agreement[1] < 0.8


@pytest.mark.parametrize("solver", ["by_relaxation", "by_mpopt"])
def test_solvers_find_the_best_of_all_permutations(bench: Any, solver: str) -> None:
    if solver == "by_mpopt":
        pytest.importorskip("pylibmgm")
    generator = np.random.default_rng(3)
    one, other = (x @ x.T for x in generator.normal(size=(2, 7, 3)))
    linear = 4 * generator.normal(size=(7, 7))

    def value(order: Any) -> float:
        total = 0.0
        for i, j in np.ndindex(7, 7):
            total += one[i, j] * other[order[i], order[j]]
        return total + sum(linear[i, order[i]] for i in range(7))

    best = max(itertools.permutations(range(7)), key=value)
    found = getattr(bench("translation_peers"), solver)(one, other, linear, 0)
    assert tuple(found) == best


@pytest.fixture
def field(bench: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The protocol on two planted settings: B's features are those of A turned, or shuffled."""
    protocol = bench("translation_field")
    monkeypatch.setattr(bench("translation_peers"), "RESTARTS", 3)
    x, labels = clusters(1700, seed=4, classes=30)
    numbered = np.arange(1700.0)

    def read(model: str, corpus: str, cache: Path, most: int = 0) -> RepresentationPaths:
        points = {"a": x, "b": x @ rotation(24, seed=9)}.get(model)
        if points is None:
            points = np.random.default_rng(0).permuted(x, axis=0)
        return RepresentationPaths.from_arrays({"first": numbered[:, None], "last": points}, labels=labels)

    monkeypatch.setattr(protocol, "read", read)
    monkeypatch.setattr(protocol, "HELD_OUT", 100)
    monkeypatch.setattr(
        protocol, "SETTINGS", {"planted": ("a", "b", "x", None), "shuffled": ("a", "c", "x", None)}
    )
    return protocol


def test_no_sample_is_in_two_parts(field: Any) -> None:
    drawn = field.draw("planted", 0, 0, Path())
    parts = [set(np.asarray(p["first"])[:, 0]) for p in (drawn.a, drawn.b, drawn.held_a)]
    assert [len(part) for part in parts] == [800, 800, 100]
    assert len(set().union(*parts)) == 1700
    np.testing.assert_array_equal(drawn.held_a["first"], drawn.held_b["first"])
    np.testing.assert_array_equal(drawn.a["first"], drawn.partners["first"])
    with_pairs = field.draw("planted", 0, 7, Path())
    np.testing.assert_array_equal(with_pairs.b["first"][:7], with_pairs.a["first"][:7])
    np.testing.assert_array_equal(with_pairs.b["first"][7:], drawn.b["first"])


@pytest.mark.parametrize(
    ("setting", "method"), [("planted", "paired"), ("shuffled", "paired"), ("shuffled", "wp all")]
)
def test_figures_are_those_of_plain_loops_and_at_chance_for_shuffled_features(
    field: Any, setting: str, method: str
) -> None:
    row = field.run(setting, method, 0, Path())
    drawn = field.draw(setting, 0, 0, Path())
    t = field.fitted(method, drawn, 0)
    moved, target = (
        np.asarray(v) - np.asarray(v).mean(0) for v in (t(field.last(drawn.held_a)), field.last(drawn.held_b))
    )
    ranks, closer = [], []
    for i in range(100):
        to = [moved[i] @ v / np.linalg.norm(moved[i]) / np.linalg.norm(v) for v in target]
        back = [target[i] @ v / np.linalg.norm(target[i]) / np.linalg.norm(v) for v in moved]
        ranks.append(1 + sum(c > to[i] for c in to))
        closer.append((sum(c > to[i] for c in to) + sum(c > back[i] for c in back)) / 2 / 99)
    assert row["mean_rank"] == pytest.approx(np.mean(ranks))
    assert row["foscttm"] == pytest.approx(np.mean(closer))
    assert row["top10"] == pytest.approx(np.mean(np.array(ranks) <= 10))
    assert (row["count"], row["pool"]) == (800, 100)
    if setting == "planted":
        assert row["top1"] > 0.8
    else:
        assert row["top1"] < 0.08
        assert 0.4 < row["foscttm"] < 0.6
        assert 40 < row["mean_rank"] < 61


def test_a_seed_of_everything_comes_first_and_what_a_setting_lacks_is_left_out(bench: Any) -> None:
    field = bench("translation_field")
    cells = list(field.ordered([*field.SETTINGS], field.default_methods(), 2))
    assert [seed for _, _, seed in cells] == sorted(seed for _, _, seed in cells)
    assert ("pbmc", "translate", 0) not in cells
    assert ("pbmc", "wp 10000", 0) in cells
    assert ("banking77", "wp 10000", 0) not in cells
    assert ("docs", "5 pairs translate", 0) not in cells
    assert ("resnets", "gw", 1) not in cells
    assert ("resnets", "gw", 0) in cells


def test_the_table_says_who_is_ahead(bench: Any) -> None:
    table = bench("translation_field_table")

    def row(method: str, top1: float, foscttm: float) -> dict[str, Any]:
        shared = {
            "setting": "x",
            "seed": 0,
            "count": 9,
            "pool": 500,
            "top10": 0.9,
            "mean_rank": 2.0,
            "cosine": 0.5,
            "cpu": 2.0,
        }
        return {**shared, "method": method, "top1": top1, "foscttm": foscttm}

    rows = [
        row("paired", 0.8, 0.01),
        {**row("translate last", 0.4, 0.1), "verdict": "found"},
        row("wp 2000", 0.6, 0.101),
        row("kmeans", 0.1, 0.2),
        {**row("translate last", 0.019, 0.36), "setting": "y", "verdict": "not found"},
        {**row("wp 2000", 0.004, 0.5), "setting": "y"},
    ]
    printed = table.tables(rows).splitlines()
    (ours,) = [line for line in printed if "`translate`, last layer | 9" in line]
    assert "| 50% |" in ours
    assert "found 1" in ours
    (behind,) = [line for line in printed if "x | Wasserstein" in line and "(" in line]
    assert "**behind** (0.4, 0.6)" in behind
    assert "level (0.1, 0.101)" in behind
    (beaten,) = [line for line in printed if "k-means aligner | 1 |" in line and "(" in line]
    assert "ahead (0.4, 0.1) | ahead (0.1, 0.2)" in beaten
    (failed,) = [line for line in printed if "y | Wasserstein" in line and "(" in line]
    assert "neither (0.019, 0.004) | neither (0.36, 0.5)" in failed
