"""One self-contained HTML file: verdicts first, a section per result, provenance last."""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from repdyn.errors import RepdynError
from repdyn.views.theme import template
from repdyn.writing import whole_file

__all__ = ["Section", "write_report"]

_MOST_BYTES = 8_000_000  # larger files fail in mail servers and on phones; plotly.js alone takes 4.8 MB
_MOST_TEXT = 2_000  # characters of one text; the number of cut characters is printed
_TOP = 38  # pixels above a plot once its title has moved into the page: room for panel titles
_CHIPS = {
    "found": "✓",
    "neighborhoods": "≈",
    "ambiguous": "⇄",
    "inconclusive": "?",
    "not found": "✕",
    "drift found": "!",
    "no drift found": "✓",
    "recoverable": "!",
    "not recoverable": "✓",
}
_ALARMS = ("drift found", "recoverable")  # verdicts that are bad news
_CLEARED = ("no drift found", "not recoverable")  # and their opposites


@dataclass(frozen=True, eq=False)
class Section:
    """One result in the report.

    Attributes
    ----------
    title
        Its heading.
    figure
        A plotly figure, or ``None`` where there is nothing to draw.
    caption
        What to see in it; the figure's own caption where empty.
    text
        What it means; blank lines separate paragraphs, and one of several lines keeps them as they are.
    verdict
        ``"found"``, ``"neighborhoods"``, ``"ambiguous"``, ``"inconclusive"``, ``"not found"``,
        ``"drift found"`` (drawn as an alarm), another
        short word, or ``None``.
    """

    title: str
    figure: go.Figure | None = None
    caption: str = ""
    text: str = ""
    verdict: str | None = None


def write_report(
    out: str | os.PathLike[str],
    sections: Sequence[Section],
    summary: Sequence[Mapping[str, object]],
    provenance: Mapping[str, object],
    force: bool = False,
) -> Path:
    """Write the report.

    Parameters
    ----------
    out
        The file to write. It appears whole or not at all.
    sections
        At least one.
    summary
        The rows of the table at the top, as mappings from column to value; a column ``"verdict"`` comes
        first and is drawn as a chip. A value that equals a section's title links to it.
    provenance
        What the figures came from: models, digests, data, seeds, versions, commands. Mappings may nest.
    force
        Overwrite ``out`` where it exists.

    Returns
    -------
    pathlib.Path
        Where it is.

    Raises
    ------
    RepdynError
        Where ``out`` exists or cannot be written, where a figure has nothing to draw, and where the file
        would be larger than 8 MB.
    """
    path = Path(out)
    if path.is_dir():
        raise RepdynError(f"report: {path} is a folder; name a file in it, such as {path / 'report.html'}")
    if path.exists() and not force:
        raise RepdynError(f"report: {path} exists; give another path, or force to overwrite it")
    if not path.absolute().parent.is_dir():
        raise RepdynError(f"report: the folder {path.absolute().parent} does not exist; make it first")
    if not sections:
        raise RepdynError("report: there is no section; give at least one result")
    for section in sections:
        if section.figure is not None and not _drawable(section.figure):
            raise RepdynError(
                f"report: the figure of {section.title[:60]!r} holds no finite number; leave it out or give "
                "the section without a figure"
            )
    bodies = [_section(k, section) for k, section in enumerate(sections, start=1)]
    page = _page(sections, bodies, summary, provenance)
    size = len(page.encode())
    if size > _MOST_BYTES:
        largest = max(range(len(bodies)), key=lambda k: len(bodies[k]))
        raise RepdynError(
            f"report: {size / 1e6:.1f} MB is more than {_MOST_BYTES / 1e6:.0f}; its largest section, "
            f"{sections[largest].title[:60]!r}, takes {len(bodies[largest]) / 1e6:.1f}: draw fewer "
            "samples there"
        )
    _write_whole(path, page)
    return path


def _page(
    sections: Sequence[Section],
    bodies: Sequence[str],
    summary: Sequence[Mapping[str, object]],
    provenance: Mapping[str, object],
) -> str:
    try:
        installed = version("repdyn")
    except PackageNotFoundError:
        installed = ""
    given = [s.verdict for s in sections if s.verdict]
    counted = [f"{given.count(v)} {v}" for v in dict.fromkeys([*_CHIPS, *given]) if v in given]
    lead = f"{len(sections)} result{'s' * (len(sections) != 1)}" + ": " * bool(counted) + " · ".join(counted)
    links = "".join(f'<a href="#section-{k}">{_text(s.title, 60)}</a>' for k, s in enumerate(sections, 1))
    templates = {name: template(dark=name == "dark").to_plotly_json() for name in ("light", "dark")}
    page = files("repdyn.views").joinpath("report.html").read_text(encoding="utf-8")
    filled = {
        "title": "How representations move",
        "lead": _text(lead),
        "navigation": f'<nav aria-label="Results">{links}</nav>' if len(sections) > 1 else "",
        "summary": _summary(summary, sections),
        "sections": "\n".join(bodies),
        "provenance": _provenance(provenance),
        "version": _text(installed),
        "plotly": get_plotlyjs(),
        "templates": _json(json.dumps(templates, default=_plain_json)),
    }
    # One pass, so that inserted text is never searched for placeholders.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: filled[place[1]], page)


