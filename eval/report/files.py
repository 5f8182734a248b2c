"""The table of a report for other programs: CSV, and LaTeX for a paper."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from faiss_pqvae.files import replace_bytes

from ..measure.results import Row, speed_of
from .shown import Shown
from .text import half_width, metric_label

CSV_NAME, LATEX_NAME = "results.csv", "table.tex"
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def write_tables(page: Shown, out: Path) -> None:
    """Writes `out/results.csv` and `out/table.tex`.

    Raises:
        OSError: the disk is full or failing.
    """
    replace_bytes(out / CSV_NAME, csv_text(page).encode())
    replace_bytes(out / LATEX_NAME, latex_text(page).encode())


def csv_text(page: Shown) -> str:
    """A line a row with everything that was measured; shares from 0 to 1, intervals beside them."""
    metrics = list(dict.fromkeys(name for row in page.results.rows for name in row.metrics))
    intervals = [f"{name} {end}" for name in metrics for end in ("low", "high")]
    kept = list(dict.fromkeys(name for row in page.results.rows for name in row.kept))
    latencies, phases = ("p50", "p95", "p99"), ("train", "add", "search")
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(
        [
            *("method", "bits", "bytes", "search", "reference", "trained on"),
            *metrics,
            *intervals,
            *(f"{name} share of exact" for name in kept),
            *("train s", "encode us", "queries/s"),
            *(f"{name} ms" for name in latencies),
            *("model bytes", "index bytes"),
            *(f"{phase} peak bytes" for phase in phases),
        ]
    )
    for row in (*page.rows, *page.references):
        ends = [row.intervals.get(name, ["", ""])[at] for name in metrics for at in (0, 1)]
        costs = [row.train_s, 1e6 * row.add_s / page.results.n_database]
        lines.writerow(
            [
                *(row.method, row.bits, row.bytes_per_vector, row.search, int(row.reference)),
                row.trained_on,
                *(row.metrics.get(name, "") for name in metrics),
                *ends,
                *(row.kept.get(name, "") for name in kept),
                *costs,
                _known(speed_of(row, page.results.n_queries)),
                *(row.latency_ms.get(name, "") for name in latencies),
                *(_known(row.model_bytes), _known(row.index_bytes)),
                *(row.peak_bytes.get(phase, "") for phase in phases),
            ]
        )
    return text.getvalue()


def latex_text(page: Shown) -> str:
    """A tabular of the printed metrics in percent, the best at every number of bytes in bold."""
    names = page.metrics
    head = ["method", "bytes", *(metric_label(name) for name in names)]
    lines = [
        "% needs \\usepackage{booktabs}; in percent, with half of the 95 % interval",
        f"\\begin{{tabular}}{{lr{'r' * len(names)}}}",
        "\\toprule",
        " & ".join(map(_escaped, head)) + " \\\\",
        "\\midrule",
    ]
    best = {
        (name, size): max(row.metrics.get(name, -1) for row in page.rows if _size(row) == size)
        for name in names
        for size in {_size(row) for row in page.rows}
    }
    for part in (page.rows, page.references):
        lines += ["\\midrule"] if part is page.references and part else []
        for row in part:
            cells = [_escaped(f"{row.method} ({row.search})"), f"{_size(row):,}"]
            for name in names:
                text = _share(row, name)
                if not row.reference and row.metrics.get(name) == best[name, _size(row)]:
                    text = f"\\textbf{{{text}}}"
                cells.append(text)
            lines.append(" & ".join(cells) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _share(row: Row, name: str) -> str:
    if name not in row.metrics:
        return "--"
    half = half_width(row, name)
    share = f"{100 * row.metrics[name]:.1f}"
    return share if half is None else f"{share} $\\pm$ {100 * half:.1f}"


def _size(row: Row) -> int:
    return row.bytes_per_vector


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(sign, sign) for sign in text)


def _known(value: float | None) -> float | str:
    return "" if value is None else value
