"""Code blocks of a Markdown page, each with what the page says of it to the tests.

A comment before a block declares how it is tested: ``<!-- test: skip, REASON -->`` is not run,
``<!-- test: status N -->`` is a command that ends so. A reason is required.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Block", "blocks"]

_FENCE = re.compile(
    r"(?:<!-- test: (?P<rule>[^>]*?) -->\n)?"
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
    skip
        Why it is not run; empty where it is.
    status
        The exit status a command is to have.
    """

    language: str
    code: str
    line: int
    skip: str = ""
    status: int = 0


def blocks(page: str) -> list[Block]:
    """All of a page's blocks, in order."""
    found = []
    for match in _FENCE.finditer(page):
        rule, skip, status = match["rule"] or "", "", 0
        if rule:
            kind, _, rest = rule.replace(",", " ", 1).partition(" ")
            if kind == "skip" and len(rest.strip()) > 8:
                skip = rest.strip()
            elif kind == "status" and rest.isdigit():
                status = int(rest)
            else:
                raise ValueError(f"unknown or unreasoned rule {rule!r}")
        line = page[: match.start("code")].count("\n") + 1
        found.append(Block(match["language"].strip(), match["code"], line, skip, status))
    return found
