"""Real relevance: which items people, or what was known before, say a query is about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from faiss_pqvae.data.own_ids import OwnIds, check_once
from faiss_pqvae.foreign import as_array
from faiss_pqvae.types import DoubleArray, IdArray


@dataclass(frozen=True, eq=False)
class Qrels:
    """Judgements: a query, an item, and how relevant it is. What is not judged is not relevant.

    Attributes:
        queries: (n,) int64, places of queries.
        items: (n,) int64, places in the database.
        grades: (n,) float64, 0 for not relevant, the larger the more.

    Raises:
        ValueError: lengths differ, a negative or infinite grade, or a pair that is there twice.
    """

    queries: IdArray
    items: IdArray
    grades: DoubleArray

    def __post_init__(self) -> None:
        shapes = {part.shape for part in (self.queries, self.items, self.grades)}
        if len(shapes) > 1 or self.queries.ndim != 1:
            raise ValueError(f"expected queries, items and grades of one shape (n,), got {shapes}")
        if not np.isfinite(self.grades).all() or (self.grades < 0).any():
            raise ValueError("expected grades from 0, for not relevant, on, got others")
        if len(self.queries) and min(self.queries.min(), self.items.min()) < 0:
            raise ValueError("expected queries and items as places from 0 on, got negative ones")
        pairs, counts = np.unique(np.stack([self.queries, self.items]), axis=1, return_counts=True)
        if (counts > 1).any():
            query, item = pairs[:, counts.argmax()]
            raise ValueError(f"expected a judgement once, got query {query} and item {item} twice")

    def check(self, n_queries: int, n_items: int) -> None:
        """Checks that all that is judged is there.

        Raises:
            ValueError: a query or an item that is not.
        """
        parts = (("queries", self.queries, n_queries), ("items", self.items, n_items))
        for name, places, n in parts:
            if places.size and places.max() >= n:
                raise ValueError(
                    f"expected judgements of {name} from 0 to {n - 1:,}, got {places.max():,}"
                )

    def part(self, *, queries: IdArray | None = None, items: IdArray | None = None) -> Qrels:
        """The judgements among some queries and some items, by their places there.

        Args:
            queries: (nq,) int64, distinct places of those that are kept; None keeps all.
            items: (n,) int64, likewise.
        """
        of_query, has_query = _places(self.queries, queries)
        of_item, has_item = _places(self.items, items)
        kept = has_query & has_item
        return Qrels(of_query[kept], of_item[kept], self.grades[kept])

    def grades_of(self, I: IdArray) -> DoubleArray:  # noqa: E741 - FAISS's name
        """The grades of what was found.

        Args:
            I: (nq, k) int64, places in the database; -1 is nothing.

        Returns:
            (nq, k) float64, 0 where nothing is judged.
        """
        found = np.zeros(I.shape, np.float64)
        if not len(self.items):
            return found
        order = np.lexsort((self.items, self.queries))
        width = int(max(self.items.max(), I.max(initial=0))) + 1
        keys = self.queries[order] * width + self.items[order]
        wanted = np.arange(len(I))[:, None] * width + np.maximum(I, 0)
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        is_judged = (keys[at] == wanted) & (I >= 0)
        found[is_judged] = self.grades[order][at[is_judged]]
        return found

    def n_relevant(self, n_queries: int) -> IdArray:
        """How many items are relevant to every query, by a grade above 0: (n_queries,) int64."""
        return np.bincount(self.queries[self.grades > 0], minlength=n_queries).astype(np.int64)

    def ideal(self, n_queries: int, k: int) -> DoubleArray:
        """The k highest grades of every query, falling, filled up with zeros: (nq, k) float64."""
        best = np.zeros((n_queries, k), np.float64)
        order = np.lexsort((-self.grades, self.queries))
        queries = self.queries[order]
        ranks = np.arange(len(order)) - np.searchsorted(queries, queries)
        kept = ranks < k
        best[queries[kept], ranks[kept]] = self.grades[order][kept]
        return best


def _places(given: IdArray, rows: IdArray | None) -> tuple[IdArray, Any]:
    """Where places of the whole are among some of its rows, and whether they are there."""
    if rows is None:
        return given, np.ones(len(given), bool)
    order = np.argsort(rows)
    at = np.minimum(np.searchsorted(rows[order], given), len(rows) - 1)
    places: IdArray = order[at]
    return places, rows[places] == given


def as_qrels(given: Any) -> Qrels:
    """Judgements of numbers (n, 3): query, item, grade.

    Raises:
        TypeError: no numbers.
        ValueError: another shape, or queries and items that are no integers.
    """
    found = as_array(given, "qrels")
    if found.dtype.kind not in "iuf":
        raise TypeError(f"expected qrels of numbers, got {found.dtype}")
    if found.ndim != 2 or found.shape[1] != 3:
        raise ValueError(f"expected qrels (n, 3): query, item, grade; got shape {found.shape}")
    places = found[:, :2].astype(np.int64)
    if (places != found[:, :2]).any():
        raise ValueError("expected places of queries and of items in qrels, got no integers")
    return Qrels(places[:, 0], places[:, 1], found[:, 2].astype(np.float64))


def read_qrels(
    path: Path, *, query_ids: OwnIds | None = None, item_ids: OwnIds | None = None
) -> Qrels:
    """Reads judgements: lines of a query, an item and a grade, or TREC's with a column between.

    Args:
        path: text. Columns are parted by tabs where the first line has some, else by blanks: three,
            or TREC's four, the second of which (an iteration) is not read. A first line of names,
            as BEIR's files have it, is passed over. A grade below 0, which TREC has for spam, is 0.
        query_ids: what the file calls the queries, in their order; by default their places from 0.
        item_ids: likewise of the items.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no such file, or has a query or an item that is none of the ids.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        rows = [words for line in lines if (words := _words(line, tabs="\t" in lines[0]))]
        if rows and not _is_number(rows[0][-1]):
            del rows[0]
        if not rows:
            raise ValueError("got no line of them")
        widths = {len(row) for row in rows}
        if widths - {3} and widths - {4}:
            raise ValueError(f"got lines of {sorted(widths)} columns")
        queries = _located([row[0] for row in rows], query_ids, "queries")
        items = _located([row[-2] for row in rows], item_ids, "items")
        grades = np.array([float(row[-1]) for row in rows], np.float64)
        return Qrels(queries, items, np.where(grades < 0, 0, grades))
    except FileNotFoundError:
        raise
    except ValueError as error:  # of a number, or of its UTF-8
        raise ValueError(
            f"cannot read {path}: expected lines of a query, an item and a grade, or of TREC's "
            f"four columns; {error}"
        ) from error


def _words(line: str, *, tabs: bool) -> list[str]:
    words = line.split("\t") if tabs else line.split()
    return [word.strip() for word in words] if line.strip() else []


def _located(names: list[str], ids: OwnIds | None, what: str) -> IdArray:
    """The places of what a file names."""
    if ids is None:
        odd = next((name for name in names if not _is_place(name)), None)
        if odd is not None:
            raise ValueError(
                f"got {odd!r} of the {what}, which is no place from 0 on: give the ids of all "
                f"{what}, too"
            )
        return np.array([int(name) for name in names], np.int64)
    check_once(ids, f"ids of {what}")
    places = {str(name): place for place, name in enumerate(ids)}
    missing = [name for name in names if name not in places]
    if missing:
        raise ValueError(
            f"got {len(set(missing)):,} of the {what} that are none of its {len(places):,}, the "
            f"first {missing[0]!r}"
        )
    return np.array([places[name] for name in names], np.int64)


def _is_place(name: str) -> bool:
    return name.isdecimal() and len(name) < 19


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
