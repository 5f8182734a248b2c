"""One self-contained HTML page about an evaluation: table, curves, training, gallery.

Everything comes from stored files: results.json, the raw results beside it, and
report_inputs.json, where `write_report` keeps what it was given besides.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae.eval.data import LabelledData
from faiss_pqvae.eval.raw import read_raw
from faiss_pqvae.eval.results import (
    FILE_NAME,
    Results,
    Row,
    best_rows,
    metric_names,
    read_results,
    sort_rows,
)
from faiss_pqvae.files import replace_bytes

try:
    import matplotlib as mpl
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
    from PIL import Image
except ImportError as missing:
    raise ImportError(
        f'{missing.name} is needed for the report: pip install "faiss-pqvae[eval]"'
    ) from missing

INPUTS = "report_inputs.json"
N_QUERIES = 10
N_NEAREST = 10
SEED = 0  # of the queries in the gallery
THUMBNAIL = 64  # pixels, at most, of the longer side
PAGE_INCHES = 9.6  # of a figure as wide as the page
GALLERY_BYTES = 2_000_000  # of images in base64; the queries beyond are left out
# Okabe and Ito's palette, which the colour-blind can tell apart; yellow, pale on white, is last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
MARKERS = "os^Dv<>"
LINES = {"sdc": ":", "exact": "--"}
_INK = "#1a2b3c"  # stands for the page's text colour, which follows light and dark
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "faiss-pqvae",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlesize": 11,
    "grid.color": "#808080",
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color"), _INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), _INK),
}
# Keys of an epoch in a training's log, and the axis label of each panel.
_PANELS = {
    "reconstruction": "reconstruction error",
    "quantization": "quantization error",
    "distance_ratio": "distance ratio",
    "perplexity": "mean perplexity",
}

Counts = npt.NDArray[np.int64]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drawing:
    """A figure as inline SVG, with its title and a note below."""

    title: str
    svg: Markup
    note: str = ""


def write_report(
    results: Results,
    data: LabelledData | None,
    out: str | Path,
    *,
    trainings: Mapping[str, str | Path] | None = None,
    usage: Mapping[str, Counts] | None = None,
) -> Path:
    """Writes `out/report.html`, and `out/report_inputs.json` so that it can be rebuilt.

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
    }
    replace_bytes(out / INPUTS, json.dumps(inputs).encode())
    return _write(results, data, out, inputs)


def rebuild_report(out: str | Path, data: LabelledData | None = None) -> Path:
    """Writes `out/report.html` again from the files of the run.

    Args:
        out: the folder of the run.
        data: what was searched; without it the page has no gallery.

    Raises:
        ValueError: results.json or report_inputs.json is corrupt.
        OSError: results.json cannot be read.
    """
    out = Path(out)
    results = read_results(out / FILE_NAME)
    inputs: dict[str, Any] = {}
    if (out / INPUTS).exists():
        try:
            inputs = json.loads((out / INPUTS).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"cannot read {out / INPUTS}: expected JSON; {error}") from error
    return _write(results, data, out, inputs)


def _write(
    results: Results, data: LabelledData | None, out: Path, inputs: Mapping[str, Any]
) -> Path:
    with mpl.rc_context(_STYLE):
        result_figures = _result_figures(results)
        training_figures = _training_figures(inputs.get("trainings", {}), inputs.get("usage", {}))
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    page = environment.from_string(template).render(
        results=results,
        summary=_summary(results),
        metrics=metric_names(results),
        rows=sort_rows(row for row in results.rows if not row.reference),
        references=sort_rows(row for row in results.rows if row.reference),
        best=best_rows(results),
        configs=_configs(results),
        result_figures=result_figures,
        training_figures=training_figures,
        gallery=_gallery(results, data, out),
    )
    replace_bytes(out / "report.html", page.encode())
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


# Words and tables ---


