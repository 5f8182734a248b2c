"""Recall against speed, read at a recall: who reaches it, and how fast."""

from __future__ import annotations

from dataclasses import dataclass

from ..measure.results import Row, speed_of
from .shown import Shown

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
MOST = 4  # methods at a level


@dataclass(frozen=True, eq=False)
class Level:
    """The fastest setting of every method that reaches a value of the main metric.

    Attributes:
        value: a share.
        rows: the fastest first.
        n_methods: that reach it; `rows` has some of them.
    """

    value: float
    rows: list[Row]
    n_methods: int


def levels(page: Shown) -> list[Level]:
    """What can be read of curves; nothing where no method has several settings of a search.

    A setting counts as it was measured: nothing is read between two of them.
    """
    swept: dict[str, set[str]] = {}
    for row in page.rows:
        if "=" in row.search:
            swept.setdefault(row.method, set()).add(row.search)
    if not any(len(settings) > 1 for settings in swept.values()):
        return []
    found = []
    for value in LEVELS:
        fastest: dict[tuple[str, int], Row] = {}
        for row in page.rows:
            if row.metrics.get(page.metric, -1) < value or _speed(page, row) == 0:
                continue
            key = row.method, row.bytes_per_vector
            if key not in fastest or _speed(page, row) > _speed(page, fastest[key]):
                fastest[key] = row
        rows = sorted(fastest.values(), key=lambda row: -_speed(page, row))
        if rows:
            found.append(Level(value, rows[:MOST], len(rows)))
    return found


def _speed(page: Shown, row: Row) -> float:
    return speed_of(row, page.results.n_queries) or 0.0
