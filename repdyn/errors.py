"""Errors for users: the value given, the value expected, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["NotFiniteError", "RepdynError", "nearest_names"]


class RepdynError(ValueError):
    """Bad input, described in one line.

    Raised before work starts wherever that is possible. The command line prints the message and exits
    with status 2; from Python it is an ordinary :class:`ValueError`.
    """


class NotFiniteError(RepdynError):
    """A sample's representation is NaN or infinite: a layer has died or diverged."""


def nearest_names(wanted: str, known: Iterable[str], count: int = 3) -> str:
    """The known names nearest to a wrong one, as the end of an error message.

    Parameters
    ----------
    wanted
        The unknown name.
    known
        All names that would have been accepted.
    count
        At most so many are listed.

    Returns
    -------
    str
        ``"nearest: 'a', 'b'"``, or ``"there are none"`` where nothing is known.

    Examples
    --------
    >>> nearest_names("blocks.12", ["stem", "blocks.1", "blocks.11"], count=2)
    "nearest: 'blocks.1', 'blocks.11'"
    """
    names = list(dict.fromkeys(known))
    if not names:
        return "there are none"
    close = difflib.get_close_matches(wanted, names, n=count, cutoff=0.0)
    return "nearest: " + ", ".join(repr(name) for name in close)
