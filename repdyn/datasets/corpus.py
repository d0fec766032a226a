"""Real labeled text that every machine with a Python environment has: the documentation of its packages.

The first paragraph of each documentation string in the installed packages' sources is a passage, the
package is its label. Sources are parsed with :mod:`ast`; nothing is imported or run.
"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repdyn.errors import RepdynError
from repdyn.progress import track

__all__ = ["Corpus", "code_snippets", "documentation_corpus", "letter_statistics", "shuffled_characters"]

SHORTEST, LONGEST = 40, 300  # characters: a sentence or two, well inside every encoder's window
PER_PACKAGE = 320  # a cap keeps the largest packages from being the corpus, and the reading short


@dataclass(frozen=True, eq=False)
class Corpus:
    """Passages and what they are about.

    Attributes
    ----------
    texts
        Unique passages.
    labels
        ``(N,)`` names of the packages they come from.
    """

    texts: tuple[str, ...]
    labels: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.texts)

    def split(self, sizes: Sequence[int], seed: int) -> tuple[Corpus, ...]:
        """Disjoint random parts of the given sizes."""
        if sum(sizes) > len(self):
            raise RepdynError(f"corpus: {sum(sizes)} passages were requested, there are {len(self)}")
        order = np.random.default_rng(seed).permutation(len(self))
        bounds = np.cumsum([0, *sizes])
        parts = [np.sort(order[low:high]) for low, high in pairwise(bounds)]
        return tuple(Corpus(tuple(self.texts[i] for i in part), self.labels[part]) for part in parts)


def documentation_corpus(folder: Path | None = None, packages: int = 30, seed: int = 0) -> Corpus:
    """Collect first paragraphs of documentation strings, labeled by package.

    Parameters
    ----------
    folder
        Where packages are installed; default: this environment's ``site-packages``.
    packages
        The so many packages with the most passages are kept.
    seed
        Chooses which files of a large package are read, and of which passage duplicates are dropped.

    Returns
    -------
    Corpus
        Passages of 40 to 300 characters, no two alike, at most 320 of a package.

    Raises
    ------
    RepdynError
        If no passage is found.
    """
    root = Path(sysconfig.get_paths()["purelib"]) if folder is None else folder
    found: dict[str, list[str]] = {}
    seen: set[str] = set()
    tops = [p for p in root.iterdir() if p.is_dir() and _is_package(p)] if root.is_dir() else []
    # Packages of little source have few passages: reading half as many again as are kept finds the same ones.
    tops = sorted(sorted(tops, key=_size, reverse=True)[: packages + packages // 2])
    for top in track(tops, "reading the packages' documentation"):
        passages: list[str] = []
        for text in _passages(top, seed):
            if text not in seen:
                seen.add(text)
                passages.append(text)
            if len(passages) == PER_PACKAGE:
                break
        found[top.name] = passages
    largest = sorted(found, key=lambda name: (-len(found[name]), name))[:packages]
    texts = [text for name in sorted(largest) for text in found[name]]
    labels = [name for name in sorted(largest) for _ in found[name]]
    if not texts:
        raise RepdynError(f"{root}: holds no package with documentation strings; install some packages there")
    return Corpus(tuple(texts), np.array(labels))


def code_snippets(count: int, folder: Path | None = None, seed: int = 0) -> tuple[str, ...]:
    """Real source code of passage length: function bodies without their documentation strings.

    Parameters
    ----------
    count
        At most so many.
    folder, seed
        As in :func:`documentation_corpus`.

    Returns
    -------
    tuple of str
    """
    root = Path(sysconfig.get_paths()["purelib"]) if folder is None else folder
    tops = sorted(p for p in root.iterdir() if p.is_dir() and _is_package(p))
    # A few functions of each package in turn, so that no single style of code stands for all.
    streams = [_functions(top, seed) for top in tops]
    snippets: dict[str, None] = {}
    while streams and len(snippets) < count:
        alive = []
        for stream in streams:
            snippet = next(stream, None)
            if snippet is not None:
                snippets.setdefault(snippet)
                alive.append(stream)
        streams = alive
    return tuple(snippets)[:count]


def shuffled_characters(texts: Sequence[str], seed: int) -> tuple[str, ...]:
    """Each passage with its characters in random order: same letters, no words."""
    generator = np.random.default_rng(seed)
    return tuple("".join(generator.permutation(list(text))) for text in texts)


def letter_statistics(texts: Sequence[str]) -> NDArray[np.float64]:
    """Low-level statistics of a text: length and shares of kinds of characters."""
    rows = []
    for text in texts:
        n = len(text)
        letters, spaces = sum(c.isalpha() for c in text), text.count(" ")
        rows.append(
            (n, letters / n, spaces / n, sum(c.isupper() for c in text) / n, (n - letters - spaces) / n)
        )
    return np.array(rows)


def _is_package(folder: Path) -> bool:
    name = folder.name
    return name.isidentifier() and not name.startswith("_") and (folder / "__init__.py").is_file()


def _size(top: Path) -> int:
    return sum(file.stat().st_size for file in top.rglob("*.py"))


def _sources(top: Path, seed: int) -> Iterator[ast.Module]:
    files = sorted(p for p in top.rglob("*.py") if not {"tests", "test"} & set(p.parts))
    for k in np.random.default_rng(seed).permutation(len(files)):
        try:
            yield ast.parse(files[k].read_bytes())
        except (SyntaxError, ValueError, OSError, RecursionError, MemoryError):
            continue  # a template or a file of another Python: not ours to judge


def _passages(top: Path, seed: int) -> Iterator[str]:
    for module in _sources(top, seed):
        for node in _documented(module):
            documentation = ast.get_docstring(node)
            if documentation:
                passage = " ".join(documentation.split("\n\n", 1)[0].split())
                if SHORTEST <= len(passage) <= LONGEST and ">>>" not in passage:
                    yield passage


def _documented(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
) -> Iterator[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    yield node
    if isinstance(node, ast.Module | ast.ClassDef):  # functions inside functions document no interface
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _documented(child)


def _functions(top: Path, seed: int) -> Iterator[str]:
    for module in _sources(top, seed):
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                if body:
                    snippet = " ".join("\n".join(ast.unparse(statement) for statement in body).split())
                    if SHORTEST <= len(snippet) <= LONGEST:
                        yield snippet
                        break  # one of a file
