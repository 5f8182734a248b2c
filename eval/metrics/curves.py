"""Precision and recall by the number of ranks, as means over the queries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from faiss_pqvae.types import BoolArray, DoubleArray, IdArray

from .ranked import (
    BLOCK_ELEMENTS,
    check_array,
    check_n_relevant,
    check_relevant,
    ratio,
    row_blocks,
)


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
        check_n_relevant(n_relevant, hits)
    total = np.zeros(len(checked), dtype=np.float64)
    for rows, block in _hits_at(relevant, checked, block_elements):
        total += ratio(block, n_relevant[rows, None]).sum(axis=0)
    return total / len(relevant)


def _hits_at(
    relevant: BoolArray, ks: IdArray, block_elements: int
) -> Iterator[tuple[slice, npt.NDArray[np.int32]]]:
    """Yields row blocks, and the hits among their first k ranks, (rows, len(ks)) int32."""
    if ks.size == 0:
        return
    for rows in row_blocks((len(relevant), int(ks.max())), block_elements):
        hits = np.cumsum(relevant[rows, : ks.max()], axis=1, dtype=np.int32)
        yield rows, hits[:, ks - 1]


def _check_ks(relevant: BoolArray, ks: Sequence[int] | IdArray) -> IdArray:
    check_array("relevant", relevant, np.bool_, ndim=2)
    if len(relevant) == 0:
        raise ValueError("expected at least one query, got none")
    return np.array([check_relevant(relevant, k) for k in ks], dtype=np.int64)