def _summary(results: Results) -> str:
    """Who is best at the largest common code length, and against what."""
    name = f"map@{results.k}"
    bits = _common_bits(results.rows)
    rows = [row for row in results.rows if not row.reference and row.bits == bits]
    rows = sorted((row for row in rows if name in row.metrics), key=lambda row: -row.metrics[name])
    if not rows:
        return f"{results.n_queries:,} queries in {results.n_database:,} items."
    text = (
        f"At {bits} bits ({rows[0].bytes_per_vector} bytes per vector) {_cite(rows[0])} has the "
        f"highest mAP@{results.k}, {100 * rows[0].metrics[name]:.2f} %"
    )
    others = [row for row in rows if row.method != rows[0].method]
    if others:
        text += f"; {_cite(others[0])} follows with {100 * others[0].metrics[name]:.2f} %"
    for row in results.rows:
        if row.reference and name in row.metrics:
            text += (
                f". {row.method} on {row.bytes_per_vector:,} bytes per vector reaches "
                f"{100 * row.metrics[name]:.2f} %"
            )
    return text + "."


def _cite(row: Row) -> str:
    return f"{row.method} ({row.search})"


def _common_bits(rows: Iterable[Row]) -> int:
    """The code length that most methods have; the largest of several, 0 of none."""
    methods: dict[int, set[str]] = {}
    for row in rows:
        if not row.reference:
            methods.setdefault(row.bits, set()).add(row.method)
    return max(methods, key=lambda bits: (len(methods[bits]), bits), default=0)


def _configs(results: Results) -> list[tuple[str, str]]:
    """A label and the configuration as JSON, one a method and code length."""
    found = {
        f"{row.method}, {row.bits:,} bits": json.dumps(row.config, indent=1, sort_keys=True)
        for row in sort_rows(results.rows)
    }
    return list(found.items())


# Drawing ---


def _result_figures(results: Results) -> list[Drawing]:
    styles = _method_styles(results.rows)
    compared = [row for row in results.rows if not row.reference]
    lengths = sorted({row.bits for row in compared})
    figures = []
    if len(lengths) > 1:
        figures.append(_bits_figure(results, styles))
    for bits in lengths:
        rows = [row for row in compared if row.bits == bits]
        rows += [row for row in results.rows if row.reference]
        if all(row.curves for row in rows):
            figures.append(_curves_figure(bits, rows, styles))
    return figures


