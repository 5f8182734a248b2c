"""The report's figures of results: metrics, differences, curves, speed and seeds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from ..measure.results import Comparison, Results, Row, speed_of
from ..metrics.recalls import pareto
from .shown import Shown, best_settings, search_type
from .svg import (
    INK,
    LINES,
    PANEL_INCHES,
    Drawing,
    inline,
    inline_panels,
    label_text,
    legend_of,
)
from .text import cite, metric_label

Styles = dict[str, dict[str, Any]]
LIST_BYTES = 2  # the most that an inverted list's number adds to a code, up to 65,536 lists
_DRAWN = 3  # rows at least, of those whose speeds are compared
_WHISKERS: dict[str, Any] = {"capsize": 3, "elinewidth": 1.2}
# What nothing else beats in both quantities of a figure.
_FRONT: dict[str, Any] = {
    "color": INK,
    "lw": 5,
    "alpha": 0.15,
    "label": "Pareto front",
    "zorder": 0,
}


def result_figures(page: Shown, styles: Styles) -> list[Drawing]:
    """All figures of rows that these have the numbers for."""
    results, name = page.results, page.metric
    compared = [row for row in page.rows if name in row.metrics]
    yardsticks = [row for row in page.yardsticks if name in row.metrics]
    # Those of the bytes that are compared are drawn among them.
    beside = [row for row in page.references if name in row.metrics and row not in yardsticks]
    lengths = sorted({row.bits for row in compared})
    figures = []
    best = [*best_settings(compared, name), *beside]
    if compared and len({row.bits for row in best}) > 1:
        figures.append(_bits_figure(best, yardsticks, name, styles))
    for rows in _of_like_bytes([row for row in compared if speed_of(row, results.n_queries)]):
        sizes = {row.bytes_per_vector for row in rows}
        stars = [*yardsticks, *(row for row in beside if row.bytes_per_vector in sizes)]
        figures.append(_speed_figure(rows, stars, name, results.n_queries, styles))
    for bits in lengths:
        rows = [row for row in compared if row.bits == bits]
        others = [*(row for row in beside if row.bits == bits), *yardsticks]
        shown = [row for row in (*best_settings(rows, name), *others) if row.curves]
        if shown and all(row.curves.keys() == shown[0].curves.keys() for row in shown):
            figures.append(_curves_figure(bits, shown, styles))
    return figures + ([_seeds_figure(page.seeded, name, styles)] if page.seeded else [])


def comparison_figures(results: Results, styles: Styles) -> list[Drawing]:
    """A forest plot of the comparisons, where there are any."""
    if not results.comparisons:
        return []
    return [_differences_figure(results.comparisons, styles)]


def _bits_figure(
    rows: Sequence[Row], references: Sequence[Row], name: str, styles: Styles
) -> Drawing:
    figure = Figure(figsize=(PANEL_INCHES, 3.6), layout="constrained")
    axes = figure.subplots()
    series: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.bits):
        series.setdefault((row.method, search_type(row)), []).append(row)
    lengths = sorted({row.bits for row in rows})
    step = min((b - a for a, b in itertools.pairwise(lengths)), default=8)
    for i, ((method, search), found) in enumerate(series.items()):
        # Side by side by a little: whiskers of equal values would hide each other.
        shift = step * 0.1 * (i / max(1, len(series) - 1) - 0.5)
        axes.errorbar(
            [row.bits + shift for row in found],
            [100 * row.metrics[name] for row in found],
            yerr=_whiskers(found, name),
            label=label_text(cite(method, search) if search else method),
            **_WHISKERS,
            **(styles[method] | LINES.get(search, {})),
        )
    points = np.array([(-row.bits, 100 * row.metrics[name]) for row in rows if not row.reference])
    front = points[pareto(points)][::-1].T
    axes.step(-front[0], front[1], where="post", **_FRONT)
    for row in references:
        level = 100 * row.metrics[name]
        axes.axhline(level, label=label_text(row.method), **styles[row.method])
    axes.set(xlabel="bits per vector", ylabel=f"{metric_label(name)} [%]")
    axes.set_xticks(lengths)
    axes.grid(visible=False, axis="x")
    drawn = inline_panels([figure, legend_of(axes)], "bits")
    note = "Whiskers: 95 % bootstrap intervals over the queries." if _has(rows, name) else ""
    return Drawing(f"{metric_label(name)} by code length", drawn, note)


def _whiskers(rows: Sequence[Row], name: str) -> Any:
    """Distances from a metric to the ends of its interval, in percent; none without intervals."""
    if not _has(rows, name):
        return None
    ends = [[100 * end for end in row.intervals[name]] for row in rows]
    values = [100 * row.metrics[name] for row in rows]
    # A percentile interval need not hold the mean itself.
    low = [max(0.0, value - end[0]) for value, end in zip(values, ends, strict=True)]
    high = [max(0.0, end[1] - value) for value, end in zip(values, ends, strict=True)]
    return [low, high]


def _has(rows: Sequence[Row], name: str) -> bool:
    return all(name in row.intervals for row in rows)


def _differences_figure(comparisons: Sequence[Comparison], styles: Styles) -> Drawing:
    """A forest plot: a panel a number of bytes, a line a method, zero is the best method."""
    groups: dict[tuple[int, str], list[Comparison]] = {}
    for one in comparisons:
        key = one.bytes_per_vector, cite(one.method, one.search)
        groups.setdefault(key, []).append(one)
    sizes = [len(group) for group in groups.values()]
    figure = Figure(
        figsize=(PANEL_INCHES, 0.3 + sum(0.62 + 0.25 * size for size in sizes)),
        layout="constrained",
    )
    panels = figure.subplots(
        len(sizes), 1, sharex=True, squeeze=False, height_ratios=[0.6 + size for size in sizes]
    )
    for axes, ((size, best), group) in zip(panels[:, 0], groups.items(), strict=True):
        axes.axvline(0, color=INK, lw=1)
        for i, one in enumerate(group):
            value, (low, high) = 100 * one.difference, (100 * end for end in one.interval)
            axes.errorbar(
                [value],
                [i],
                xerr=[[max(0.0, value - low)], [max(0.0, high - value)]],
                **_WHISKERS,
                **(styles.get(one.other, {"color": INK, "marker": "o"}) | {"ls": "none"}),
            )
        labels = [label_text(cite(one.other, one.other_search)) for one in group]
        axes.set_yticks(range(len(group)), labels)
        axes.set_ylim(len(group) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        title = f"{size:,} bytes: {label_text(best)} against"
        axes.set_title(title, loc="right", fontsize=10)
    metric = metric_label(comparisons[0].metric)
    figure.supxlabel(f"difference in {metric} [percentage points]", fontsize=10)
    note = (
        "Mean difference over the same queries, with its 95 % bootstrap interval: "
        "clear of the line, the first method is better than the other."
    )
    return Drawing(f"Differences in {metric}, query by query", inline(figure, "differences"), note)


def _curves_figure(bits: int, rows: Sequence[Row], styles: Styles) -> Drawing:
    quantities = [quantity for quantity in rows[0].curves if quantity != "k"]
    panels = [Figure(figsize=(PANEL_INCHES, 3.4), layout="constrained") for _ in quantities]
    for figure, quantity in zip(panels, quantities, strict=True):
        axes = figure.subplots()
        for row in rows:
            axes.plot(
                row.curves["k"],
                [100 * value for value in row.curves[quantity]],
                label=label_text(cite(row.method, row.search)),
                **(styles[row.method] | LINES.get(row.search, {})),
            )
        axes.set(xlabel="k", ylabel=f"{_at_k(quantity)} [%]", xscale="log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    drawn = inline_panels([*panels, legend_of(panels[0].axes[0])], f"curves{bits}")
    title = " and ".join(quantities)
    return Drawing(f"{title[:1].upper()}{title[1:]} at {bits} bits", drawn)


def _of_like_bytes(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of a size; those of several search settings with those of flat codes below them.

    An inverted file's code has the list's number, a byte or two, besides what a flat code has.
    """
    settings: dict[int, set[str]] = {row.bytes_per_vector: set() for row in rows}
    for row in rows:
        if "=" in row.search:
            settings[row.bytes_per_vector].add(row.search)
    swept = {size for size, found in settings.items() if len(found) > 1}
    groups: dict[int, set[int]] = {}
    for size in sorted(settings):
        flat = [other for other in settings.keys() - swept if 0 < size - other <= LIST_BYTES]
        groups.setdefault(max(flat, default=size) if size in swept else size, set()).add(size)
    found = [
        [row for row in rows if row.bytes_per_vector in sizes | {base}]
        for base, sizes in sorted(groups.items())
    ]
    return [group for group in found if len(group) >= _DRAWN]


