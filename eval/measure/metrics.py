"""Retrieval metrics of ranked lists, each with its formula.

`rel(i)` is 1 when the item at rank i (from 1) is relevant to the query, `P(i)` the share of
relevant items among the first i, `R` the number of relevant items in the whole database. Ranks are
taken as they come: whoever ranks breaks ties. A query with nothing relevant scores 0 and counts.
"""

import operator
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from faiss_pqvae.types import BoolArray, DoubleArray, IdArray, WordArray

Normalizer: TypeAlias = Literal["found", "min(R,k)", "R"]
NORMALIZERS: tuple[str, ...] = get_args(Normalizer)
# Two distances that differ by less, relatively, are a tie. A squared distance of 960 dimensions
# that is summed in float32 with 8 partial sums is right to 960 / 8 * 2**-24 = 7e-6 at the worst.
TIE_TOLERANCE = 1e-5

RealArray: TypeAlias = npt.NDArray[np.floating[Any]]

# Rows are worked on in blocks of about this many elements, 2 MiB in float64.
BLOCK_ELEMENTS = 1 << 18


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
    _check_array("I", I, np.int64, ndim=2)
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
    for rows in _row_blocks(I.shape, block_elements):
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
        for rows in _row_blocks((len(query_labels), len(database_labels))):
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
    k = _check_relevant(relevant, k)
    for normalizer in normalizers:
        if normalizer not in NORMALIZERS:
            raise ValueError(f"expected a normalizer of {NORMALIZERS}, got {normalizer!r}")
        if n_relevant is None and normalizer != "found":
            raise ValueError(f"expected n_relevant for the normalizer {normalizer!r}, got None")
    precision_sum = np.empty(len(relevant), dtype=np.float64)
    found = np.empty(len(relevant), dtype=np.int64)
    ranks = np.arange(1, k + 1)
    for rows in _row_blocks((len(relevant), k)):
        hit = relevant[rows, :k]
        hits = np.cumsum(hit, axis=1, dtype=np.int32)
        found[rows] = hits[:, -1]
        precision_sum[rows] = (hits / ranks).sum(axis=1, where=hit)
    _check_n_relevant(n_relevant, found)
    counts = {"found": found}
    if n_relevant is not None:
        counts |= {"min(R,k)": np.minimum(n_relevant, k), "R": n_relevant}
    return [_ratio(precision_sum, counts[normalizer]) for normalizer in normalizers]


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
    k = _check_relevant(relevant, k)
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
    k = _check_relevant(relevant, k)
    hits = np.count_nonzero(relevant[:, :k], axis=1)
    _check_n_relevant(n_relevant, hits)
    return _ratio(hits, n_relevant)


def precision_curve(
    relevant: BoolArray,
    ks: Sequence[int] | IdArray,
    *,
    block_elements: int = BLOCK_ELEMENTS,
) -> DoubleArray:
    """Mean over the queries of precision@k, for several k.

    Args:
        relevant: (nq, columns) bool, by rank.
        ks: values of k, in any order.
        block_elements: how many ranks are counted at a time.

    Returns:
        (len(ks),) float64.

    Raises:
        TypeError: `relevant` is not bool, or a k is no integer.
        ValueError: a shape or a k does not fit, or there is no query.
    """
    checked = _check_ks(relevant, ks)
    hits = np.zeros(len(checked), dtype=np.int64)
    for _, block in _hits_at(relevant, checked, block_elements):
        hits += block.sum(axis=0)
    return hits / (checked * np.float64(len(relevant)))


def recall_curve(
    relevant: BoolArray,
    ks: Sequence[int] | IdArray,
    n_relevant: IdArray,
    *,
    block_elements: int = BLOCK_ELEMENTS,
) -> DoubleArray:
    """Mean over the queries of recall@k, for several k.

    Args:
        relevant: (nq, columns) bool, by rank.
        ks: values of k, in any order.
        n_relevant: (nq,) int64, R of every query.
        block_elements: how many ranks are counted at a time.

    Returns:
        (len(ks),) float64.

    Raises:
        TypeError: a dtype is wrong, or a k is no integer.
        ValueError: a shape or a k does not fit, R is negative or smaller than hits, or there is
            no query.
    """
    checked = _check_ks(relevant, ks)
    if checked.size:
        hits = np.count_nonzero(relevant[:, : checked.max()], axis=1)
        _check_n_relevant(n_relevant, hits)
    total = np.zeros(len(checked), dtype=np.float64)
    for rows, block in _hits_at(relevant, checked, block_elements):
        total += _ratio(block, n_relevant[rows, None]).sum(axis=0)
    return total / len(relevant)


