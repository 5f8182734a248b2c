"""Retrieval metrics of ranked lists, each with its formula.

`rel(i)` is 1 when the item at rank i (from 1) is relevant to the query, `P(i)` the share of
relevant items among the first i, `R` the number of relevant items in the whole database. Ranks are
taken as they come: whoever ranks breaks ties. A query with nothing relevant scores 0 and counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from faiss_pqvae.types import BoolArray, DoubleArray, IdArray, WordArray

from .ranked import (
    BLOCK_ELEMENTS,
    check_array,
    check_n_relevant,
    check_relevant,
    ratio,
    row_blocks,
)

Normalizer: TypeAlias = Literal["found", "min(R,k)", "R"]
NORMALIZERS: tuple[str, ...] = get_args(Normalizer)


def relevance(
    I: IdArray,  # noqa: E741
    database_labels: IdArray | BoolArray,
    query_labels: IdArray | BoolArray,
    *,
    block_elements: int = BLOCK_ELEMENTS,
) -> BoolArray:
    """Marks the returned items that have a class in common with the query.

    Args:
        I: (nq, k) int64, positions in the database by rank; -1 is FAISS's padding and not relevant.
        database_labels: (n,) int64, one class an item, or (n, classes) bool, several.
        query_labels: (nq,) int64 or (nq, classes) bool.
        block_elements: how many ids are looked up at a time.

    Returns:
        (nq, k) bool.

    Raises:
        TypeError: an array is of another dtype.
        ValueError: a shape does not fit, or an id is neither -1 nor a position in the database.
    """
    check_array("I", I, np.int64, ndim=2)
    _check_labels(database_labels, query_labels)
    if len(query_labels) != len(I):
        raise ValueError(f"expected {len(I)} query labels, one a row of I, got {len(query_labels)}")
    n = len(database_labels)
    if I.size and (I.min() < -1 or I.max() >= n):
        raise ValueError(f"expected ids from -1 to {n - 1}, got {I.min()} to {I.max()}")
    relevant = np.zeros(I.shape, dtype=np.bool_)
    if n == 0:  # then every id is padding
        return relevant
    several = database_labels.dtype == np.bool_
    of_database: Any = _words(database_labels) if several else database_labels
    of_queries: Any = _words(query_labels) if several else query_labels
    for rows in row_blocks(I.shape, block_elements):
        ids = I[rows]
        # Padding reads the last label, and is then masked.
        found, wanted = of_database[ids], of_queries[rows, None]
        relevant[rows] = (_meet(found, wanted) if several else found == wanted) & (ids >= 0)
    return relevant


def count_relevant(
    database_labels: IdArray | BoolArray, query_labels: IdArray | BoolArray
) -> IdArray:
    """R: how many database items have a class in common with the query.

    Args:
        database_labels: (n,) int64 or (n, classes) bool.
        query_labels: (nq,) int64 or (nq, classes) bool.

    Returns:
        (nq,) int64.

    Raises:
        TypeError: an array is of another dtype.
        ValueError: a shape does not fit.
    """
    _check_labels(database_labels, query_labels)
    if database_labels.dtype == np.bool_:
        found = np.zeros(len(query_labels), np.int64)
        of_database, of_queries = _words(database_labels), _words(query_labels)
        for rows in row_blocks((len(query_labels), len(database_labels))):
            found[rows] = _meet(of_database[None], of_queries[rows, None]).sum(axis=1)
        return found
    ordered = np.sort(database_labels)
    right = np.searchsorted(ordered, query_labels, side="right")
    return (right - np.searchsorted(ordered, query_labels, side="left")).astype(np.int64)


def _words(labels: npt.NDArray[Any]) -> WordArray:
    """Classes as bits: (n, classes) bool to (n, words) uint64."""
    packed = np.packbits(labels, axis=1)
    padded = np.zeros((len(labels), 8 * max(1, -(-packed.shape[1] // 8))), np.uint8)
    padded[:, : packed.shape[1]] = packed
    return padded.view(np.uint64)


def _meet(a: WordArray, b: WordArray) -> BoolArray:
    """Whether two sets of classes have one in common; word by word, over the last axis."""
    found: BoolArray = (a[..., 0] & b[..., 0]) != 0
    for word in range(1, a.shape[-1]):
        found |= (a[..., word] & b[..., word]) != 0
    return found


def average_precision_at_k(
    relevant: BoolArray,
    k: int,
    n_relevant: IdArray | None = None,
    normalizer: Normalizer = "found",
) -> DoubleArray:
    """AP@k = sum_{i<=k} P(i) rel(i) / n, and 0 where n = 0.

    Args:
        relevant: (nq, columns) bool, by rank.
        k: how many ranks count, 1 <= k <= columns.
        n_relevant: (nq,) int64, R of every query. Not needed for "found".
        normalizer: what n is: "found", the relevant items among the first k (the convention of
            the hashing papers); "min(R,k)", the stricter one; or "R".

    Returns:
        (nq,) float64, from 0 to 1.

    Raises:
        TypeError: a dtype is wrong, or k is no integer.
        ValueError: a shape or k does not fit, the normalizer is unknown, R is needed and missing,
            negative, or smaller than the number of relevant items among the first k.
    """
    (found,) = average_precisions_at_k(relevant, k, n_relevant, (normalizer,))
    return found


def average_precisions_at_k(
    relevant: BoolArray,
    k: int,
    n_relevant: IdArray | None,
    normalizers: Sequence[Normalizer],
) -> list[DoubleArray]:
    """AP@k by several normalizers, from one pass; see `average_precision_at_k`."""
    k = check_relevant(relevant, k)
    for normalizer in normalizers:
        if normalizer not in NORMALIZERS:
            raise ValueError(f"expected a normalizer of {NORMALIZERS}, got {normalizer!r}")
        if n_relevant is None and normalizer != "found":
            raise ValueError(f"expected n_relevant for the normalizer {normalizer!r}, got None")
    precision_sum = np.empty(len(relevant), dtype=np.float64)
    found = np.empty(len(relevant), dtype=np.int64)
    ranks = np.arange(1, k + 1)
    for rows in row_blocks((len(relevant), k)):
        hit = relevant[rows, :k]
        hits = np.cumsum(hit, axis=1, dtype=np.int32)
        found[rows] = hits[:, -1]
        precision_sum[rows] = (hits / ranks).sum(axis=1, where=hit)
    check_n_relevant(n_relevant, found)
    counts = {"found": found}
    if n_relevant is not None:
        counts |= {"min(R,k)": np.minimum(n_relevant, k), "R": n_relevant}
    return [ratio(precision_sum, counts[normalizer]) for normalizer in normalizers]


def map_at_k(
    relevant: BoolArray,
    k: int,
    n_relevant: IdArray | None = None,
    normalizer: Normalizer = "found",
) -> float:
    """MAP@k = mean over the queries of AP@k; see `average_precision_at_k` for the arguments.

    Returns:
        From 0 to 1.

    Raises:
        TypeError: as `average_precision_at_k`.
        ValueError: as `average_precision_at_k`, or there is no query.
    """
    return _mean(average_precision_at_k(relevant, k, n_relevant, normalizer))


def precision_at_k(relevant: BoolArray, k: int) -> DoubleArray:
    """precision@k = hits / k, with hits = sum_{i<=k} rel(i).

    Args:
        relevant: (nq, columns) bool, by rank.
        k: how many ranks count, 1 <= k <= columns.

    Returns:
        (nq,) float64, from 0 to 1.

    Raises:
        TypeError: `relevant` is not bool, or k is no integer.
        ValueError: a shape or k does not fit.
    """
    k = check_relevant(relevant, k)
    hits: IdArray = np.count_nonzero(relevant[:, :k], axis=1)
    return hits / np.float64(k)


def recall_at_k(relevant: BoolArray, k: int, n_relevant: IdArray) -> DoubleArray:
    """recall@k = hits / R, and 0 where R = 0.

    Args:
        relevant: (nq, columns) bool, by rank.
        k: how many ranks count, 1 <= k <= columns.
        n_relevant: (nq,) int64, R of every query.

    Returns:
        (nq,) float64, from 0 to 1.

    Raises:
        TypeError: a dtype is wrong, or k is no integer.
        ValueError: a shape or k does not fit, or R is negative or smaller than hits.
    """
    k = check_relevant(relevant, k)
    hits = np.count_nonzero(relevant[:, :k], axis=1)
    check_n_relevant(n_relevant, hits)
    return ratio(hits, n_relevant)


def _mean(values: DoubleArray) -> float:
    if values.size == 0:
        raise ValueError("expected at least one query, got none")
    return float(values.mean())


def _check_labels(database_labels: IdArray | BoolArray, query_labels: IdArray | BoolArray) -> None:
    several = isinstance(database_labels, np.ndarray) and database_labels.dtype == np.bool_
    dtype, ndim = (np.bool_, 2) if several else (np.int64, 1)
    check_array("database_labels", database_labels, dtype, ndim=ndim)
    check_array("query_labels", query_labels, dtype, ndim=ndim)
    if database_labels.shape[1:] != query_labels.shape[1:]:
        raise ValueError(
            f"expected labels of as many classes, {database_labels.shape[1:]}, got "
            f"{query_labels.shape[1:]}"
        )
