"""Intervals, paired tests and Holm's correction against hand computation and scipy."""

import numpy as np
import pytest
from scipy import stats

from faiss_pqvae.eval.measure.confidence import (
    compare,
    holm,
    paired_p,
    percentile_intervals,
    resampled_means,
    seed_interval,
)
from faiss_pqvae.eval.measure.results import Row


@pytest.fixture
def scores():
    return np.random.default_rng(3).beta(2, 3, (150, 4))


def test_resampled_means__are_scipys_bootstrap_of_each_column(scores):
    means = resampled_means(scores, resamples=400, seed=7)
    for column, found in zip(scores.T, means, strict=True):
        expected = stats.bootstrap(
            (column,),
            np.mean,
            n_resamples=400,
            batch=50,
            method="percentile",
            rng=np.random.default_rng(7),
        )
        np.testing.assert_allclose(found, expected.bootstrap_distribution, rtol=1e-12)
        interval = expected.confidence_interval
        np.testing.assert_allclose(percentile_intervals(found), [interval.low, interval.high])


def test_resampled_means__draw_the_same_queries_for_every_column(scores):
    together = resampled_means(np.column_stack([scores, scores[:, 0] + 0.25]), resamples=50)
    np.testing.assert_allclose(together[4] - together[0], 0.25)
    np.testing.assert_allclose(together[:4], resampled_means(scores, resamples=50))


def test_resampled_means__cover_the_true_mean_about_as_often_as_they_say():
    generator = np.random.default_rng(0)
    samples = generator.beta(2, 5, (300, 200))  # a column an experiment of 300 queries
    low, high = percentile_intervals(resampled_means(samples, resamples=400)).T
    assert 0.90 <= ((low < 2 / 7) & (high > 2 / 7)).mean() <= 0.99


def test_resampled_means__of_one_query_is_its_score():
    np.testing.assert_array_equal(
        resampled_means(np.array([[0.5, 1]]), resamples=2), [[0.5] * 2, [1] * 2]
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_resampled_means__rejects_what_is_not_finite(bad):
    with pytest.raises(ValueError, match="expected finite scores"):
        resampled_means(np.array([[0.5], [bad]]))


@pytest.mark.parametrize("shape", [(0, 2), (3, 0), (3,)])
def test_resampled_means__rejects_another_shape(shape):
    with pytest.raises(ValueError, match=r"expected scores of shape \(nq, columns\)"):
        resampled_means(np.zeros(shape))


def test_seed_interval__needs_three_seeds():
    assert seed_interval([0.1, 0.3]) is None
    # Of 27 draws one gives each end: more than 2.5 %, so that the ends are the interval.
    assert seed_interval([0.1, 0.2, 0.4]) == pytest.approx([0.1, 0.4])
    low, high = seed_interval([0.1, 0.2, 0.3, 0.4, 0.5])
    assert 0.1 < low < 0.3 < high < 0.5


def test_paired_p__by_hand():
    # Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), t = 2 sqrt(3) with 2 degrees.
    a, b = np.array([2.0, 4, 6]), np.array([1.0, 2, 3])
    t = 2 * np.sqrt(3)
    assert paired_p(a, b) == pytest.approx(1 - t / np.sqrt(t**2 + 2))
    assert paired_p(b, a) == paired_p(a, b)


def test_paired_p__agrees_with_the_permutation_test():
    generator = np.random.default_rng(5)
    a = generator.random(120)
    b = a + generator.normal(-0.025, 0.1, 120)
    permuted = stats.permutation_test(
        (a, b),
        lambda x, y, axis: (x - y).mean(axis),
        permutation_type="samples",
        n_resamples=2000,
        rng=generator,
    )
    assert 0.001 < permuted.pvalue < 0.2  # neither too plain nor too faint to tell
    assert paired_p(a, b) == pytest.approx(permuted.pvalue, abs=0.02)


def test_paired_p__where_differences_do_not_vary():
    a = np.array([0.0, 0.5, 1, 1])
    assert paired_p(a, a.copy()) == 1
    assert paired_p(np.ones(4), np.zeros(4)) == 2 / 2**4


@pytest.mark.parametrize("shape", [(3,), (0,), (4, 1)])
def test_paired_p__rejects_unequal_queries(shape):
    with pytest.raises(ValueError, match=r"expected scores of one shape \(nq,\)"):
        paired_p(np.zeros(4 if shape == (3,) else shape), np.zeros(shape))


def test_holm__by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == [1, 1]
    assert holm([]) == []


def row(method, value, search="adc", size=8, reference=False):
    metrics = {"map@10": value}
    return Row(method, 8 * size, size, search, metrics, 0, 0, 0, reference=reference)


def compared(rows, **options):
    generator = np.random.default_rng(0)
    noise = generator.normal(0, 0.02, (400, len(rows)))
    scores = generator.random((400, 1)) + noise - noise.mean(0)
    scores += np.array([row.metrics["map@10"] for row in rows]) - scores.mean(0)
    return compare(rows, list(scores.T), list(resampled_means(scores)), "map@10", **options)


def test_compare__the_best_against_every_other_method_at_its_bytes():
    rows = [
        row("A", 0.50),
        row("B", 0.60, "sdc"),
        row("B", 0.61),
        row("C", 0.6095),
        row("exact", 0.9, size=512, reference=True),
        row("decoded", 0.63, reference=True),
        row("A", 0.3, size=4),
        row("D", 0.2, size=4),
        row("alone", 0.2, size=2),
    ]
    found = compared(rows)
    assert [(one.bytes_per_vector, one.method, one.search, one.other) for one in found] == [
        (4, "A", "adc", "D"),
        (8, "B", "adc", "decoded"),  # a reference: never the best, but at the same bytes
        (8, "B", "adc", "C"),
        (8, "B", "adc", "A"),
    ]
    for one, difference in zip(found, (0.1, -0.02, 0.0005, 0.11), strict=True):
        assert one.difference == pytest.approx(difference)
        assert one.interval[0] < difference < one.interval[1]
        assert one.interval[1] - one.interval[0] < 0.01  # of the same queries: narrow
    assert [one.p < 0.001 for one in found] == [True, True, False, True]
    assert [one.p for one in found] == holm([one.p_single for one in found])


def test_compare__a_chosen_method():
    rows = [row("A", 0.5), row("B", 0.6), row("B", 0.2, size=4), row("A", 0.3, size=4)]
    found = compared(rows, method="A")
    assert [(one.method, one.other, round(one.difference, 6)) for one in found] == [
        ("A", "B", 0.1),
        ("A", "B", -0.1),
    ]
    rows.append(row("decoded", 0.9, reference=True))
    assert [one.other for one in compared(rows, method="A")] == ["B", "decoded", "B"]
    for name in ("Z", "decoded"):
        message = rf"expected a method of \['A', 'B'\], got '{name}'"
        with pytest.raises(ValueError, match=message):
            compared(rows, method=name)
