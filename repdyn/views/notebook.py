"""Figures and tables as HTML for the output of a notebook's cell; plotly.js once per page.

A figure of plotly is blank in a notebook that was exported, or opened by a program without plotly's
extension. Here, the first figure of a kernel carries plotly.js, and later figures use it. They also find it
after the page was loaded again, as long as the first output is there; otherwise they say what to do.
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["MOST_BYTES", "figure_html", "forget_library", "table_html"]

MOST_BYTES = 5_000_000
"""Size of a figure from which on it is not put into a cell: the notebook is saved with it."""

_NUMBERS = count(1)
_GIVEN: set[str] = set()  # "plotly.js", once it was written to an output of this process
# Without AMD and CommonJS, which some pages have: plotly.js would register there instead of in `window`.
_LIBRARY = "<script>(function (define, module, exports) {{ {code} }}).call(window);</script>"
_DRAWING = """
<div id="{name}" class="repdyn-figure" role="img" aria-label="{alt}" style="min-height:{height}px"></div>
<script>
(function () {{
  var place = document.getElementById("{name}"), tries = 0;
  function draw() {{
    if (window.Plotly) {{ window.Plotly.newPlot(place, {data}, {layout}, {{responsive: true}}); return; }}
    tries += 1;
    if (tries < 50) {{ setTimeout(draw, 100); return; }}
    place.textContent = "This figure needs plotly.js, which the first figure has: run its cell again.";
  }}
  draw();
}})();
</script>
"""


def figure_html(figure: go.Figure) -> str:
    """A figure as a fragment of HTML that draws itself; the first one of a process carries plotly.js.

    Parameters
    ----------
    figure
        With ``layout.meta["alt"]`` for readers who do not see it.

    Returns
    -------
    str
        A sentence instead of the figure if it takes more than 5 MB.
    """
    document = json.loads(figure.to_json())
    data, layout = (_safe(json.dumps(document[part])) for part in ("data", "layout"))
    if len(data) + len(layout) > MOST_BYTES:
        return f"<p>The figure takes {(len(data) + len(layout)) / 2**20:.0f} MiB; .plot() returns it.</p>"
    alt = str((figure.layout.meta or {}).get("alt", "figure"))
    drawn = _DRAWING.format(
        name=f"repdyn-figure-{_identity()}-{next(_NUMBERS)}",
        alt=html.escape(alt, quote=True),
        height=int(figure.layout.height or 450),
        data=data,
        layout=layout,
    )
    return _library() + drawn


def forget_library() -> None:
    """Let the next figure carry plotly.js again: after the first output was cleared."""
    _GIVEN.clear()


def _library() -> str:
    if "plotly.js" in _GIVEN:
        return ""
    from plotly.offline import get_plotlyjs

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
