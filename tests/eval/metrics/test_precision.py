"""Metrics against cases computed by hand, a naive loop, and scikit-learn."""

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from faiss.contrib.evaluation import knn_intersection_measure
from hypothesis import given, settings
from hypothesis import strategies as st

from faiss_pqvae.eval.metrics.curves import precision_curve, recall_curve
from faiss_pqvae.eval.metrics.precision import (
    NORMALIZERS,
    Normalizer,
    average_precision_at_k,
    count_relevant,
    map_at_k,
    precision_at_k,
    recall_at_k,
    relevance,
)
from faiss_pqvae.eval.metrics.recalls import k_recall_at_k, one_recall_at_k, pareto

# rel = 1 0 1 1: P(1) = 1, P(3) = 2/3, P(4) = 3/4. The second query finds nothing, and the third
# has nothing to find.
RELEVANT = np.array([[1, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]], dtype=np.bool_)
R = np.array([5, 2, 0])


def _labels(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


# relevance, count_relevant -----------------------------------------------------------------------


def test_relevance__compares_labels_and_ignores_padding() -> None:
    I = np.array([[0, 3, -1], [2, -1, -1], [1, 0, 3]])  # noqa: E741
    got = relevance(I, _labels(7, 8, 9, 7), _labels(7, 9, 8))
    assert got.dtype == np.bool_
    # The last label is 7, so padding read as "the last" would be relevant to query 0.
    assert got.tolist() == [[True, True, False], [True, False, False], [True, False, False]]


@pytest.mark.parametrize("wrong", [4, -2, 2**40])
def test_relevance__rejects_out_of_range_ids(wrong: int) -> None:
    with pytest.raises(ValueError, match="expected ids from -1 to 3, got"):
        relevance(np.array([[0, wrong]]), _labels(0, 1, 2, 3), _labels(0))


def test_relevance__of_an_empty_database_is_all_padding() -> None:
    assert not relevance(np.full((2, 3), -1), _labels(), _labels(0, 0)).any()
    with pytest.raises(ValueError, match="expected ids from -1 to -1"):
        relevance(np.zeros((1, 1), np.int64), _labels(), _labels(0))


def test_relevance__rejects_dtypes_and_shapes() -> None:
    ids, labels = np.zeros((2, 3), np.int64), _labels(0, 0)
    with pytest.raises(TypeError, match="expected I as an array of int64, got float32"):
        relevance(ids.astype(np.float32), labels, labels)
    with pytest.raises(TypeError, match="expected database_labels as an array of int64, got list"):
        relevance(ids, [0, 0], labels)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="query_labels"):
        relevance(ids, labels, labels.astype(np.int32))
    with pytest.raises(ValueError, match="2 dimensions"):
        relevance(ids[0], labels, labels)
    with pytest.raises(ValueError, match="expected 2 query labels"):
        relevance(ids, labels, labels[:1])


def test_relevance__is_the_same_in_blocks() -> None:
    generator = np.random.default_rng(0)
    I = generator.integers(-1, 20, (11, 6))  # noqa: E741
    labels, queries = generator.integers(0, 3, 20), generator.integers(0, 3, 11)
    whole = relevance(I, labels, queries)
    blocks = relevance(I, labels, queries, block_elements=13)
    np.testing.assert_array_equal(blocks, whole)


def test_count_relevant__counts_the_database() -> None:
    counts = count_relevant(_labels(1, 1, -5, 3, 1), _labels(1, 2, 3, -5))
    assert counts.dtype == np.int64
    assert counts.tolist() == [3, 0, 1, 1]


