"""The output of a cell draws itself in a page that has nothing else, and plotly.js is in the page once."""

from __future__ import annotations

import importlib.util
import shutil

import plotly.graph_objects as go
import plotly.io
import pytest

from repdyn.intervals import Estimate
from repdyn.translation.linear.evaluation import TranslationEvaluation
from repdyn.views.notebook import CellFigure, figure_html, forget_library, table_html
from repdyn.views.theme import describe, new_figure, panels

CHROMIUM = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.delenv("COLAB_NOTEBOOK_ID", raising=False)
    forget_library()
    yield
    forget_library()


def result(verdict: str = "found") -> TranslationEvaluation:
    shares = {name: Estimate(0.9, 0.8, 0.95) for name in ("translation", "random")}
    return TranslationEvaluation(shares, shares, {}, None, None, verdict, 100, *[shares] * 4)


def test_only_the_first_output_carries_the_library() -> None:
    first, second = result()._repr_html_(), result()._repr_html_()
    assert len(first) > 1_000_000 > 100_000 > len(second)
    assert second.count("newPlot") == 1
    forget_library()
    assert len(result()._repr_html_()) > 1_000_000


def test_the_table_has_the_verdict_first_and_every_interval() -> None:
    shown = result("<b>ambiguous</b>")._repr_html_()
    assert shown.startswith("<p><b>&lt;b&gt;ambiguous")
    assert "top1, value" not in shown
    assert "0.900 [0.800, 0.950]" in shown
    many = table_html("T", [(str(k), "x") for k in range(50)])
    assert "10 more in to_dict()" in many


def test_a_label_does_not_end_the_script() -> None:
    figure = go.Figure(go.Bar(x=["</script><b>"], y=[1]), layout={"meta": {"alt": '"><i>'}})
    drawn = figure_html(figure)
    assert "</script><b>" not in drawn
    assert '"><i>' not in drawn


def test_a_huge_figure_is_named_and_left_out() -> None:
    bars = go.Bar(y=list(range(100)))
    assert ".plot() returns it" in figure_html(go.Figure(bars), most=100)
    played = go.Figure(frames=[go.Frame(data=[bars], name="0")])
    assert ".plot() returns it" in figure_html(played, most=100)
    assert "newPlot" in figure_html(go.Figure(bars), most=None)


def test_in_colab_each_output_is_a_page_and_loads_plotly_itself(monkeypatch) -> None:
    monkeypatch.setenv("COLAB_NOTEBOOK_ID", "x")
    for _ in range(2):
        shown = result()._repr_html_()
        assert shown.count('<script src="https://cdn.plot.ly/plotly-') == 1
        assert len(shown) < 100_000


@pytest.mark.parametrize(
    "figure",
    [new_figure("a", "b"), describe(panels(["a"], columns=1, height=300), "a", "b"), result().plot()],
    ids=["figure", "panels", "plot of a result"],
)
def test_a_plot_is_html_in_a_notebook_unless_the_user_chose_a_renderer(figure, monkeypatch) -> None:
    display = pytest.importorskip("IPython.display", reason="notebooks bring IPython")
    shown, by_plotly = [], []
    monkeypatch.setattr(display, "display", lambda *given, **_: shown.extend(given))
    monkeypatch.setattr(plotly.io, "show", lambda given, *_, **options: by_plotly.append(options))
    monkeypatch.setattr(plotly.io.renderers, "_default_name", "plotly_mimetype")
    assert isinstance(figure, CellFigure)
    figure._ipython_display_()
    figure.show()
    assert len(shown[0].data) > 1_000_000 > len(shown[1].data)
    assert all("newPlot" in given.data for given in shown)
    figure.show(renderer="png")
    monkeypatch.setattr(plotly.io.renderers, "_default_name", "png")
    figure._ipython_display_()
    figure.show()
    assert by_plotly == [{"renderer": "png"}, {}, {}]
    assert len(shown) == 2


HEAD = '<!doctype html><html><head><meta charset="utf-8"><script>{amd}</script></head>'
PAGE = HEAD + "<body>{cells}</body></html>"
AMD = "window.define = function () { window.stolen = true; }; window.define.amd = true;"


@pytest.mark.slow
@pytest.mark.parametrize("amd", ["", AMD], ids=["bare page", "page with AMD"])
def test_the_outputs_draw_themselves_in_a_browser(tmp_path, amd: str) -> None:
    if CHROMIUM is None or importlib.util.find_spec("playwright") is None:
        pytest.skip("needs Chromium and playwright: apt-get install chromium; pip install playwright")
    from playwright.sync_api import sync_playwright

    cells = "".join(f"<div class='output'>{result()._repr_html_()}</div>" for _ in range(3))
    frames = [go.Frame(data=[go.Scatter(y=[k])], name=str(k)) for k in range(3)]
    played = figure_html(go.Figure(data=[go.Scatter(y=[0])], frames=frames))
    cells += f"<div id='played'>{played}</div>"
    lost = figure_html(go.Figure())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=0)
        tab = browser.new_page()
        complaints: list[str] = []
        tab.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        (tmp_path / "page.html").write_text(PAGE.format(amd=amd, cells=cells), encoding="utf-8")
        tab.goto((tmp_path / "page.html").as_uri())
        tab.wait_for_function("document.querySelectorAll('.repdyn-figure .main-svg').length >= 3", timeout=0)
        assert complaints == []
        assert tab.evaluate("window.stolen") is None
        bars = tab.evaluate("document.querySelectorAll('.repdyn-figure .bars .point').length")
        assert bars >= 6
        known = "document.querySelector('#played .repdyn-figure')._transitionData?._frames.length"
        tab.wait_for_function(f"{known} === 3", timeout=0)  # the button can play them
        # Without its first output, a figure says what it needs.
        (tmp_path / "lost.html").write_text(PAGE.format(amd="", cells=lost), encoding="utf-8")
        tab.goto((tmp_path / "lost.html").as_uri())
        tab.wait_for_function("document.body.innerText.includes('needs plotly.js')", timeout=0)
        browser.close()
