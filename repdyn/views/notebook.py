"""Figures and tables as HTML for the output of a notebook's cell; plotly.js once per page.

A figure of plotly is blank in a notebook that was exported, or opened by a program without plotly's
extension. Here, the first figure of a kernel carries plotly.js, and later figures use it. They also find it
after the page was loaded again, as long as the first output is there; otherwise they say what to do.
In Colab, where each output is a page of its own, every figure loads plotly.js from its network address.
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Sequence
from itertools import count
from typing import Any

import plotly.graph_objects as go
import plotly.io
from plotly.offline import get_plotlyjs, get_plotlyjs_version

__all__ = ["MOST_BYTES", "CellFigure", "figure_html", "forget_library", "table_html"]

MOST_BYTES = 5_000_000
"""Size of a figure from which on a result's cell does not show it: the notebook is saved with it."""

_NUMBERS = count(1)
_GIVEN: set[str] = set()  # "plotly.js", once it was written to an output of this process
# Without AMD and CommonJS, which some pages have: plotly.js would register there instead of in `window`.
_LIBRARY = "<script>(function (define, module, exports) {{ {code} }}).call(window);</script>"
_LIBRARY_AT = '<script src="https://cdn.plot.ly/plotly-{version}.min.js"></script>'
_PLOTLYS_CHOICE = "plotly_mimetype"  # its renderer in a kernel, where the user chose none: JSON alone
_DRAWING = """
<div id="{name}" class="repdyn-figure" role="img" aria-label="{alt}" style="min-height:{height}px"></div>
<script>
(function () {{
  var place = document.getElementById("{name}"), tries = 0;
  function draw() {{
    if (window.Plotly) {{
      var figure = {{data: {data}, layout: {layout}, frames: {frames}, config: {{responsive: true}}}};
      window.Plotly.newPlot(place, figure);
      return;
    }}
    tries += 1;
    if (tries < 50) {{ setTimeout(draw, 100); return; }}
    place.textContent = "This figure needs plotly.js, which the first figure has: run its cell again.";
  }}
  draw();
}})();
</script>
"""


class CellFigure(go.Figure):  # type: ignore[misc]  # plotly has no types
    """A figure whose output in a notebook is the HTML of :func:`figure_html`, as that of a result is.

    Where the user chose a renderer (``plotly.io.renderers.default``), or plotly chose another one than its
    JSON, that renderer is used.
    """

    def show(self, *args: Any, **options: Any) -> None:
        """Show the figure: below the cell in a notebook, else as plotly does."""
        if args or options or plotly.io.renderers.default != _PLOTLYS_CHOICE:
            super().show(*args, **options)
            return
        from IPython.display import HTML, display  # there only where a notebook runs

        display(HTML(figure_html(self, most=None)))

    def _ipython_display_(self) -> None:
        if plotly.io.renderers.default == _PLOTLYS_CHOICE:
            self.show()
        else:
            super()._ipython_display_()


def figure_html(figure: go.Figure, most: int | None = MOST_BYTES) -> str:
    """A figure as a fragment of HTML that draws itself; the first one of a process carries plotly.js.

    Parameters
    ----------
    figure
        With ``layout.meta["alt"]`` for readers who do not see it.
    most
        Bytes from which on a sentence takes the figure's place; ``None`` for no limit.
    """
    document = json.loads(figure.to_json())
    data, layout, frames = (
        _safe(json.dumps(document.get(part, []))) for part in ("data", "layout", "frames")
    )
    size = len(data) + len(layout) + len(frames)
    if most is not None and size > most:
        return f"<p>The figure takes {size / 2**20:.0f} MiB; .plot() returns it.</p>"
    alt = str((figure.layout.meta or {}).get("alt", "figure"))
    drawn = _DRAWING.format(
        name=f"repdyn-figure-{_identity()}-{next(_NUMBERS)}",
        alt=html.escape(alt, quote=True),
        height=int(figure.layout.height or 450),
        data=data,
        layout=layout,
        frames=frames,
    )
    return _library() + drawn


def forget_library() -> None:
    """Let the next figure carry plotly.js again: after the first output was cleared."""
    _GIVEN.clear()


def _library() -> str:
    if "COLAB_NOTEBOOK_ID" in os.environ:
        return _LIBRARY_AT.format(version=get_plotlyjs_version())
    if "plotly.js" in _GIVEN:
        return ""
    _GIVEN.add("plotly.js")
    return _LIBRARY.format(code=get_plotlyjs().replace("</script", "<\\/script"))


def _identity() -> str:
    """A name of this process: outputs of an earlier kernel are on the same page."""
    return format(os.getpid(), "x")


def _safe(text: str) -> str:
    """JSON inside of a script: a label must not end it."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("\u2028", "\\u2028")


def table_html(
    title: str,
    rows: Sequence[tuple[str, str]],
    verdict: str | None = None,
    reason: str | None = None,
    most: int = 40,
) -> str:
    """A table of names and figures under its title, with the verdict first.

    Parameters
    ----------
    title
        Name of the result.
    rows
        ``(name, figure)``.
    verdict, reason
        Shown above the rows, if given.
    most
        Rows shown.
    """
    left = "style='text-align:left'"
    head = "" if verdict is None else f"<p><b>{html.escape(verdict)}</b>"
    head += "" if verdict is None else f"{'' if reason is None else ': ' + html.escape(reason)}</p>"
    cells = "".join(
        f"<tr><th {left}>{html.escape(name)}</th><td {left}>{html.escape(text)}</td></tr>"
        for name, text in rows[:most]
    )
    more = f"<p>{len(rows) - most} more in to_dict()</p>" if len(rows) > most else ""
    return f"{head}<table><caption>{html.escape(title)}</caption>{cells}</table>{more}"