# By hand -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "normalizer", "expected"),
    [
        (4, "found", (1 + 2 / 3 + 3 / 4) / 3),
        (4, "min(R,k)", (1 + 2 / 3 + 3 / 4) / 4),
        (4, "R", (1 + 2 / 3 + 3 / 4) / 5),
        (3, "found", (1 + 2 / 3) / 2),
        (3, "min(R,k)", (1 + 2 / 3) / 3),
        (2, "found", 1.0),
        (2, "R", 1 / 5),
    ],
)
def test_average_precision_at_k__by_hand(k: int, normalizer: Normalizer, expected: float) -> None:
    got = average_precision_at_k(RELEVANT, k, R, normalizer)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, [expected, 0, 0], rtol=1e-15)
    # Queries without anything relevant count.
    assert map_at_k(RELEVANT, k, R, normalizer) == pytest.approx(expected / 3)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_average_precision_at_k__of_a_perfect_ranking_is_exactly_one(
    normalizer: Normalizer,
) -> None:
    relevant = np.ones((2, 1000), dtype=np.bool_)
    ap = average_precision_at_k(relevant, 1000, np.full(2, 1000), normalizer)
    assert ap.tolist() == [1.0, 1.0]


def test_average_precision_at_k__needs_no_count_for_found() -> None:
    np.testing.assert_array_equal(
        average_precision_at_k(RELEVANT, 4), average_precision_at_k(RELEVANT, 4, R, "found")
    )


def test_precision_at_k__by_hand() -> None:
    assert precision_at_k(RELEVANT, 2).tolist() == [0.5, 0, 0]
    assert precision_at_k(RELEVANT, 4).tolist() == [0.75, 0, 0]


def test_recall_at_k__by_hand() -> None:
    np.testing.assert_allclose(recall_at_k(RELEVANT, 2, R), [1 / 5, 0, 0])
    np.testing.assert_allclose(recall_at_k(RELEVANT, 4, R), [3 / 5, 0, 0])


def test_curves__are_means_at_each_k() -> None:
    generator = np.random.default_rng(1)
    relevant = generator.random((23, 9)) < 0.3
    counts = relevant.sum(axis=1) + generator.integers(0, 4, 23)
    ks = [9, 1, 4]
    np.testing.assert_allclose(
        precision_curve(relevant, ks, block_elements=40),
        [precision_at_k(relevant, k).mean() for k in ks],
    )
    np.testing.assert_allclose(
        recall_curve(relevant, np.array(ks), counts, block_elements=40),
        [recall_at_k(relevant, k, counts).mean() for k in ks],
    )


def test_curves__of_no_k_are_empty() -> None:
    assert precision_curve(RELEVANT, []).shape == (0,)
    assert recall_curve(RELEVANT, [], R).shape == (0,)


# Against others ----------------------------------------------------------------------------------


def _naive_ap(row: list[bool], k: int, n_relevant: int, normalizer: str) -> Fraction:
    total, hits = Fraction(0), 0
    for rank, hit in enumerate(row[:k], start=1):
        if hit:
            hits += 1
            total += Fraction(hits, rank)
    n = {"found": hits, "min(R,k)": min(n_relevant, k), "R": n_relevant}[normalizer]
    return total / n if n else Fraction(0)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_average_precision_at_k__equals_a_naive_loop(data: st.DataObject) -> None:
    columns = data.draw(st.integers(1, 12), label="columns")
    row = st.lists(st.booleans(), min_size=columns, max_size=columns)
    rows = data.draw(st.lists(row, min_size=1, max_size=5), label="relevant")
    k = data.draw(st.integers(1, columns), label="k")
    counts = [sum(hits) + data.draw(st.integers(0, 3)) for hits in rows]
    for normalizer in NORMALIZERS:
        got = average_precision_at_k(np.array(rows), k, np.array(counts), normalizer)  # type: ignore[arg-type]
        expected = [
            float(_naive_ap(hits, k, n, normalizer)) for hits, n in zip(rows, counts, strict=True)
        ]
        np.testing.assert_allclose(got, expected, rtol=1e-12)
        assert (got <= 1 + 1e-12).all()


def test_average_precision_at_k__equals_scikit_learn() -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(2)
    relevant = generator.random((20, 50)) < 0.2
    relevant[:, 7] = True  # scikit-learn warns when nothing is relevant
    scores = np.arange(50, 0, -1)
    expected = [sklearn_metrics.average_precision_score(row, scores) for row in relevant]
    got = average_precision_at_k(relevant, 50, relevant.sum(axis=1), "R")
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_map_at_k__makes_no_large_copies() -> None:
    relevant = np.random.default_rng(3).random((4000, 1000), dtype=np.float32) < 0.1
    tracemalloc.start()
    try:
        value = map_at_k(relevant, 1000)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0.09 < value < 0.12
    assert peak_bytes < 2 * relevant.nbytes  # float64 would be 8 times the size


# Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, -1, 5])
def test_metrics__reject_a_k_outside_the_columns(k: int) -> None:
    for call in (
        lambda: average_precision_at_k(RELEVANT, k),
        lambda: map_at_k(RELEVANT, k),
        lambda: precision_at_k(RELEVANT, k),
        lambda: recall_at_k(RELEVANT, k, R),
        lambda: precision_curve(RELEVANT, [1, k]),
        lambda: recall_curve(RELEVANT, [1, k], R),
    ):
        with pytest.raises(ValueError, match=f"expected k from 1 to the 4 columns, got {k}"):
            call()


@pytest.mark.parametrize("k", [1.0, True, "1"])
def test_metrics__reject_a_k_that_is_no_integer(k: object) -> None:
    with pytest.raises(TypeError):
        precision_at_k(RELEVANT, k)  # type: ignore[arg-type]


def test_metrics__reject_relevance_that_is_not_a_bool_matrix() -> None:
    with pytest.raises(TypeError, match="expected relevant as an array of bool, got int64"):
        average_precision_at_k(RELEVANT.astype(np.int64), 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2 dimensions"):
        precision_at_k(RELEVANT[0], 2)


@pytest.mark.parametrize("counts", [[-1, 2, 0], [2, 2, 0]])
def test_metrics__reject_fewer_relevant_items_than_found(counts: list[int]) -> None:
    n_relevant = np.array(counts)
    for call in (
        lambda: average_precision_at_k(RELEVANT, 4, n_relevant, "R"),
        lambda: average_precision_at_k(RELEVANT, 4, n_relevant, "found"),
        lambda: recall_at_k(RELEVANT, 4, n_relevant),
        lambda: recall_curve(RELEVANT, [1, 4], n_relevant),
    ):
        with pytest.raises(ValueError, match=f"returned, 3 for query 0, got {counts[0]}"):
            call()


def test_metrics__reject_counts_of_another_shape_or_dtype() -> None:
    with pytest.raises(ValueError, match=r"n_relevant of shape \(3,\), got \(2,\)"):
        recall_at_k(RELEVANT, 4, R[:2])
    with pytest.raises(TypeError, match="n_relevant as an array of int64, got float64"):
        recall_at_k(RELEVANT, 4, R.astype(np.float64))  # type: ignore[arg-type]


def test_average_precision_at_k__rejects_normalizers() -> None:
    with pytest.raises(ValueError, match=r"expected a normalizer of .*'found'.*got 'k'"):
        average_precision_at_k(RELEVANT, 4, R, "k")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected n_relevant"):
        average_precision_at_k(RELEVANT, 4, None, "R")


def test_means__reject_no_queries() -> None:
    empty = np.zeros((0, 4), dtype=np.bool_)
    for call in (
        lambda: map_at_k(empty, 1),
        lambda: precision_curve(empty, [1]),
        lambda: recall_curve(empty, [1], _labels()),
    ):
        with pytest.raises(ValueError, match="at least one query"):
            call()


# Nearest neighbours ------------------------------------------------------------------------------


# Two queries: the first finds ranks 2, 1 and something else; the second misses its nearest.
FOUND = np.array([[4.0, 1.0, 9.0], [3.0, 8.0, 5.0]])
TRUE = np.array([[1.0, 4.0, 6.0], [2.0, 3.0, 5.0]])


def test_one_recall_at_k__by_hand() -> None:
    assert one_recall_at_k(FOUND, TRUE, 1).tolist() == [0, 0]
    assert one_recall_at_k(FOUND, TRUE, 2).tolist() == [1, 0]
    assert one_recall_at_k(FOUND, TRUE[:, :1], 3).tolist() == [1, 0]


def test_k_recall_at_k__by_hand() -> None:
    assert k_recall_at_k(FOUND, TRUE, 1).tolist() == [0, 0]
    assert k_recall_at_k(FOUND, TRUE, 2).tolist() == [1, 1 / 2]
    np.testing.assert_allclose(k_recall_at_k(FOUND, TRUE, 3), [2 / 3, 2 / 3])


def test_recalls__count_ties_by_distance() -> None:
    # Items a, b and c lie at 1, 2 and 2: which of b and c is "the" second does not matter.
    true = np.array([[1.0, 2.0]])
    assert k_recall_at_k(np.array([[1.0, 2.0]]), true, 2).tolist() == [1]
    assert k_recall_at_k(np.array([[2.0, 2.0]]), true, 2).tolist() == [1]  # b and c without a
    assert one_recall_at_k(np.array([[2.0, 2.0]]), true, 2).tolist() == [0]


@pytest.mark.parametrize(("nearest", "slack"), [(2.0, 2e-5), (-2.0, 2e-5), (0.0, 0.0)])
def test_recalls__forgive_rounding_and_no_more(nearest: float, slack: float) -> None:
    true = np.array([[nearest]])
    near, far = np.array([[nearest + 0.9 * slack]]), np.array([[nearest + 1.1 * slack + 1e-12]])
    for recall in (one_recall_at_k, k_recall_at_k):
        assert recall(near, true, 1).tolist() == [1]
        assert recall(far, true, 1).tolist() == [0]
        assert recall(far, true, 1, tolerance=1e-2).tolist() == [float(nearest != 0)]


def test_recalls__nothing_returned_is_a_miss() -> None:
    found = np.array([[1.0, np.inf, np.inf]])
    assert one_recall_at_k(found, TRUE[:1], 3).tolist() == [1]
    np.testing.assert_allclose(k_recall_at_k(found, TRUE[:1], 3), [1 / 3])
    assert one_recall_at_k(np.full((1, 1), np.inf), TRUE[:1], 1).tolist() == [0]


def test_k_recall_at_k__is_the_intersection_that_faiss_measures(rng: np.random.Generator) -> None:
    distances = rng.permuted(np.tile(np.arange(1.0, 101.0), (9, 1)), axis=1)  # no ties
    truth = distances.argsort(axis=1)[:, :20]
    guess = (distances + rng.normal(0, 10, distances.shape)).argsort(axis=1)[:, :20]
    found, true = (np.take_along_axis(distances, ids, 1) for ids in (guess, truth))
    for k in (1, 7, 20):
        mean = k_recall_at_k(found, true, k).mean()
        assert mean == pytest.approx(knn_intersection_measure(guess[:, :k], truth[:, :k]))
        nearest = [truth[q, 0] in guess[q, :k] for q in range(9)]
        assert one_recall_at_k(found, true, k).tolist() == nearest
    assert 0 < k_recall_at_k(found, true, 20).mean() < 1


def test_recalls__reject_bad_input() -> None:
    for recall in (one_recall_at_k, k_recall_at_k):
        for k in (0, -1, 4):
            with pytest.raises(ValueError, match=f"k from 1 to the 3 columns found.*k = {k}"):
                recall(FOUND, TRUE, k)
        with pytest.raises(TypeError, match="integer k"):
            recall(FOUND, TRUE, True)
        with pytest.raises(TypeError, match="found as an array of floats, got int64"):
            recall(FOUND.astype(int), TRUE, 1)
        with pytest.raises(TypeError, match="true as an array of floats, got list"):
            recall(FOUND, [[1.0]], 1)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="found with 2 dimensions"):
            recall(FOUND[0], TRUE, 1)
        with pytest.raises(ValueError, match="rows in found as in true, 1, got 2"):
            recall(FOUND, TRUE[:1], 1)
        with pytest.raises(ValueError, match="found without NaN"):
            recall(FOUND * np.nan, TRUE, 1)
        with pytest.raises(ValueError, match="that rise"):
            recall(FOUND, TRUE[:, ::-1], 1)
        with pytest.raises(ValueError, match="finite true"):
            recall(FOUND, TRUE + np.inf, 1)
        with pytest.raises(ValueError, match=r"tolerance >= 0.*got -1"):
            recall(FOUND, TRUE, 1, -1)
    with pytest.raises(ValueError, match="as deep a truth, got k = 3 and 2 true"):
        k_recall_at_k(FOUND, TRUE[:, :2], 3)


