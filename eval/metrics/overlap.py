"""How relevant an item of several classes is: by how many of the query's it has."""

from __future__ import annotations

import numpy as np

from faiss_pqvae.types import BoolArray, DoubleArray, IdArray

from .ranked import check_array, row_blocks


def overlaps(I: IdArray, database_labels: BoolArray, query_labels: BoolArray) -> DoubleArray:  # noqa: E741
    """The number of classes in common with the query, of every returned item.

    Args:
        I: (nq, k) int64, positions in the database; -1 has nothing in common.
        database_labels: (n, classes) bool.
        query_labels: (nq, classes) bool.

    Returns:
        (nq, k) float64.

    Raises:
        TypeError: an array of another dtype.
        ValueError: a shape does not fit.
    """
    check_array("I", I, np.int64, ndim=2)
    _check_labels(database_labels, query_labels)
    if len(I) != len(query_labels):
        raise ValueError(f"expected {len(I)} query labels, one a row of I, got {len(query_labels)}")
    found = np.zeros(I.shape, np.float64)
    classes = database_labels.shape[1]
    for rows in row_blocks((len(I), I.shape[1] * max(1, classes))):
        common = database_labels[I[rows]] & query_labels[rows, None]
        found[rows] = np.count_nonzero(common, axis=2)
    found[I < 0] = 0
    return found


def best_overlaps(database_labels: BoolArray, query_labels: BoolArray, k: int) -> DoubleArray:
    """The k largest numbers of classes in common with each query, falling, padded by zeros.

    Args:
        database_labels: (n, classes) bool.
        query_labels: (nq, classes) bool.
        k: at least 1.

    Returns:
        (nq, k) float64.

    Raises:
        TypeError: an array of another dtype.
        ValueError: a shape does not fit.
    """
    _check_labels(database_labels, query_labels)
    best = np.zeros((len(query_labels), k), np.float64)
    n = len(database_labels)
    most = min(k, n)
    # Sums of zeros and ones are exact in float32, and a product of matrices is fast.
    of_items = database_labels.astype(np.float32).T
    for rows in row_blocks((len(query_labels), n)):
        counts = query_labels[rows].astype(np.float32) @ of_items
        largest = np.partition(counts, n - most, axis=1)[:, n - most :]
        best[rows, :most] = -np.sort(-largest, axis=1)
    return best


def _check_labels(database_labels: BoolArray, query_labels: BoolArray) -> None:
    check_array("database_labels", database_labels, np.bool_, ndim=2)
    check_array("query_labels", query_labels, np.bool_, ndim=2)
    if database_labels.shape[1] != query_labels.shape[1]:
        raise ValueError(
            f"expected query labels of {database_labels.shape[1]} classes, as of the database, "
            f"got {query_labels.shape[1]}"
        )