def _section(number: int, section: Section) -> str:
    parts = [f'<section id="section-{number}">', f'<div class="heading"><h2>{_text(section.title, 200)}</h2>']
    parts += [_chip(section.verdict) if section.verdict else "", "</div>"]
    figure = section.figure
    if figure is not None:
        meta = figure.layout.meta if isinstance(figure.layout.meta, dict) else {}
        caption = section.caption or str(meta.get("caption", ""))
        alt = _text(meta.get("alt") or caption or section.title)
        name = f"figure-{number}"
        parts += [
            f'<figure><div class="plot" id="{name}" role="img" aria-label="{alt}"',
            f' style="min-height: {_moved(figure).layout.height or 450}px"></div>',
            f"<noscript><p>{alt}</p></noscript>",
            f"<figcaption>{_text(caption)}</figcaption></figure>",
            f'<script type="application/json" id="{name}-data">{_json(_moved(figure).to_json())}</script>',
        ]
    elif section.caption:
        parts.append(f"<p>{_text(section.caption)}</p>")
    # A paragraph of several lines is a table or a listing: its columns stay aligned.
    for paragraph in re.split(r"\n\s*\n", section.text.strip("\n")):
        tag = "pre" if "\n" in paragraph else "p"
        parts.append(f"<{tag}>{_text(paragraph)}</{tag}>" if paragraph.strip() else "")
    return "".join([*parts, "</section>"])


def _moved(figure: go.Figure) -> go.Figure:
    """The figure without title and template, which the page provides."""
    moved = go.Figure(figure)
    above = moved.layout.margin.t if moved.layout.margin.t is not None else 100
    if moved.layout.height is not None:
        moved.layout.height = moved.layout.height - above + _TOP
    moved.update_layout(title=None, template=None, margin_t=_TOP)
    return moved


def _summary(rows: Sequence[Mapping[str, object]], sections: Sequence[Section]) -> str:
    if not rows:
        return ""
    columns = list(dict.fromkeys(str(key) for row in rows for key in row))
    columns.sort(key=lambda name: name != "verdict")
    anchors = {section.title: f"#section-{k}" for k, section in enumerate(sections, start=1)}
    head = "".join(f"<th scope=col>{_text(name, 60)}</th>" for name in columns)
    body = []
    for row in rows:
        cells = []
        for name in columns:
            value = _say(row.get(name, ""))
            shown = _chip(value) if name == "verdict" and value else _text(value, 400)
            cells.append(
                f'<td><a href="{anchors[value]}">{shown}</a></td>'
                if value in anchors
                else f"<td>{shown}</td>"
            )
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        '<section id="summary"><div class="heading"><h2>Summary</h2></div>'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></section>"
    )


def _provenance(given: Mapping[str, object]) -> str:
    # Results of one command share a row.
    rows: dict[tuple[str, str], list[str]] = {}
    for name, value in given.items():
        if isinstance(value, Mapping):
            text = "\n".join(f"{key}: {_say(one)}" for key, one in value.items())
            rows.setdefault(("", text), []).append(name)
        else:
            rows[name, _say(value)] = [name]
    if not rows:
        return ""
    body = "".join(
        f"<tr><th scope=row>{'<br>'.join(_text(n, 120) for n in names)}</th><td>{_text(text)}</td></tr>"
        for (_, text), names in rows.items()
    )
    heading = '<div class="heading"><h2>Provenance</h2></div>'
    table = f"<table><tbody>{body}</tbody></table>"
    return f'<section id="provenance" class="provenance">{heading}{table}</section>'


def _say(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_say(one)}" for name, one in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_say(one) for one in value)
    return "" if value is None else str(value)


def _chip(verdict: str) -> str:
    kind = verdict.replace(" ", "-") if verdict in _CHIPS else "other"
    kind = "alarm" if verdict in _ALARMS else "found" if verdict in _CLEARED else kind
    sign = _CHIPS.get(verdict)
    mark = f'<span aria-hidden="true">{sign}</span>' if sign else ""
    return f'<span class="chip {kind}">{mark}{_text(verdict, 60)}</span>'


def _text(given: object, most: int = _MOST_TEXT) -> str:
    """Any value as text that is escaped for an element or an attribute of HTML."""
    text = str(given)
    cut = f"… ({len(text) - most} more characters)" if len(text) > most else ""
    return html.escape(text[:most]) + cut


def _json(text: str) -> str:
    """JSON that is safe inside of an HTML script element."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plain_json(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value.to_plotly_json()


def _drawable(figure: go.Figure) -> bool:
    """Whether any trace has a mark with all of its numbers finite."""
    for trace in figure.data:
        if trace.type in ("table", "image"):
            return True
        numbers = []
        for key in ("x", "y", "z", "u", "v", "r", "theta", "values"):
            given = getattr(trace, key, None) if key in trace else None
            with contextlib.suppress(TypeError, ValueError):  # categories and dates are not numbers
                if given is not None:
                    numbers.append(np.isfinite(np.asarray(given, dtype=np.float64)))
        flat = [n for n in numbers if n.ndim == 1]
        wide = [n for n in numbers if n.ndim != 1]
        if wide:
            if all(n.any() for n in wide):
                return True
        elif flat and np.logical_and.reduce([n[: min(map(len, flat))] for n in flat]).any():
            return True
    return False


def _write_whole(path: Path, page: str) -> None:
    try:
        with whole_file(path) as scratch:
            scratch.write_text(page, encoding="utf-8")
    except OSError as error:
        raise RepdynError(f"report: {path} could not be written: {error.strerror or error}") from error