def test_pareto__by_hand() -> None:
    # By recall: b and c are on the front, d has c's recall and is slower, a is slower than b.
    points = np.array([[0.1, 5.0], [0.5, 9.0], [0.9, 2.0], [0.9, 1.0]])
    assert pareto(points).tolist() == [1, 2]
    assert pareto(points[:0]).tolist() == []
    assert sorted(pareto(np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0]]))) == [0, 1]


@given(
    points=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=9),
)
def test_pareto__is_what_nothing_dominates(points: list[tuple[int, int]]) -> None:
    def dominated(p: tuple[int, int]) -> bool:
        return any(q[0] >= p[0] and q[1] >= p[1] and q != p for q in points)

    kept = pareto(np.array(points, float).reshape(-1, 2)).tolist()
    assert sorted(kept) == [i for i, p in enumerate(points) if not dominated(p)]
    assert [points[i][0] for i in kept] == sorted(points[i][0] for i in kept)


def test_pareto__rejects_bad_input() -> None:
    with pytest.raises(ValueError, match=r"points \(n, 2\) without NaN"):
        pareto(np.array([[np.nan, 1.0]]))
    with pytest.raises(ValueError, match=r"got shape \(1, 3\)"):
        pareto(np.ones((1, 3)))
    with pytest.raises(TypeError, match="array of floats"):
        pareto(np.ones((1, 2), int))


