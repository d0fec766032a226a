"""Code blocks of a Markdown page, each with what the page says of it to the tests.

All blocks are run. A comment before one declares how: ``<!-- test: status N -->`` is a command that ends
so, ``<!-- test: with OLD => NEW; OLD => NEW -->`` is run with those words replaced: by a smaller size, by
what needs no network, by an end where there would be none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Block", "blocks"]

_FENCE = re.compile(
    r"(?:<!-- test: (?P<rule>.*?) -->\n)?"
    r"^(?P<fence>`{3,}) ?(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One block.

    Attributes
    ----------
    language
        ``python``, ``bash``, ``toml``, ``text`` …
    code
        What is in it.
    line
        The line of the page that its first line of code is.
    tried
        What the tests run: the code with its stand-ins.
    status
        The exit status a command is to have.
    """

    language: str
    code: str
    line: int
    tried: str
    status: int = 0


def blocks(page: str) -> list[Block]:
    """All of a page's blocks, in order."""
    found = []
    for match in _FENCE.finditer(page):
        rule, tried, status = match["rule"] or "", match["code"], 0
        if rule:
            kind, _, rest = rule.partition(" ")
            if kind == "status" and rest.isdigit():
                status = int(rest)
            elif kind == "with" and " =>" in rest:
                for pair in rest.split("; "):
                    old, _, new = pair.partition(" =>")
                    new = new.strip()
                    if old not in tried:
                        raise ValueError(f"a stand-in for {old!r}, which the block does not hold")
                    tried = tried.replace(old, new)
            else:
                raise ValueError(f"unknown rule {rule!r}")
        line = page[: match.start("code")].count("\n") + 1
        found.append(Block(match["language"].strip(), match["code"], line, tried, status))
    return found
