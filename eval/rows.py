"""Rows of results out of scores of queries: seeds merged, intervals and comparisons added."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from faiss_pqvae.eval.confidence import (
    Floats,
    compare,
    percentile_intervals,
    resampled_means,
    seed_interval,
    settings,
)
from faiss_pqvae.eval.data import Scores
from faiss_pqvae.eval.methods import Method
from faiss_pqvae.eval.results import Results, Row, main_metric


@dataclass(frozen=True, eq=False)
class Measured:
    """One search of one method, without what was returned.

    Attributes:
        method: what was measured.
        search: its search setting.
        key: of the raw results.
        scores: what the answers were worth.
        bytes_per_vector: of the built index.
        train_s: seconds.
        add_s: seconds.
        search_s: seconds.
    """

    method: Method
    search: str
    key: str
    scores: Scores
    bytes_per_vector: int
    train_s: float
    add_s: float
    search_s: float


def with_rows(results: Results, measured: Sequence[Measured]) -> Results:
    """The results with a row for everything measured, intervals and comparisons.

    Methods that differ in nothing but their seed are one row: its metrics are means over the
    seeds, its intervals those of each query's mean over the seeds.
    """
    groups: dict[str, list[Measured]] = {}
    for one in measured:
        groups.setdefault(_but_for_seed(one), []).append(one)
    rows = [_row(group) for group in groups.values()]
    scores = [_mean_scores([one.scores for one in group]) for group in groups.values()]
    places = [(i, name) for i, found in enumerate(scores) for name in found]
    means = resampled_means(np.stack([scores[i][name] for i, name in places], axis=1))
    intervals = percentile_intervals(means)
    for (i, name), ends in zip(places, intervals.tolist(), strict=True):
        rows[i].intervals[name] = ends
    results = replace(results, rows=tuple(rows), confidence=settings())
    metric = main_metric(results)
    has = [i for i, found in enumerate(scores) if metric in found]
    comparisons = compare(
        [rows[i] for i in has],
        [scores[i][metric] for i in has],
        [means[places.index((i, metric))] for i in has],
        metric,
    )
    return replace(results, comparisons=tuple(comparisons))


def _but_for_seed(one: Measured) -> str:
    """Equal for searches that differ in nothing but the seed of their method."""
    method = one.method
    return json.dumps(
        [method.name, method.bits, one.search, method.reference, _without_seeds(method.config)],
        sort_keys=True,
    )


def _without_seeds(config: Any) -> Any:
    if isinstance(config, dict):
        return {name: _without_seeds(part) for name, part in config.items() if name != "seed"}
    return config


def _row(group: Sequence[Measured]) -> Row:
    first = group[0]
    values = {
        name: [float(one.scores.per_query[name].mean()) for one in group]
        for name in first.scores.per_query
    }
    several = len(group) > 1
    of_seeds = {name: seed_interval(found) for name, found in values.items()} if several else {}
    return Row(
        method=first.method.name,
        bits=first.method.bits,
        bytes_per_vector=first.bytes_per_vector,
        search=first.search,
        metrics={name: float(np.mean(found)) for name, found in values.items()},
        train_s=float(np.mean([one.train_s for one in group])),
        add_s=float(np.mean([one.add_s for one in group])),
        search_s=float(np.mean([one.search_s for one in group])),
        config=first.method.config,
        curves={
            name: np.mean([one.scores.curves[name] for one in group], axis=0).tolist()
            for name in first.scores.curves
        },
        key=first.key,
        reference=first.method.reference,
        keys=[one.key for one in group],
        seeds=values if several else {},
        seed_intervals={name: ends for name, ends in of_seeds.items() if ends is not None},
    )


def _mean_scores(group: Sequence[Scores]) -> dict[str, Floats]:
    """Of every query the mean over the seeds, by metric."""
    return {
        name: np.mean([scores.per_query[name] for scores in group], axis=0)
        for name in group[0].per_query
    }
