"""README's picture: what 8 bytes a vector find, of the stored results.

python benchmarks/readme_figure.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from paper.figures import save_figure

RESULTS = Path(__file__).parents[1] / "results"
DATA = {
    "SIFT, 128 dimensions": "vectors-bsds-sift-8.json",
    "sentences, 384 dimensions": "vectors-debian-text-half-8.json",
}
# What the picture calls a row, its method and its search.
ROWS = {
    "PQ": ("PQ", "adc"),
    "OPQ": ("OPQ", "adc"),
    "RQ": ("RQ, norm inside", "adc"),
    "LSQ": ("LSQ, norm inside", "adc"),
    "PQVAE8": ("PQ-VAE", "adc"),
    "PQVAE8,RDecoder": ("PQ-VAE, re-ranked", "k_factor=1"),
}
OURS, OTHERS = "#1b7f5c", "#b9bec4"


def draw() -> Figure:
    """Bars of 1-recall@1 with their intervals, a panel a data set."""
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    axes = figure.subplots(1, len(DATA), sharey=True)
    for axis, (title, file) in zip(axes, DATA.items(), strict=True):
        found: list[dict[str, Any]] = json.loads((RESULTS / file).read_text())["rows"]
        by_key = {(row["method"], row["search"]): row for row in found}
        rows = [by_key[key] for key in ROWS.values()]
        values = np.array([100 * row["metrics"]["1-recall@1"] for row in rows])
        ends = 100 * np.array([row["intervals"]["1-recall@1"] for row in rows]).T
        colors = [OURS if name.startswith("PQVAE") else OTHERS for name in ROWS]
        axis.barh(
            list(ROWS), values, xerr=np.abs(ends - values), color=colors, ecolor="#555", capsize=2
        )
        for place, value in enumerate(values):
            axis.text(1, place, f"{value:.0f} %", va="center", color="#222", fontsize=8)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("nearest neighbour found first, % of queries", fontsize=8)
        axis.tick_params(labelsize=8, length=0)
        axis.spines[["top", "right", "left"]].set_visible(False)
    return figure


if __name__ == "__main__":
    for path in save_figure(draw(), RESULTS / "figures" / "readme"):
        print(path)
