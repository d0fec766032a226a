"""The report in a real browser: it draws, links, prints, and asks the network for nothing."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from repdyn.views.path_flow import path_flow
from repdyn.views.report import Section, write_report

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)
FOUND = {"chromium": CHROMIUM, "playwright": importlib.util.find_spec("playwright")}
MISSING = " and ".join(name for name, there in FOUND.items() if not there)
HOW = "apt-get install chromium; pip install playwright"
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"THE REPORT WAS NOT TRIED IN A BROWSER: no {MISSING} here ({HOW})"
)

BROKEN = """
() => [...document.querySelectorAll('svg *')].flatMap((element) => [...element.attributes])
  .filter((a) => ['d', 'transform', 'points', 'x', 'y', 'width', 'height'].includes(a.name))
  .filter((a) => /NaN|undefined|Infinity/.test(a.value)).length
"""
SMALLEST = """
(id) => {
  const plot = document.getElementById(id), layout = plot._fullLayout, box = plot.getBoundingClientRect();
  const trace = plot._fullData.find((t) => t.name === 'certified');
  const x = Array.from(trace.x), y = Array.from(trace.y), size = x.map((v, k) => Math.hypot(v, y[k]));
  const k = size.indexOf(Math.min(...size));
  return [box.left + layout.xaxis._offset + layout.xaxis.d2p(x[k]),
          box.top + layout.yaxis._offset + layout.yaxis.d2p(y[k]), size[k]];
}
"""
SAMPLE = """
(id) => document.querySelector(`#${id} .scatterlayer .trace:last-child .point`).getAttribute('transform')
"""
PLAY = """
(id) => Plotly.animate(id, ['7'], {transition: {duration: 0}, frame: {duration: 0, redraw: false}})
"""
OF_SECTION = """
(title) => [...document.querySelectorAll('section')]
  .find((s) => s.querySelector('h2').textContent === title).querySelector('.plot').id
"""
CHOSEN = """
(id) => {
  const plot = document.getElementById(id);
  return Array.from(plot._fullData[plot.layout.meta.links.targets.at(-1).trace].y);
}
"""
GROUND = "() => document.getElementById('figure-1')._fullLayout.paper_bgcolor"
DRAWN = """
() => [...document.querySelectorAll('.plot')].map((p) => [p.id, p.querySelectorAll('path, text').length])
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Without a sandbox and with software WebGL, as containers need it.
        started = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--enable-unsafe-swiftshader"],
            timeout=300_000,
        )
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, examples: dict[str, go.Figure]) -> Path:
    sections = [
        Section(name, figure, text="What it means.", verdict="found") for name, figure in examples.items()
    ]
    labels = np.array(["<b>bold</b>" + "z" * 10_000, "</script>"])[np.arange(60) % 2]
    hostile = path_flow(np.random.default_rng(0).normal(size=(3, 60, 2)), labels, ["<i>", "b", "c"], 0.4)
    sections.append(Section("<b>hostile</b>" * 100, hostile))
    summary = [{"result": name, "verdict": "found"} for name in examples]
    out = tmp_path_factory.mktemp("report") / "report.html"
    return write_report(out, sections, summary, {"seed": 0, "digest": "ab" * 32})


@pytest.fixture(scope="module")
def short_report(tmp_path_factory: pytest.TempPathFactory, examples: dict[str, go.Figure]) -> Path:
    """Drawn several times over, hence only the pictures whose colours differ most in kind."""
    sections = [Section(name, examples[name]) for name in ("two_trees", "ood")]
    return write_report(tmp_path_factory.mktemp("report") / "short.html", sections, [], {"seed": 0})


class Visit:
    """A page and what it complained about and asked for."""

    def __init__(self, browser: Any, report: Path, width: int, scheme: str) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        self.context.set_default_timeout(300_000)  # a busy machine is slow, not broken
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(report.as_uri())
        self.page.wait_for_selector("body[data-ready=yes]")


