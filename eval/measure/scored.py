"""Rows of results out of scores of queries: seeds merged, intervals and comparisons added."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from faiss_pqvae.messages import suggestion
from faiss_pqvae.types import DoubleArray

from ..data.protocol import Scores
from ..data.selections import Selection
from ..methods.method import Method
from .confidence import (
    compare,
    percentile_intervals,
    resampled_means,
    seed_interval,
    settings,
)
from .raw import Costs, read_scores
from .results import EXACT, RECALL, Filtered, Results, Row, main_metric


@dataclass(frozen=True, eq=False)
class Measured:
    """One search of one method, without what was returned.

    Attributes:
        method: what was measured.
        search: its search setting.
        key: of the raw results.
        scores: what the answers were worth.
        costs: what it took.
        among: the filter that it was asked with.
    """

    method: Method
    search: str
    key: str
    scores: Scores
    costs: Costs
    among: Selection | None = None


def with_rows(results: Results, measured: Sequence[Measured]) -> Results:
    """The results with a row for everything measured, intervals and comparisons.

    Methods that differ in nothing but their seed are one row: its metrics are means over the
    seeds, its intervals those of each query's mean over the seeds.
    """
    whole = _groups(one for one in measured if one.among is None)
    rows = tuple(_row(group, results) for group in whole)
    filtered = tuple(
        _filtered(group, results) for group in _groups(one for one in measured if one.among)
    )
    scores = [_mean_scores([one.scores for one in group]) for group in whole]
    return with_confidence(replace(results, rows=rows, filtered=filtered), scores)


def _groups(measured: Iterable[Measured]) -> list[list[Measured]]:
    """What differs in nothing but the seed."""
    groups: dict[str, list[Measured]] = {}
    for one in measured:
        groups.setdefault(_but_for_seed(one), []).append(one)
    return [*groups.values()]


def _filtered(group: Sequence[Measured], results: Results) -> Filtered:
    first = group[0]
    assert first.among is not None
    scores = _mean_scores([one.scores for one in group])
    ends = percentile_intervals(resampled_means(np.stack([*scores.values()], axis=1)))
    search_s = float(np.mean([one.costs.search_s for one in group]))
    return Filtered(
        method=first.method.name,
        bits=first.method.bits,
        bytes_per_vector=first.costs.code_size,
        search=first.search,
        among=first.among.name,
        n_items=first.among.n_items,
        how=first.costs.filtered_by,
        metrics={name: float(values.mean()) for name, values in scores.items()},
        queries_per_s=results.n_queries / search_s if search_s > 0 else None,
        intervals=dict(zip(scores, ends.tolist(), strict=True)),
        reference=first.method.reference,
        keys=[one.key for one in group],
    )


def with_confidence(
    results: Results,
    scores: Sequence[Mapping[str, DoubleArray]],
    *,
    method: str | None = None,
    metric: str | None = None,
) -> Results:
    """The results with intervals and comparisons.

    Args:
        results: with rows.
        scores: for each row, by metric, (nq,) float64 scores.
        method: what to compare with the others; by default the best at each number of bytes.
        metric: by which to compare; by default the main one.

    Raises:
        ValueError: no row has the method or the metric.
    """
    places = [(i, name) for i, found in enumerate(scores) for name in found]
    if not places:
        return results
    means = resampled_means(np.stack([scores[i][name] for i, name in places], axis=1))
    intervals: list[dict[str, list[float]]] = [{} for _ in results.rows]
    for (i, name), ends in zip(places, percentile_intervals(means).tolist(), strict=True):
        intervals[i][name] = ends
    shares = _kept(results.rows, places, means)
    rows = [
        replace(row, intervals=found, kept=share, kept_intervals=ends)
        for row, found, (share, ends) in zip(results.rows, intervals, shares, strict=True)
    ]
    metric = main_metric(results) if metric is None else metric
    has = [i for i, found in enumerate(scores) if metric in found]
    if not has:
        known = sorted({name for _, name in places})
        raise ValueError(f"expected a metric of {known}, got {metric!r}{suggestion(metric, known)}")
    comparisons = compare(
        [rows[i] for i in has],
        [scores[i][metric] for i in has],
        [means[places.index((i, metric))] for i in has],
        metric,
        method=method,
    )
    return replace(results, rows=tuple(rows), comparisons=tuple(comparisons), confidence=settings())


_Kept = tuple[dict[str, float], dict[str, list[float]]]


def _kept(
    rows: Sequence[Row], places: Sequence[tuple[int, str]], means: DoubleArray
) -> list[_Kept]:
    """Of every row, by metric, its share of what the exact search has, and the interval.

    Args:
        rows: of results.
        places: the row and the metric of each line of `means`.
        means: (places, resamples) float64, resampled together.
    """
    found: list[_Kept] = [({}, {}) for _ in rows]
    exact = next((i for i, row in enumerate(rows) if row.search == EXACT), None)
    if exact is None:
        return found
    ceilings = {name: at for at, (i, name) in enumerate(places) if i == exact}
    for at, (i, name) in enumerate(places):
        ceiling = ceilings.get(name)
        if i == exact or ceiling is None or RECALL.fullmatch(name):
            continue
        shares, ends = found[i]
        if rows[exact].metrics[name] > 0:
            shares[name] = rows[i].metrics[name] / rows[exact].metrics[name]
        if means[ceiling].all():  # a draw without a relevant item has no share
            ends[name] = percentile_intervals(means[at] / means[ceiling]).tolist()
    return found


def stored_scores(results: Results, out: str | Path) -> list[dict[str, DoubleArray]]:
    """The scores of every row, read from the files of its run: no data are needed.

    Raises:
        FileNotFoundError: the run was made without them, or they are gone.
        ValueError: a file is corrupt.
    """
    return [
        _mean_scores([read_scores(Path(out), key) for key in row.keys or [row.key]])
        for row in results.rows
    ]


def _but_for_seed(one: Measured) -> str:
    """Equal for searches that differ in nothing but the seed of their method."""
    method = one.method
    among = "" if one.among is None else f"{one.among.name} {one.among.key}"
    what = [method.name, method.bits, one.search, among, method.reference]
    return json.dumps([*what, _without_seeds(method.config)], sort_keys=True)


def _without_seeds(config: Any) -> Any:
    if isinstance(config, dict):
        return {name: _without_seeds(part) for name, part in config.items() if name != "seed"}
    return config


def _row(group: Sequence[Measured], results: Results) -> Row:
    first = group[0]
    add_s = float(np.mean([one.costs.add_s for one in group]))
    search_s = float(np.mean([one.costs.search_s for one in group]))
    peak_bytes = _means(one.costs.peak_bytes for one in group)
    values = {
        name: [float(one.scores.per_query[name].mean()) for one in group]
        for name in first.scores.per_query
    }
    several = len(group) > 1
    of_seeds = {name: seed_interval(found) for name, found in values.items()} if several else {}
    return Row(
        method=first.method.name,
        bits=first.method.bits,
        bytes_per_vector=first.costs.code_size,
        search=first.search,
        metrics={name: float(np.mean(found)) for name, found in values.items()},
        train_s=float(np.mean([one.costs.train_s for one in group])),
        add_s=add_s,
        search_s=search_s,
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
        seed_deviations=(
            {name: float(np.std(found, ddof=1)) for name, found in values.items()}
            if several
            else {}
        ),
        marked=first.method.marked,
        trained_on=first.costs.trained_on,
        model_bytes=first.costs.model_bytes,
        encode_us=1e6 * add_s / results.n_database,
        queries_per_s=_mean(
            one.costs.queries_per_s or (results.n_queries / search_s if search_s > 0 else None)
            for one in group
        ),
        index_bytes=first.costs.index_bytes,
        latency_ms=_means(one.costs.latency_ms for one in group),
        n_single=min(one.costs.n_single for one in group),
        peak_bytes={name: round(size) for name, size in peak_bytes.items()},
    )


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of values that are all known; else None."""
    known = list(values)
    return None if None in known else float(np.mean(np.array(known, np.float64)))


def _means(values: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The means by name, of what all have."""
    known = list(values)
    names = [name for name in known[0] if all(name in one for one in known)]
    return {name: float(np.mean([one[name] for one in known])) for name in names}


def _mean_scores(group: Sequence[Scores]) -> dict[str, DoubleArray]:
    """Of every query the mean over the seeds, by metric."""
    return {
        name: np.mean([scores.per_query[name] for scores in group], axis=0)
        for name in group[0].per_query
    }
