"""The palette keeps its promises, text is never markup, templates carry all ground-dependent colour."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repdyn.errors import RepdynError
from repdyn.views.theme import CATEGORIES, OTHER, category_colors, new_figure, plain, template, translucent

# Machado, Oliveira & Fernandes (2009), severity 1, on linear RGB.
DEFICIENCIES = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]
    ),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear_rgb(color: str) -> np.ndarray:
    c = np.array([int(color[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(a: str, b: str) -> float:
    low, high = sorted(float(TO_XYZ[1] @ linear_rgb(c)) for c in (a, b))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_categories_stay_apart(deficiency: str) -> None:
    seen = [lab(DEFICIENCIES[deficiency] @ linear_rgb(c)) for c in CATEGORIES]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 12


@pytest.mark.parametrize("dark", [False, True])
def test_categories_show_on_the_ground_and_text_is_readable(dark: bool) -> None:
    layout = template(dark=dark).layout
    assert min(contrast(c, layout.paper_bgcolor) for c in (*CATEGORIES, OTHER)) > 2
    assert contrast(layout.font.color, layout.paper_bgcolor) > 7
    assert contrast(layout.xaxis.tickfont.color, layout.paper_bgcolor) > 4.5


def test_categories_beyond_the_palette_are_other() -> None:
    colors = category_colors(len(CATEGORIES) + 2)
    assert colors[: len(CATEGORIES)] == list(CATEGORIES)
    assert colors[-2:] == [OTHER, OTHER]


def test_translucent_keeps_the_colour() -> None:
    assert translucent("#FF8000", 0.25) == "rgba(255, 128, 0, 0.25)"


@given(st.text(max_size=300), st.integers(1, 60))
@settings(deadline=None, max_examples=60)
def test_plain_is_short_and_holds_no_markup(text: str, limit: int) -> None:
    import html

    drawn = plain(text, limit)
    assert "<" not in drawn
    assert ">" not in drawn
    assert len(html.unescape(drawn)) <= limit


def test_plain_keeps_what_fits_and_marks_what_does_not() -> None:
    assert plain("blocks.3") == "blocks.3"
    assert plain("a  \n b") == "a b"
    assert plain("y" * 10_000).endswith("…")
    with pytest.raises(RepdynError, match="limit"):
        plain("a", 0)


def test_a_new_figure_carries_title_caption_and_alternative_text() -> None:
    figure = new_figure("A <title>", "What to see & where.")
    assert figure.layout.meta == {
        "title": "A <title>",
        "caption": "What to see & where.",
        "alt": "A <title>. What to see & where.",
    }
    assert figure.layout.title.text == "A &lt;title&gt;"
    assert figure.layout.title.subtitle.text == "What to see &amp; where."
    assert new_figure("t", "c", alt="said").layout.meta["alt"] == "said"
