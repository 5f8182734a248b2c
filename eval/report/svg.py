"""Figures as inline SVG that takes the page's text colour and font, in light and dark.

Blue is the page's own too: the palette's is too dark on a dark page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..measure.results import Row

PANEL_INCHES = 4.7  # of a panel: two stand side by side, one fills the screen of a telephone
PIXELS_PER_INCH = 105
# Okabe and Ito's palette, which the colour-blind can tell apart; yellow, pale on white, is last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
# What is marked has the first three, all else others, which markers and lines tell apart besides.
_MARKED = COLOURS[:3]
_OTHERS = (*COLOURS[3:6], "#7F7F7F", "#44AA99", "#AA4499", "#999933", "#8C564B")
MARKERS = "os^Dv<>"
_DASHES: tuple[Any, ...] = ("--", "-.", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)))
LINES = {"sdc": {"ls": ":", "markerfacecolor": "none"}, "exact": {"ls": "--"}}
LEGEND_CHARACTERS = 24  # of a label, for two columns
INK = "#1a2b3c"  # stands for the page's text colour
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "faiss-pqvae",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "grid.color": "#808080",
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
}


@dataclass(frozen=True)
class Drawing:
    """A figure as inline SVG, with its title and a note below."""

    title: str
    svg: Markup
    note: str = ""


def method_styles(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Colour, marker and line of every method, the same in every figure.

    What is marked has solid, thick lines in colours of its own. References have the text's colour.
    When the colours are used up they come again with other markers and lines.
    """
    compared = [row for row in rows if not row.reference]
    marked = [*dict.fromkeys(row.method for row in compared if row.marked)]
    others = [*dict.fromkeys(row.method for row in compared if row.method not in marked)]
    styles: dict[str, dict[str, Any]] = {
        row.method: {"color": INK, "ls": "--"} for row in rows if row.reference
    }
    for i, name in enumerate(marked):
        styles[name] = _style(i, _MARKED) | {"ls": "-", "lw": 2.4}
    for i, name in enumerate(others):
        styles[name] = _style(i, _OTHERS) | {"ls": _DASHES[i % len(_DASHES)]}
    return styles


def _style(i: int, colours: Sequence[str]) -> dict[str, Any]:
    return {"color": colours[i % len(colours)], "marker": MARKERS[i % len(MARKERS)]}


def legend_of(axes: Axes) -> Figure:
    """What the lines of a panel are, as a figure of its own."""
    handles, labels = axes.get_legend_handles_labels()
    columns = 2 if len(labels) > 3 and max(map(len, labels)) <= LEGEND_CHARACTERS else 1
    rows = -(-len(labels) // columns)
    figure = Figure(figsize=(PANEL_INCHES, 0.25 + 0.22 * rows))
    figure.legend(handles, labels, loc="upper left", ncols=columns, handlelength=3)
    return figure


def inline_panels(figures: Sequence[Figure], name: str) -> Markup:
    """Figures one after the other, each as `inline` makes it."""
    return Markup("").join(inline(one, f"{name}-{i}") for i, one in enumerate(figures))


def label_text(label: str) -> str:
    """A label that matplotlib neither takes for mathematics nor, for its first _, for hidden."""
    return label.replace("$", r"\$").lstrip("_") or "-"


def inline(figure: Figure, name: str) -> Markup:
    """The figure as inline SVG that scales with the page and takes its text colour and font.

    Args:
        figure: what to draw.
        name: makes the ids differ from those of the page's other figures.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    width = f'style="width:{figure.get_figwidth() * PIXELS_PER_INCH:.0f}px"'
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[\d.]+pt"', rf"\1 {width}", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[\d.]+pt"', r"\1", text, count=1)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    # matplotlib has escaped the labels, which are all that comes from outside.
    return Markup(text.replace(INK, "currentColor").replace(COLOURS[0].lower(), "var(--blue)"))
