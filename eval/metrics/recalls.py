"""Metrics of nearest neighbours, each with its formula, and what is best in two of them."""

from __future__ import annotations

import operator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from faiss_pqvae.types import BoolArray, DoubleArray, IdArray

# Two distances that differ by less, relatively, are a tie. A squared distance of 960 dimensions
# that is summed in float32 with 8 partial sums is right to 960 / 8 * 2**-24 = 7e-6 at the worst.
TIE_TOLERANCE = 1e-5

RealArray: TypeAlias = npt.NDArray[np.floating[Any]]


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
