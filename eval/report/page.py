"""One self-contained HTML page about an evaluation: table, figures, gallery, configuration.

Everything comes from stored files, results.json and report_inputs.json, where `write_report` keeps
what it was given besides: epochs of trainings, use of codewords and the gallery's images.
"""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jinja2 import Environment, StrictUndefined

from faiss_pqvae.files import replace_bytes
from faiss_pqvae.types import IdArray

from ..data.neighbours import VectorData
from ..data.protocol import Evaluated
from ..measure.results import (
    FILE_NAME,
    Results,
    Row,
    filtered_metrics,
    filtered_rows,
    read_results,
    sort_rows,
    speed_of,
)
from .figures import comparison_figures, result_figures
from .files import write_tables
from .gallery import gallery
from .levels import levels
from .shown import ALL_COSTS, Shown, all_costs, costs_of, kept_text, shown, spread_of
from .svg import STYLE, method_styles
from .text import cite, half_width, heading, metric_label, p_text, sentences
from .text_gallery import text_gallery
from .training import training_figures

INPUTS = "report_inputs.json"
_BASE64 = re.compile(r"[A-Za-z0-9+/=]*")  # it stands in the page's style sheet

_log = logging.getLogger(__name__)


def write_report(
    results: Results,
    data: Evaluated | None,
    out: str | Path,
    *,
    trainings: Mapping[str, str | Path] | None = None,
    usage: Mapping[str, IdArray] | None = None,
) -> Path:
    """Writes `out/report.html`, and `out/report_inputs.json` so that it can be rebuilt.

    Beside them lie `results.csv` and `table.tex`, the table for other programs and for a paper.

    Args:
        results: of `run`, with its raw files in `out/raw`.
        data: what was searched; the gallery needs it, and uint8 images of 1 or 3 channels.
        out: the folder of the run.
        trainings: label of a training to its log, a file with a JSON object a line. Lines with
            "event": "epoch" are drawn, as far as they have the keys; a missing file is skipped
            with a warning.
        usage: label to (M, ksub) int64, how often the database has each codeword.

    Returns:
        The path of the page.

    Raises:
        ValueError: `usage` is not 2-D.
        OSError: the disk is full or failing.
    """
    out = Path(out)
    logs = {label: _read_log(Path(path)) for label, path in (trainings or {}).items()}
    counts = {label: np.asarray(table) for label, table in (usage or {}).items()}
    for label, table in counts.items():
        if table.ndim != 2:
            raise ValueError(f"expected usage of shape (M, ksub) for {label!r}, got {table.shape}")
    inputs = {
        "trainings": {label: epochs for label, epochs in logs.items() if epochs},
        "usage": {label: table.tolist() for label, table in counts.items()},
        "gallery": _gallery(results, data, out),
    }
    replace_bytes(out / INPUTS, json.dumps(inputs).encode())
    return _write(results, out, inputs)


def rebuild_report(out: str | Path, data: Evaluated | None = None) -> Path:
    """Writes `out/report.html` again from the files of the run: the same page.

    Args:
        out: the folder of the run.
        data: what was searched: draws the gallery again. Without it the page has the gallery that
            was stored with it, if any.

    Raises:
        ValueError: results.json or report_inputs.json is corrupt.
        OSError: results.json cannot be read.
    """
    out = Path(out)
    results = read_results(out / FILE_NAME)
    inputs = read_inputs(out)
    if data is not None:
        inputs["gallery"] = _gallery(results, data, out)
        replace_bytes(out / INPUTS, json.dumps(inputs).encode())
    return _write(results, out, inputs)


def _gallery(results: Results, data: Evaluated | None, out: Path) -> dict[str, Any] | None:
    if isinstance(data, VectorData):
        return text_gallery(results, data, out)
    return gallery(results, data, out)


def read_inputs(out: Path) -> dict[str, Any]:
    """What a page needs besides its results; nothing where there is no file.

    Raises:
        ValueError: the file is corrupt.
    """
    path = out / INPUTS
    if not path.exists():
        return {}
    try:
        inputs = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"cannot read {path}: expected JSON; {error}") from error
    if not isinstance(inputs, dict):
        raise ValueError(f"cannot read {path}: expected an object, got {type(inputs).__name__}")
    return inputs


