"""Figures as inline SVG that takes the page's text colour and font, in light and dark.

Blue is the page's own too: the palette's is too dark on a dark page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..measure.results import Row

try:
    from markupsafe import Markup
    from matplotlib.figure import Figure
except ImportError as missing:
    raise ImportError(
        f'{missing.name} is needed for the report: pip install "faiss-pqvae[eval]"'
    ) from missing

PAGE_INCHES = 9.6  # of a figure as wide as the page
# Okabe and Ito's palette, which the colour-blind can tell apart; yellow, pale on white, is last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
MARKERS = "os^Dv<>"
LINES = {"sdc": ":", "exact": "--"}
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
    """A colour and a marker a method, the same in every figure; references in the text's colour.

    When the colours are used up they come again with other markers.
    """
    names = dict.fromkeys(row.method for row in rows if not row.reference)
    styles = {
        name: {
            "color": COLOURS[i % len(COLOURS)],
            "marker": MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
        }
        for i, name in enumerate(names)
    }
    return {row.method: {"color": INK} for row in rows if row.reference} | styles


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
    width = f'style="max-width:{100 * figure.get_figwidth() / PAGE_INCHES:.0f}%"'
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[\d.]+pt"', rf"\1 {width}", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[\d.]+pt"', r"\1", text, count=1)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    # matplotlib has escaped the labels, which are all that comes from outside.
    return Markup(text.replace(INK, "currentColor").replace(COLOURS[0].lower(), "var(--blue)"))
