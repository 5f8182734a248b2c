"""Charts in text: bars and small histograms, of blocks where they can be shown, else of ASCII."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

WIDTH = 80  # of what is no terminal
_WIDEST = 100  # a longer bar says no more
_EIGHTHS = " ▏▎▍▌▋▊▉█"  # from the left
_LEVELS = {True: " ▁▂▃▄▅▆▇█", False: " .:-=+*%#"}
_UNITS = "B", "kB", "MB", "GB", "TB"


class Row(NamedTuple):
    """A line of a chart: its name, what its bar is as long as, and what stands behind that."""

    name: str
    value: float
    said: str


def bars(rows: Sequence[Row], width: int, *, blocks: bool = True) -> list[str]:
    """A line for each row; the largest value has the longest bar, and 0 has none.

    Args:
        rows: values >= 0.
        width: columns that no line is wider than.
        blocks: draw in eighths of a column; otherwise in `#`.

    Raises:
        ValueError: a value that is negative, NaN or infinite.
    """
    largest = max((_checked(row.value) for row in rows), default=0.0)
    names = max((len(row.name) for row in rows), default=0)
    said = max((len(row.said) for row in rows), default=0)
    room = width - names - said - 4  # two columns between two parts
    lines = []
    for row in rows:
        drawn = bar(_share(row.value, largest), max(0, room), blocks=blocks)
        lines.append(f"{row.name:>{names}}  {drawn}  {row.said:>{said}}"[: max(0, width)].rstrip())
    return lines


def bar(share: float, width: int, *, blocks: bool = True) -> str:
    """A bar in `width` columns: full for a share of 1, empty for 0, and of something else not."""
    parts = 8 if blocks else 1
    filled = round(share * width * parts)
    if 0 < share < 1:  # a little is not nothing, and not quite all is not all
        filled = max(1, min(filled, width * parts - 1))
    full, rest = divmod(min(filled, width * parts), parts)
    if not blocks:
        return ("#" * full).ljust(width)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(width)


def histogram(values: npt.ArrayLike, width: int, *, blocks: bool = True) -> str:
    """Values from the largest to the smallest, as a line of columns of at most their height.

    Args:
        values: (n,) >= 0; where there are more than columns, each column is a mean of neighbours.
        width: columns at most.
        blocks: draw in eighths of a line; otherwise in ASCII that grows darker.

    Returns:
        min(n, width) characters. A blank is a column of zeros.

    Raises:
        ValueError: a value that is negative, NaN or infinite.
    """
    heights = np.ravel(np.asarray(values, float))
    for height in heights[~((heights >= 0) & (heights < math.inf))][:1]:
        _checked(height)
    n = min(len(heights), width)
    if n < 1:
        return ""
    heights = np.sort(heights)[::-1]
    heights = heights / (heights[0] or 1.0)  # first, for a sum of what is largest may be infinite
    levels = _LEVELS[blocks]
    means = [float(part.mean()) for part in np.array_split(heights, n)]
    return "".join(levels[math.ceil(8 * _share(mean, means[0]))] for mean in means)


def _checked(value: Any) -> float:
    """A value that can be drawn, as a float.

    Raises:
        ValueError: it is negative, NaN or infinite.
    """
    number = float(value)
    if not 0 <= number < math.inf:
        raise ValueError(f"expected a finite value >= 0 to draw, got {value}")
    return number


def _share(value: float, largest: float) -> float:
    """A value of the largest, in [0, 1]; 0 where all are 0."""
    return min(1.0, value / largest) if largest else 0.0


def in_bytes(n: float) -> str:
    """A number of bytes as people read it, by powers of 1,000: 950 B, 7.6 MB, 120 MB."""
    value, place = float(n), 0
    while value >= 999.5 and place < len(_UNITS) - 1:
        value, place = value / 1000, place + 1
    return f"{value:,.{1 if place and value < 99.95 else 0}f} {_UNITS[place]}"


def columns(stream: Any) -> int:
    """The columns to draw in: of a terminal, up to 100 of them; elsewhere 80."""
    if not stream.isatty():
        return WIDTH
    try:
        found = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # a terminal that has no number
        found = 0
    return min(found, _WIDEST) or WIDTH  # 0: one without a size, as in `docker run -t`


def takes_blocks(stream: Any) -> bool:
    """Whether a stream can write what charts are drawn in."""
    try:
        (_EIGHTHS + _LEVELS[True]).encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
