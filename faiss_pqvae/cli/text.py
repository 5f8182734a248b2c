"""What stands on a terminal."""

from __future__ import annotations

from collections.abc import Iterable


def printable(text: str) -> str:
    """A text without what a terminal would obey or could not show, as in a name of a file."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def listed(values: Iterable[object], most: int = 3) -> str:
    """The first few of many, and how many there are besides."""
    texts = [printable(str(value)) for value in values]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
