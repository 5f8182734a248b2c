"""How fast an index answers: batches of queries, and single ones with their slowest."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.protocol import Evaluated
from ..methods.method import Searchable

REPEATS = 3  # timings of which the median counts, where there are not more batches
PERCENTILES = (50, 95, 99)
SINGLE = 200  # queries that are asked one by one, where the time allows
LEAST_SINGLE = 20
WARM_UP = 3  # queries that are not counted
# What all this may take beside the one pass over the queries that results come from.
SHARE, LEAST_S = 0.04, 0.3


@dataclass(frozen=True)
class Speed:
    """What a search of an index takes, on the threads that the process has.

    Attributes:
        queries_per_s: in batches, the median of several.
        latency_ms: milliseconds of a query that is asked alone: "p50", "p95" and "p99".
        n_single: how many were asked alone.
    """

    queries_per_s: float
    latency_ms: dict[str, float]
    n_single: int


def measured_speed(
    data: Evaluated, index: Searchable, k: int, batches: Sequence[tuple[int, float]]
) -> Speed:
    """The speed of an index that has answered all queries.

    Args:
        data: its queries.
        index: filled, and warm by what it did before.
        k: results per query.
        batches: rows and seconds of each call of the pass over all queries.
    """
    spent = sum(seconds for _, seconds in batches)
    budget = max(LEAST_S, SHARE * spent)
    return Speed(_throughput(data, index, k, batches, budget / 2), *_single(data, index, k, budget))


def _throughput(
    data: Evaluated,
    index: Searchable,
    k: int,
    batches: Sequence[tuple[int, float]],
    budget: float,
) -> float:
    """Queries a second: the median over calls with as many queries as the largest."""
    most = max(rows for rows, _ in batches)
    seconds = [elapsed for rows, elapsed in batches if rows == most]
    xq = data.queries[:most]
    started = time.perf_counter()
    while len(seconds) < REPEATS and time.perf_counter() - started + min(seconds) < budget:
        seconds.append(_seconds(index, xq, k))
    return most / max(statistics.median(seconds), 1e-9)


def _single(
    data: Evaluated, index: Searchable, k: int, budget: float
) -> tuple[dict[str, float], int]:
    """Percentiles of the milliseconds of single queries, spread over all, and how many."""
    places = np.linspace(0, len(data.queries) - 1, min(SINGLE, len(data.queries))).astype(np.int64)
    places = np.random.default_rng(0).permutation(places)  # a budget may end it
    for place in places[:WARM_UP]:
        _seconds(index, data.queries[int(place) : int(place) + 1], k)
    found: list[float] = []
    started = time.perf_counter()
    for place in places:
        if len(found) >= LEAST_SINGLE and time.perf_counter() - started > budget:
            break
        found.append(_seconds(index, data.queries[int(place) : int(place) + 1], k))
    values = 1000 * np.percentile(found, PERCENTILES)
    names = (f"p{percentile}" for percentile in PERCENTILES)
    return dict(zip(names, values.tolist(), strict=True)), len(found)


def _seconds(index: Searchable, xq: Any, k: int) -> float:
    started = time.perf_counter()
    index.search(xq, k)
    return time.perf_counter() - started
