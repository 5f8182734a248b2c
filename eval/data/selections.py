"""Filters: which items a search may return, and what is nearest among them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from faiss_pqvae.data.source import Source
from faiss_pqvae.types import FloatArray, IdArray

from .brute_force import Metric, Neighbours, nearest
from .held import rows_of
from .protocol import SEED
from .truth import DEPTH

LABELS = "the query's label"


class Group(NamedTuple):
    """Queries that the same items are allowed for.

    Attributes:
        queries: (rows,) int64, rising places.
        items: (n,) int64, likewise.
    """

    queries: IdArray
    items: IdArray


@dataclass(frozen=True, eq=False)
class Selection:
    """Items that results may be of.

    Attributes:
        name: "10 % of the items", say.
        groups: of queries, each query in one.
        truth: the nearest neighbours among what is allowed, (nq, depth).
        key: changes with what is allowed.
    """

    name: str
    groups: tuple[Group, ...]
    truth: Neighbours
    key: str

    @property
    def n_items(self) -> float:
        """How many items are allowed, the mean over the queries."""
        sizes = [len(group.items) for group in self.groups]
        return float(np.average(sizes, weights=[len(group.queries) for group in self.groups]))


def drawn(
    shares: Sequence[float], queries: FloatArray, database: Source, metric: Metric
) -> list[Selection]:
    """Selections of random items, the same for all queries (seed 0).

    Args:
        shares: of all items, above 0 and at most 1.
        queries: (nq, d) float32.
        database: (n, d) float32.
        metric: by which neighbours are the nearest.

    Raises:
        ValueError: another share, or one that leaves no item.
    """
    n = len(database)
    found = []
    for share in dict.fromkeys(shares):
        size = round(share * n) if 0 < share <= 1 else 0
        if not size:
            raise ValueError(
                f"expected filters above 0 and at most 1 that leave an item of {n:,}, got {share}"
            )
        items = np.sort(np.random.default_rng(SEED).choice(n, size, replace=False))
        group = Group(np.arange(len(queries)), items.astype(np.int64))
        found.append(
            _selection(f"{100 * share:g} % of the items", [group], queries, database, metric)
        )
    return found


def of_labels(
    item_labels: IdArray,
    query_labels: IdArray,
    queries: FloatArray,
    database: Source,
    metric: Metric,
) -> Selection:
    """To every query the items of its own label.

    Args:
        item_labels: (n,) int64.
        query_labels: (nq,) int64.
        queries: (nq, d) float32.
        database: (n, d) float32.
        metric: by which neighbours are the nearest.

    Raises:
        ValueError: a query's label is no item's.
    """
    order = np.argsort(item_labels, kind="stable")
    ordered = item_labels[order]
    groups = []
    for label in np.unique(query_labels):
        first, last = np.searchsorted(ordered, label), np.searchsorted(ordered, label, "right")
        if first == last:
            raise ValueError(
                f"expected items of every label to filter by, got none of {label} among the "
                f"{len(item_labels):,} that are searched"
            )
        groups.append(Group(np.flatnonzero(query_labels == label), np.sort(order[first:last])))
    return _selection(f"items of {LABELS}", groups, queries, database, metric)


def _selection(
    name: str, groups: Sequence[Group], queries: FloatArray, database: Source, metric: Metric
) -> Selection:
    depth = min(DEPTH, *(len(group.items) for group in groups))
    I = np.empty((len(queries), depth), np.int64)  # noqa: E741
    D = np.empty((len(queries), depth), np.float32)
    hashed = hashlib.sha256()
    for group in groups:
        hashed.update(group.queries.tobytes() + b"/" + group.items.tobytes())
        near = nearest(queries[group.queries], rows_of(database, group.items), depth, metric)
        I[group.queries], D[group.queries] = group.items[near.I], near.D
    return Selection(name, tuple(groups), Neighbours(I, D), hashed.hexdigest())
