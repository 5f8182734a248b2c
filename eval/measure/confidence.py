"""How sure a figure is: bootstrap intervals over queries and seeds, paired tests of two methods.

All methods answer the same queries, so that one resampling of the queries serves every method and
every metric: differences of two methods have intervals of their own, which are narrower than those
of the two. Efron and Tibshirani, An Introduction to the Bootstrap, 1993.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from faiss_pqvae.messages import suggestion
from faiss_pqvae.types import DoubleArray, IdArray

from .results import Comparison, Row

LEVEL = 0.95
RESAMPLES = 5000
SEED = 0
MIN_SEEDS = 3
_BATCH_ELEMENTS = 1 << 20  # query numbers drawn at once: 8 MiB


def settings() -> dict[str, Any]:
    """What the intervals and the p-values of a results file are, as JSON values."""
    return {
        "level": LEVEL,
        "resamples": RESAMPLES,
        "seed": SEED,
        "interval": "percentile bootstrap over queries",
        "test": "paired t-test over queries, Holm's correction",
    }


def resampled_means(
    scores: DoubleArray, *, resamples: int = RESAMPLES, seed: int = SEED
) -> DoubleArray:
    """Means of the scores over queries that are drawn with replacement, as many as there are.

    The statistic that scipy resamples is a list of query numbers: how often each was drawn, times
    the scores, is every column's mean at once.

    Args:
        scores: (nq, columns) float64, a column a method and metric.
        resamples: how many times all queries are drawn.
        seed: of the draws; the same draws for all columns.

    Returns:
        (columns, resamples) float64.

    Raises:
        ValueError: no query, no column, or a score that is NaN or infinite.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or scores.size == 0:
        raise ValueError(f"expected scores of shape (nq, columns), got {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("expected finite scores, got NaN or infinity")
    n = len(scores)
    if n == 1:  # scipy asks for two; one query drawn again is itself
        return np.repeat(scores.T, resamples, axis=1)

    def means(drawn: IdArray, axis: int) -> DoubleArray:
        lists = drawn.reshape(-1, n)
        counts = np.stack([np.bincount(one, minlength=n) for one in lists]).astype(np.float64)
        return np.moveaxis(counts @ scores / n, -1, 0).reshape(-1, *drawn.shape[:-1])

    from scipy import stats  # here: half a second that most imports of this module do not need

    found: Any = stats.bootstrap(
        (np.arange(n),),
        means,
        n_resamples=resamples,
        batch=max(1, _BATCH_ELEMENTS // n),
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    distribution: DoubleArray = found.bootstrap_distribution
    return distribution


def percentile_intervals(distribution: DoubleArray) -> DoubleArray:
    """The middle 95 % of resampled values.

    The percentile interval, not BCa: means of hundreds of scores between 0 and 1 are nearly
    normal, where the two agree, and BCa's jackknife costs as much again as the bootstrap.

    Args:
        distribution: (..., resamples) float64.

    Returns:
        (..., 2) float64, low and high.
    """
    ends = 50 * (1 - LEVEL), 50 * (1 + LEVEL)
    return np.moveaxis(np.percentile(distribution, ends, axis=-1), 0, -1)


def seed_interval(values: Sequence[float]) -> list[float] | None:
    """The bootstrap interval of the mean over seeds, None with fewer than three.

    With three seeds it is their range, and with few it is too narrow rather than too wide: it
    shows how much a training depends on its seed, and is no test.
    """
    if len(values) < MIN_SEEDS:
        return None
    low, high = percentile_intervals(resampled_means(np.array(values)[:, None])[0])
    return [float(low), float(high)]


def paired_p(a: DoubleArray, b: DoubleArray) -> float:
    """The p-value of "the two means are equal", two-sided, by a paired t-test.

    The t-test compares means, which is what is reported (Wilcoxon's signed ranks do not); on scores
    of hundreds of queries it agrees with the permutation test (Smucker, Allan and Carterette, CIKM
    2007; Urbano, Lima and Hanjalic, SIGIR 2019), which would cost thousands of passes. Where the
    differences do not vary at all, t is undefined: the permutation test of signs, which is then
    2 / 2**nq, or 1 for no difference, stands in.

    Args:
        a: (nq,) float64, scores of the one method.
        b: (nq,) float64, of the other, for the same queries.

    Raises:
        ValueError: the shapes differ, or there is no query.
    """
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise ValueError(f"expected scores of one shape (nq,), got {a.shape} and {b.shape}")
    difference = a - b
    if np.ptp(difference) == 0:
        return 1.0 if difference[0] == 0 else 2.0 * 0.5 ** len(a)
    from scipy import stats

    return float(stats.ttest_1samp(difference, 0.0).pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction of several p-values: the i-th smallest of m times m - i + 1, never falling.

    Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6, 1979. The
    chance that any of the comparisons is called a difference by mistake stays below the level,
    whatever depends on what.
    """
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    scaled = values[order] * np.arange(len(values), 0, -1)
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return [float(value) for value in corrected]


def compare(
    rows: Sequence[Row],
    scores: Sequence[DoubleArray],
    means: Sequence[DoubleArray],
    metric: str,
    *,
    method: str | None = None,
) -> list[Comparison]:
    """The best method at each number of bytes against every other at the same bytes.

    Each with its best search setting. The best is no reference, but is compared with those of its
    bytes, too. It is chosen by the same queries that it is tested on: a winner by a hair among many
    is flattered. p-values are corrected for all comparisons together; intervals stand for
    themselves.

    Args:
        rows: of one evaluation.
        scores: for each row (nq,) float64, the metric of every query (with several seeds the mean
            over them).
        means: for each row (resamples,) float64, `resampled_means` of it, of the same draws.
        metric: which one it is.
        method: compare this one with the others instead of the best.

    Raises:
        ValueError: `method` is no row's.
    """
    names = sorted({row.method for row in rows if not row.reference})
    if method is not None and method not in names:
        raise ValueError(f"expected a method of {names}, got {method!r}{suggestion(method, names)}")
    pairs: list[tuple[int, int]] = []
    compared = [i for i, row in enumerate(rows) if metric in row.metrics]
    compared.sort(key=lambda i: (rows[i].bytes_per_vector, -rows[i].metrics[metric]))
    for _, group in itertools.groupby(compared, key=lambda i: rows[i].bytes_per_vector):
        of_method: dict[str, int] = {}
        for i in group:  # best first: a method's best search setting
            of_method.setdefault(rows[i].method, i)
        own = [name for name, i in of_method.items() if not rows[i].reference]
        if own and (method is None or method in own):
            one = of_method.pop(own[0] if method is None else method)
            pairs += [(one, other) for other in of_method.values()]
    single = [paired_p(scores[best], scores[other]) for best, other in pairs]
    found = []
    for (best, other), p, corrected in zip(pairs, single, holm(single), strict=True):
        low, high = percentile_intervals(means[best] - means[other])
        found.append(
            Comparison(
                method=rows[best].method,
                search=rows[best].search,
                other=rows[other].method,
                other_search=rows[other].search,
                bits=rows[best].bits,
                bytes_per_vector=rows[best].bytes_per_vector,
                metric=metric,
                difference=float((scores[best] - scores[other]).mean()),
                interval=[float(low), float(high)],
                p=corrected,
                p_single=p,
            )
        )
    return found
