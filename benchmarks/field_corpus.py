"""A corpus of short passages of documentation and of the shared sets, for translation at the field's size.

    python benchmarks/field_corpus.py --out corpus.jsonl.gz --cache FOLDER [--count 60000] [--seed 0]

Packages of Debian are downloaded with ``apt-get download`` and unpacked below the folder. Prose is taken
from their HTML pages, manual pages and POD files: tables, code and names of commands are left out. It is cut
at the ends of sentences into passages of 20 to 60 words. The shared sets (Banking77, CLINC150, STS-B and the
beginnings of Cranfield's abstracts) are added as they are. At most 6 000 passages of one source are taken. Of
near copies one is kept. Each line of the output is ``{"text": …, "source": …}``; the order is random and
depends on the seed alone.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from harness import data, parser_of, table
from stored_texts import rows_of

__all__ = ["PACKAGES", "distinct", "made", "passages_of", "prose_of_html", "prose_of_man", "prose_of_pod"]

PACKAGES = (
    "apache2-doc",
    "aptitude-doc-en",
    "bash-doc",
    "debian-policy",
    "debian-reference-en",
    "developers-reference",
    "git-doc",
    "linux-doc-6.1",
    "manpages",
    "manpages-dev",
    "perl-doc",
    "postgresql-doc-15",
    "python-django-doc",
    "python3.11-doc",
    "r-doc-html",
    "sqlite3-doc",
)
"""Of Debian 12; each is distributed under a free license, which is in its file ``copyright``."""

MOST = 6000
"""Passages of one package or one shared set."""

LEAST_WORDS, MOST_WORDS = 20, 60
LEAST_LETTERS = 0.75
"""Share of letters and spaces in a passage; below it are tables and code."""

PREFIX = 60
"""Characters: passages that begin with the same ones are near copies."""

BEGINNING = 300
"""Characters of an abstract of Cranfield, as in the study of migrations."""

Passage = tuple[str, str]


def main() -> None:
    """Download, make and write the corpus, then print its make-up."""
    parser = parser_of(__doc__, "cache", out="corpus.jsonl.gz")
    parser.add_argument("--count", type=int, default=60_000, help="passages, at most")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sources: list[tuple[str, Iterable[str]]] = []
    for package in PACKAGES:
        tree = unpacked(package, arguments.cache)
        sources.append((package, passages_of(tree)))
    kept = made([*sources, *shared_sets()], arguments.count, arguments.seed)
    write(kept, arguments.out)
    counts = Counter(source for _, source in kept)
    words = [len(text.split()) for text, _ in kept]
    print(table(["source", "passages"], [[name, str(n)] for name, n in sorted(counts.items())]))
    print(f"{len(kept)} passages of {min(words)} to {max(words)} words, {np.mean(words):.1f} in the mean")


def unpacked(package: str, folder: Path) -> Path:
    """The tree of a package of Debian, downloaded now or before. Nothing of it is run or installed."""
    tree = folder / "trees" / package
    if not tree.exists():
        downloads = folder / "packages"
        downloads.mkdir(parents=True, exist_ok=True)
        if not list(downloads.glob(f"{package}_*.deb")):
            subprocess.run(["apt-get", "download", "-qq", package], cwd=downloads, check=True)
        scratch = tree.with_name(f"{package}.partial")
        scratch.mkdir(parents=True, exist_ok=True)
        (archive,) = downloads.glob(f"{package}_*.deb")
        subprocess.run(["dpkg-deb", "-x", str(archive), str(scratch)], check=True)
        scratch.rename(tree)
    return tree


def made(sources: Sequence[tuple[str, Iterable[str]]], count: int, seed: int) -> list[Passage]:
    """Passages of all sources without near copies, in random order."""
    generator = np.random.default_rng(seed)
    kept: list[Passage] = []
    every = ((text, name) for name, texts in sources for text in texts)
    by_source: dict[str, list[Passage]] = {}
    for passage in distinct(every):
        by_source.setdefault(passage[1], []).append(passage)
    for passages in by_source.values():
        kept += [passages[k] for k in generator.permutation(len(passages))[:MOST]]
    return [kept[k] for k in generator.permutation(len(kept))[:count]]


def write(passages: Sequence[Passage], out: Path) -> None:
    """One line of JSON for each; the same passages give the same bytes."""
    lines = "".join(json.dumps({"text": text, "source": source}) + "\n" for text, source in passages)
    out.write_bytes(gzip.compress(lines.encode(), mtime=0))


def distinct(passages: Iterable[Passage]) -> Iterator[Passage]:
    """Passages without near copies.

    Near copies have the same first 60 characters, or the same letters apart from case.
    """
    seen: set[str] = set()
    for text, source in passages:
        keys = {"begins " + text[:PREFIX].casefold(), "letters " + re.sub(r"[\W\d_]+", "", text).casefold()}
        if not keys & seen:
            seen |= keys
            yield text, source


def shared_sets() -> list[tuple[str, list[str]]]:
    """Texts of the sets in the shared folder."""
    sets = [(name, [row["text"] for row in rows_of(name)]) for name in ("banking77", "clinc150")]
    sets.append(("stsb", [row[side] for row in rows_of("stsb_en") for side in ("a", "b")]))
    with gzip.open(data("retrieval", "cranfield.json.gz"), "rt", encoding="utf-8") as file:
        documents = json.load(file)["documents"]
    sets.append(("cranfield", [one["text"][:BEGINNING] for one in documents if one["text"]]))
    return sets


def passages_of(tree: Path) -> Iterator[str]:
    """Passages of all pages below a folder, in the order of their names.

    Links are not followed, neither to folders nor to files.
    """
    for folder, folders, files in os.walk(tree, followlinks=False):
        folders.sort()
        for name in sorted(files):
            file = Path(folder, name)
            read = _reader(name)
            if read is None or file.is_symlink() or not file.is_file():
                continue
            raw = gzip.decompress(file.read_bytes()) if name.endswith(".gz") else file.read_bytes()
            for paragraph in read(raw.decode("utf-8", errors="replace")):
                yield from cut(paragraph)


def cut(paragraph: str) -> Iterator[str]:
    """Runs of whole sentences of 20 to 60 words; what is shorter, longer or not prose is left out."""
    run: list[str] = []
    for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(paragraph.split())):
        run += sentence.split()
        if len(run) >= LEAST_WORDS:
            text = " ".join(run)
            if len(run) <= MOST_WORDS and _is_prose(text):
                yield text
            run = []


def _is_prose(text: str) -> bool:
    plain = sum(c.isascii() and (c.isalpha() or c == " ") for c in text)
    return plain >= LEAST_LETTERS * len(text) and text[0].isalpha() and text[-1] in ".!?:"


class _Prose(HTMLParser):
    """Paragraphs and list items of a page, without code, menus and tables."""

    BLOCKS = frozenset({"p", "dd", "li", "div", "br", "h1", "h2", "h3", "h4", "td", "section", "dt", "ul"})
    LEFT_OUT = frozenset({"script", "style", "pre", "nav", "head", "footer", "table"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.paragraphs: list[str] = []
        self.parts: list[str] = []
        self.outside = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.outside += tag in self.LEFT_OUT
        if tag in self.BLOCKS:
            self.end()

    def handle_endtag(self, tag: str) -> None:
        if tag in self.LEFT_OUT:
            self.outside = max(self.outside - 1, 0)
        if tag in self.BLOCKS:
            self.end()

    def handle_data(self, data: str) -> None:
        if not self.outside:
            self.parts.append(data)

    def end(self) -> None:
        """End a paragraph."""
        text = "".join(self.parts).replace("¶", "").strip()
        self.parts = []
        if text:
            self.paragraphs.append(text)


def prose_of_html(page: str) -> list[str]:
    """Paragraphs of an HTML page."""
    reader = _Prose()
    reader.feed(page)
    reader.end()
    return reader.paragraphs


def prose_of_man(page: str) -> list[str]:
    """Paragraphs of a manual page: its text lines, with the fonts' marks taken out."""
    paragraphs: list[list[str]] = [[]]
    verbatim = False
    for line in page.splitlines():
        macro, _, rest = line.partition(" ")
        if macro in (".nf", ".EX", ".TS", ".de", ".ie", ".el"):
            verbatim = True
        elif macro in (".fi", ".EE", ".TE", ".."):
            verbatim = False
        elif verbatim or line.startswith(("'", '.\\"')):
            continue
        elif macro in (".B", ".I", ".BR", ".IR", ".RB", ".RI", ".BI", ".IB"):
            joined = "" if len(macro) == 3 else " "
            paragraphs[-1].append(joined.join(re.findall(r'"[^"]*"|\S+', rest)).replace('"', ""))
        elif line.startswith("."):
            paragraphs.append([])
        else:
            paragraphs[-1].append(line)
    whole = (re.sub(r"\\f(\[\w*\]|\(..|.)|\\[&/,|%]", "", " ".join(p)) for p in paragraphs)
    plain = (p.replace("\\-", "-").replace("\\(aq", "'").replace("\\(em", ", ") for p in whole)
    return [re.sub(r"\\e|\\\(..|\\\[\w+\]", "", p).strip() for p in plain if p.strip()]


def prose_of_pod(page: str) -> list[str]:
    """Paragraphs of a POD file: neither commands nor code, which is indented."""
    paragraphs = []
    inside = False
    for block in re.split(r"\n\s*\n", page):
        if block.startswith("="):
            inside = not block.startswith("=cut")
        elif inside and block.strip() and not block[0].isspace():
            plain = re.sub(r"L<(?:([^<>|]*)\|)?([^<>]*)>", lambda m: m[1] or m[2], block)
            plain = re.sub(r"\b[A-Z]<<+\s(.*?)\s>>+", r"\1", plain)
            for _ in range(3):  # marks within marks
                plain = re.sub(r"[A-Z]<([^<>]*)>", r"\1", plain)
            paragraphs.append(plain.strip())
    return paragraphs


def _reader(name: str) -> Callable[[str], list[str]] | None:
    """What reads a file of this name."""
    plain = name.removesuffix(".gz")
    if plain.endswith((".html", ".htm")):
        return prose_of_html
    if plain.endswith(".pod"):
        return prose_of_pod
    return prose_of_man if re.search(r"\.\d\w*$", plain) else None


if __name__ == "__main__":
    main()
