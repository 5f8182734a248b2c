"""nDCG, computed by hand and against scikit-learn's."""

import math
import re

import numpy as np
import pytest
import sklearn.metrics

from faiss_pqvae.eval.metrics.ndcg import ndcg_at_k


def test_ndcg_at_k__by_hand():
    grades = np.array([[0, 2, 1], [1, 0, 0], [0, 0, 0], [0, 0, 0]], np.float64)
    ideal = np.array([[3, 2, 1], [1, 0, 0], [1, 0, 0], [0, 0, 0]], np.float64)
    third = 1 / math.log2(3)
    best = 3 + 2 * third + 1 / 2
    expected = [(2 * third + 1 / 2) / best, 1, 0, 0]  # nothing found; nothing to be found
    np.testing.assert_allclose(ndcg_at_k(grades, ideal, 3), expected)
    np.testing.assert_allclose(ndcg_at_k(grades, ideal, 2), [2 * third / (3 + 2 * third), 1, 0, 0])
    np.testing.assert_allclose(ndcg_at_k(grades[:, :1], ideal, 1), [0, 1, 0, 0])
    assert ndcg_at_k(grades, ideal[:, :1], 3)[1] == 1  # few are judged


def test_ndcg_at_k__agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 4, (20, 30)) * (rng.random((20, 30)) < 0.3)
    scores = rng.permuted(np.tile(np.arange(30.0), (20, 1)), axis=1)
    ranking = np.take_along_axis(true, np.argsort(-scores, axis=1), 1).astype(np.float64)
    ideal = -np.sort(-true.astype(np.float64), axis=1)
    for k in (1, 5, 10, 30):
        expected = sklearn.metrics.ndcg_score(true, scores, k=k)
        assert ndcg_at_k(ranking, ideal, k).mean() == pytest.approx(expected)


ONE = np.array([[1.0, 0.0]])


@pytest.mark.parametrize(
    ("grades", "ideal", "k", "error", "message"),
    [
        (ONE.astype(int), ONE, 1, TypeError, "grades as an array of float64, got int64"),
        (ONE, ONE.astype("f4"), 1, TypeError, "ideal as an array of float64, got float32"),
        (ONE, ONE, 3, ValueError, "k from 1 to the 2 columns, got 3"),
        (ONE, ONE, True, TypeError, "expected an integer k, got True"),
        (ONE, ONE.repeat(2, 0), 1, ValueError, "as many rows in ideal as in grades, 1, got 2"),
        (ONE, ONE[:, ::-1], 1, ValueError, "expected ideal grades that fall"),
        (2 * ONE, ONE, 1, ValueError, "ideal grades of query 0 as good as those of its ranking"),
    ],
)
def test_ndcg_at_k__rejects_what_does_not_fit(grades, ideal, k, error, message):
    with pytest.raises(error, match=re.escape(message)):
        ndcg_at_k(grades, ideal, k)
