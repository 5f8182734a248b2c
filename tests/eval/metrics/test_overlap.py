"""How many classes items have in common, against a plain loop."""

import numpy as np
import pytest

from faiss_pqvae.eval.metrics import overlap
from faiss_pqvae.eval.metrics.overlap import best_overlaps, overlaps


def labels(n, classes, seed):
    return np.random.default_rng(seed).random((n, classes)) < 0.3


def test_overlaps__are_counts_and_the_best_are_the_largest(monkeypatch):
    monkeypatch.setattr(overlap, "row_blocks", lambda shape: [slice(0, 2), slice(2, shape[0])])
    database, queries = labels(40, 7, 0), labels(5, 7, 1)
    counts = np.array([[(x & q).sum() for x in database] for q in queries])
    I = np.argsort(counts, axis=1)[:, :9].astype(np.int64)  # noqa: E741
    I[0, -1] = -1
    expected = np.take_along_axis(counts, I, 1)
    expected[0, -1] = 0
    np.testing.assert_array_equal(overlaps(I, database, queries), expected)
    np.testing.assert_array_equal(
        best_overlaps(database, queries, 6), -np.sort(-counts, axis=1)[:, :6]
    )
    padded = best_overlaps(database[:3], queries, 6)
    np.testing.assert_array_equal(padded[:, :3], -np.sort(-counts[:, :3], axis=1))
    assert not padded[:, 3:].any()


def test_overlaps__reject_what_does_not_fit():
    database, queries = labels(4, 3, 0), labels(2, 3, 1)
    with pytest.raises(TypeError, match="expected I as an array of int64"):
        overlaps(np.zeros((2, 1)), database, queries)
    with pytest.raises(ValueError, match="expected 1 query labels, one a row of I, got 2"):
        overlaps(np.zeros((1, 1), np.int64), database, queries)
    with pytest.raises(ValueError, match="query labels of 3 classes, as of the database, got 2"):
        best_overlaps(database, queries[:, :2], 1)
    with pytest.raises(TypeError, match="expected database_labels as an array of bool"):
        best_overlaps(np.zeros((4, 3), np.int64), queries, 1)
