"""Vector data sets as they lie on a disk, and what is made of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from faiss_pqvae.data.source import Source
from faiss_pqvae.types import IdArray

from .brute_force import Metric
from .held import HELD_BYTES, held_vectors, rows_of
from .neighbours import VectorData
from .protocol import SEED
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
    """

    name: str
    description: str
    database: Source
    queries: Source
    train: Source | None = None
    shipped: IdArray | None = None
    metric: Metric = "l2"
    unit: bool = False


def with_neighbours(
    parts: VectorParts,
    n_database: int | None = None,
    n_queries: int | None = None,
    *,
    cache: Path | None = None,
    held_bytes: int = HELD_BYTES,
) -> VectorData:
    """The data with the true nearest neighbours of the queries, found or remembered.

    Args:
        parts: the set.
        n_database: take a random subset of this many database vectors (seed 0).
        n_queries: take a random subset of this many queries.
        cache: folder for ground truths; by default in the user's cache folder.
        held_bytes: what has at most so many bytes of float32 is read into memory.

    Raises:
        ValueError: a subset is not between 1 and all vectors, dimensions differ, or a vector has
            NaN or infinity.
    """
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
        parts = replace(parts, database=rows_of(parts.database, rows), shipped=None)
    if n_queries is not None:
        n = len(parts.queries)
        rows = _draw("n_queries", n, n_queries)
        notes.append(f"{n_queries:,} of {n:,} queries")
        shipped = parts.shipped
        if shipped is not None:  # of another length it is found wrong later, with a warning
            shipped = shipped[rows] if len(shipped) == n else None
        parts = replace(parts, queries=parts.queries[rows], shipped=shipped)
    return parts, notes


def _draw(name: str, n: int, size: int) -> IdArray:
    """Rising row numbers, the same for every call."""
    if not 1 <= size <= n:
        raise ValueError(f"expected {name} from 1 to {n}, got {size}")
    return np.sort(np.random.default_rng(SEED).choice(n, size=size, replace=False)).astype(np.int64)


def _protocol(parts: VectorParts, notes: list[str]) -> str:
    """Which vectors play which part, and what nearest means."""
    train = "the database" if parts.train is None else f"{len(parts.train):,} other vectors"
    metric = {"l2": "L2", "inner_product": "inner product"}[parts.metric]
    unit = " between vectors scaled to unit length (angular)" if parts.unit else ""
    subset = f", random subset: {', '.join(notes)} (seed {SEED})" if notes else ""
    return f"{parts.name}: exact {metric} neighbours{unit}, trained on {train}{subset}"