def _method_styles(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """A colour and a marker a method, the same in every figure; references in the text's colour."""
    names = dict.fromkeys(row.method for row in rows if not row.reference)
    styles = {
        name: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        for i, name in enumerate(names)
    }
    return {row.method: {"color": _INK} for row in rows if row.reference} | styles


def _bits_figure(results: Results, styles: dict[str, dict[str, Any]]) -> Drawing:
    name = f"map@{results.k}"
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    series: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(results.rows, key=lambda row: row.bits):
        if name not in row.metrics:
            continue
        if row.reference:
            axes.axhline(
                100 * row.metrics[name], label=_text(row.method), ls="--", **styles[row.method]
            )
        else:
            series.setdefault((row.method, row.search), []).append(row)
    for (method, search), rows in series.items():
        axes.plot(
            [row.bits for row in rows],
            [100 * row.metrics[name] for row in rows],
            ls=LINES.get(search, "-"),
            label=_text(_cite(rows[0])),
            **styles[method],
        )
    axes.set(xlabel="bits per vector", ylabel=f"mAP@{results.k} [%]")
    axes.set_xticks(sorted({row.bits for rows in series.values() for row in rows}))
    figure.legend(loc="outside right upper")
    return Drawing(f"mAP@{results.k} by code length", _svg(figure, "bits"))


def _curves_figure(bits: int, rows: Sequence[Row], styles: dict[str, dict[str, Any]]) -> Drawing:
    figure = Figure(figsize=(PAGE_INCHES, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, quantity in zip(panels, ("precision", "recall"), strict=True):
        for row in rows:
            axes.plot(
                row.curves["k"],
                [100 * value for value in row.curves[quantity]],
                ls=LINES.get(row.search, "-"),
                label=_text(_cite(row)),
                **styles[row.method],
            )
        axes.set(xlabel="k", ylabel=f"{quantity}@k [%]", xscale="log")
        axes.xaxis.set_major_formatter("{x:g}")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
    return Drawing(f"Precision and recall at {bits} bits", _svg(figure, f"curves{bits}"))


def _training_figures(
    trainings: Mapping[str, list[dict[str, Any]]], usage: Mapping[str, list[list[int]]]
) -> list[Drawing]:
    figures = []
    if trainings:
        figures.append(_epochs_figure(trainings))
    last = {  # a later epoch replaces an earlier one
        label: epoch
        for label, epochs in trainings.items()
        for epoch in epochs
        if epoch.get("perplexity")
    }
    if last:
        figures.append(_usage_figure(last))
    figures += [
        _counts_figure(i, label, np.array(counts))
        for i, (label, counts) in enumerate(usage.items())
    ]
    return figures


def _epochs_figure(trainings: Mapping[str, list[dict[str, Any]]]) -> Drawing:
    figure = Figure(figsize=(PAGE_INCHES, 5.4), layout="constrained")
    panels: list[Axes] = list(figure.subplots(2, 2).flat)
    for axes, (key, label) in zip(panels, _PANELS.items(), strict=True):
        for i, (name, epochs) in enumerate(trainings.items()):
            colour = COLOURS[i % len(COLOURS)]
            if key == "reconstruction":
                axes.plot(*_series(epochs, key), color=colour, ls="--", alpha=0.6)
                key_drawn = "validation_reconstruction"
            else:
                key_drawn = key
            axes.plot(*_series(epochs, key_drawn), color=colour, label=_text(name))
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
    note = "Reconstruction: solid on the validation images, dashed on the training images."
    return Drawing("Training", _svg(figure, "training"), note)


def _series(epochs: Sequence[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Epochs and values of a key, lists averaged; epochs without the key are left out."""
    points = [
        (float(epoch.get("epoch", i)), float(np.mean(epoch[key])))
        for i, epoch in enumerate(epochs)
        if epoch.get(key) is not None
    ]
    return [x for x, _ in points], [y for _, y in points]


def _usage_figure(last: Mapping[str, dict[str, Any]]) -> Drawing:
    """Perplexity and share of codewords in use per sub-quantizer, in the last epoch."""
    figure = Figure(figsize=(PAGE_INCHES, 3.2), layout="constrained")
    panels = figure.subplots(1, 2)
    width = 0.8 / len(last)
    for axes, key in zip(panels, ("perplexity", "usage"), strict=True):
        for i, (name, epoch) in enumerate(last.items()):
            values = np.atleast_1d(np.asarray(epoch.get(key) or [], float))
            axes.bar(
                np.arange(len(values)) + (i - (len(last) - 1) / 2) * width,
                values if key == "perplexity" else 100 * values,
                width,
                color=COLOURS[i % len(COLOURS)],
                label=_text(name),
            )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("sub-quantizer")
    panels[0].set_ylabel("perplexity [codewords]")
    panels[1].set_ylabel("codewords in use [%]")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
    note = "Perplexity is the number of equally frequent codewords with the same entropy."
    return Drawing("Codeword usage after the last epoch", _svg(figure, "usage"), note)


def _counts_figure(i: int, label: str, counts: Counts) -> Drawing:
    """Counts (M, ksub) as multiples of the even share, each row sorted."""
    figure = Figure(figsize=(PAGE_INCHES, 0.8 + 0.2 * len(counts)), layout="constrained")
    axes = figure.subplots()
    share = counts * counts.shape[1] / np.maximum(counts.sum(1, keepdims=True), 1)
    drawn = axes.imshow(
        -np.sort(-share, axis=1), aspect="auto", cmap="cividis", interpolation="nearest"
    )
    axes.grid(visible=False)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="codewords, most frequent first", ylabel="sub-quantizer")
    figure.colorbar(drawn, label="even share = 1")
    never = f"{(counts == 0).sum():,} of {counts.size:,} never"
    note = f"How often the database has each codeword; {never}."
    return Drawing(f"Codewords of {label}", _svg(figure, f"counts{i}"), note)


def _text(label: str) -> str:
    """A label that matplotlib neither takes for mathematics nor, for its first _, for hidden."""
    return label.replace("$", r"\$").lstrip("_") or "-"


def _svg(figure: Figure, name: str) -> Markup:
    """The figure as inline SVG that scales with the page and takes its text colour and font.

    Args:
        figure: what to draw.
        name: makes the ids differ from those of the page's other figures.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    width = f'style="max-width:{100 * figure.get_figwidth() / PAGE_INCHES:.0f}%"'
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[\d.]+pt"', rf"\1 {width}", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[\d.]+pt"', r"\1", text, count=1)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    # matplotlib has escaped the labels, which are all that comes from outside.
    return Markup(text.replace(_INK, "currentColor"))


# Gallery ---


def _gallery(results: Results, data: LabelledData | None, out: Path) -> dict[str, Any] | None:
    """Queries with their nearest images by every method, for the template; None without images."""
    if data is None or not _has_images(data):
        return None
    nearest = _nearest(results, len(data.database), len(data.queries), out)
    if not nearest:
        return None
    images: dict[tuple[str, int], int] = {}
    encoded: list[str] = []

    def number(part: str, i: int) -> int:
        """The image's number on the page, where it is only once."""
        if (part, i) not in images:
            source = data.queries if part == "q" else data.database
            images[part, i] = len(encoded)
            encoded.append(_png(source[i : i + 1][0]))
        return images[part, i]

    queries: list[dict[str, Any]] = []
    for query in spread(data.query_labels, N_QUERIES, SEED):
        if sum(map(len, encoded)) > GALLERY_BYTES:
            break
        label = data.query_labels[query]
        rows = []
        for name, ids in nearest.items():
            cells = [
                {
                    "image": number("d", int(i)),
                    "hit": bool(data.database_labels[i] == label),
                    "label": data.class_names[data.database_labels[i]],
                }
                for i in ids[query]
            ]
            rows.append({"method": name, "cells": cells, "hits": sum(c["hit"] for c in cells)})
        queries.append(
            {"image": number("q", int(query)), "label": data.class_names[label], "rows": rows}
        )
    return {
        "bits": _common_bits(results.rows),
        "seed": SEED,
        "queries": queries,
        "images": encoded,
    }


def spread(labels: npt.NDArray[np.int64], n: int, seed: int) -> npt.NDArray[np.int64]:
    """Draws n positions spread over the classes: no class comes twice before all came once.

    Args:
        labels: (nq,) int64.
        n: how many; all of them when there are fewer.
        seed: of the order, in which nothing but the class counts.

    Returns:
        (min(n, nq),) int64.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    seen: dict[int, int] = {}
    turns = np.empty(len(labels), np.int64)
    for position, label in enumerate(labels[order].tolist()):
        turns[position] = seen[label] = seen.get(label, -1) + 1
    return order[np.argsort(turns, kind="stable")][:n]


def _has_images(data: LabelledData) -> bool:
    shape = data.database.shape
    return data.database.dtype == np.uint8 and len(shape) == 4 and shape[1] in (1, 3)


def _nearest(
    results: Results, n_database: int, n_queries: int, out: Path
) -> dict[str, npt.NDArray[np.int64]]:
    """Ids of the nearest, (nq, 10) int64, by method at the common code length, references last.

    Of several search types the first is taken; what has no raw results is left out.
    """
    bits = _common_bits(results.rows)
    rows = [row for row in results.rows if row.bits == bits and not row.reference]
    rows += [row for row in results.rows if row.reference]
    nearest: dict[str, npt.NDArray[np.int64]] = {}
    for row in rows:
        if row.method in nearest:
            continue
        try:
            ids = read_raw(out, row.key).I[:, :N_NEAREST]
        except (ValueError, OSError) as error:
            _log.warning("%s is not in the gallery: %s", row.method, error)
            continue
        if len(ids) != n_queries or ids.min() < 0 or ids.max() >= n_database:
            _log.warning("%s is not in the gallery: its results are of other data", row.method)
            continue
        nearest[row.method] = ids
    return nearest


def _png(pixels: npt.NDArray[np.uint8]) -> str:
    """An image (c, h, w) uint8 as PNG in base64, made smaller when it is large."""
    channels_last = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    image = Image.fromarray(channels_last[:, :, 0] if len(pixels) == 1 else channels_last)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