def one_recall_at_k(
    found: RealArray, true: RealArray, k: int, tolerance: float = TIE_TOLERANCE
) -> DoubleArray:
    """1-recall@k = 1 when the true nearest neighbour is among the first k, else 0.

    An id counts by its distance, d(i) <= d(1) + tolerance |d(1)|: any duplicate of the nearest
    neighbour is as good as the nearest neighbour.

    Args:
        found: (nq, columns) float, true distances of the returned ids by rank, however the index
            estimated them; infinity where nothing was returned. Similarities are negated.
        true: (nq, depth) float, distances of the true nearest neighbours, rising.
        k: how many ranks count, 1 <= k <= columns.
        tolerance: relative; what float rounding may add to a tie.

    Returns:
        (nq,) float64, 0 or 1.

    Raises:
        TypeError: an array is not of floats, or k is no integer.
        ValueError: a shape or k does not fit, NaN, `true` that is not rising, or a negative
            tolerance.
    """
    k = _check_neighbours(found, true, k, tolerance, depth=1)
    hit: BoolArray = np.any(found[:, :k] <= _threshold(true, 1, tolerance), axis=1)
    return hit.astype(np.float64)


def k_recall_at_k(
    found: RealArray, true: RealArray, k: int, tolerance: float = TIE_TOLERANCE
) -> DoubleArray:
    """k-recall@k = |first k found and true| / k, the intersection measure.

    An id is a true one when d(i) <= d(k) + tolerance |d(k)|, with d(k) the distance of the k-th
    true neighbour: of several items tied there, each counts. Ids must be distinct.

    Args:
        found: (nq, columns) float, as in `one_recall_at_k`.
        true: (nq, depth) float, distances of the true nearest neighbours, rising.
        k: 1 <= k <= columns and k <= depth.
        tolerance: relative; what float rounding may add to a tie.

    Returns:
        (nq,) float64, from 0 to 1.

    Raises:
        TypeError: as `one_recall_at_k`.
        ValueError: as `one_recall_at_k`.
    """
    k = _check_neighbours(found, true, k, tolerance, depth=k)
    hits: IdArray = np.count_nonzero(found[:, :k] <= _threshold(true, k, tolerance), axis=1)
    return hits / np.float64(k)


def pareto(points: RealArray) -> IdArray:
    """The points that no other one dominates: as good in both values and better in one.

    Args:
        points: (n, 2) float, larger is better in both: recall and queries per second, say.

    Returns:
        (at most n,) int64, row numbers by rising first value; equal points are all kept.

    Raises:
        TypeError: no array of floats.
        ValueError: another shape, or NaN.
    """
    _check_floats("points", points)
    if points.shape[1] != 2 or np.isnan(points).any():
        raise ValueError(f"expected points (n, 2) without NaN, got shape {points.shape}")
    first, second = points[:, 0], points[:, 1]
    falling = np.lexsort((-second, -first))
    # Among points with a larger first value, the best second value: it has to be beaten.
    best = np.maximum.accumulate(second[falling])
    starts = np.searchsorted(-first[falling], -first[falling], side="left")
    beaten = np.r_[-np.inf, best][starts]
    kept = (second[falling] > beaten) | (starts == 0)
    kept &= second[falling] == second[falling][starts]  # best of those with the same first value
    front: IdArray = falling[kept][::-1]
    return front


def _threshold(true: RealArray, k: int, tolerance: float) -> DoubleArray:
    kth: DoubleArray = true[:, k - 1 : k].astype(np.float64)
    return kth + tolerance * np.abs(kth)


def _check_neighbours(
    found: RealArray, true: RealArray, k: int, tolerance: float, *, depth: int
) -> int:
    _check_floats("found", found)
    _check_floats("true", true)
    if len(found) != len(true):
        raise ValueError(
            f"expected as many rows in found as in true, {len(true)}, got {len(found)}"
        )
    if isinstance(k, bool | np.bool_):
        raise TypeError(f"expected an integer k, got {k!r}")
    k = operator.index(k)
    if not 1 <= k <= found.shape[1] or not 1 <= depth <= true.shape[1]:
        raise ValueError(
            f"expected k from 1 to the {found.shape[1]} columns found, and as deep a truth, got "
            f"k = {k} and {true.shape[1]} true neighbours"
        )
    if not 0 <= tolerance < np.inf:
        raise ValueError(f"expected a finite tolerance >= 0, got {tolerance}")
    if np.isnan(found).any():
        raise ValueError("expected found without NaN: infinity stands for nothing returned")
    if not np.isfinite(true).all() or (true[:, 1:] < true[:, :-1]).any():
        raise ValueError("expected finite true distances that rise")
    return k


