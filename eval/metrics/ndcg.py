"""How good a ranking is where relevance has grades, with its formula."""

from __future__ import annotations

import numpy as np

from faiss_pqvae.types import DoubleArray

from .ranked import check_array, check_k, ratio


def ndcg_at_k(grades: DoubleArray, ideal: DoubleArray, k: int) -> DoubleArray:
    """nDCG@k = DCG@k / IDCG@k, and 0 where IDCG@k = 0.

    DCG@k = sum_{i<=k} g(i) / log2(i + 1), with g(i) the grade of the item at rank i (from 1); its
    gain is the grade itself. IDCG@k is the DCG@k of all judged items, the highest grade first.

    Args:
        grades: (nq, columns) float64 >= 0, by rank, 0 for what is not relevant.
        ideal: (nq, depth) float64 >= 0, falling: every query's highest grades in the whole
            database, filled up with zeros.
        k: how many ranks count, 1 <= k <= columns.

    Returns:
        (nq,) float64, from 0 to 1.

    Raises:
        TypeError: an array of another dtype, or k is no integer.
        ValueError: a shape or k does not fit, `ideal` does not fall, or less than the ranking has.
    """
    check_array("grades", grades, np.float64, ndim=2)
    check_array("ideal", ideal, np.float64, ndim=2)
    k = check_k(k, grades.shape[1])
    if len(grades) != len(ideal):
        raise ValueError(
            f"expected as many rows in ideal as in grades, {len(grades)}, got {len(ideal)}"
        )
    if (ideal[:, 1:] > ideal[:, :-1]).any():
        raise ValueError("expected ideal grades that fall")
    found, best = _dcg(grades[:, :k]), _dcg(ideal[:, :k])
    if (found > best * (1 + 1e-9)).any():
        query = int((found - best).argmax())
        raise ValueError(f"expected ideal grades of query {query} as good as those of its ranking")
    return ratio(found, best)


def _dcg(grades: DoubleArray) -> DoubleArray:
    found: DoubleArray = grades @ (1 / np.log2(np.arange(2, grades.shape[1] + 2)))
    return found