def _at_k(quantity: str) -> str:
    return quantity if quantity.endswith("@k") else f"{quantity}@k"


def _speed_figure(
    rows: Sequence[Row], references: Sequence[Row], name: str, n_queries: int, styles: Styles
) -> Drawing:
    """The metric against queries per second, and what nothing else beats in both."""
    figure = Figure(figsize=(PANEL_INCHES, 3.6), layout="constrained")
    axes = figure.subplots()
    speeds = {id(row): speed_of(row, n_queries) or 0.0 for row in (*rows, *references)}
    timed = sorted(rows, key=lambda row: -speeds[id(row)])
    series: dict[tuple[str, int], list[Row]] = {}
    for row in timed:
        series.setdefault((row.method, row.bytes_per_vector), []).append(row)
    for (method, size), found in series.items():
        axes.errorbar(
            [speeds[id(row)] for row in found],
            [100 * row.metrics[name] for row in found],
            yerr=_whiskers(found, name),
            label=label_text(f"{method}, {size:,} bytes"),
            **_WHISKERS,
            **(styles[method] | {"lw": 1, "ls": "-" if len(found) > 1 else "none"}),
        )
    points = np.array([(speeds[id(row)], 100 * row.metrics[name]) for row in timed])
    axes.step(*points[pareto(points)].T, where="pre", **_FRONT)
    for row in references:
        if speeds[id(row)]:
            point, label = (speeds[id(row)], 100 * row.metrics[name]), row.method
            style = styles[label] | {"marker": "*", "ms": 9, "ls": "none"}
            axes.plot(*point, label=label_text(label), **style)
    axes.set(xlabel="queries per second", ylabel=f"{metric_label(name)} [%]", xscale="log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1,)))
    axes.xaxis.set_major_formatter("{x:,.6g}")
    axes.xaxis.set_minor_locator(NullLocator())
    sizes = sorted({row.bytes_per_vector for row in rows})
    text = f"{sizes[0]:,} bytes" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,} bytes"
    note = "Up and to the right is better. All queries in batches, on the threads named below."
    title = f"{metric_label(name)} against speed at {text}"
    drawn = inline_panels([figure, legend_of(axes)], f"speed{sizes[0]}")
    return Drawing(title, drawn, note)


def _seeds_figure(rows: Sequence[Row], name: str, styles: Styles) -> Drawing:
    """A dot a seed, and the interval of their mean where there are three or more."""
    figure = Figure(figsize=(PANEL_INCHES, 0.8 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for i, row in enumerate(rows):
        style: dict[str, Any] = {"marker": "o"} | styles[row.method] | {"ls": "none"}
        values = [100 * value for value in row.seeds[name]]
        axes.plot(values, [i] * len(values), alpha=0.7, **style)
        if name in row.seed_intervals:
            low, high = (100 * end for end in row.seed_intervals[name])
            axes.plot([low, high], [i, i], color=style["color"], lw=5, alpha=0.3)
    labels = [f"{cite(row.method, row.search)}, {row.bits:,} bits" for row in rows]
    axes.set_yticks(range(len(rows)), [label_text(label) for label in labels])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"{metric_label(name)} [%]")
    note = "A dot is a training with its own seed; the bar is the bootstrap interval of their mean."
    return Drawing("Seeds", inline(figure, "seeds"), note)
