"""Each picture shows the numbers it was given, says what it left out, and refuses what it cannot draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from repdyn.errors import RepdynError
from repdyn.intervals import Estimate
from repdyn.views.bands import style, symbol
from repdyn.views.cluster_flow import cluster_flow
from repdyn.views.depths import short
from repdyn.views.fidelity import fidelity
from repdyn.views.field import field
from repdyn.views.ood import ood
from repdyn.views.path_flow import path_flow
from repdyn.views.persistence import persistence
from repdyn.views.replication import replication
from repdyn.views.spectrum import spectrum
from repdyn.views.swaps import swaps
from repdyn.views.theme import ACCENT, CATEGORIES, CONTROL, OTHER, translucent
from repdyn.views.translation import translation, tree_order

RNG = np.random.default_rng(0)


def named(figure: go.Figure, name: str) -> list[Any]:
    return [trace for trace in figure.data if trace.name == name]


def test_every_picture_says_what_to_see(example: go.Figure) -> None:
    meta = example.layout.meta
    assert all(len(meta[key]) >= 5 for key in ("title", "caption", "alt"))
    assert example.layout.height >= 250
    assert len(example.to_json()) < 600_000


def test_no_picture_has_a_colour_that_only_one_ground_bears(example: go.Figure) -> None:
    """Annotations and axes take theirs from the template; ink inside coloured boxes is the exception."""
    for axis in [*example.select_xaxes(), *example.select_yaxes()]:
        assert axis.tickfont.color is None
        assert axis.gridcolor is None
    inside = {"#111820", "#ffffff"}
    assert {a.font.color for a in example.layout.annotations} <= {None, *inside}


def test_controls_are_grey_and_told_apart_by_dash_and_marker() -> None:
    for color in CONTROL:
        red, green, blue = (int(color[k : k + 2], 16) for k in (1, 3, 5))
        assert max(red, green, blue) - min(red, green, blue) < 32
    looks = {(style(rank)["dash"], symbol(rank)) for rank in range(1, 1 + len(CONTROL))}
    assert len(looks) == len(CONTROL)
    assert symbol(0) not in {symbol(rank) for rank in range(1, 1 + len(CONTROL))}


# Fidelity


def test_fidelity_draws_the_estimates_it_was_given(made: Any) -> None:
    ours = [Estimate(0.2, 0.1, 0.3), Estimate(0.4, 0.35, 0.5)]
    figure = fidelity(["a", "b"], {"kae": ours, "identity": made.with_interval(np.array([0.8, 0.9]), 0.05)})
    (line,) = named(figure, "kae")
    np.testing.assert_allclose(line.y, [0.2, 0.4])
    assert named(figure, "identity (control)")
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    np.testing.assert_allclose(bands[0].y, [0.3, 0.5, 0.35, 0.1])


def test_fidelity_without_intervals_has_no_band_and_small_values_a_logarithm() -> None:
    figure = fidelity(["a", "b"], {"kae": [0.001, 0.002], "identity": [0.9, 0.8]})
    assert [trace for trace in figure.data if trace.fill] == []
    assert figure.layout.yaxis.type == "log"


def test_fidelity_refuses_lengths_that_differ_and_nothing() -> None:
    with pytest.raises(RepdynError, match="'kae' has 1 estimates for 2 points"):
        fidelity(["a", "b"], {"kae": [0.1]})
    with pytest.raises(RepdynError, match="no finite number"):
        fidelity(["a"], {"kae": [float("nan")]})
    with pytest.raises(RepdynError, match="names no model"):
        fidelity(["a"], {})
    with pytest.raises(RepdynError, match="must hold numbers"):
        fidelity(["a"], {"kae": [{"value": "high"}]})


# Path flow


def test_path_flow_has_a_frame_per_depth_with_the_positions_at_it() -> None:
    positions = RNG.normal(size=(3, 20, 2))
    figure = path_flow(positions, None, ["a", "b", "c"], [0.1, 0.2, 0.3])
    assert len(figure.frames) == 3
    np.testing.assert_allclose(figure.frames[2].data[0].x, positions[2, :, 0], rtol=1e-5)
    assert [step.label for step in figure.layout.sliders[0].steps][1] == "b · plane shows 20%"
    assert "10% to 30%" in figure.layout.meta["caption"]


def test_path_flow_names_the_largest_classes_and_greys_the_rest() -> None:
    labels = np.repeat(np.arange(12), np.arange(12, 0, -1))
    figure = path_flow(RNG.normal(size=(2, len(labels), 2)), labels, ["a", "b"], 0.5)
    shown = {trace.name: trace.marker.color for trace in figure.data if trace.mode == "markers"}
    assert shown.pop("4 other classes") == OTHER
    assert list(shown.values()) == list(CATEGORIES)
    assert set(shown) == {str(k) for k in range(8)}


def test_path_flow_states_how_many_are_drawn_and_takes_one_sample() -> None:
    assert "1200 of 5000" in path_flow(np.ones((2, 5000, 2)), None, ["a", "b"], 0.5).layout.meta["caption"]
    assert path_flow(np.ones((2, 1, 2)), ["x"], ["a", "b"], 0.5).frames


def test_path_flow_refuses_what_does_not_fit() -> None:
    with pytest.raises(RepdynError, match=r"shape \(2, any, 2\), got \(3, 4, 2\)"):
        path_flow(np.zeros((3, 4, 2)), None, ["a", "b"], 0.5)
    with pytest.raises(RepdynError, match="labels must have shape"):
        path_flow(np.zeros((1, 4, 2)), [1, 2], ["a"], 0.5)
    with pytest.raises(RepdynError, match="no finite number"):
        path_flow(np.full((1, 4, 2), np.nan), None, ["a"], 0.5)


# Cluster flow


def test_bands_hold_every_sample_and_bars_fill_each_depth() -> None:
    membership = RNG.integers(0, 4, size=(3, 200))
    figure = cluster_flow(membership, None, ["a", "b", "c"])
    counts = [int(str(t.text).split(" ")[0]) for t in figure.data if "<br>" not in str(t.text)]
    assert sum(counts) == 2 * 200
    bars = [int(str(t.text).split("<br>")[1].split(" ")[0]) for t in figure.data if "<br>" in str(t.text)]
    assert sum(bars) == 3 * 200
    assert len(bars) == 12


def test_clusters_that_stay_whole_give_one_band_each_that_does_not_cross() -> None:
    stays = np.repeat([0, 1, 2], [50, 30, 20])
    renamed = np.array([2, 0, 1])[stays]
    figure = cluster_flow(np.stack([stays, renamed]), None, ["a", "b"])
    bands = [trace for trace in figure.data if "<br>" not in str(trace.text)]
    assert len(bands) == 3
    for band in bands:
        np.testing.assert_allclose(band.y[0], band.y[15], atol=1e-5)


def test_cluster_flow_merges_small_clusters_and_thins_depths() -> None:
    figure = cluster_flow(np.tile(np.arange(100), (30, 1)), None, [f"p{k}" for k in range(30)])
    assert len(figure.layout.xaxis.ticktext) == 12
    assert figure.layout.xaxis.ticktext[-1] == "p29"
    assert "12 of 30 depths" in figure.layout.meta["caption"]
    first = [t for t in figure.data if str(t.text).startswith("p0<br>")]
    assert len(first) == 8


def test_cluster_flow_refuses_what_does_not_fit() -> None:
    with pytest.raises(RepdynError, match=r"shape \(1, N\)"):
        cluster_flow(np.zeros((2, 3), dtype=int), None, ["a"])
    with pytest.raises(RepdynError, match=r"labels must have shape \(3,\)"):
        cluster_flow(np.zeros((1, 3), dtype=int), [1], ["a"])


# Field


def test_a_planar_field_has_arrows_basins_and_stability(made: Any) -> None:
    figure = field(**made.flow_field())
    kinds = [trace.type for trace in figure.data]
    assert "quiver" in kinds
    assert "heatmap" in kinds
    assert len(named(figure, "stable")[0].x) == 2
    assert named(figure, "unstable")[0].marker.symbol == "star-open"
    # The basin map knows the separatrix x = 0 to within the spacing of the starts.
    (basins,) = [trace for trace in figure.data if trace.type == "heatmap"]
    z = np.asarray(basins.z)
    left, right = z[:, np.asarray(basins.x) < -0.3], z[:, np.asarray(basins.x) > 0.3]
    assert len(np.unique(left[np.isfinite(left)])) == len(np.unique(right[np.isfinite(right)])) == 1
    assert left[np.isfinite(left)][0] != right[np.isfinite(right)][0]


def test_arrows_point_along_the_velocity(made: Any) -> None:
    given = made.flow_field()
    (arrows,) = [trace for trace in field(**given).data if trace.type == "quiver"]
    x, y, u, v = given["velocity"]
    index = [int(np.argmin(np.hypot(x - a, y - b))) for a, b in zip(arrows.x, arrows.y)]
    cross = np.asarray(arrows.u) * v[index] - np.asarray(arrows.v) * u[index]
    dot = np.asarray(arrows.u) * u[index] + np.asarray(arrows.v) * v[index]
    np.testing.assert_allclose(cross, 0, atol=1e-9)
    assert (dot >= 0).all()


def test_dynamics_outside_the_plane_are_never_drawn_as_if_in_it(made: Any) -> None:
    figure = field(**{**made.flow_field(), "planar": False, "explained": 0.23})
    assert {trace.type for trace in figure.data} == {"scatter"}
    assert "23% of the variance" in figure.layout.meta["caption"]
    assert "no arrows" in figure.layout.meta["caption"]
    assert named(figure, "trajectories (projected)")[0].line.dash == "dot"


def test_a_field_without_attractors_says_so(made: Any) -> None:
    given = {**made.flow_field(), "attractors2d": np.empty((0, 2)), "status": [], "stable": None}
    given["basin"] = np.full(600, -1)
    caption = field(**given).layout.meta["caption"]
    assert caption.startswith("No attractor found; 600 of 600 starts reached none")


def test_a_thousand_attractors_keep_colours_for_the_largest_basins() -> None:
    starts = RNG.normal(size=(2000, 2))
    basin = np.minimum(np.arange(2000) // 2, 999)
    figure = field(starts, starts, starts[:1000], basin, ["fixed point"] * 1000, None, 0.4, None, None, False)
    colors = list(named(figure, "stability not known")[0].marker.color)
    assert colors.count(OTHER) == 1000 - len(CATEGORIES)


def test_starts_that_reached_nothing_differ_from_the_gray_starts_of_small_basins() -> None:
    starts = RNG.normal(size=(40, 2))
    basin = np.append(np.arange(30), np.full(10, -1))
    figure = field(starts, starts, starts[:30], basin, ["fixed point"] * 30, None, 0.4, None, None, True)
    (lost,) = named(figure, "starts that reached no attractor")
    (small,) = [t for t in figure.data if t.type == "scatter" and t.name is None and t.marker.color == OTHER]
    assert (len(lost.x), len(small.x)) == (10, 30 - len(CATEGORIES))
    assert lost.marker.symbol != small.marker.symbol
    caption = figure.layout.meta["caption"]
    assert f"Gray: all but the {len(CATEGORIES)} largest basins." in caption
    assert "velocity" not in caption  # no velocity was given


def test_field_refuses_what_does_not_fit(made: Any) -> None:
    with pytest.raises(RepdynError, match="basin must hold 600 indices below 3"):
        field(**{**made.flow_field(), "basin": np.full(600, 3)})
    with pytest.raises(RepdynError, match="status has 1 entries for 3"):
        field(**{**made.flow_field(), "status": ["fixed point"]})
    with pytest.raises(RepdynError, match="one length"):
        field(**{**made.flow_field(), "velocity": ([0, 1], [0], [1], [1])})


# Out of distribution


def test_histograms_hold_every_score_and_the_caption_the_flagged_share() -> None:
    scores = {"out": np.full(50, -3.0), "in": np.linspace(-1, 3, 100)}
    figure = ood(scores, "in", -0.5, {}, None)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert [bar.name for bar in bars] == ["in (100)", "out (50)"]
    assert all(np.sum(bar.y) == pytest.approx(1) for bar in bars)
    # 13 of 100 and 50 of 50; the ends are Wilson's, which do not collapse at a share of one.
    assert "13% [8%, 21%] of in, 100% [93%, 100%] of out" in figure.layout.meta["caption"]


def test_the_table_holds_detectors_beside_controls(made: Any) -> None:
    (table,) = [trace for trace in made.example_ood().data if trace.type == "table"]
    names, sets, auroc, _ = table.cells["values"]
    assert [n for n in names if n] == [
        "<b>path detector</b>",
        "kNN, last point",
        "Mahalanobis, last point",
    ]
    assert list(sets[:2]) == ["source code", "shuffled characters"]
    assert auroc[0] == "0.970 [0.960, 0.980]"


def test_each_bar_links_to_the_profile_of_an_input_whose_score_is_in_it() -> None:
    scores = {"in": RNG.normal(size=300), "out": RNG.normal(-3, 1, size=200)}
    # A profile that starts with the score itself gives the input away.
    profile = {
        "points": ["a", "b"],
        "low": [0, 0],
        "median": [0, 0],
        "high": [1, 1],
        "samples": {name: np.stack([s, s], axis=1) for name, s in scores.items()},
    }
    figure = ood(scores, "in", -2, {}, profile)
    links = figure.layout.meta["links"]
    lines = np.array(links["targets"][0]["y"])
    for trace in links["sources"]:
        bar = figure.data[trace]
        inside = lines[np.asarray(bar.customdata), 0]
        middle = slice(1, -1)  # the outermost bars also hold what lies beyond them
        assert (np.abs(inside - np.asarray(bar.x))[middle] <= 0.51 * bar.width).all()


def test_ood_refuses_what_it_cannot_draw() -> None:
    with pytest.raises(RepdynError, match=r"'inn' is not among scores; nearest: 'in'"):
        ood({"in": [1.0]}, "inn", 0.0, {}, None)
    with pytest.raises(RepdynError, match="no finite number"):
        ood({"in": [np.nan, np.nan]}, "in", 0.0, {}, None)
    with pytest.raises(RepdynError, match="threshold"):
        ood({"in": [1.0]}, "in", float("nan"), {}, None)


# Persistence


def test_persistence_draws_first_and_last_and_counts() -> None:
    diagrams = {f"p{k}": [np.array([[0, 1.0 + k], [0, np.inf]])] for k in range(13)}
    figure = persistence(diagrams)
    titles = [a.text for a in figure.layout.annotations]
    assert titles[0] == "p0"
    assert "p12" in titles
    assert "6 of 13 depths" in figure.layout.meta["caption"]
    lines = [trace for trace in figure.data if trace.mode == "lines+markers"]
    np.testing.assert_allclose(lines[0].y, np.arange(1, 14))


def test_a_feature_that_never_dies_is_an_open_mark_above_all_others() -> None:
    figure = persistence({"a": [np.array([[0, 1.0], [0, np.inf]])]})
    (endless,) = [trace for trace in figure.data if trace.marker.symbol == "circle-open"]
    assert endless.y[0] > 1.0
    assert list(endless.text) == ["never"]


def test_persistence_of_nothing_is_refused_but_an_empty_dimension_is_not() -> None:
    assert persistence({"a": [np.array([[0, 1.0]]), np.empty((0, 2))]})
    with pytest.raises(RepdynError, match="finite birth"):
        persistence({"a": [np.empty((0, 2))]})
    with pytest.raises(RepdynError, match="no diagram"):
        persistence({})


# Spectrum


def test_spectrum_tells_certified_from_not_and_links_each_to_its_curve() -> None:
    values = np.array([0.9, 0.5j, -0.5j, 1.0])
    figure = spectrum(values, [0.01, 0.5, 0.5, 0.02], 0.1, depths=np.arange(5))
    certified = next(t for t in figure.data if t.name == "certified" and t.mode == "markers")
    np.testing.assert_allclose(sorted(certified.x), [0.9, 1.0])
    assert "2 of 4 eigenvalues are certified" in figure.layout.meta["caption"]
    place, curve = figure.layout.meta["links"]["targets"]
    for k, row in enumerate(curve["y"]):
        modulus = np.hypot(place["x"][k][0], place["y"][k][0])
        assert row[-1] == pytest.approx(modulus**4, rel=2e-3)
    rows = np.asarray(certified.customdata)[:, 0].astype(int)
    np.testing.assert_allclose([place["x"][k][0] for k in rows], certified.x)


def test_spectrum_survives_zero_and_growth_and_draws_the_largest() -> None:
    figure = spectrum(np.array([0.0, 50.0]), [0.1, 0.1], 1.0, depths=30)
    assert np.isfinite(figure.layout.yaxis2.range).all()
    many = spectrum(np.linspace(0, 1, 1000), np.zeros(1000), 1.0)
    assert "256 largest of 1000" in many.layout.meta["caption"]


def test_spectrum_intervals_lie_along_the_ray() -> None:
    figure = spectrum(np.array([0.5j]), [0.0], 1.0, [0.4], [0.6])
    (bars,) = named(figure, "interval of |λ|")
    np.testing.assert_allclose(bars.x[:2], 0, atol=1e-12)
    np.testing.assert_allclose(bars.y[:2], [0.4, 0.6])
    with pytest.raises(RepdynError, match="both ends"):
        spectrum(np.array([0.5]), [0.0], 1.0, [0.4])
    with pytest.raises(RepdynError, match="end above 0"):
        spectrum(np.array([0.5]), [0.0], 1.0, depths=0)


# Translation


def test_translation_shows_bars_and_shares_of_rows() -> None:
    confusion = np.array([[8, 2], [0, 0]])
    controls = {"ours": 0.6, "random": {"value": 0.1, "low": 0.0, "high": 0.2}}
    figure = translation(controls, confusion, None, "found")
    bars, heat = figure.data
    np.testing.assert_allclose(bars.x, [0.6, 0.1])
    np.testing.assert_allclose(bars.error_x.array, [0, 0.1])
    np.testing.assert_allclose(heat.z, [[0.8, 0.2], [0, 0]])
    assert figure.layout.meta["caption"].startswith("Verdict: found.")


def test_classes_stand_in_the_order_of_their_confusion_tree_and_keep_their_names() -> None:
    """Two groups of classes that are confused within the group alone, given interleaved."""
    group = np.array([0, 1, 0, 1, 0, 1])
    confusion = np.where(group[:, None] == group, 10.0, 0.0) + np.diag([50.0] * 6)
    order = tree_order(confusion)
    assert sorted(order) == list(range(6))
    assert abs(np.diff(group[order])).sum() == 1
    (heat,) = [
        t for t in translation({"x": 1.0}, confusion, list("abcdef"), "found").data if t.type == "heatmap"
    ]
    assert list(heat.customdata[0][1][:2]) == ["abcdef"[order[0]], "abcdef"[order[1]]]
    assert heat.customdata[0][1][2] == confusion[order[0], order[1]]


def test_stitching_bars_stand_below_retrieval_beside_their_own_controls() -> None:
    figure = translation({"ours": 0.6}, None, None, "found", {"stitched": 0.7, "random map": 0.1})
    retrieval, stitched = figure.data
    np.testing.assert_allclose(stitched.x, [0.7, 0.1])
    assert retrieval.yaxis != stitched.yaxis
    assert "stitched 0.7, random map 0.1" in figure.layout.meta["alt"]
    with pytest.raises(RepdynError, match="stitching hold no finite"):
        translation({"ours": 0.6}, None, None, "found", {"stitched": float("nan")})


def test_translation_without_confusion_has_one_panel() -> None:
    figure = translation({"ours": 0.6}, None, None, "inconclusive")
    assert len(figure.data) == 1
    assert "matrix" not in figure.layout.meta["caption"]


def test_translation_refuses_what_does_not_fit() -> None:
    with pytest.raises(RepdynError, match="names nothing"):
        translation({}, None, None, "found")
    with pytest.raises(RepdynError, match="no finite number"):
        translation({"ours": float("nan")}, None, None, "found")
    with pytest.raises(RepdynError, match="square"):
        translation({"ours": 1.0}, np.ones((2, 3)), None, "found")
    with pytest.raises(RepdynError, match="1 names for 2 rows"):
        translation({"ours": 1.0}, np.ones((2, 2)), ["a"], "found")


# Swaps


def pixels(source: str) -> np.ndarray:
    import base64
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


def test_swaps_show_every_clip_at_its_place_and_time(made: Any) -> None:
    clips = made.moving_squares()
    figure = swaps(clips, list("abc"), list("xyz"), "See.")
    assert len(figure.frames) == 8
    for t in (0, 7):
        picture = pixels(figure.frames[t].data[0].source)
        for r, c in ((0, 0), (1, 2), (2, 1)):
            tile = picture[r * 26 : r * 26 + 24, c * 26 : c * 26 + 24]
            np.testing.assert_allclose(tile[..., :3] / 255, clips[r, c, t], atol=0.002)
            assert (tile[..., 3] == 255).all()
    assert list(figure.layout.yaxis.ticktext) == ["a ", "b ", "c "]
    assert list(figure.layout.xaxis.ticktext) == list("xyz")


def test_swaps_take_grey_leave_unknown_pixels_empty_and_say_what_is_left_out() -> None:
    clips = np.full((12, 2, 40, 4, 4), 0.5)
    clips[0, 0, 0, 0, 0] = np.nan
    figure = swaps(clips, [str(k) for k in range(12)], ["a", "b"], "See.")
    assert "10 of 12 rows, 24 of 40 frames are drawn" in figure.layout.meta["caption"]
    first = pixels(figure.frames[0].data[0].source)
    assert first[0, 0, 3] == 0
    assert tuple(first[1, 1]) == (128, 128, 128, 255)


@pytest.mark.parametrize(
    ("clips", "said"),
    [
        (np.zeros((1, 1, 2, 4)), "must have shape"),
        (np.zeros((1, 1, 2, 4, 4, 4)), "must have shape"),
        (np.full((1, 1, 2, 4, 4), 255.0), r"lie in \[0, 1\], got values from 255 to 255"),
        (np.full((1, 1, 2, 4, 4), np.nan), "no finite number"),
        (np.zeros((2, 1, 2, 4, 4)), r"shape \(1, 1, any"),
    ],
)
def test_swaps_refuse_what_is_no_clip(clips: np.ndarray, said: str) -> None:
    with pytest.raises(RepdynError, match=said):
        swaps(clips, ["a"], ["b"], "See.")


def test_long_paths_label_some_of_their_depths() -> None:
    points = [f"layer.{k}" for k in range(80)]
    figure = fidelity(points, {"kae": list(np.linspace(0.1, 0.5, 80))})
    assert len(figure.layout.xaxis.ticktext) <= 17


def test_points_are_told_apart_by_the_end_of_their_names() -> None:
    names = [f"transformer.encoder.layer.{k}" for k in range(12)]
    values = [{"value": 0.1 * k} for k in range(1, 13)]
    ticks = fidelity(names, {"model": values}).layout.xaxis.ticktext
    assert ticks == tuple(f"layer.{k}" for k in range(12))
    assert short("<b>", 9) == "&lt;b&gt;"
    assert len(short("x" * 10_000, 9)) == 9


def test_the_true_representation_is_a_ceiling_and_no_control() -> None:
    ones = [{"value": 0.5, "low": 0.4, "high": 0.6}] * 3
    figure = fidelity(["a", "b", "c"], {"ours": ones, "affine": ones}, {"ours": ones, "truth": ones})
    names = {trace.name for trace in figure.data if trace.showlegend}
    assert names == {"ours", "affine (control)", "truth (ceiling)"}


def test_margins_to_rivals_compare_maps_and_their_names_are_whole() -> None:
    evidence = {"excess distance": 0.9, "margin of the best map of other clusters": 1.0}
    figure = replication(evidence, "ambiguous", "another map fits as well")
    assert list(figure.data[0].marker.color) == [CONTROL[0], ACCENT]
    assert figure.layout.yaxis.ticktext[1].replace("<br>", "").split() == list(evidence)[1].split()


def test_counts_and_standard_errors_do_not_share_an_axis_with_shares() -> None:
    evidence = {"retrieval between halves": 0.87, "lead in standard errors": 12.0, "settled directions": 38}
    figure = replication(evidence, "ambiguous", "another map fits as well")
    assert [tuple(bars.x) for bars in figure.data] == [(0.87,), (12.0, 38.0)]
    assert figure.data[0].xaxis != figure.data[1].xaxis


def test_no_line_of_a_caption_is_wider_than_the_picture_that_plotly_exports(example) -> None:
    # 700 pixels less the margin, at 6.9 for a letter of the theme's 13-pixel sans serif.
    lines = example.layout.title.subtitle.text.split("<br>")
    assert max(map(len, lines)) * 6.9 < 700 - 32
    assert example.layout.margin.t >= 64 + 17 * len(lines)


def test_replication_tells_what_compares_two_maps_from_what_fits_one() -> None:
    evidence = {"retrieval between halves": 0.872, "fit of the first half": 0.435}
    figure = replication(evidence, "found", "two maps agree")
    assert "Two maps agree" in figure.layout.meta["caption"]
    assert tuple(figure.data[0].x) == (0.872, 0.435)
    assert figure.data[0].marker.color == (ACCENT, CONTROL[0])
    with pytest.raises(RepdynError, match="no evidence"):
        replication({}, "found", "")


def test_no_row_of_the_table_is_cut_off(made: Any) -> None:
    figure = made.example_ood()
    table = next(trace for trace in figure.data if trace.type == "table")
    plot_height = figure.layout.height - figure.layout.margin.b - 136
    room = (table.domain.y[1] - table.domain.y[0]) * plot_height
    # A header, six rows, "Mahalanobis, last point" on two lines, "shuffled characters" on two, three times.
    assert room >= 28 * (1 + 6 + 1 + 3)


def test_where_nothing_is_reached_arrows_show_where_the_starts_went() -> None:
    starts = RNG.normal(size=(300, 2))
    ends = starts + 1000 * np.abs(RNG.normal(size=(300, 1))) * np.array([3.0, 4.0])
    ends[:100] = np.nan
    figure = field(starts, ends, np.empty((0, 2)), np.full(300, -1), [], None, 0.2, None, None, planar=False)
    (arrows,) = [trace for trace in figure.data if trace.type == "quiver"]
    u, v = np.asarray(arrows.u), np.asarray(arrows.v)
    np.testing.assert_allclose(u / np.hypot(u, v), 0.6, atol=1e-6)
    assert np.hypot(u, v).max() < 0.2 * np.ptp(starts, axis=0).max()
    assert np.isfinite(arrows.customdata).all()
    drawn = np.concatenate([np.asarray(trace.x, dtype=float) for trace in figure.data])
    assert np.abs(drawn).max() < 10  # the far ends are in no trace


def test_the_many_small_classes_do_not_cover_the_large_ones() -> None:
    labels = np.repeat(np.arange(30), np.r_[np.full(8, 40), np.full(22, 20)])
    figure = path_flow(RNG.normal(size=(3, len(labels), 2)), labels, ["a", "b", "c"], 0.5)
    clouds = [trace for trace in figure.data if trace.mode == "markers"]
    (rest,) = [trace for trace in clouds if trace.marker.color == OTHER]
    assert rest.name == "22 other classes"
    assert rest.marker.size < min(trace.marker.size for trace in clouds if trace is not rest)
    assert not [
        t for t in figure.data if t.mode == "lines" and t.line.color == translucent(OTHER, 0.16) and len(t.x)
    ]
    assert "22 other classes are small gray dots" in figure.layout.meta["caption"]
