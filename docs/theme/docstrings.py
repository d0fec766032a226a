"""numpydoc's reStructuredText in docstrings, as the Markdown that the site is made of."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|obj|exc):`(~?)([^`]+)`")
_MATH = re.compile(r":math:`([^`]+)`")
_BLOCK = re.compile(r"^( *)\.\. (math|code-block):: ?(.*)\n((?:\n|\1 +.*\n?)*)", re.MULTILINE)


class Markdown(griffe.Extension):
    """Roles become code or formulas, directives become blocks."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring before it is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)


def to_markdown(text: str) -> str:
    """The few constructs that this library's docstrings use.

    Examples
    --------
    >>> to_markdown("The :class:`~torch.nn.Module` of :math:`x_0`.")
    'The `Module` of \\\\(x_0\\\\).'
    """
    text = _ROLE.sub(lambda m: f"`{m[2].rpartition('.')[2] if m[1] else m[2]}`", text)
    text = _MATH.sub(lambda m: rf"\({m[1]}\)", text)
    return _BLOCK.sub(_block, text)


def _block(match: re.Match[str]) -> str:
    indent, kind, argument, body = match.groups()
    lines = [line.strip() if kind == "math" else line for line in [argument, *body.splitlines()]]
    if kind == "math":
        inner = "\n".join(f"{indent}{line}" for line in lines if line)
        return f"{indent}\\[\n{inner}\n{indent}\\]\n\n"
    code = "\n".join(lines[1:]).strip("\n")
    return f"{indent}```{argument}\n{code}\n{indent}```\n\n"
