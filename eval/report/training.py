"""The report's figures of trainings and codebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from faiss_pqvae.types import IdArray

from .svg import (
    COLOURS,
    MARKERS,
    PANEL_INCHES,
    Drawing,
    inline,
    inline_panels,
    label_text,
    legend_of,
)

NEVER = "#D55E00"
RANGE = 8  # the map's colours go from 1 / 8 of the even share to 8 times it
# Keys of an epoch in a training's log, and the axis label of each panel.
_MINIMISED = ("reconstruction", "contrast", "classes", "pairs")  # on the validation items, too
_PANELS = {
    "reconstruction": "reconstruction error",
    "contrast": "contrastive loss",
    "classes": "loss of classes",
    "pairs": "loss of pairs",
    "validation_map": "mAP of held-out items [%]",
    "quantization": "quantization error",
    "distance_ratio": "distance ratio",
    "perplexity": "mean perplexity",
}


def training_figures(
    trainings: Mapping[str, list[dict[str, Any]]], usage: Mapping[str, list[list[int]]]
) -> list[Drawing]:
    """Figures of epochs, by label, and of how often each codeword is used, (M, ksub) by label."""
    figures = []
    trainings = {label: [*map(_with_map, epochs)] for label, epochs in trainings.items()}
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
    drawn = {
        key: label
        for key, label in _PANELS.items()
        if any(key in epoch for epochs in trainings.values() for epoch in epochs)
    }
    panels = [Figure(figsize=(PANEL_INCHES, 2.5), layout="constrained") for _ in drawn]
    for figure, (key, label) in zip(panels, drawn.items(), strict=True):
        axes = figure.subplots()
        for i, (name, epochs) in enumerate(trainings.items()):
            colour = COLOURS[i % len(COLOURS)]
            key_drawn = key
            if key in _MINIMISED:
                axes.plot(*_series(epochs, key), color=colour, ls="--", alpha=0.6)
                key_drawn = f"validation_{key}"
            series = _series(epochs, key_drawn)
            axes.plot(*series, color=colour, label=label_text(name), marker=MARKERS[i % 7])
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    drawn_panels = inline_panels([*panels, *map(_legend, panels[:1])], "training")
    measures = " and ".join(drawn[key] for key in _MINIMISED if key in drawn)
    note = f"{measures.capitalize()}: solid on the validation items, dashed on the training items."
    return Drawing("Training", drawn_panels, note)


def _with_map(epoch: dict[str, Any]) -> dict[str, Any]:
    """An epoch that learned from labels also by its mAP: what it validates by is 1 less that."""
    if epoch.keys().isdisjoint(("classes", "pairs")) or epoch.get("validation_loss") is None:
        return epoch
    return {**epoch, "validation_map": 100 * (1 - epoch["validation_loss"])}


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
    shown = {"perplexity": "perplexity [codewords]", "usage": "codewords in use [%]"}
    panels = [Figure(figsize=(PANEL_INCHES, 2.8), layout="constrained") for _ in shown]
    width = 0.8 / len(last)
    for figure, (key, ylabel) in zip(panels, shown.items(), strict=True):
        axes = figure.subplots()
        for i, (name, epoch) in enumerate(last.items()):
            values = np.atleast_1d(np.asarray(epoch.get(key) or [], float))
            axes.bar(
                np.arange(len(values)) + (i - (len(last) - 1) / 2) * width,
                values if key == "perplexity" else 100 * values,
                width,
                color=COLOURS[i % len(COLOURS)],
                label=label_text(name),
            )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=False, axis="x")
        axes.set(xlabel="sub-quantizer", ylabel=ylabel)
    drawn = inline_panels([*panels, _legend(panels[0])], "usage")
    note = "Perplexity is the number of equally frequent codewords with the same entropy."
    return Drawing("Codeword usage after the last epoch", drawn, note)


def _legend(figure: Figure) -> Figure:
    return legend_of(figure.axes[0])


def _counts_figure(i: int, label: str, counts: IdArray) -> Drawing:
    """A map of counts (M, ksub): each row sorted, coloured by multiples of the even share."""
    M, ksub = counts.shape
    figure = Figure(figsize=(PANEL_INCHES, 1.0 + 0.24 * M), layout="constrained")
    axes = figure.subplots()
    share = -np.sort(-counts * ksub / np.maximum(counts.sum(1, keepdims=True), 1), axis=1)
    colours = mpl.colormaps["viridis"].with_extremes(bad=NEVER)
    drawn = axes.imshow(
        np.ma.masked_equal(share, 0),
        aspect="auto",
        cmap=colours,
        norm=LogNorm(1 / RANGE, RANGE),
        interpolation="nearest",
        extent=(0.5, ksub + 0.5, M + 0.5, 0.5),
    )
    axes.grid(visible=False)
    axes.set_yticks(range(1, M + 1), [f"{m}: {_row_text(row)}" for m, row in enumerate(counts, 1)])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="codewords, most frequent first", ylabel="sub-quantizer: perplexity")
    bar = figure.colorbar(drawn, label="times the even share", extend="both")
    ticks = [1 / RANGE, 0.5, 1, 2, RANGE]
    bar.ax.yaxis.set_major_locator(FixedLocator(ticks))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.set_yticklabels(["1/8", "1/2", "1", "2", "8"])
    unused = int((counts == 0).sum())
    note = f"How often the database has each codeword; {unused:,} of {counts.size:,} never"
    note += " (orange)." if unused else "."
    return Drawing(f"Codewords of {label}", inline(figure, f"counts{i}"), note)


def _row_text(counts: IdArray) -> str:
    """The perplexity of counts (ksub,): 2 to the power of their entropy in bits."""
    p = counts[counts > 0] / max(1, counts.sum())
    return f"{2 ** -(p * np.log2(p)).sum():.0f}"
