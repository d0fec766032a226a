"""The report is one file that is complete, escaped, bounded, and never half-written."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from repdyn.errors import RepdynError
from repdyn.views.path_flow import path_flow
from repdyn.views.report import Section, write_report
from repdyn.views.theme import new_figure

HOSTILE = '</script><script>alert("x")</script><img src=x onerror=alert(1)>{{plotly}}&amp;' + "y" * 10_000


class Elements(HTMLParser):
    """Counts elements; what was escaped does not become one."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.count: dict[str, int] = {}
        self.attributes: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.attributes |= {name for name, _ in attrs}


def line() -> go.Figure:
    return new_figure("A title", "What to see.", alt="Said aloud.").add_scatter(y=[1.0, 2.0])


def written(tmp_path: Path, **given: Any) -> str:
    sections = given.get("sections", [Section("One", line())])
    out = write_report(tmp_path / "r.html", sections, given.get("summary", []), given.get("provenance", {}))
    return out.read_text(encoding="utf-8")


def test_a_report_of_every_picture_is_whole(tmp_path: Path, examples: dict[str, go.Figure]) -> None:
    sections = [Section(name, figure, text="First.\n\nSecond.") for name, figure in examples.items()]
    page = written(tmp_path, sections=sections)
    assert page.count('class="plot"') == len(examples)
    assert page.count("plotly.js v") == 1
    assert "{{" not in page.split("plotly.js v")[0]
    assert len(page.encode()) < 8_000_000
    for figure in examples.values():
        assert figure.layout.meta["alt"]
        assert figure.layout.meta["caption"]
    assert page.count("<p>Second.</p>") == len(examples)


def test_order_is_summary_sections_provenance_and_verdicts_come_first(tmp_path: Path) -> None:
    page = written(
        tmp_path,
        sections=[Section("One", line(), verdict="found"), Section("Two", None, verdict="not found")],
        summary=[{"result": "Two", "verdict": "not found", "figure": 0.25}],
        provenance={"models": {"A": "timm:x"}, "seeds": [0, 1]},
    )
    places = [page.index(f'id="{name}"') for name in ("summary", "section-1", "section-2", "provenance")]
    assert places == sorted(places)
    head = re.findall("<th scope=col>(.*?)</th>", page)
    assert head == ["verdict", "result", "figure"]
    assert '<a href="#section-2">Two</a>' in page
    assert "2 results: 1 found · 1 not found" in page
    assert "<th scope=row>models</th><td>A: timm:x</td>" in page
    assert "<th scope=row>seeds</th><td>0, 1</td>" in page


def test_results_of_one_command_share_a_row_of_the_provenance(tmp_path: Path) -> None:
    made = {"command": "repdyn demo", "seed": 0, "versions": {"torch": "2", "numpy": "3"}}
    page = written(tmp_path, provenance={"One": made, "Two": dict(made), "Three": {"command": "x"}, "a": 1})
    said = "command: repdyn demo\nseed: 0\nversions: torch 2, numpy 3"
    assert f"<th scope=row>One<br>Two</th><td>{said}</td>" in page
    assert "<th scope=row>Three</th><td>command: x</td>" in page
    assert "<th scope=row>a</th><td>1</td>" in page


def test_captions_and_alternative_texts_come_from_the_figure(tmp_path: Path) -> None:
    page = written(tmp_path)
    assert "<figcaption>What to see.</figcaption>" in page
    assert 'aria-label="Said aloud."' in page
    given = json.loads(re.search(r'id="figure-1-data">(.*?)</script>', page)[1])  # type: ignore[index]
    assert "title" not in given["layout"] or not given["layout"]["title"]


def test_the_figure_that_was_given_keeps_its_title(tmp_path: Path) -> None:
    figure = line()
    written(tmp_path, sections=[Section("One", figure)])
    assert figure.layout.title.text == "A title"
    assert figure.layout.template.layout.font.family


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    figure = new_figure(HOSTILE, HOSTILE).add_scatter(y=[1.0], name=HOSTILE, text=[HOSTILE])
    page = written(
        tmp_path,
        sections=[Section(HOSTILE, figure, HOSTILE, HOSTILE, HOSTILE)],
        summary=[{HOSTILE: HOSTILE, "verdict": HOSTILE}],
        provenance={HOSTILE: {HOSTILE: HOSTILE}},
    )
    seen = Elements(page)
    assert "img" not in seen.count
    assert "onerror" not in seen.attributes
    assert seen.count["script"] == 4  # plotly, templates, one figure, the page's own
    assert page.count("plotly.js v") == 1
    assert "more characters)" in page


def test_one_hundred_thousand_samples_stay_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    many = rng.normal(size=(4, 100_000, 2))
    figure = path_flow(many, rng.integers(0, 30, 100_000), ["a", "b", "c", "d"], 0.5)
    page = written(tmp_path, sections=[Section("Flow", figure)])
    assert len(page.encode()) < 6_000_000
    assert "1200 of 100000 samples" in page


def test_an_existing_report_is_kept_unless_forced(tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    out.write_text("mine")
    with pytest.raises(RepdynError, match="exists"):
        write_report(out, [Section("One", line())], [], {})
    assert out.read_text() == "mine"
    assert write_report(out, [Section("One", line())], [], {}, force=True) == out
    assert out.read_text().startswith("<!DOCTYPE html>")


def test_nothing_is_left_behind_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RepdynError, match="No space left"):
        write_report(tmp_path / "r.html", [Section("One", line())], [], {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "figure",
    [
        go.Figure(),
        go.Figure(go.Scatter(y=[np.nan, np.nan])),
        go.Figure(go.Scatter(x=[0.0, np.nan], y=[np.nan, 1.0])),
        go.Figure(go.Bar(x=["a", "b"], y=[np.nan, None])),
        go.Figure(go.Heatmap(z=[[np.nan, np.nan]])),
    ],
)
def test_a_figure_of_nothing_is_refused(tmp_path: Path, figure: go.Figure) -> None:
    with pytest.raises(RepdynError, match="'Empty' holds no finite number"):
        write_report(tmp_path / "r.html", [Section("Empty", figure)], [], {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "figure",
    [
        go.Figure(go.Bar(x=["a", "b"], y=[np.nan, 1.0])),
        go.Figure(go.Heatmap(x=["a", "b"], y=["c"], z=[[np.nan, 1.0]])),
        go.Figure(go.Table(cells={"values": [["a"]]})),
        go.Figure(go.Histogram(x=[1.0])),
        go.Figure(go.Image(source="data:image/png;base64,")),
    ],
)
def test_a_figure_of_something_is_not_refused(tmp_path: Path, figure: go.Figure) -> None:
    assert write_report(tmp_path / "r.html", [Section("Some", figure)], [], {}).exists()


def test_bad_calls_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RepdynError, match="no section"):
        write_report(tmp_path / "r.html", [], [], {})
    with pytest.raises(RepdynError, match="is a folder"):
        write_report(tmp_path, [Section("One", line())], [], {})
    with pytest.raises(RepdynError, match="does not exist"):
        write_report(tmp_path / "no" / "r.html", [Section("One", line())], [], {})
    heavy = go.Figure(go.Scatter(y=np.random.default_rng(0).normal(size=600_000)))
    with pytest.raises(RepdynError, match=r"MB is more than 8; its largest section, 'Heavy'"):
        write_report(tmp_path / "r.html", [Section("One", line()), Section("Heavy", heavy)], [], {})
    assert list(tmp_path.iterdir()) == []
