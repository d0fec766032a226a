"""Every code block of the site runs, the site builds without a warning, and the API pages are complete."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def _load(name: str, path: Path):
    """A module beside this one: with import-mode importlib the tests are no package."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


markdown_blocks = _load("markdown_blocks", Path(__file__).with_name("markdown_blocks.py"))
blocks = markdown_blocks.blocks
call = _load("docs_conftest", Path(__file__).with_name("conftest.py")).call

# The tutorials' pages are made of scripts that tests/tutorials runs.
PAGES = sorted(p for p in DOCS.rglob("*.md") if p.parent.name != "tutorials")
NAMES = [str(p.relative_to(DOCS)) for p in PAGES]
PROSE = {"text", "math", "mermaid", "sql"}  # SQL is run by tests/migration
KNOWN = {"python", "{.python}", "bash", "toml", "json", *PROSE}
STORES = re.compile(r"[\w-]+\.(?:paths|kae|topology|detector)\b")


def needs_stores(page: Path) -> bool:
    """Whether any block that is run reads or writes a store."""
    return any(STORES.search(b.tried) for b in blocks(page.read_text()))


def marked(page: Path):
    slow = [pytest.mark.slow] if needs_stores(page) else []
    return pytest.param(page, id=str(page.relative_to(DOCS)), marks=slow)


@pytest.mark.parametrize("page", [marked(p) for p in PAGES])
def test_every_block_of_a_page_runs_in_one_namespace(page, request, tmp_path, monkeypatch, capsys):
    found = blocks(page.read_text())
    assert {b.language for b in found} <= KNOWN, "a block needs a language that the tests know"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    if "s3://" in "".join(b.tried for b in found):
        request.getfixturevalue("bucket")
    if "push_to_hub" in "".join(b.tried for b in found):
        request.getfixturevalue("hub")
    if needs_stores(page):
        request.getfixturevalue("docstrings")
        code = "\n".join(b.tried for b in found)
        made_here = set(re.findall(r"--out ([\w-]+\.(?:paths|kae|topology|detector))\b", code))
        request.getfixturevalue("site")(made_here)
    namespace: dict[str, object] = {"__name__": "page"}
    for block in found:
        if block.language == "{.python}":  # written so, because formatters take a snippet for Python
            included = ROOT / block.code.split('"')[1]  # a file of the repository, with tests of its own
            compile(included.read_text(), str(included), "exec")
        elif block.language == "python":
            code = compile("\n" * (block.line - 1) + block.tried, str(page), "exec")
            exec(code, namespace)  # our own page
        elif block.language == "bash":
            for line in block.tried.replace("\\\n", " ").splitlines():
                if shlex.split(line, comments=True):
                    assert run(line) == block.status, f"{page.name}:{block.line}: {capsys.readouterr().err}"
        elif block.language == "toml":
            tomllib.loads(block.code)


def run(line: str) -> int:
    """Run one line of a shell block: its exit status."""
    words = shlex.split(line, comments=True)
    if words[:2] == ["pip", "install"]:
        return not all(map(is_installed, words[2:]))
    if words[0] == "repdyn" and not set(words) & {"|", "&&"}:
        return call(*words[1:])  # here, which saves importing torch
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        env=os.environ | {"PATH": programs},
        capture_output=True,
        text=True,
        timeout=300,
    )
    print(done.stderr, file=sys.stderr)
    return done.returncode


def is_installed(asked: str) -> bool:
    """Whether what ``pip install`` is told to install is declared, and is here."""
    wanted = Requirement(asked.replace(".[", "repdyn[", 1))
    declared = metadata.metadata(wanted.name).get_all("Provides-Extra") or []
    needed = [Requirement(r) for r in metadata.requires(wanted.name) or []]
    needed = [r for r in needed if r.marker and any(r.marker.evaluate({"extra": e}) for e in wanted.extras)]
    return wanted.extras <= set(declared) and all(metadata.version(r.name) in r.specifier for r in needed)


def test_blocks_are_read_with_what_is_said_of_them():
    page = "a\n<!-- test: with x 10 => x 1; s3://b => memory://b -->\n```bash\nx 10 s3://b\n```\n"
    page += "```python\ny\n```\n<!-- test: status 2 -->\n```bash\nz\n```\n"
    first, second, third = blocks(page)
    assert (first.code, first.tried, third.status) == ("x 10 s3://b\n", "x 1 memory://b\n", 2)
    assert (second.code, second.tried, second.line) == ("y\n", "y\n", 7)
    with pytest.raises(ValueError, match="unknown rule 'skip"):
        blocks("<!-- test: skip, it is slow -->\n```bash\nx\n```\n")
    with pytest.raises(ValueError, match="'w', which the block does not hold"):
        blocks("<!-- test: with w => v -->\n```bash\nx\n```\n")


def test_what_pip_is_told_to_install_must_be_there():
    assert is_installed(".[demo]")
    assert not is_installed(".[dmo]")


ROOMS = (
    "paths",
    "tracing",
    "koopman",
    "disentangle",
    "fields",
    "ood",
    "topology",
    "translation",
    "comparison",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for needed in ("material", "mkdocstrings", "mkdocs"):
        pytest.importorskip(needed, reason="the site is built with the extra repdyn[docs]")
    out = tmp_path_factory.mktemp("built")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.slow
@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_on_its_api_page(built, room):
    page = (built / "api" / room / "index.html").read_text()
    there = {anchor.rpartition(".")[2] for anchor in re.findall(r'id="(repdyn[\w.]+)"', page)}
    names = importlib.import_module(f"repdyn.{room}").__all__
    assert [name for name in names if name not in there and not name.isupper()] == []
    assert not re.search(r":(?:class|func|math|meth):`", page)


@pytest.mark.slow
def test_the_site_has_every_page_and_its_pictures(built):
    for page in ("index.html", "ideas/index.html", "guides/ood/index.html", "changelog/index.html"):
        assert (built / page).is_file()
    for page in built.rglob("*.html"):
        for source in re.findall(r'<img[^>]+src="(?!https?:|data:)([^"]+)"', page.read_text()):
            assert (page.parent / source).resolve().is_file(), f"{page}: {source}"
    assert "0.1.0" in (built / "changelog" / "index.html").read_text()


def test_every_image_says_what_it_shows():
    for page in DOCS.rglob("*.md"):
        for alt, source in re.findall(r"!\[(.*?)\]\((\S+?)\)", page.read_text()):
            assert len(alt) > 10, f"{page}: {source} has no alternative text"


def test_docstrings_become_markdown():
    pytest.importorskip("griffe", reason="comes with repdyn[docs]")
    theme = _load("docs_theme", DOCS / "theme" / "docstrings.py")
    told = theme.to_markdown("See :func:`~repdyn.trace` of :math:`x_0`.\n\n.. math:: a\n    + b\n\nEnd.")
    assert told == "See `trace` of \\(x_0\\).\n\n\\[\na\n+ b\n\\]\n\nEnd."
