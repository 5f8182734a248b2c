"""Vector data sets as they lie on a disk, and what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from faiss_pqvae.data.source import Source
from faiss_pqvae.types import FloatArray, IdArray

from .brute_force import Metric
from .held import HELD_BYTES, held_vectors, rows_of
from .neighbours import VectorData
from .protocol import SEED, TrainOn
from .qrels import Qrels
from .selections import Selection, drawn, of_labels
from .texts import Lines
from .truth import digest, ground_truth


@dataclass(frozen=True, eq=False)
class VectorParts:
    """Vectors whose true neighbours are still to be found.

    Attributes:
        name: of the set.
        description: what to print beside its numbers.
        database: (n, d) vectors of numbers; sources that are no array are read as float32.
        queries: (nq, d) vectors.
        train: (nt, d) vectors, or None: the database.
        shipped: (nq, depth) ids of neighbours that came with it, or None.
        metric: what the neighbours are nearest by.
        unit: whether all vectors are scaled to unit length first.
        qrels: which items are really relevant to which queries, where that is known.
        item_labels: (n,) int64, by which searches are filtered: a query gets items of its own
            label. None filters by none.
        query_labels: (nq,) int64, of the queries.
        texts: of the items, where they stand for some.
        query_texts: likewise of the queries.
        trained_on: what `train` is; by default "base", or "learn" where it is not None.
    """

    name: str
    description: str
    database: Source
    queries: Source
    train: Source | None = None
    shipped: IdArray | None = None
    metric: Metric = "l2"
    unit: bool = False
    qrels: Qrels | None = None
    trained_on: TrainOn | None = None
    item_labels: IdArray | None = None
    query_labels: IdArray | None = None
    texts: Lines | None = None
    query_texts: Lines | None = None


def with_neighbours(
    parts: VectorParts,
    n_database: int | None = None,
    n_queries: int | None = None,
    *,
    train_on: TrainOn | None = None,
    filters: Sequence[float] = (),
    cache: Path | None = None,
    held_bytes: int = HELD_BYTES,
) -> VectorData:
    """The data with the true nearest neighbours of the queries, found or remembered.

    Args:
        parts: the set.
        n_database: take a random subset of this many database vectors (seed 0).
        n_queries: take a random subset of this many queries.
        train_on: what methods learn from: the set's "learn" vectors, the "base" that is searched,
            or "half": the first half of the base, and what is searched is the other one. By
            default the learn vectors where there are some, else the base.
        filters: shares of the items that searches are measured among besides, drawn at random.
        cache: folder for ground truths; by default in the user's cache folder.
        held_bytes: what has at most so many bytes of float32 is read into memory.

    Raises:
        ValueError: a subset is not between 1 and all vectors, dimensions differ, a vector has
            NaN or infinity, a judgement is of what is not there, or there is nothing to train on.
    """
    _check_whole(parts)
    parts = _trained_on(parts, train_on)
    parts, notes = _subset(parts, n_database, n_queries)
    train = parts.database if parts.train is None else parts.train
    sources = (parts.database, parts.queries, train)
    if len({source.shape[1:] for source in sources}) > 1:
        shapes = ", ".join(str(source.shape) for source in sources)
        raise ValueError(
            f"expected database, queries and training vectors of one dimension, got {shapes}"
        )
    database = held_vectors(parts.database, unit=parts.unit, held_bytes=held_bytes)
    queries = held_vectors(parts.queries, unit=parts.unit, held_bytes=held_bytes)
    if parts.train is not None:
        train = held_vectors(parts.train, unit=parts.unit, held_bytes=held_bytes)
    truth = ground_truth(
        np.asarray(queries[:]),
        database,
        parts.metric,
        digest(database, "database vectors") + digest(queries, "queries"),
        shipped=parts.shipped,
        cache=cache,
    )
    return VectorData(
        name=parts.name,
        protocol=_protocol(parts, notes),
        description=parts.description,
        train=database if parts.train is None else train,
        database=database,
        queries=queries,
        metric=parts.metric,
        truth=truth,
        qrels=parts.qrels,
        trained_on=parts.trained_on,
        selections=tuple(_selections(parts, filters, np.asarray(queries[:]), database)),
        texts=parts.texts,
        query_texts=parts.query_texts,
    )


def _check_whole(parts: VectorParts) -> None:
    """Checks what belongs to items and queries, before parts of these are taken."""
    n_queries, n_items = len(parts.queries), len(parts.database)
    if parts.qrels is not None:
        parts.qrels.check(n_queries, n_items)
    for labels, n, what in (
        (parts.item_labels, n_items, "items"),
        (parts.query_labels, n_queries, "queries"),
    ):
        if labels is not None and labels.shape != (n,):
            raise ValueError(
                f"expected {n:,} integers as labels of {what} to filter by, got {labels.shape}"
            )
    if parts.texts is not None:
        parts.texts.check(n_items, "an item")
    if parts.query_texts is not None:
        parts.query_texts.check(n_queries, "a query")


def _selections(
    parts: VectorParts, filters: Sequence[float], queries: FloatArray, database: Source
) -> list[Selection]:
    found = drawn(filters, queries, database, parts.metric)
    if parts.item_labels is None and parts.query_labels is None:
        return found
    if parts.item_labels is None or parts.query_labels is None:
        raise ValueError("expected labels to filter by of items and of queries, got those of one")
    labels = parts.item_labels, parts.query_labels
    return [*found, of_labels(*labels, queries, database, parts.metric)]


def _trained_on(parts: VectorParts, train_on: TrainOn | None) -> VectorParts:
    """The set with what is to be trained on as `train`, None for the database."""
    usual: TrainOn = "base" if parts.train is None else "learn"
    train_on = train_on or parts.trained_on or usual
    if train_on == parts.trained_on:
        return parts
    if train_on == "base":
        return replace(parts, train=None, trained_on=train_on)
    if train_on == "learn":
        if parts.train is None or parts.trained_on == "half":
            raise ValueError(
                f"expected vectors to learn from beside the base of {parts.name} to train on "
                "'learn', got none: train on 'base', or on 'half' to search in other vectors"
            )
        return replace(parts, trained_on=train_on)
    n = len(parts.database)
    if n < 2:
        raise ValueError(f"expected at least 2 base vectors to train on 'half', got {n}")
    first, second = np.arange(n // 2), np.arange(n // 2, n)
    return replace(
        parts,
        train=rows_of(parts.database, first),
        database=rows_of(parts.database, second),
        shipped=None,  # of the whole base
        qrels=None if parts.qrels is None else parts.qrels.part(items=second),
        item_labels=None if parts.item_labels is None else parts.item_labels[second],
        texts=None if parts.texts is None else parts.texts.part(second),
        trained_on=train_on,
    )


def _subset(
    parts: VectorParts, n_database: int | None, n_queries: int | None
) -> tuple[VectorParts, list[str]]:
    """The set with random parts of database and queries, and a note on each."""
    notes = []
    if n_database is not None:
        n = len(parts.database)
        rows = _draw("n_database", n, n_database)
        notes.append(f"{n_database:,} of {n:,} database vectors")
        # The neighbours that came with the set are those in the whole database.
        qrels = None if parts.qrels is None else parts.qrels.part(items=rows)
        database = rows_of(parts.database, rows)
        parts = replace(
            parts,
            database=database,
            shipped=None,
            qrels=qrels,
            item_labels=None if parts.item_labels is None else parts.item_labels[rows],
            texts=None if parts.texts is None else parts.texts.part(rows),
        )
    if n_queries is not None:
        n = len(parts.queries)
        rows = _draw("n_queries", n, n_queries)
        notes.append(f"{n_queries:,} of {n:,} queries")
        shipped = parts.shipped
        if shipped is not None:  # of another length it is found wrong later, with a warning
            shipped = shipped[rows] if len(shipped) == n else None
        qrels = None if parts.qrels is None else parts.qrels.part(queries=rows)
        parts = replace(
            parts,
            queries=parts.queries[rows],
            shipped=shipped,
            qrels=qrels,
            query_labels=None if parts.query_labels is None else parts.query_labels[rows],
            query_texts=None if parts.query_texts is None else parts.query_texts.part(rows),
        )
    return parts, notes


def _draw(name: str, n: int, size: int) -> IdArray:
    """Rising row numbers, the same for every call."""
    if not 1 <= size <= n:
        raise ValueError(f"expected {name} from 1 to {n}, got {size}")
    return np.sort(np.random.default_rng(SEED).choice(n, size=size, replace=False)).astype(np.int64)


def _protocol(parts: VectorParts, notes: list[str]) -> str:
    """Which vectors play which part, and what nearest means."""
    train = "the database" if parts.train is None else f"{len(parts.train):,} other vectors"
    if parts.trained_on == "half":
        train += ", the first half of the base; the other half is searched"
    metric = {"l2": "L2", "inner_product": "inner product"}[parts.metric]
    unit = " between vectors scaled to unit length (angular)" if parts.unit else ""
    subset = f", random subset: {', '.join(notes)} (seed {SEED})" if notes else ""
    return f"{parts.name}: exact {metric} neighbours{unit}, trained on {train}{subset}"
