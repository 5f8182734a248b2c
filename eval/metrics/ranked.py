"""What metrics of ranked lists share: blocks of rows, ratios and checks."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae.types import BoolArray, DoubleArray, IdArray

# Rows are worked on in blocks of about this many elements, 2 MiB in float64.
BLOCK_ELEMENTS = 1 << 18


def row_blocks(shape: tuple[int, ...], elements: int = BLOCK_ELEMENTS) -> Iterator[slice]:
    """Rows of a 2-D array, so many that a block has about that many elements."""
    rows = max(1, elements // max(1, shape[1]))
    for start in range(0, shape[0], rows):
        yield slice(start, start + rows)


def ratio(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any]) -> DoubleArray:
    """Numerator / denominator, and 0 where the denominator is 0."""
    out = np.zeros(np.broadcast_shapes(numerator.shape, denominator.shape), dtype=np.float64)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out


def check_relevant(relevant: BoolArray, k: int) -> int:
    """Checks marks (nq, columns) bool and a number of ranks, 1 to columns, which it returns."""
    check_array("relevant", relevant, np.bool_, ndim=2)
    return check_k(k, relevant.shape[1])


def check_k(k: int, columns: int) -> int:
    """Checks a number of ranks, 1 to columns, which it returns."""
    if isinstance(k, bool | np.bool_):
        raise TypeError(f"expected an integer k, got {k!r}")
    k = operator.index(k)
    if not 1 <= k <= columns:
        raise ValueError(f"expected k from 1 to the {columns} columns, got {k}")
    return k


def check_n_relevant(n_relevant: IdArray | None, hits: npt.NDArray[np.integer[Any]]) -> None:
    """Checks R of every query, (nq,) int64, against what was found; None is not asked for."""
    if n_relevant is None:
        return
    check_array("n_relevant", n_relevant, np.int64, ndim=1)
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


def check_array(name: str, array: npt.NDArray[Any], dtype: type[np.generic], *, ndim: int) -> None:
    """Checks dtype (else a TypeError) and dimensions (else a ValueError)."""
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"expected {name} as an array of {np.dtype(dtype)}, got {got}")
    if array.ndim != ndim:
        raise ValueError(f"expected {name} with {ndim} dimensions, got shape {array.shape}")
