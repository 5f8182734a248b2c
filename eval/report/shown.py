"""What a page shows of results, each figure worked out once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..measure.failures import lines_of
from ..measure.results import (
    Results,
    Row,
    best_rows,
    main_metric,
    metric_names,
    quality_metric,
    ranked_rows,
    sort_rows,
    speed_of,
)

TRAINED_ON = "trained on"
OF_ITEMS = ["train s", "add s", "search s"]
# Headings of costs of vectors, which have a speed that is compared, and a model that counts.
OF_VECTORS = ["train s", "encode us", "queries/s", "p99 ms", "model bytes", TRAINED_ON]

BESIDE_JUDGED = ["encode us", "queries/s", "model bytes", TRAINED_ON]
ALL_COSTS = [
    *("train s", "encode us", "queries/s", "p50 ms", "p95 ms", "p99 ms", "index bytes"),
    *("train MB", "add MB", "search MB"),
]


@dataclass(frozen=True, eq=False)
class Shown:
    """Results, and what tables, figures and sentences have in common.

    Attributes:
        results: of a run.
        metrics: names of those that are printed.
        metric: the one that decides which row is best.
        quality: the one whose share of exact search's is shown; None shows none.
        rows: what is compared, by bits, then the best first.
        references: the others, sorted.
        yardsticks: of these the ones with bytes of their own, such as exact search.
        best: of the rows the best at every number of bytes.
        bits: the code length that most methods have.
        costs: headings of what rows took and keep, see `costs_of`.
        left_out: a line for every method that has no row.
        seeded: rows of several seeds.
    """

    results: Results
    metrics: list[str]
    metric: str
    quality: str | None
    rows: list[Row]
    references: list[Row]
    yardsticks: list[Row]
    best: list[Row]
    bits: int
    costs: list[str]
    left_out: list[str]
    seeded: list[Row]


def spread_of(row: Row, metric: str) -> tuple[float, float, float, float]:
    """Of a row of several seeds: mean, standard deviation, lowest and highest of a metric."""
    values = row.seeds[metric]
    return float(np.mean(values)), float(np.std(values, ddof=1)), min(values), max(values)


def shown(results: Results) -> Shown:
    """What results have to show."""
    metric = main_metric(results)
    rows = ranked_rows((row for row in results.rows if not row.reference), metric)
    references = sort_rows(row for row in results.rows if row.reference)
    sizes = {row.bytes_per_vector for row in rows}
    return Shown(
        results=results,
        metrics=metric_names(results),
        metric=metric,
        quality=quality_metric(results),
        rows=rows,
        references=references,
        yardsticks=[row for row in references if row.bytes_per_vector not in sizes],
        best=best_rows(results),
        bits=common_bits(results.rows),
        costs=_costs(metric, quality_metric(results)),
        left_out=lines_of(results.left_out),
        seeded=[row for row in rows if len(row.seeds.get(metric, ())) > 1],
    )


def _costs(metric: str, quality: str | None) -> list[str]:
    """Headings: few beside many metrics, since a table of all costs follows on the page."""
    if metric.startswith("map@"):
        return OF_ITEMS
    return OF_VECTORS if quality is None else BESIDE_JUDGED


def kept_text(row: Row, metric: str) -> str:
    """What a row keeps of exact search's quality, in percent, with its interval; "-" of itself."""
    if metric not in row.kept:
        return "-"
    text = f"{100 * row.kept[metric]:.1f}"
    ends = row.kept_intervals.get(metric)
    return text if ends is None else f"{text} [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]"


def costs_of(page: Shown, row: Row) -> list[str]:
    """What a row took and keeps, a text under each heading of `page.costs`; "-" is not known.

    What is made of seconds is there for older files, too.
    """
    speed = speed_of(row, page.results.n_queries)
    texts = {
        "train s": f"{row.train_s:,.2f}",
        "add s": f"{row.add_s:,.2f}",
        "search s": f"{row.search_s:,.2f}",
        "encode us": f"{1e6 * row.add_s / page.results.n_database:,.1f}",
        "queries/s": "-" if speed is None else f"{speed:,.0f}",
        "p99 ms": f"{row.latency_ms['p99']:,.2f}" if "p99" in row.latency_ms else "-",
        "model bytes": "-" if row.model_bytes is None else f"{row.model_bytes:,}",
        TRAINED_ON: row.trained_on.removesuffix(" items") or "-",
    }
    return [texts[name] for name in page.costs]


def all_costs(page: Shown) -> list[tuple[Row, list[str]]]:
    """Every row with all that it took, a text under each of `ALL_COSTS`; "-" is not known."""
    return [(row, _all_costs(page, row)) for row in (*page.rows, *page.references)]


def _all_costs(page: Shown, row: Row) -> list[str]:
    speed = speed_of(row, page.results.n_queries)
    latencies = [row.latency_ms.get(name) for name in ("p50", "p95", "p99")]
    memory = [row.peak_bytes.get(phase) for phase in ("train", "add", "search")]
    return [
        f"{row.train_s:,.2f}",
        f"{1e6 * row.add_s / page.results.n_database:,.1f}",
        "-" if speed is None else f"{speed:,.0f}",
        *("-" if value is None else f"{value:,.3g}" for value in latencies),
        "-" if row.index_bytes is None else f"{row.index_bytes:,}",
        *("-" if value is None else f"{value / 1e6:,.0f}" for value in memory),
    ]


def common_bits(rows: Iterable[Row]) -> int:
    """The code length that most methods have; the largest of several, 0 of none."""
    methods: dict[int, set[str]] = {}
    for row in rows:
        if not row.reference:
            methods.setdefault(row.bits, set()).add(row.method)
    return max(methods, key=lambda bits: (len(methods[bits]), bits), default=0)


def best_settings(rows: Iterable[Row], name: str) -> list[Row]:
    """Rows without those search parameters ("nprobe=4") that another row does better with."""
    best: dict[tuple[str, int, str], Row] = {}
    for row in rows:
        key = row.method, row.bits, search_type(row)
        if key not in best or row.metrics.get(name, 0) > best[key].metrics.get(name, 0):
            best[key] = row
    return list(best.values())


def search_type(row: Row) -> str:
    """The search setting without its parameters: "adc", or nothing."""
    return ",".join(part for part in row.search.split(",") if "=" not in part)