def _write(results: Results, out: Path, inputs: Mapping[str, Any]) -> Path:
    page, styles = shown(results), method_styles(results.rows)
    with mpl.rc_context(STYLE):
        of_comparisons = comparison_figures(results, styles)
        of_results = result_figures(page, styles)
        of_training = training_figures(inputs.get("trainings", {}), inputs.get("usage", {}))
    images = inputs.get("gallery")
    if images and not all(_BASE64.fullmatch(image) for image in images.get("images", ())):
        raise ValueError(f"expected the gallery's images in {out / INPUTS} as base64")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(p_text=p_text, metric_label=metric_label, heading=heading)
    template = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    text = environment.from_string(template).render(
        results=results,
        summary=_summary(page),
        sentences=sentences(results),
        metrics=page.metrics,
        quality=page.quality,
        kept_text=kept_text,
        main_metric=page.metric,
        costs=page.costs,
        all_costs=all_costs(page),
        all_costs_names=ALL_COSTS,
        levels=levels(page),
        filtered=filtered_rows(results),
        filtered_metrics=filtered_metrics(results),
        costs_of=functools.partial(costs_of, page),
        rows=page.rows,
        references=page.references,
        best=page.best,
        left_out=page.left_out,
        seeded=page.seeded,
        spread_of=spread_of,
        cite=cite,
        speed_of=speed_of,
        half_width=half_width,
        configs=_configs(results),
        comparison_figures=of_comparisons,
        result_figures=of_results,
        training_figures=of_training,
        gallery=images,
    )
    replace_bytes(out / "report.html", text.encode())
    write_tables(page, out)
    return out / "report.html"


def _read_log(path: Path) -> list[dict[str, Any]]:
    """The epochs of a training's log; lines that are no JSON, as a crash leaves, are skipped."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        _log.warning("no training curves of %s: %s", path, error)
        return []
    epochs = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("event") == "epoch":
            epochs.append(event)
    return epochs


def _summary(page: Shown) -> str:
    """Who is best at the largest common code length, and against what."""
    results, name, bits = page.results, page.metric, page.bits
    rows = [row for row in results.rows if not row.reference and row.bits == bits]
    rows = sorted((row for row in rows if name in row.metrics), key=lambda row: -row.metrics[name])
    if not rows:
        return f"{results.n_queries:,} queries in {results.n_database:,} items."
    text = (
        f"At {bits} bits ({rows[0].bytes_per_vector} bytes per vector) "
        f"{cite(rows[0].method, rows[0].search)} has the highest {metric_label(name)}, "
        f"{100 * rows[0].metrics[name]:.2f} %"
    )
    if name in rows[0].intervals:
        text += " [{:.2f}, {:.2f}]".format(*(100 * end for end in rows[0].intervals[name]))
    others = [row for row in rows if row.method != rows[0].method]
    if others:
        text += (
            f"; {cite(others[0].method, others[0].search)} follows with "
            f"{100 * others[0].metrics[name]:.2f} %"
        )
    text += _share(page, rows)
    for row in page.yardsticks:
        if name in row.metrics:
            text += (
                f". {row.method} on {row.bytes_per_vector:,} bytes per vector reaches "
                f"{100 * row.metrics[name]:.2f} %"
            )
    return text + "."


def _share(page: Shown, rows: Sequence[Row]) -> str:
    """What of exact search's quality the row keeps that keeps most of it."""
    name = page.quality
    keeping = [row for row in rows if name in row.kept]
    if name is None or not keeping:
        return ""
    most = max(keeping, key=lambda row: row.kept[name])
    return (
        f". Of exact search's {metric_label(name)}, {cite(most.method, most.search)} keeps "
        f"{kept_text(most, name)} %"
    )


def _configs(results: Results) -> list[tuple[str, str]]:
    """A label and the configuration as JSON, one a method and code length."""
    found = {
        f"{row.method}, {row.bits:,} bits": json.dumps(row.config, indent=1, sort_keys=True)
        for row in sort_rows(results.rows)
    }
    return list(found.items())
