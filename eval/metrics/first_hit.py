"""Where the first relevant item of a ranking is, each metric with its formula."""

from __future__ import annotations

import numpy as np

from faiss_pqvae.types import BoolArray, DoubleArray

from .ranked import check_relevant, ratio


def reciprocal_rank_at_k(relevant: BoolArray, k: int) -> DoubleArray:
    """RR@k = 1 / i for the first relevant rank i <= k (from 1), else 0; its mean is MRR@k.

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
    first = relevant[:, :k].argmax(axis=1)  # 0 where there is none
    return ratio(hit_at_k(relevant, k), first + 1)


def hit_at_k(relevant: BoolArray, k: int) -> DoubleArray:
    """hit@k = 1 when any of the first k is relevant, else 0 (also called success@k).

    Args:
        relevant: (nq, columns) bool, by rank.
        k: how many ranks count, 1 <= k <= columns.

    Returns:
        (nq,) float64, 0 or 1.

    Raises:
        TypeError: `relevant` is not bool, or k is no integer.
        ValueError: a shape or k does not fit.
    """
    k = check_relevant(relevant, k)
    hit: DoubleArray = np.any(relevant[:, :k], axis=1).astype(np.float64)
    return hit
