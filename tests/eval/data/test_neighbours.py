"""Recall of what an index returned, from the vectors themselves."""

import dataclasses

import numpy as np
import pytest
from faiss.contrib.evaluation import knn_intersection_measure

from faiss_pqvae.data.flat import Float32Rows
from faiss_pqvae.eval.data.brute_force import Neighbours, nearest
from faiss_pqvae.eval.data.neighbours import VectorData
from faiss_pqvae.eval.data.protocol import Scores


def make(x: np.ndarray, q: np.ndarray, metric: str = "l2", depth: int = 100) -> VectorData:
    truth = nearest(q, x, min(depth, len(x)), metric, progress=False)
    return VectorData("made", "p", "d", x, x, q, metric, truth)


@pytest.fixture
def data(rng: np.random.Generator) -> VectorData:
    x = rng.standard_normal((400, 6), dtype=np.float32)
    return make(x, rng.standard_normal((20, 6), dtype=np.float32))


# On a line: the query stands at 0, the items at 1, 2, 2, 3 and 5.
LINE = np.array([[1], [2], [-2], [3], [5]], np.float32)


def test_scores__by_hand() -> None:
    data = make(LINE, np.zeros((2, 1), np.float32), depth=3)
    assert data.truth.I.tolist() == [[0, 1, 2]] * 2
    scores = data.scores(np.array([[2, 3, 0, 4], [3, 4, -1, -1]]), 4)
    assert isinstance(scores, Scores)
    # At k = 2 the first query's item 2 ties with item 1: one of two. At k = 3, items 2 and 0.
    assert {name: list(values) for name, values in scores.per_query.items()} == {
        "1-recall@1": [0, 0]
    }
    assert scores.curves["k"] == [1, 2, 3]
    assert scores.curves["1-recall@k"] == [0, 0, 1 / 2]
    np.testing.assert_allclose(scores.curves["k-recall@k"], [0, 1 / 4, 1 / 3])


def test_scores__of_the_truth_are_one_and_agree_with_faiss(data, rng) -> None:
    perfect = data.scores(data.truth.I, 100)
    assert set(perfect.per_query) == {
        *("1-recall@1", "1-recall@10", "1-recall@100", "10-recall@10", "100-recall@100")
    }
    assert all((values == 1).all() for values in perfect.per_query.values())
    ids = np.stack([rng.choice(400, 150, replace=False) for _ in range(20)])
    scores = data.scores(ids, 150)
    for k in (10, 100):
        expected = knn_intersection_measure(ids[:, :k], data.truth.I[:, :k])
        assert scores.per_query[f"{k}-recall@{k}"].mean() == pytest.approx(expected)
        found = (ids[:, :k] == data.truth.I[:, :1]).any(axis=1)
        np.testing.assert_array_equal(scores.per_query[f"1-recall@{k}"], found)
    assert scores.curves["k"] == [1, 2, 5, 10, 20, 50, 100]  # as deep as the truth
    assert 0 < scores.curves["k-recall@k"][-1] < 1
    for name in ("1-recall@k", "k-recall@k"):
        assert scores.curves[name][0] == scores.per_query["1-recall@1"].mean()
    assert set(data.scores(ids, 12).per_query) == {"1-recall@1", "1-recall@10", "10-recall@10"}


def test_scores__duplicates_are_as_good_as_the_nearest(data) -> None:
    x = np.vstack([data.database[:], data.database[:]])
    doubled = make(x, data.queries[:])
    twins = np.where(doubled.truth.I < 400, doubled.truth.I + 400, doubled.truth.I - 400)
    scores = doubled.scores(twins, 100)
    assert all((values == 1).all() for values in scores.per_query.values())


def test_scores__of_similarities(data) -> None:
    by_product = make(data.database[:], data.queries[:], "inner_product")
    products = data.queries[:].astype(float) @ data.database[:].T.astype(float)
    scores = by_product.scores(np.argsort(-products, axis=1), 100)
    assert all((values == 1).all() for values in scores.per_query.values())
    wrong = by_product.scores(np.argsort(products, axis=1), 100)
    assert all((values == 0).all() for values in wrong.per_query.values())


def test_scores__are_the_same_from_the_disk(data, rng) -> None:
    stored = dataclasses.replace(
        data, database=Float32Rows(data.database), queries=Float32Rows(data.queries)
    )
    ids = np.stack([rng.choice(400, 100, replace=False) for _ in range(20)])
    assert stored.scores(ids, 100).curves == data.scores(ids, 100).curves


def test_scores__reject_bad_input(data) -> None:
    for k in (0, -1, 101):
        with pytest.raises(ValueError, match=rf"at least k = {k}\), got \(20, 100\)"):
            data.scores(data.truth.I, k)
    with pytest.raises(ValueError, match="ids from -1 to 399, got 0 to 400"):
        data.scores(np.tile([0, 400], (20, 1)), 2)
    with pytest.raises(ValueError, match=r"I of shape \(20, k\)"):
        data.scores(data.truth.I[:3], 2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"train": LINE}, ValueError, r"train of shape \(at least 1, 6\), got \(5, 1\)"),
        ({"queries": np.zeros((0, 6), np.float32)}, ValueError, "queries of shape"),
        ({"train": np.zeros((3, 6))}, TypeError, "train of float32, got float64"),
        ({"queries": np.zeros((3, 6), np.float32)}, ValueError, "neighbours of 3 queries"),
        ({"metric": "cosine"}, ValueError, "l2 or inner_product, got 'cosine'"),
        (
            {"truth": Neighbours(np.full((20, 1), 400), np.zeros((20, 1), np.float32))},
            ValueError,
            "true ids from 0 to 399, got 400 to 400",
        ),
    ],
)
def test_vector_data__rejects_what_does_not_fit(data, change, error, message) -> None:
    with pytest.raises(error, match=message):
        dataclasses.replace(data, **change)
