"""The signature picture says what is matched, what is not, and what it does not show."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from repdyn.errors import RepdynError
from repdyn.views.trees import tree, two_trees


def ribbons(figure: go.Figure) -> list[go.Scatter]:
    return [trace for trace in figure.data if trace.hoveron == "fills" and "↔" in str(trace.text)]


def hatched(figure: go.Figure) -> list[go.Scatter]:
    return [trace for trace in figure.data if trace.fillpattern.shape]


def test_a_ribbon_per_pair_and_hatching_for_the_rest(made: Any) -> None:
    figure = two_trees(
        made.random_tree(0, 8), made.random_tree(1, 6), [[0, 0], [1, 3], [2, 5]], [0.9, 0.5, 0.1]
    )
    assert len(ribbons(figure)) == 3
    assert len(hatched(figure)) == (8 - 3) + (6 - 3)
    assert "3 pairs" in figure.layout.meta["caption"]
    assert "(5 in A, 3 in B)" in figure.layout.meta["caption"]
    assert all("no partner" in trace.text for trace in hatched(figure))


def test_a_ribbon_meets_both_of_its_leaves(made: Any) -> None:
    figure = two_trees(made.random_tree(0, 8), made.random_tree(1, 6), [[3, 2]], [0.4])
    (ribbon,) = ribbons(figure)
    boxes = {trace.text.split("<br>")[0]: trace for trace in figure.data if trace.hoveron == "fills"}
    for side, edge in (("A3 cluster 3", min), ("B2 cluster 2", max)):
        leaf, x = boxes[side], np.asarray(ribbon.x)
        ends = np.asarray(ribbon.y)[x == edge(x)]
        np.testing.assert_allclose([ends.min(), ends.max()], [min(leaf.y), max(leaf.y)], atol=2e-3)


def test_doubt_thins_and_fades_a_ribbon(made: Any) -> None:
    def waist_and_alpha(trust: float) -> tuple[float, float]:
        (ribbon,) = ribbons(two_trees(made.random_tree(0, 8), made.random_tree(1, 6), [[3, 2]], [trust]))
        half = len(ribbon.y) // 2
        thickness = np.asarray(ribbon.y)[half:][::-1] - np.asarray(ribbon.y)[:half]
        return float(thickness.min()), float(ribbon.fillcolor.split(",")[-1].rstrip(")"))

    sure, unsure = waist_and_alpha(1.0), waist_and_alpha(0.0)
    assert sure[0] > 5 * unsure[0]
    assert sure[1] > unsure[1]
    assert unsure[0] > 0


def test_at_most_sixty_leaves_and_the_rest_is_said(made: Any) -> None:
    pairs = np.stack([np.arange(100), np.arange(100)], axis=1)
    figure = two_trees(made.random_tree(0, 300), made.random_tree(1, 40), pairs[:30], np.full(30, 0.5))
    leaves = [trace for trace in figure.data if trace.hoveron == "fills" and "↔" not in str(trace.text)]
    assert sum(str(t.text).startswith("A") or "smaller leaves" in str(t.text) for t in leaves) == 60
    assert any("241 smaller leaves" in str(trace.text) for trace in leaves)
    assert len(ribbons(figure)) == 30
    full = two_trees(made.random_tree(0, 300), made.random_tree(1, 120), pairs, np.full(100, 0.5))
    hidden = 100 - len(ribbons(full))
    assert hidden > 0
    assert f"{hidden} pairs lie among collapsed leaves" in full.layout.meta["caption"]


def test_inner_nodes_can_be_matched(made: Any) -> None:
    a = made.random_tree(0, 8)
    inner = int(a["parent"][0])
    figure = two_trees(a, made.random_tree(1, 6), [[inner, 2]], [0.8])
    assert len(ribbons(figure)) == 1
    under = int((a["parent"] == inner).sum())
    assert len(hatched(figure)) <= 8 - under + 5


def test_a_pair_that_contains_another_is_told_and_not_drawn_over_it(made: Any) -> None:
    a, b = made.random_tree(0, 8), made.random_tree(1, 6)
    root_a, root_b = int(np.argmin(a["parent"])), int(np.argmin(b["parent"]))
    figure = two_trees(a, b, [[root_a, root_b], [0, 1]], [0.75, 0.5])
    assert len(ribbons(figure)) == 1
    assert "contain these (1)" in figure.layout.meta["caption"]
    told = [text for trace in figure.data if trace.mode == "markers" for text in trace.text]
    assert sum(f"↔ B{root_b}, confidence 0.75" in text for text in told) == 1


def test_no_pairs_at_all_is_a_picture_of_two_unmatched_trees(made: Any) -> None:
    figure = two_trees(made.random_tree(0, 5), made.random_tree(1, 4), np.empty((0, 2)), np.empty(0))
    assert ribbons(figure) == []
    assert len(hatched(figure)) == 9
    assert "no pair is matched" in figure.layout.meta["alt"]


def test_a_tree_of_one_node_is_drawn() -> None:
    one = {"parent": [-1], "height": [1.0], "death": [0.0], "mass": [1.0], "label": None}
    assert len(ribbons(two_trees(one, one, [[0, 0]], [1.0]))) == 1
    assert "1 leaf" in tree(one).layout.meta["caption"]


def test_labels_are_never_markup(made: Any) -> None:
    a = made.random_tree(0, 4)
    a["label"] = ["<b>bold</b>" + "x" * 10_000] * 7
    figure = two_trees(a, made.random_tree(1, 4), [[0, 0]], [1.0])
    assert "<b>" not in figure.to_json().replace("\\u003c", "<")
    assert len(figure.to_json()) < 60_000


@pytest.mark.parametrize(
    ("pairs", "confidence", "said"),
    [([[0, 9999]], [1.0], "below 9 of A and below 7 of B"), ([[0, 0]], [1.0, 1.0], r"shape \(1,\)")],
)
def test_bad_pairs_are_refused(made: Any, pairs: list[list[int]], confidence: list[float], said: str) -> None:
    with pytest.raises(RepdynError, match=said):
        two_trees(made.random_tree(0, 5), made.random_tree(1, 4), pairs, confidence)


def test_a_tree_alone_spans_the_levels_of_its_leaves(made: Any) -> None:
    given = made.random_tree(3, 9)
    boxes = {t.text.split("<br>")[0].split()[0]: t for t in tree(given).data if t.hoveron == "fills"}
    assert len(boxes) == 9
    for k in range(9):
        x = np.asarray(boxes[str(k)].x)
        assert x.min() == pytest.approx(given["death"][k], abs=0.01)
        assert x.max() == pytest.approx(given["height"][k], abs=0.01)


def test_a_root_that_never_dies_is_drawn_from_the_lowest_level(made: Any) -> None:
    given = made.random_tree(3, 9)
    given["death"][given["parent"] < 0] = -np.inf
    assert np.isfinite(tree(given).layout.xaxis.range).all()
