"""Items with labels: what of an index's answers is relevant."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from faiss_pqvae.data.source import Source
from faiss_pqvae.types import BoolArray, DoubleArray, IdArray

from ..metrics.curves import precision_curve, recall_curve
from ..metrics.ndcg import ndcg_at_k
from ..metrics.overlap import best_overlaps, overlaps
from ..metrics.precision import (
    average_precisions_at_k,
    count_relevant,
    precision_at_k,
    recall_at_k,
    relevance,
)
from .protocol import SEED, LabelArray, Scores, curve_ks

FIRST = 100  # ranks that precision and nDCG are of


@dataclass(frozen=True, eq=False)
class LabelledData:
    """Items to train on, to search in and to search for; relevant means a class in common.

    Labels are (n,) int64 where an item is of one class, an index into `class_names`; or
    (n, classes) bool where it may be of several, as NUS-WIDE and Flickr25K are measured.

    Attributes:
        name: what `load` was asked for.
        protocol: which split this is, with "subset" in it when only a part was asked for.
        description: what to print beside a number that comes from these data.
        train: (nt, ...) items.
        database: (n, ...) items; usually the same object as `train`.
        database_labels: of the database.
        queries: (nq, ...) items.
        query_labels: of the queries; of the same kind.
        class_names: one a class.
        train_labels: of the training items, -1 or no class where a method may not read the label.
            None: those of the database, when it is what is trained on.
        ranks: how many results a query gets by default; None ranks the whole database.
        looks: of database and queries, which are features then, the images that a report shows.

    Raises:
        TypeError: labels are neither int64 nor bool, or of two kinds, or the three sources differ
            in dtype.
        ValueError: a length or an item's shape does not fit, a set is empty, a label has no
            name, or no label is given to train with.
    """

    name: str
    protocol: str
    description: str
    train: Source
    database: Source
    database_labels: LabelArray
    queries: Source
    query_labels: LabelArray
    class_names: tuple[str, ...]
    train_labels: LabelArray | None = None
    ranks: int | None = 1000
    looks: tuple[Source, Source] | None = None

    def __post_init__(self) -> None:
        for part in ("train", "database", "queries"):
            source: Source = getattr(self, part)
            if len(source) == 0:
                raise ValueError(f"expected at least one item in {part}, got shape {source.shape}")
            if source.shape[1:] != self.database.shape[1:]:
                raise ValueError(
                    f"expected {part} with items of shape {self.database.shape[1:]}, as in the "
                    f"database, got {source.shape[1:]}"
                )
            if source.dtype != self.database.dtype:
                raise TypeError(
                    f"expected {part} of {self.database.dtype}, as the database, got {source.dtype}"
                )
        self._check_labels("database_labels", self.database_labels, len(self.database))
        self._check_labels("query_labels", self.query_labels, len(self.queries))
        if self.train_labels is not None:
            self._check_labels("train_labels", self.train_labels, len(self.train), lowest=-1)
            if not has_class(self.train_labels).any():
                raise ValueError("expected a label in train_labels, got -1 everywhere")

    @property
    def labels_to_train(self) -> LabelArray | None:
        """What a supervised method learns from, -1 or no class where it may not; or None."""
        if self.train_labels is None and self.train is self.database:
            return self.database_labels
        return self.train_labels

    @property
    def relevant(self) -> str:
        """What is relevant to a query, in words."""
        several = self.database_labels.dtype == np.bool_
        return "items with a class in common" if several else "items of the same class"

    @property
    def default_k(self) -> int:
        """How many results a query gets by default; the runner cuts it to the database."""
        return len(self.database) if self.ranks is None else self.ranks

    @cached_property
    def n_relevant(self) -> IdArray:
        """(nq,) how many items of the database have a class in common with each query."""
        return count_relevant(self.database_labels, self.query_labels)

    @cached_property
    def most_in_common(self) -> DoubleArray:
        """(nq, 100) the largest numbers of classes that items have in common with each query."""
        return best_overlaps(*self._sets_of_classes, FIRST)

    @property
    def _sets_of_classes(self) -> tuple[BoolArray, BoolArray]:
        """The labels of database and queries where these are sets."""
        database, queries = (
            labels.astype(np.bool_, copy=False)
            for labels in (self.database_labels, self.query_labels)
        )
        return database, queries

    def scores(self, I: IdArray, k: int) -> Scores:  # noqa: E741
        """Average precision, precision and recall of every query, and their curves.

        Args:
            I: (nq, at least k) int64, positions in the database, best first.
            k: how many of them count.

        Returns:
            Scores by name: "map@k" (average precision over the relevant items among the first k),
            "map@k/min(R,k)", "precision@100" (at k, when that is less) and "recall@k", and of items
            of several classes "ndcg@100" (likewise), whose grade is the number of classes in
            common; curves "k", "precision" and "recall".

        Raises:
            TypeError: I is not int64, or k is no integer.
            ValueError: a shape, k or an id does not fit.
        """
        relevant = relevance(I, self.database_labels, self.query_labels)
        near = min(k, FIRST)
        ks = curve_ks(k)
        found, strict = average_precisions_at_k(relevant, k, self.n_relevant, ("found", "min(R,k)"))
        per_query = {
            f"map@{k}": found,
            f"map@{k}/min(R,k)": strict,
            f"precision@{near}": precision_at_k(relevant, near),
            f"recall@{k}": recall_at_k(relevant, k, self.n_relevant),
        }
        if self.database_labels.dtype == np.bool_:
            grades = overlaps(I[:, :near], *self._sets_of_classes)
            per_query[f"ndcg@{near}"] = ndcg_at_k(grades, self.most_in_common[:, :near], near)
        curves = {
            "k": [float(value) for value in ks],
            "precision": precision_curve(relevant, ks).tolist(),
            "recall": recall_curve(relevant, ks, self.n_relevant).tolist(),
        }
        return Scores(per_query, curves)

    def _check_labels(self, name: str, labels: LabelArray, n: int, *, lowest: int = 0) -> None:
        several = getattr(self.database_labels, "dtype", None) == np.bool_
        dtype = np.dtype(np.bool_ if several else np.int64)
        if not isinstance(labels, np.ndarray) or labels.dtype != dtype:
            got = getattr(labels, "dtype", type(labels).__name__)
            raise TypeError(f"expected {name} as an array of {dtype}, got {got}")
        shape = (n, len(self.class_names)) if several else (n,)
        if labels.shape != shape:
            raise ValueError(f"expected {name} of shape {shape}, got {labels.shape}")
        if not several and (labels.min() < lowest or labels.max() >= len(self.class_names)):
            raise ValueError(
                f"expected {name} from {lowest} to {len(self.class_names) - 1}, one of "
                f"{len(self.class_names)} classes, got {labels.min()} to {labels.max()}"
            )


def has_class(labels: LabelArray) -> BoolArray:
    """Which items have a class: (n,) bool."""
    found: Any = labels.any(axis=1) if labels.dtype == np.bool_ else labels >= 0
    known: BoolArray = found
    return known


def of_class(labels: LabelArray, number: int) -> BoolArray:
    """Which items are of a class: (n,) bool."""
    found: Any = labels[:, number] if labels.dtype == np.bool_ else labels == number
    members: BoolArray = found
    return members


def subset(data: LabelledData, n_database: int | None, n_queries: int | None) -> LabelledData:
    """The data with random parts of the database and the queries, named in the protocol."""
    generator = np.random.default_rng(SEED)
    notes: list[str] = []
    if n_database is not None:
        n = len(data.database)
        rows = _draw(generator, "n_database", n, n_database)
        database = data.database[rows]
        shared = data.train is data.database
        labels = data.train_labels
        data = replace(
            data,
            train=database if shared else data.train,
            train_labels=labels[rows] if shared and labels is not None else labels,
            database=database,
            database_labels=data.database_labels[rows],
        )
        notes.append(f"{n_database:,} of {n:,} database items")
    if n_queries is not None:
        n = len(data.queries)
        rows = _draw(generator, "n_queries", n, n_queries)
        data = replace(data, queries=data.queries[rows], query_labels=data.query_labels[rows])
        notes.append(f"{n_queries:,} of {n:,} queries")
    if not notes:
        return data
    return replace(
        data, protocol=f"{data.protocol}, random subset: {', '.join(notes)} (seed {SEED})"
    )


def _draw(generator: np.random.Generator, name: str, n: int, size: int) -> IdArray:
    if not 1 <= size <= n:
        raise ValueError(f"expected {name} from 1 to {n}, got {size}")
    return np.sort(generator.choice(n, size=size, replace=False)).astype(np.int64)