def _check_floats(name: str, array: RealArray) -> None:
    if not isinstance(array, np.ndarray) or not np.issubdtype(array.dtype, np.floating):
        got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"expected {name} as an array of floats, got {got}")
    if array.ndim != 2:
        raise ValueError(f"expected {name} with 2 dimensions, got shape {array.shape}")


def _hits_at(
    relevant: BoolArray, ks: IdArray, block_elements: int
) -> Iterator[tuple[slice, npt.NDArray[np.int32]]]:
    """Yields row blocks, and the hits among their first k ranks, (rows, len(ks)) int32."""
    if ks.size == 0:
        return
    for rows in _row_blocks((len(relevant), int(ks.max())), block_elements):
        hits = np.cumsum(relevant[rows, : ks.max()], axis=1, dtype=np.int32)
        yield rows, hits[:, ks - 1]


def _row_blocks(shape: tuple[int, ...], elements: int = BLOCK_ELEMENTS) -> Iterator[slice]:
    rows = max(1, elements // max(1, shape[1]))
    for start in range(0, shape[0], rows):
        yield slice(start, start + rows)


def _ratio(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any]) -> DoubleArray:
    """Numerator / denominator, and 0 where the denominator is 0."""
    out = np.zeros(np.broadcast_shapes(numerator.shape, denominator.shape), dtype=np.float64)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out


def _mean(values: DoubleArray) -> float:
    if values.size == 0:
        raise ValueError("expected at least one query, got none")
    return float(values.mean())


def _check_relevant(relevant: BoolArray, k: int) -> int:
    _check_array("relevant", relevant, np.bool_, ndim=2)
    if isinstance(k, bool | np.bool_):
        raise TypeError(f"expected an integer k, got {k!r}")
    k = operator.index(k)
    if not 1 <= k <= relevant.shape[1]:
        raise ValueError(f"expected k from 1 to the {relevant.shape[1]} columns, got {k}")
    return k


def _check_ks(relevant: BoolArray, ks: Sequence[int] | IdArray) -> IdArray:
    _check_array("relevant", relevant, np.bool_, ndim=2)
    if len(relevant) == 0:
        raise ValueError("expected at least one query, got none")
    return np.array([_check_relevant(relevant, k) for k in ks], dtype=np.int64)


def _check_n_relevant(n_relevant: IdArray | None, hits: npt.NDArray[np.integer[Any]]) -> None:
    if n_relevant is None:
        return
    _check_array("n_relevant", n_relevant, np.int64, ndim=1)
    if n_relevant.shape != hits.shape:
        raise ValueError(f"expected n_relevant of shape {hits.shape}, got {n_relevant.shape}")
    # Hits are never negative, so this finds a negative R as well.
    wrong = np.flatnonzero(n_relevant < hits)
    if wrong.size:
        q = wrong[0]
        raise ValueError(
            f"expected n_relevant of at least the relevant items returned, {hits[q]} for query "
            f"{q}, got {n_relevant[q]}"
        )


def _check_labels(database_labels: IdArray | BoolArray, query_labels: IdArray | BoolArray) -> None:
    several = isinstance(database_labels, np.ndarray) and database_labels.dtype == np.bool_
    dtype, ndim = (np.bool_, 2) if several else (np.int64, 1)
    _check_array("database_labels", database_labels, dtype, ndim=ndim)
    _check_array("query_labels", query_labels, dtype, ndim=ndim)
    if database_labels.shape[1:] != query_labels.shape[1:]:
        raise ValueError(
            f"expected labels of as many classes, {database_labels.shape[1:]}, got "
            f"{query_labels.shape[1:]}"
        )


def _check_array(name: str, array: npt.NDArray[Any], dtype: type[np.generic], *, ndim: int) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"expected {name} as an array of {np.dtype(dtype)}, got {got}")
    if array.ndim != ndim:
        raise ValueError(f"expected {name} with {ndim} dimensions, got shape {array.shape}")
