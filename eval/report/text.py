"""Results as aligned text for a terminal, and as sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..measure.results import (
    VECTOR_METRIC,
    Comparison,
    Results,
    Row,
    filtered_metrics,
    filtered_rows,
    speed_of,
)
from ..measure.stream import Stream
from ..measure.two_runs import TwoRuns
from .levels import levels
from .shown import TRAINED_ON, costs_of, kept_text, shown, spread_of

ALPHA = 0.05


def table(results: Results) -> str:
    """The rows by bits, the best first; shares in percent with half the width of intervals.

    Where exact search is among the rows, a column says what share of its quality is left. Of
    vectors they say what an item costs to encode, how many queries a second were answered, what is
    kept besides codes, and what was trained on. A star marks the best at every number of bytes,
    among the methods that are compared, ">" what the others are there to be compared with;
    references come below the line, and below all what has no row.
    """
    found = shown(results)
    names = found.metrics
    kept = [] if found.quality is None else [found.quality]
    head = ["method", "bits", "bytes", "search"]
    head += [f"{metric_label(name)}: % of exact" for name in kept]
    head += [*(f"{heading(name)} %" for name in names), *found.costs, ""]
    rows = (*found.rows, *found.references)
    cells = [
        [
            *(_marked(row), str(row.bits), str(row.bytes_per_vector), row.search),
            *(kept_text(row, name) for name in kept),
            *(_share(row, name) for name in names),
            *costs_of(found, row),
        ]
        for row in rows
    ]
    for row, of_row in zip(rows, cells, strict=True):
        of_row.append("*" if row in found.best else "")
    left = (0, 3, head.index(TRAINED_ON)) if TRAINED_ON in head else (0, 3)
    lines = _aligned([head, *cells], left=left)
    rule = lines[1]
    if found.references:
        lines.insert(2 + len(found.rows), rule)
    if found.left_out:
        lines += ["", "Not measured:", *(f"  {line}" for line in found.left_out)]
    return "\n".join(lines)


def filtered_table(results: Results) -> str:
    """The searches with filters, by filter and bits, the best first; empty with none."""
    if not results.filtered:
        return ""
    names = filtered_metrics(results)
    head = ["among", "items", "method", "bytes", "search", "filtered by"]
    cells = [[*head, *(f"{heading(one)} %" for one in names), "queries/s"]]
    for row in filtered_rows(results):
        code = [row.method, str(row.bytes_per_vector), row.search, row.how]
        shares = [f"{100 * row.metrics[x]:.2f}" if x in row.metrics else "-" for x in names]
        speed = "-" if row.queries_per_s is None else f"{row.queries_per_s:,.0f}"
        cells.append([row.among, f"{row.n_items:,.0f}", *code, *shares, speed])
    return "\n".join(["Searches with a filter:", *_aligned(cells, left=(0, 2, 4, 5))])


def levels_table(results: Results) -> str:
    """Who reaches which value of the main metric, the fastest first; empty without curves."""
    page = shown(results)
    found = levels(page)
    if not found:
        return ""
    lines = [f"Fastest settings by {metric_label(page.metric)} reached, queries a second:"]
    for level in found:
        told = (
            f"{cite(row.method, row.search)}, {row.bytes_per_vector} bytes: "
            f"{speed_of(row, results.n_queries):,.0f}"
            for row in level.rows
        )
        more = level.n_methods - len(level.rows)
        rest = f"; {more} more" if more else ""
        lines.append(f"  {100 * level.value:.0f} %: {'; '.join(told)}{rest}")
    return "\n".join(lines)


def seeds_table(results: Results) -> str:
    """Of rows of several seeds the mean of the main metric and how it spreads; empty with none."""
    found = shown(results)
    if not found.seeded:
        return ""
    head = ["method", "bits", "search", "seeds", "mean", "deviation", "lowest", "highest"]
    cells = []
    for row in found.seeded:
        n = len(row.seeds[found.metric])
        numbers = [f"{100 * value:.2f}" for value in spread_of(row, found.metric)]
        cells.append([_marked(row), str(row.bits), row.search, str(n), *numbers])
    lines = _aligned([head, *cells], left=(0, 2))
    return "\n".join([f"{metric_label(found.metric)} % over seeds:", *lines])


def comparison_table(results: Results) -> str:
    """The best method at each number of bytes against the others there; empty with nothing."""
    if not results.comparisons:
        return ""
    head = ["bytes", "best", "against", "difference", "95 % interval", "p"]
    cells = [
        [
            str(one.bytes_per_vector),
            cite(one.method, one.search),
            cite(one.other, one.other_search),
            f"{100 * one.difference:+.2f}",
            "[{:+.2f}, {:+.2f}]".format(*(100 * end for end in one.interval)),
            p_text(one.p),
        ]
        for one in results.comparisons
    ]
    note = (
        f"Differences in {results.comparisons[0].metric}, percentage points over the same queries; "
        "p: paired t-test, Holm's correction."
    )
    return "\n".join([*_aligned([head, *cells], left=(1, 2)), note])


def stream_table(found: Stream) -> str:
    """Recall under a run-book: at the first, the middle and the last search, and the lowest."""
    name = VECTOR_METRIC if VECTOR_METRIC in found.flows[0].recalls else "1-recall@1"
    n = len(found.searches)
    shown_at = sorted({0, n // 2, n - 1})
    head = ["method", "bytes", "search"]
    head += [f"step {found.searches[i]}: {found.n_items[i]:,} items" for i in shown_at]
    cells = [[*head, "lowest", "mean", "insert us", "delete us", "queries/s"]]
    order = sorted(
        found.flows, key=lambda flow: (flow.reference, flow.bits, -np.mean(flow.recalls[name]))
    )
    for flow in order:
        values = [100 * value for value in flow.recalls[name]]
        seed = f", seed {flow.seed}" if flow.seed else ""
        deleting = "-" if flow.delete_us is None else f"{flow.delete_us:,.1f}"
        cells.append(
            [
                f"{flow.method}{seed}",
                str(flow.bytes_per_vector),
                flow.search,
                *(f"{values[i]:.2f}" for i in shown_at),
                *(f"{value:.2f}" for value in (min(values), np.mean(values))),
                f"{flow.insert_us:,.1f}",
                deleting,
                f"{np.median(flow.queries_per_s):,.0f}",
            ]
        )
    lines = [f"{name} % among the items that are there, under {found.steps} steps:"]
    lines += _aligned(cells, left=(0, 2))
    lines += [f"Not measured: {one.method}: {one.reason}" for one in found.left_out]
    return "\n".join(lines)


def two_runs_table(found: TwoRuns) -> str:
    """What changed from one run to another, and what only one of them has."""
    head = ["method", "bytes", "search", "before", "after", "difference", "95 % interval", "p"]
    head += ["queries/s: after / before"]
    cells = [head]
    for one in sorted(found.changes, key=lambda one: (one.after.bits, -one.difference)):
        speeds = one.before.queries_per_s, one.after.queries_per_s
        cells.append(
            [
                one.after.method,
                str(one.after.bytes_per_vector),
                one.after.search,
                *(f"{100 * row.metrics[one.metric]:.2f}" for row in (one.before, one.after)),
                f"{100 * one.difference:+.2f}",
                "[{:+.2f}, {:+.2f}]".format(*(100 * end for end in one.interval)),
                p_text(one.p),
                f"{speeds[1] / speeds[0]:.2f}" if speeds[0] and speeds[1] else "-",
            ]
        )
    metric = metric_label(found.changes[0].metric)
    lines = [f"{metric} %, from the first run to the second, over the same queries:"]
    lines += _aligned(cells, left=(0, 2))
    lines.append(
        "p: paired t-test, Holm's correction. Speeds are of two runs, and of their machines."
    )
    for which, rows in (("first", found.only_first), ("second", found.only_second)):
        if rows:
            names = dict.fromkeys(
                f"{cite(row.method, row.search)}, {row.bits} bits" for row in rows
            )
            lines.append(f"Only in the {which} run: {'; '.join(names)}.")
    return "\n".join(lines)


def sentences(results: Results) -> list[str]:
    """The comparisons in words, one sentence a number of bytes and outcome.

    A method is called above or below another when the interval of the difference is without 0 and
    the corrected p-value is under 0.05.
    """
    found: dict[tuple[int, str, str], list[Comparison]] = {}
    for one in results.comparisons:
        clear = one.p < ALPHA and one.interval[0] * one.interval[1] > 0
        outcome = (
            ("above" if one.difference > 0 else "below") if clear else "not clearly apart from"
        )
        key = one.bytes_per_vector, cite(one.method, one.search), outcome
        found.setdefault(key, []).append(one)
    return [
        f"At {size} bytes {method} is {outcome} {_against(ones, outcome)}."
        for (size, method, outcome), ones in found.items()
    ]


def cite(method: str, search: str) -> str:
    """A method with its search setting."""
    return f"{method} ({search})"


def p_text(p: float) -> str:
    """A p-value as it is printed."""
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def metric_label(name: str) -> str:
    """A metric as it is printed in text: "mAP@1000" for "map@1000", "nDCG@10" for "ndcg@10"."""
    start, at, rest = name.partition("@")
    return {"map": "mAP", "mrr": "MRR", "ndcg": "nDCG"}.get(start, start) + at + rest


def heading(name: str) -> str:
    """A metric as it heads a column: those of classes by their names in files."""
    return name if name.startswith("map@") else metric_label(name)


def half_width(row: Row, name: str) -> float | None:
    """Half the width of a metric's interval over queries; None without one."""
    interval = row.intervals.get(name)
    return None if interval is None else (interval[1] - interval[0]) / 2


def _against(ones: Sequence[Comparison], outcome: str) -> str:
    """The others with the differences: their sizes after "above" and "below", else as they are."""
    link = " by " if outcome in ("above", "below") else ": "
    sign = -100 if outcome == "below" else 100
    texts = []
    for i, one in enumerate(ones):
        low, high = sorted(sign * end for end in one.interval)
        unit = " points" if i == 0 else ""
        texts.append(
            f"{cite(one.other, one.other_search)}{link}{sign * one.difference:.2f}{unit} "
            f"[{low:.2f}, {high:.2f}]"
        )
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def _share(row: Row, name: str) -> str:
    """A metric in percent, with half of its interval; "-" where it has none."""
    half = half_width(row, name)
    share = f"{100 * row.metrics[name]:.2f}" if name in row.metrics else "-"
    return share if half is None else f"{share} ±{100 * half:.2f}"


def _marked(row: Row) -> str:
    return f"> {row.method}" if row.marked else row.method


def _aligned(rows: Sequence[Sequence[str]], *, left: Sequence[int]) -> list[str]:
    """Lines with the first row ruled off; columns named in `left` stand to the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return [lines[0], "  ".join("-" * width for width in widths if width).rstrip(), *lines[1:]]
