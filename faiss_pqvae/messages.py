"""Words that messages have in common: names in a list, names that may be meant, safe to print."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def printable(text: str) -> str:
    """A text without what a terminal would obey or could not show, as in a name of a file."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def counted(n: int, noun: str) -> str:
    """A number of things: 1 item, 2 items."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def listed(values: Iterable[object], most: int = 5, *, between: str = ", ") -> str:
    """The first few of many, printable, and how many there are besides.

    Args:
        values: all of them.
        most: so many are named.
        between: stands between two.
    """
    texts = [printable(str(value)) for value in values]
    more = f" and {len(texts) - most:,} more" if len(texts) > most else ""
    return between.join(texts[:most]) + more


def suggestion(given: Any, names: Iterable[str]) -> str:
    """What an error about a name ends with: the known name that is spelled most like it, if any."""
    if not isinstance(given, str):
        return ""
    lowered = {name.lower(): name for name in names}
    close = difflib.get_close_matches(given.lower(), lowered, n=1)
    return f"; did you mean {lowered[close[0]]!r}?" if close else ""
