"""Colors, templates and the empty figure that every picture starts from.

Three rules keep a figure readable in light, in dark, in print and with a color-vision deficiency:

* categories take :data:`CATEGORIES`, whose members stay apart under simulated protanopia, deuteranopia
  and tritanopia (a test checks it), and everything beyond them is :data:`OTHER`, as named in the legend;
* whatever is neither data nor category (axes, text, tables) takes its color from the *template*, so that
  changing the template changes the whole figure;
* neutral marks that a template cannot reach are translucent greys (:func:`veil`), right on both grounds.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from repdyn.errors import RepdynError
from repdyn.views.notebook import CellFigure

__all__ = [
    "ACCENT",
    "CATEGORIES",
    "CONTROL",
    "INTERVAL_ALPHA",
    "OTHER",
    "SEQUENTIAL",
    "category_colors",
    "describe",
    "new_figure",
    "panels",
    "plain",
    "template",
    "translucent",
    "veil",
]

# Okabe & Ito (2008) without black and yellow, which vanish on dark and on white, then two of Tol's (2021)
# that keep their distance from those six: smallest CIELAB distance 13.7 under any simulated deficiency.
CATEGORIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#AA3377", "#117733")
OTHER = "#8A94A3"
ACCENT = CATEGORIES[0]
# Controls are gray; dashes and marker symbols distinguish them (bands.style).
CONTROL = ("#8A94A3", "#68717F", "#7A8492", "#616A77", "#828C9A", "#707A88")
INTERVAL_ALPHA = 0.18
# Light to dark blue, monotone in luminance, hence readable in gray print; the low end is transparent so
# that an empty cell is the page's own color, light or dark.
SEQUENTIAL = (
    (0.0, "rgba(0, 114, 178, 0.03)"),
    (0.5, "rgba(0, 114, 178, 0.55)"),
    (1.0, "rgba(0, 114, 178, 1.0)"),
)

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'Noto Sans', sans-serif"
_CAPTION_WIDTH = 94  # characters that fit under a title at 700 px, the width that plotly exports at
_CAPTION_LINES = 6  # drawn; the whole caption is in layout.meta


def new_figure(title: str, caption: str, *, alt: str | None = None, height: int = 440) -> go.Figure:
    """An empty figure in the house style that carries its own caption and alternative text.

    Title and caption are drawn above the plot; the report moves them out into the page. Both are also kept
    in ``figure.layout.meta`` as ``{"title", "caption", "alt"}``.

    Parameters
    ----------
    title
        What the picture is.
    caption
        One sentence of what to see in it.
    alt
        Text for readers who cannot see the picture; default: title and caption.
    height
        In pixels. The width follows the page.

    Returns
    -------
    plotly.graph_objects.Figure

    Examples
    --------
    >>> new_figure("Fidelity", "Lower is better.").layout.meta["caption"]
    'Lower is better.'
    """
    return describe(
        CellFigure(layout={"template": template(dark=False), "height": height}), title, caption, alt
    )


def describe(figure: go.Figure, title: str, caption: str, alt: str | None = None) -> go.Figure:
    """Write title, caption and alternative text on a figure (subplots arrive without them).

    Returns the same figure. Keys that ``layout.meta`` already holds, such as ``links``, stay.
    """
    meta = dict(figure.layout.meta or {})
    meta.update(title=title, caption=caption, alt=alt or f"{title}. {caption}")
    wrapped = [
        html.escape(line, quote=False)
        for line in textwrap.wrap(caption[:2000], _CAPTION_WIDTH, max_lines=_CAPTION_LINES, placeholder=" …")
    ]
    # Titles of panels stand above the plot, where the last line of the caption would be.
    titled = any(a.yref == "paper" and a.y is not None and a.y > 0.99 for a in figure.layout.annotations)
    figure.update_layout(
        template=template(dark=False),
        meta=meta,
        title={"text": plain(title, 100), "subtitle": {"text": "<br>".join(wrapped)}},
        margin_t=64 + 17 * len(wrapped) + 18 * titled,
    )
    return figure


def panels(titles: Sequence[str], *, columns: int, height: int, **layout: Any) -> go.Figure:
    """A grid of panels, each titled at its left, before :func:`describe`.

    Parameters
    ----------
    titles
        One per panel, row by row; the grid has as many rows as they need.
    columns
        Panels per row.
    height
        In pixels.
    **layout
        Further arguments of :func:`plotly.subplots.make_subplots`.

    Returns
    -------
    plotly.graph_objects.Figure
    """
    figure = make_subplots(
        rows=-(-len(titles) // columns),
        cols=columns,
        subplot_titles=[plain(t, 60) for t in titles],
        figure=CellFigure(),
        **layout,
    )
    for annotation in figure.layout.annotations:
        # plotly centers panel titles; they are moved to the left, above the axis.
        left = min(
            (
                (abs(sum(x.domain) / 2 - annotation.x) + abs(y.domain[1] - annotation.y), x.domain[0])
                for x, y in zip(figure.select_xaxes(), figure.select_yaxes())
            )
        )[1]
        annotation.update(x=left, xanchor="left", font={"size": 13})
    figure.update_layout(template=template(dark=False), height=height)
    return figure


def category_colors(count: int) -> list[str]:
    """Colors of ``count`` categories: the palette, then :data:`OTHER` for all that come after it."""
    return [CATEGORIES[k] if k < len(CATEGORIES) else OTHER for k in range(count)]


def translucent(color: str, alpha: float) -> str:
    """A hexadecimal color as ``rgba(...)`` with the given opacity.

    Examples
    --------
    >>> translucent("#0072B2", 0.5)
    'rgba(0, 114, 178, 0.5)'
    """
    red, green, blue = (int(color[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {alpha:g})"


def veil(alpha: float) -> str:
    """A translucent gray that is readable on light and dark backgrounds."""
    return translucent("#7A8494", alpha)


def plain(text: object, limit: int = 40) -> str:
    """A user's text as plotly may draw it: one line, shortened, and never markup.

    Plotly reads a subset of HTML in every label, so a class called ``<b>`` would be typesetting.

    Examples
    --------
    >>> plain("<b>cat</b>")
    '&lt;b&gt;cat&lt;/b&gt;'
    >>> plain("x" * 10_000, limit=5)
    'xxxx…'
    """
    if limit < 1:
        raise RepdynError(f"plain: limit must be at least 1, got {limit}")
    # Cut before splitting into words: a label of megabytes must not be scanned to show forty characters.
    line = " ".join(str(text)[: 4 * limit + 64].split())
    if len(line) > limit or len(str(text)) > 4 * limit + 64:
        line = line[: limit - 1].rstrip() + "…"
    return html.escape(line, quote=False)


def template(*, dark: bool) -> go.layout.Template:
    """The house template, for a light or a dark page.

    Parameters
    ----------
    dark
        Which of the two grounds. Figures are born light; the report swaps templates to follow the reader's
        setting, which is all it takes since figures hold no ground-dependent color of their own.

    Returns
    -------
    plotly.graph_objects.layout.Template
    """
    ground, ink, soft, grid = (
        ("#1b1e24", "#e7eaee", "#a3adba", "#323843") if dark else ("#ffffff", "#1d2630", "#5d6976", "#e6e9ed")
    )
    axis: dict[str, Any] = {
        "gridcolor": grid,
        "linecolor": grid,
        "zerolinecolor": grid,
        "zerolinewidth": 1,
        "tickcolor": grid,
        "tickfont": {"color": soft, "size": 12},
        "title": {"font": {"color": soft, "size": 13}, "standoff": 8},
        "automargin": True,
    }
    layout = go.Layout(
        font={"family": _FONT, "size": 13, "color": ink},
        title={
            "font": {"size": 18, "color": ink, "weight": 600},
            "subtitle": {"font": {"size": 13, "color": soft}},
            "x": 0.0,
            "xref": "container",
            "xanchor": "left",
            "pad": {"l": 24, "t": 22},
            "y": 1.0,
            "yref": "container",
            "yanchor": "top",
        },
        paper_bgcolor=ground,
        plot_bgcolor=ground,
        colorway=list(CATEGORIES),
        xaxis=axis,
        yaxis=axis,
        hoverlabel={"font": {"family": _FONT, "size": 13}, "bordercolor": grid, "align": "left"},
        legend={
            "orientation": "h",
            "x": 0.0,
            "xanchor": "left",
            "xref": "paper",
            # Anchored to the figure, not to the plot: plotly then makes room for as many rows as there are.
            "yref": "container",
            "y": 0.0,
            "yanchor": "bottom",
            "font": {"size": 12, "color": ink},
            "bgcolor": "rgba(0, 0, 0, 0)",
            "itemsizing": "constant",
        },
        margin={"l": 64, "r": 24, "t": 84, "b": 56},
        annotationdefaults={"font": {"color": soft, "size": 13}, "showarrow": False},
        bargap=0.25,
        # Tick labels of a slider repeat its current value, so they are transparent.
        sliderdefaults={
            "font": {"color": "rgba(0, 0, 0, 0)", "size": 1},
            "currentvalue": {"font": {"color": ink, "size": 14}},
            "bgcolor": grid,
            "bordercolor": grid,
            "activebgcolor": ACCENT,
            "tickcolor": "rgba(0, 0, 0, 0)",
        },
        updatemenudefaults={"bgcolor": ground, "bordercolor": grid, "font": {"color": ink, "size": 12}},
        modebar={"bgcolor": "rgba(0, 0, 0, 0)", "color": soft, "activecolor": ink},
        dragmode="zoom",
        hovermode="closest",
    )
    table = go.Table(
        header={
            "fill": {"color": ground},
            "font": {"color": soft, "size": 12, "weight": 600},
            "line": {"color": grid, "width": 1},
            "align": "left",
        },
        cells={
            "fill": {"color": ground},
            "font": {"color": ink, "size": 12},
            "line": {"color": grid, "width": 1},
            "align": "left",
        },
    )
    bars = go.Bar(error_x={"color": ink}, error_y={"color": ink}, marker={"line": {"width": 0}})
    return go.layout.Template(layout=layout, data={"table": [table], "bar": [bars]})