@pytest.fixture(scope="module")
def visit(browser: Any, report: Path) -> Iterator[Visit]:
    visit = Visit(browser, report, 800, "light")
    yield visit
    visit.context.close()


def test_no_complaint_and_no_request(visit: Visit, report: Path) -> None:
    assert visit.said == []
    assert [url for url in visit.asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert len([url for url in visit.asked if url.startswith("file:")]) == 1


def test_every_figure_is_drawn_and_no_path_is_broken(visit: Visit, examples: dict[str, go.Figure]) -> None:
    drawn = visit.page.evaluate(DRAWN)
    assert [name for name, _ in drawn] == [f"figure-{k}" for k in range(1, len(examples) + 2)]
    assert min(count for _, count in drawn) > 10
    assert visit.page.evaluate(BROKEN) == 0


def test_nothing_is_wider_than_the_page(visit: Visit) -> None:
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 800


def test_a_click_on_an_eigenvalue_shows_its_curve(visit: Visit) -> None:
    page = visit.page
    figure = page.evaluate(OF_SECTION, "spectrum")
    before = page.evaluate(CHOSEN, figure)
    page.locator(f"#{figure}").scroll_into_view_if_needed()
    # The certified eigenvalue of smallest modulus: far from the one that is chosen to begin with.
    left, top, modulus = page.evaluate(SMALLEST, figure)
    page.mouse.move(left + 1, top)
    page.mouse.click(left, top)
    page.wait_for_selector(f"#{figure}[data-chosen]")
    after = page.evaluate(CHOSEN, figure)
    assert after[0] == pytest.approx(1)
    # The last depth of the example is 7, so the curve ends at |λ|^7.
    assert after[-1] == pytest.approx(modulus**7, rel=0.01)
    assert after[-1] < before[-1]


def test_a_click_on_a_bar_shows_the_profile_of_an_input_in_it(visit: Visit) -> None:
    page = visit.page
    figure = page.evaluate(OF_SECTION, "ood")
    before = page.evaluate(CHOSEN, figure)
    page.locator(f"#{figure} .barlayer .trace:first-child .point path").nth(20).click(force=True)
    page.wait_for_selector(f"#{figure}[data-chosen]")
    after = page.evaluate(CHOSEN, figure)
    assert len(after) == len(before) == 8
    assert after != before


def test_a_frame_moves_the_samples(visit: Visit) -> None:
    page = visit.page
    figure = page.evaluate(OF_SECTION, "path_flow")
    before = page.evaluate(SAMPLE, figure)
    page.evaluate(PLAY, figure)
    page.wait_for_function(f"(before) => ({SAMPLE})('{figure}') !== before", arg=before)


def test_a_screenshot_is_kept(visit: Visit, tmp_path: Path) -> None:
    folder = Path(os.environ.get("REPDYN_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    shot = folder / "report.png"
    visit.page.screenshot(path=str(shot), full_page=True)
    assert shot.stat().st_size > 50_000


@pytest.mark.parametrize(("width", "scheme"), [(800, "light"), (1200, "dark")])
def test_it_follows_the_readers_scheme_and_prints(
    browser: Any, short_report: Path, tmp_path: Path, width: int, scheme: str
) -> None:
    visit = Visit(browser, short_report, width, scheme)
    page = visit.page
    ground = page.evaluate(GROUND)
    assert ground == {"light": "#ffffff", "dark": "#1b1e24"}[scheme]
    page.emulate_media(color_scheme="dark" if scheme == "light" else "light")
    page.wait_for_function(f"(ground) => ({GROUND})() !== ground", arg=ground)
    page.emulate_media(color_scheme=scheme)
    page.wait_for_function(f"(ground) => ({GROUND})() === ground", arg=ground)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    pdf = tmp_path / "report.pdf"
    page.pdf(path=str(pdf))
    assert pdf.stat().st_size > 20_000
    assert visit.said == []
    visit.context.close()
