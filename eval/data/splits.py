"""Which of labelled items are queries, database and training set."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from faiss_pqvae.data.source import Source
from faiss_pqvae.types import BoolArray, IdArray

from .held import rows_of
from .labelled import LabelledData, has_class, of_class
from .protocol import SEED, LabelArray

MOST_QUERIES = 1000  # that are drawn by default: a tenth of the items, up to so many


@dataclass(frozen=True, eq=False)
class LabelledItems:
    """Items with labels that came without queries: some of them are drawn.

    Attributes:
        name: of the data.
        description: what they are.
        items: (n, ...) items.
        labels: (n,) int64 or (n, classes) bool.
        class_names: one a class.
    """

    name: str
    description: str
    items: Source
    labels: LabelArray
    class_names: tuple[str, ...]

    def drawn(self, n_queries: int | None = None) -> LabelledData:
        """Queries out of the items, of every class the same share, and the rest as the database.

        Args:
            n_queries: how many; by default a tenth of the items, at most 1,000.

        Raises:
            ValueError: not as many items have a class, or none is left.
        """
        n = len(self.items)
        if n_queries is None:
            n_queries = max(1, min(MOST_QUERIES, n // 10))
        is_query = same_share(self.labels, n_queries)
        rest, rows = np.flatnonzero(~is_query), np.flatnonzero(is_query)
        database = rows_of(self.items, rest)
        how = f"{n_queries:,} queries drawn, of every class the same share (seed {SEED})"
        return LabelledData(
            name=self.name,
            protocol=f"own data: {how}",
            description=f"{self.description}; {how}",
            train=database,
            database=database,
            database_labels=self.labels[rest],
            queries=rows_of(self.items, rows),
            query_labels=self.labels[rows],
            class_names=self.class_names,
        )


def same_share(labels: LabelArray, size: int, *, seed: int = SEED) -> BoolArray:
    """Draws items of every class in proportion; an item of several counts for its rarest.

    Args:
        labels: (n,) int64 or (n, classes) bool; items without a class are not drawn.
        size: how many.
        seed: of the draw.

    Returns:
        (n,) bool.

    Raises:
        ValueError: there are not so many and one more.
    """
    groups = labels
    if labels.dtype == np.bool_:
        sizes = labels.sum(axis=0)
        groups = np.where(labels, sizes, len(labels) + 1).argmin(axis=1)
    rows = np.flatnonzero(has_class(labels))
    if not 1 <= size < len(rows):
        raise ValueError(f"expected n_queries from 1 to {len(rows) - 1}, got {size}")
    rows = np.random.default_rng(seed).permutation(rows)
    place = np.empty(len(rows))  # in its class, from 0 to 1
    for group in np.unique(groups[rows]):
        members = np.flatnonzero(groups[rows] == group)
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    drawn = np.zeros(len(labels), np.bool_)
    drawn[rows[np.argsort(place, kind="stable")[:size]]] = True
    return drawn


def same_number(
    labels: LabelArray,
    per_class: int,
    class_names: tuple[str, ...],
    generator: np.random.Generator,
    *,
    what: str = "query",
) -> BoolArray:
    """Draws as many items of every class; of several classes, none is drawn twice.

    Returns:
        (n,) bool.

    Raises:
        ValueError: a class has not so many.
    """
    drawn = np.zeros(len(labels), dtype=np.bool_)
    for number, name in enumerate(class_names):
        rows = np.flatnonzero(of_class(labels, number) & ~drawn)
        if not 1 <= per_class <= len(rows):
            raise ValueError(
                f"expected {what} items a class from 1 to {len(rows)}, which is all of {name!r}, "
                f"got {per_class}"
            )
        drawn[generator.choice(rows, size=per_class, replace=False)] = True
    return drawn


def few_labels(
    data: LabelledData,
    *,
    labelled_per_class: int = 500,
    queries_per_class: int = 100,
    seed: int = SEED,
) -> LabelledData:
    """The protocol "few-labels": few items to learn from, all others to search in.

    Queries are drawn from the test images only, so that an encoder that was trained without labels
    on the training images never saw one; the items with labels are drawn from the training images.
    The database is everything else, training and test images: 54,000 of CIFAR-10. What is trained
    on are the items with labels, and behind them the database without its labels; never a query.
    DQN's and DPQ's papers measure so; the whole database is ranked.

    Args:
        data: with its training images as the database and its test images as the queries. All of
            it is read into memory.
        labelled_per_class: how many database items of every class keep their labels.
        queries_per_class: how many queries of every class are kept.
        seed: of the draw and of the database's order. That is random, because short codes tie
            often, ties go by id, and a set in the order of its classes would gain or lose by it.

    Returns:
        The data; `database` is a view of the end of `train`.

    Raises:
        ValueError: a class has too few items, or nothing is left to search in.
    """
    generator = np.random.default_rng(seed)
    is_query = same_number(data.query_labels, queries_per_class, data.class_names, generator)
    is_labelled = same_number(
        data.database_labels, labelled_per_class, data.class_names, generator, what="labelled"
    )
    parts = ((data.database, ~is_labelled), (data.queries, ~is_query))
    gallery = np.concatenate([source[np.flatnonzero(kept)] for source, kept in parts])
    gallery_labels = np.concatenate(
        [data.database_labels[~is_labelled], data.query_labels[~is_query]]
    )
    order = generator.permutation(len(gallery))
    labels = data.database_labels[is_labelled]
    train = np.concatenate([data.database[np.flatnonzero(is_labelled)], gallery[order]])
    return replace(
        data,
        protocol=_few_labels_protocol(data.protocol, labelled_per_class, queries_per_class),
        train=train,
        database=train[len(labels) :],
        database_labels=gallery_labels[order],
        queries=data.queries[np.flatnonzero(is_query)],
        query_labels=data.query_labels[is_query],
        train_labels=np.concatenate([labels, _unknown(gallery_labels)]),
        ranks=None,
    )


def _few_labels_protocol(protocol: str, labelled_per_class: int, queries_per_class: int) -> str:
    _, *part = protocol.partition(", random subset")
    usual = (labelled_per_class, queries_per_class) == (500, 100)
    drawn = f", {labelled_per_class} labelled and {queries_per_class} queries a class"
    return "".join(["few-labels", "" if usual else drawn, *part])


def _unknown(labels: LabelArray) -> LabelArray:
    """Labels of as many items of which none is known."""
    if labels.dtype == np.bool_:
        return np.zeros(labels.shape, np.bool_)
    return np.full(len(labels), -1)


def positions(is_query: BoolArray) -> tuple[IdArray, IdArray]:
    """Rows of the database and of the queries, each rising."""
    return np.flatnonzero(~is_query), np.flatnonzero(is_query)