# Several classes an item -------------------------------------------------------------------------


def test_relevance__of_several_classes_is_one_in_common() -> None:
    database = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0], [0, 1, 1]], bool)
    queries = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0]], bool)
    ids = np.array([[3, 0, 1, -1], [2, 1, 0, 3], [0, 1, 2, 3]])
    expected = np.array([[0, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]], bool)
    np.testing.assert_array_equal(relevance(ids, database, queries), expected)
    np.testing.assert_array_equal(count_relevant(database, queries), [1, 3, 0])
    # AP@4 of the second query: (1/2 + 2/3 + 3/4) / 3; of the first 1/2; of the third 0.
    np.testing.assert_allclose(
        average_precision_at_k(expected, 4), [1 / 2, (1 / 2 + 2 / 3 + 3 / 4) / 3, 0]
    )


@pytest.mark.parametrize("classes", [1, 7, 64, 81, 200])
def test_relevance__of_many_classes_agrees_with_sets(classes: int) -> None:
    generator = np.random.default_rng(classes)
    database = generator.random((40, classes)) < 1.5 / classes
    queries = generator.random((9, classes)) < 1.5 / classes
    ids = np.tile(np.arange(40), (9, 1))
    shared = [
        [bool({*np.flatnonzero(q)} & {*np.flatnonzero(x)}) for x in database] for q in queries
    ]
    found = relevance(ids, database, queries, block_elements=50)
    np.testing.assert_array_equal(found, shared)
    np.testing.assert_array_equal(count_relevant(database, queries), np.sum(shared, axis=1))


def test_relevance__one_class_each_is_the_same_as_bool() -> None:
    generator = np.random.default_rng(0)
    labels, queries = generator.integers(0, 5, 30), generator.integers(0, 5, 8)
    ids = generator.integers(-1, 30, (8, 12))
    matrices = (np.eye(5, dtype=bool)[labels], np.eye(5, dtype=bool)[queries])
    np.testing.assert_array_equal(relevance(ids, *matrices), relevance(ids, labels, queries))
    np.testing.assert_array_equal(count_relevant(*matrices), count_relevant(labels, queries))


def test_relevance__rejects_labels_of_two_kinds() -> None:
    ids, several = np.zeros((2, 1), np.int64), np.ones((3, 4), bool)
    with pytest.raises(TypeError, match="query_labels as an array of bool, got int64"):
        relevance(ids, several, np.zeros(2, np.int64))
    with pytest.raises(ValueError, match=r"as many classes, \(4,\), got \(5,\)"):
        count_relevant(several, np.ones((2, 5), bool))
