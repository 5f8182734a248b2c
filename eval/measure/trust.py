"""What the runner does not take on trust: ids, their order, and distances called exact."""

from __future__ import annotations

from typing import Any

import numpy as np

from faiss_pqvae.types import DoubleArray, FloatArray, IdArray

from ..data.protocol import Evaluated
from ..methods.flat import flatten

SAMPLE = 20  # queries whose distances are computed again
RANKS = 2000  # of each of these, where a search returns more: whole databases do not fit in memory
RTOL = 1e-4  # of a distance's own terms: FAISS computes it as |x|^2 - 2 xy + |y|^2 in float32
_BLOCK_ELEMENTS = 1 << 18


def check_results(
    D: FloatArray,
    I: IdArray,  # noqa: E741
    n: int,
    *,
    padded: bool = False,
) -> None:
    """Checks what a search returned.

    Args:
        D: (nq, k) float32, all rows rising (distances) or all falling (similarities).
        I: (nq, k) int64.
        n: size of the database.
        padded: rows may end in ids of -1, as FAISS pads them when the inverted lists that were
            visited hold fewer than k items: to every metric that is a miss.

    Raises:
        ValueError: shapes differ, an id is not from 0 to n - 1 or is twice in a row, or D is not
            finite or not in order.
    """
    if D.ndim != 2 or D.shape != I.shape:
        raise ValueError(f"expected D and I of one shape (nq, k), got {D.shape} and {I.shape}")
    lowest = -1 if padded else 0
    if I.min() < lowest or I.max() >= n:
        raise ValueError(f"expected ids from {lowest} to {n - 1}, got {I.min()} to {I.max()}")
    if ((I[:, :-1] < 0) & (I[:, 1:] >= 0)).any():
        raise ValueError("expected -1 behind the ids, got it before some")
    # Every id notes its rank; a rank that another overwrote is that of a repeated id. No sorting.
    noted, ranks = np.empty(n, np.int32), np.arange(I.shape[1], dtype=np.int32)
    counts = (I >= 0).sum(axis=1)
    for query, count in enumerate(counts.tolist()):
        ids = I[query, :count]
        noted[ids] = ranks[:count]
        if (noted[ids] != ranks[:count]).any():
            raise ValueError(f"expected distinct ids, got repeated ones for query {query}")
    if not np.isfinite(D).all():
        raise ValueError("expected finite distances, got NaN or infinity")
    if (D[:, 1:] < D[:, :-1]).any() and (D[:, 1:] > D[:, :-1]).any():
        raise ValueError("expected distances in order, best first, got rising and falling ones")


def order_ties(D: FloatArray, I: IdArray) -> tuple[FloatArray, IdArray]:  # noqa: E741
    """Puts the ids of equal distances in rising order, row by row.

    Args:
        D: (nq, k) float32, rising or falling.
        I: (nq, k) int64; -1 only at the ends of rows, where it stays.

    Returns:
        D and I of the same shapes; D's values are where they were.
    """
    ordered = I.copy()
    bits = int(I.max()).bit_length() if I.size else 0
    rows = max(1, _BLOCK_ELEMENTS // max(1, D.shape[1]))
    for start in range(0, len(D), rows):
        block = D[start : start + rows]
        equal = block[:, 1:] == block[:, :-1]
        tied = np.flatnonzero(equal.any(axis=1))
        # One key: the number of the run of equal distances, which sorts like D whichever way D
        # runs, and below it the id.
        keys = np.zeros((len(tied), D.shape[1]), np.int64)
        np.cumsum(~equal[tied], axis=1, out=keys[:, 1:])
        keys <<= bits
        keys |= I[start + tied] & ((1 << bits) - 1)
        keys.sort(axis=1)
        ordered[start + tied] = keys & ((1 << bits) - 1)
    ordered[I < 0] = -1
    return D, ordered


def check_distances(
    data: Evaluated,
    D: FloatArray,
    I: IdArray,  # noqa: E741
    *,
    ranks: int = RANKS,
) -> None:
    """Computes distances of an exact search again, in float64, for some queries and ranks.

    Args:
        data: the items, which are compared as `flatten` gives them to every baseline.
        D: (nq, k) float32, squared L2 distances (rising) or inner products (falling); with k = 1
            either.
        I: (nq, k) int64, positions in the database.
        ranks: how many of each query, at most.

    Raises:
        ValueError: a distance is not that of its id.
    """
    falling, rising = (D[:, 1:] < D[:, :-1]).any(), (D[:, 1:] > D[:, :-1]).any()
    shown = _spread(D.shape[1], ranks)
    for query in _spread(len(D), SAMPLE):
        x = _rows(data.queries[query : query + 1])[0]
        got, ids = D[query, shown], I[query, shown]
        order = np.argsort(ids)  # files are read forwards
        y = np.empty((len(ids), len(x)))
        y[order] = _rows(data.database[ids[order]])
        lengths, inner = (y**2).sum(1) + (x**2).sum(), y @ x
        possible = ([] if falling else [lengths - 2 * inner]) + ([] if rising else [inner])
        wrong = np.all([np.abs(got - true) > RTOL * lengths for true in possible], axis=0)
        if wrong.any():
            at = wrong.argmax()
            raise ValueError(
                f"expected {possible[0][at]:.6g} between query {query} and item {ids[at]}, got "
                f"{got[at]:.6g}"
            )


def _spread(n: int, most: int) -> IdArray:
    """At most that many of n positions, from the first to the last, (at most `most`,) int64."""
    return np.linspace(0, n - 1, min(most, n)).astype(np.int64)


def _rows(items: Any) -> DoubleArray:
    return flatten(items, int(np.prod(items.shape[1:], dtype=np.int64))).astype(np.float64)
