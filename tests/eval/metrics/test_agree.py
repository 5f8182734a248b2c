"""The metrics against other people's: scikit-learn's, and FAISS's own faiss.contrib.evaluation.

Every case is random; what the two conventions do differently is said where it is left out.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import sklearn.metrics
from faiss.contrib import evaluation
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from faiss_pqvae.eval.metrics.curves import precision_curve, recall_curve
from faiss_pqvae.eval.metrics.ndcg import ndcg_at_k
from faiss_pqvae.eval.metrics.precision import (
    average_precision_at_k,
    count_relevant,
    map_at_k,
    precision_at_k,
    recall_at_k,
    relevance,
)
from faiss_pqvae.eval.metrics.recalls import k_recall_at_k, one_recall_at_k, pareto

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Ranking(NamedTuple):
    """Whole rankings: relevant (nq, n) by rank with R >= 1 of them, and falling scores (n,)."""

    relevant: Bools
    scores: Floats
    n_relevant: Ints
    k: int


class Search(NamedTuple):
    """A search of k results by estimated distances, and the true ones, none equal to another."""

    true: Floats  # (nq, n) of every item
    estimated: Floats
    true_ids: Ints  # (nq, k)
    found_ids: Ints
    found: Floats  # (nq, k) true distances of found_ids
    k: int


@st.composite
def rankings(draw: st.DrawFn) -> Ranking:
    nq, n = draw(st.integers(1, 6)), draw(st.integers(2, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    relevant = rng.random((nq, n)) < draw(st.sampled_from([0.05, 0.3, 0.9]))
    relevant[np.arange(nq), rng.integers(0, n, nq)] = True
    k = draw(st.integers(1, n))
    return Ranking(relevant, np.arange(n, 0, -1.0), relevant.sum(axis=1), k)


@st.composite
def searches(draw: st.DrawFn) -> Search:
    nq, n = draw(st.integers(1, 5)), draw(st.integers(3, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    true = np.stack([rng.permutation(n) + 1.0 for _ in range(nq)])
    estimated = true + rng.normal(0, draw(st.sampled_from([0.1, 3, 30])), true.shape)
    k = draw(st.integers(1, n))
    true_ids, found_ids = (np.argsort(d, axis=1)[:, :k] for d in (true, estimated))
    found = np.take_along_axis(true, found_ids, axis=1)
    return Search(true, estimated, true_ids, found_ids, found, k)


@pytest.fixture(scope="module")
def labelled() -> tuple[Ints, Ints, Ints]:
    """Ids (30, 20) of a search, labels of 60 items and of the queries; no item has label 9."""
    rng = np.random.default_rng(0)
    ids = np.stack([rng.permutation(60)[:20] for _ in range(30)])
    return ids, rng.integers(0, 9, 60), rng.integers(0, 10, 30)


# scikit-learn ------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(case=rankings())
def test_average_precision__is_scikit_learns_over_the_whole_ranking(case: Ranking) -> None:
    n = case.relevant.shape[1]
    got = average_precision_at_k(case.relevant, n, case.n_relevant, "R")
    theirs = [sklearn.metrics.average_precision_score(row, case.scores) for row in case.relevant]
    np.testing.assert_allclose(got, theirs, rtol=1e-12)
    # The same by another road: for labels as columns, it is the mean over the samples.
    lrap = sklearn.metrics.label_ranking_average_precision_score(
        case.relevant, np.broadcast_to(case.scores, case.relevant.shape)
    )
    assert map_at_k(case.relevant, n, case.n_relevant, "R") == pytest.approx(lrap, rel=1e-12)


@settings(max_examples=15)
@given(case=rankings())
def test_average_precision_at_k__is_scikit_learns_over_the_first_k(case: Ranking) -> None:
    relevant, scores, n_relevant, k = case
    # It knows of no other item: what it divides by are the relevant ones among the first k.
    cut = relevant[:, :k]
    some = cut.any(axis=1)  # without any it warns
    theirs = np.zeros(len(cut))
    theirs[some] = [sklearn.metrics.average_precision_score(row, scores[:k]) for row in cut[some]]
    found = average_precision_at_k(relevant, k)
    np.testing.assert_allclose(found, theirs, rtol=1e-12)
    rescaled = theirs * cut.sum(axis=1)
    for normalizer, divisor in (("min(R,k)", np.minimum(n_relevant, k)), ("R", n_relevant)):
        got = average_precision_at_k(relevant, k, n_relevant, normalizer)  # type: ignore[arg-type]
        np.testing.assert_allclose(got, rescaled / divisor, rtol=1e-12)


@settings(max_examples=15)
@given(case=rankings(), ties=st.integers(2, 5))
def test_average_precision__of_ties_is_at_most_scikit_learns(case: Ranking, ties: int) -> None:
    # It takes a tie as one step of the curve, and so as if everything relevant in it stood at its
    # end, with the precision of the whole step. Ranks that are given one by one, the relevant
    # last, are never above that, and equal where no tie mixes.
    n = case.relevant.shape[1]
    steps = np.arange(n) // ties
    order = np.stack([np.lexsort((row, steps)) for row in case.relevant])
    relevant = np.take_along_axis(case.relevant, order, axis=1)
    got = average_precision_at_k(relevant, n, case.n_relevant, "R")
    theirs = [sklearn.metrics.average_precision_score(row, -steps) for row in relevant]
    assert (got <= np.array(theirs) * (1 + 1e-12)).all()
    first = relevant & (np.arange(n) % ties == ties - 1)  # one a tie, at its end
    first[~first.any(axis=1), -1] = True
    got = average_precision_at_k(first, n, first.sum(axis=1), "R")
    theirs = [sklearn.metrics.average_precision_score(row, -steps) for row in first]
    np.testing.assert_allclose(got, theirs, rtol=1e-12)


@settings(max_examples=15)
@given(case=rankings())
def test_precision_and_recall_at_k__are_scikit_learns(case: Ranking) -> None:
    relevant, _, n_relevant, k = case
    retrieved = np.broadcast_to(np.arange(relevant.shape[1]) < k, relevant.shape)
    theirs = [
        function(relevant, retrieved, average="samples", zero_division=0)
        for function in (sklearn.metrics.precision_score, sklearn.metrics.recall_score)
    ]
    got = [precision_at_k(relevant, k).mean(), recall_at_k(relevant, k, n_relevant).mean()]
    np.testing.assert_allclose(got, theirs, rtol=1e-12)


@settings(max_examples=15)
@given(case=rankings())
def test_curves__are_scikit_learns(case: Ranking) -> None:
    ks = np.arange(1, case.relevant.shape[1] + 1)
    curves = [
        # From all items to the first one, and then a point of its own, (1, 0).
        sklearn.metrics.precision_recall_curve(row, case.scores)[:2]
        for row in case.relevant
    ]
    precision, recall = np.mean(curves, axis=0)[:, -2::-1]
    np.testing.assert_allclose(precision_curve(case.relevant, ks), precision, rtol=1e-12)
    got = recall_curve(case.relevant, ks, case.n_relevant)
    np.testing.assert_allclose(got, recall, rtol=1e-12)


@settings(max_examples=15)
@given(case=searches())
def test_one_recall_at_k__is_scikit_learns_top_k_accuracy(case: Search) -> None:
    n = case.true.shape[1]
    assume(case.k < n)  # it warns that all of n hold everything
    theirs = sklearn.metrics.top_k_accuracy_score(
        case.true_ids[:, 0], -case.estimated, k=case.k, labels=np.arange(n)
    )
    got = one_recall_at_k(case.found, np.sort(case.true, axis=1), case.k).mean()
    assert got == pytest.approx(theirs, rel=1e-12)


# faiss.contrib.evaluation ------------------------------------------------------------------------


@settings(max_examples=25)
@given(case=searches())
def test_k_recall_at_k__is_faiss_intersection_measure(case: Search) -> None:
    got = k_recall_at_k(case.found, np.sort(case.true, axis=1), case.k).mean()
    theirs = evaluation.knn_intersection_measure(case.found_ids, case.true_ids)
    assert got == pytest.approx(theirs, rel=1e-12)


@settings(max_examples=25)
@given(case=searches(), coarse=st.integers(2, 6))
def test_k_recall_at_k__is_1_for_what_faiss_takes_as_the_same_but_for_draws(
    case: Search, coarse: int
) -> None:
    true = np.floor(case.true / coarse)  # many ties
    rows = np.arange(len(true))[:, None]
    by_id, by_estimate = (
        np.lexsort((other, true))[:, : case.k]
        for other in (np.broadcast_to(np.arange(true.shape[1]), true.shape), case.estimated)
    )
    assert (
        evaluation.check_ref_knn_with_draws(
            true[rows, by_id], by_id, true[rows, by_estimate], by_estimate
        )
    ) is None  # it raises otherwise
    got = k_recall_at_k(true[rows, by_estimate], np.sort(true, axis=1), case.k)
    assert got.tolist() == [1] * len(true)


@pytest.mark.parametrize("k", [1, 7, 20])
def test_precision_and_recall_at_k__are_faiss_of_range_results(
    labelled: tuple[Ints, Ints, Ints], k: int
) -> None:
    ids, database, queries = labelled
    relevant, n_relevant = relevance(ids, database, queries), count_relevant(database, queries)
    assert 0 in n_relevant  # both take the recall of a query with nothing to find as 0
    hits = [
        np.intersect1d(np.flatnonzero(database == q), row[:k]).size
        for q, row in zip(queries, ids, strict=True)
    ]
    theirs = evaluation.counts_to_PR(
        n_relevant.copy(), np.full(len(ids), k), np.array(hits), mode="average"
    )
    got = precision_at_k(relevant, k).mean(), recall_at_k(relevant, k, n_relevant).mean()
    np.testing.assert_allclose(got, theirs, rtol=1e-12)


@settings(max_examples=25)
@given(points=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), unique=True, max_size=12))
def test_pareto__is_what_faiss_operating_points_keep(points: list[tuple[int, int]]) -> None:
    # Recall and queries per second; FAISS counts seconds. Of equal points it keeps one.
    kept = evaluation.OperatingPoints()
    for i, (recall, qps) in enumerate(points):
        kept.add_operating_point(i, recall, 1 / qps)
    got = pareto(np.array(points, dtype=np.float64).reshape(-1, 2))
    assert sorted(got) == sorted(key for key, _, _ in kept.operating_points)


def test_metrics__are_scikit_learns_on_200_rankings_with_ties() -> None:
    """Ties go by id, as a search ranks them; scikit-learn is told the ranks."""
    ties = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(9, 60))  # more items than distances
        k = int(rng.integers(1, n + 1))
        distances = rng.integers(0, 8, n)
        ties += len({*distances.tolist()}) < n
        ranked = np.lexsort((np.arange(n), distances))
        grades = rng.integers(0, 4, n) * (rng.random(n) < 0.4)
        grades[rng.integers(n)] = 2
        by_rank = grades[ranked].astype(np.float64)[None]
        relevant, n_relevant = by_rank > 0, np.array([np.count_nonzero(grades)])
        falling = -np.argsort(ranked)  # a score an item, none equal to another
        first = np.argsort(ranked) < k
        expected = [
            sklearn.metrics.average_precision_score(grades > 0, falling),
            sklearn.metrics.ndcg_score(grades[None], falling[None], k=k),
            sklearn.metrics.precision_score(grades > 0, first),
            sklearn.metrics.recall_score(grades > 0, first),
        ]
        ideal = -np.sort(-grades.astype(np.float64))[None]
        found = [
            average_precision_at_k(relevant, n, n_relevant, "R"),
            ndcg_at_k(by_rank, ideal, k),
            precision_at_k(relevant, k),
            recall_at_k(relevant, k, n_relevant),
        ]
        np.testing.assert_allclose(np.ravel(found), expected, rtol=1e-9, atol=1e-9)
    assert ties == 200
