"""The figures of the paper, drawn from arrays: latents with their cells, and what lambda does.

Pure functions from arrays to matplotlib figures, and `save_figure`, which writes a figure as SVG
and PNG with the same bytes for the same input.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from paper.voronoi import Box, FloatArray, finite_points, voronoi_cells
from scipy.spatial import cKDTree

from faiss_pqvae.eval.report.svg import COLOURS, STYLE
from faiss_pqvae.files import replace_bytes

try:
    import matplotlib as mpl
    from matplotlib import patheffects
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
except ImportError as missing:
    raise ImportError(
        f'{missing.name} is needed for figures: pip install "faiss-pqvae[eval]"'
    ) from missing

# Petroff's ten colours (arXiv 2107.02270), chosen to be told apart with any colour vision; in an
# order in which digits that look alike, 3 5 8 and 4 7 9, differ most.
CLASS_COLOURS = (
    *("#94a4a2", "#a96b59", "#717581", "#3f90da", "#832db6"),
    *("#b9ac70", "#e76300", "#ffa90e", "#bd1f01", "#92dadd"),
)
DPI = 160
_STYLE: dict[Any, Any] = {
    **STYLE,
    "font.size": 11,
    "axes.titlelocation": "left",
    "axes.grid": False,
    "figure.facecolor": "white",
    "figure.constrained_layout.w_pad": 0.06,
}
_CLASS_LABEL: dict[str, Any] = {
    "ha": "center",
    "va": "center",
    "weight": "bold",
    "size": 14,
    "path_effects": [patheffects.withStroke(linewidth=3, foreground="white")],
}
_RANGE = COLOURS[2]

# Figures 1 to 3 ---


def latents_figure(
    latents: npt.ArrayLike,
    labels: npt.NDArray[np.int64],
    codewords: npt.ArrayLike,
    *,
    title: str,
    class_names: Sequence[str],
) -> Figure:
    """Two-dimensional latents, coloured by class, with codewords and their Voronoi cells.

    The axes hold all latents and all codewords that are the nearest of one. A class is named where
    there is room beside the others' names.

    Args:
        latents: (n, 2) float, n >= 1.
        labels: (n,) int64, indices into `class_names`.
        codewords: (K, 2) float, K >= 1.
        title: above the axes; may have several lines.
        class_names: at most ten.

    Raises:
        TypeError: labels are not int64.
        ValueError: a shape does not fit, a value is not finite, or there are too many classes.
    """
    z, e = finite_points("latents", latents), finite_points("codewords", codewords)
    _check_labels(labels, len(z), len(class_names))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 5.6), layout="constrained")
        axes = figure.subplots()
        _, nearest = cKDTree(e).query(z)
        used = np.isin(np.arange(len(e)), nearest)
        box = Box.around(z, e[used])
        for label, colour in zip(range(len(class_names)), CLASS_COLOURS, strict=False):
            x, y = z[labels == label].T
            axes.scatter(x, y, s=7, lw=0, color=colour, alpha=0.8, rasterized=True)
        _draw_cells(axes, e, used, box)
        for label, place in _label_places(z, labels, box).items():
            axes.annotate(class_names[label], place, **_CLASS_LABEL)
        axes.set(xlim=(box.x_low, box.x_high), ylim=(box.y_low, box.y_high), aspect="equal")
        axes.set(xlabel="$z_1$", ylabel="$z_2$")
        axes.set_title(title)
        handles = [_marker("o", c, n) for c, n in zip(CLASS_COLOURS, class_names, strict=False)]
        handles.append(_marker("o", "black", "codeword"))
        if not used.all():
            handles.append(_marker("x", "black", "unused"))
        figure.legend(handles=handles, loc="outside right center", handletextpad=0.1)
    return figure


def _label_places(
    z: FloatArray, labels: npt.NDArray[np.int64], box: Box
) -> dict[int, tuple[float, float]]:
    """For the name of each class the latent amid the most of its own, apart from other names."""
    _, near = cKDTree(z).query(z, k=min(len(z), 1 + len(z) // 30))
    purity = (labels[near.reshape(len(z), -1)] == labels[:, None]).mean(1)
    apart = 0.07 * np.sqrt(box.area)
    places: dict[int, tuple[float, float]] = {}
    for row in np.argsort(-purity, kind="stable"):
        label, place = int(labels[row]), z[row]
        if label not in places and all(np.hypot(*(place - p)) > apart for p in places.values()):
            places[label] = (float(place[0]), float(place[1]))
    return places


def _draw_cells(axes: Axes, codewords: FloatArray, used: npt.NDArray[np.bool_], box: Box) -> None:
    """Cells, and codewords: dots where a latent chose them, else crosses."""
    cells = [cell for cell in voronoi_cells(codewords, box) if len(cell)]
    axes.add_collection(PolyCollection(cells, facecolor="none", edgecolor="#404040", lw=0.6))
    axes.plot(*codewords[~used].T, "x", color="black", ms=5, mew=1)
    axes.plot(*codewords[used].T, "o", color="black", ms=4.5, mec="white", mew=0.7)


def _marker(marker: str, colour: str, label: str) -> Line2D:
    return Line2D([], [], ls="", marker=marker, color=colour, label=label, ms=5)


def _check_labels(labels: npt.NDArray[np.int64], n: int, n_classes: int) -> None:
    if not isinstance(labels, np.ndarray) or labels.dtype != np.int64:
        got = getattr(labels, "dtype", type(labels).__name__)
        raise TypeError(f"expected labels as an array of int64, got {got}")
    if not 1 <= n_classes <= len(CLASS_COLOURS):
        raise ValueError(f"expected 1 to {len(CLASS_COLOURS)} class names, got {n_classes}")
    if labels.shape != (n,):
        raise ValueError(f"expected labels of shape ({n},), got {labels.shape}")
    if labels.min() < 0 or labels.max() >= n_classes:
        raise ValueError(
            f"expected labels from 0 to {n_classes - 1}, got {labels.min()} to {labels.max()}"
        )


# Figure 4 ---


@dataclass(frozen=True, eq=False)
class Sweep:
    """One network trained with several lambdas.

    Attributes:
        title: of its row.
        lambdas: (n,) float > 0, all different, in any order.
        ratio: (n, seeds) float, distance ratios in [0, 1].
        error: (n, seeds) float, reconstruction errors.
        scores: name to (n, seeds) float, what lambda is judged by; at least one, at most three.
        permissible: limits of the distance ratio to mark, low <= high; None marks nothing.
        failed: lambdas whose training did not converge; they have no point.

    Raises:
        ValueError: a shape does not fit, a value is not finite or not in its range.
    """

    title: str
    lambdas: FloatArray
    ratio: FloatArray
    error: FloatArray
    scores: Mapping[str, FloatArray]
    permissible: tuple[float, float] | None = None
    failed: Sequence[float] = field(default=())

    def __post_init__(self) -> None:
        lambdas = np.asarray(self.lambdas, np.float64)
        if lambdas.ndim != 1 or len(lambdas) == 0 or not np.isfinite(lambdas).all():
            raise ValueError(f"expected finite lambdas of shape (n,), n >= 1, got {lambdas}")
        if lambdas.min() <= 0 or len(np.unique(lambdas)) < len(lambdas):
            raise ValueError(f"expected different lambdas > 0, got {lambdas.tolist()}")
        if not 1 <= len(self.scores) <= len(_SCORE_STYLES):
            raise ValueError(f"expected 1 to {len(_SCORE_STYLES)} scores, got {len(self.scores)}")
        shape = np.shape(self.ratio)
        if len(shape) != 2 or shape[0] != len(lambdas) or shape[1] < 1:
            raise ValueError(f"expected ratios of shape ({len(lambdas)}, seeds), got {shape}")
        for name, values in {"ratio": self.ratio, "error": self.error, **self.scores}.items():
            if np.shape(values) != shape:
                raise ValueError(f"expected {name} of shape {shape}, got {np.shape(values)}")
            if not np.isfinite(values).all():
                raise ValueError(f"expected finite values of {name}, got NaN or infinity")
        if np.min(self.ratio) < 0 or np.max(self.ratio) > 1:
            raise ValueError("expected distance ratios in [0, 1]")
        if self.permissible is not None and not 0 <= self.permissible[0] <= self.permissible[1]:
            raise ValueError(f"expected limits with low <= high, got {self.permissible}")


_SCORE_STYLES = tuple(zip(COLOURS, "os^", ("-", "--", ":"), strict=False))
_POINTS: dict[str, Any] = {"s": 42, "edgecolor": "#303030", "linewidth": 0.6, "zorder": 3}
_BARS: dict[str, Any] = {"fmt": "none", "ecolor": "#606060", "elinewidth": 1, "zorder": 2}
_COLUMNS = (
    ("distance ratio", "reconstruction error"),
    (r"$\lambda$", "score [%]"),
    ("distance ratio", "score [%]"),
)


def sweep_figure(sweeps: Sequence[Sweep]) -> Figure:
    """Figure 4, a row for each network: error against ratio, scores against lambda and ratio.

    Points are means over the seeds, bars reach from the lowest to the highest seed, the permissible
    range of the ratio is shaded (against lambda: from the first lambda inside to the last).

    Args:
        sweeps: at least one.

    Raises:
        ValueError: no sweep.
    """
    if not sweeps:
        raise ValueError("expected at least one sweep, got none")
    with mpl.rc_context({**_STYLE, "axes.grid": True}):
        figure = Figure(figsize=(11, 0.6 + 3.2 * len(sweeps)), layout="constrained")
        colours = _lambda_colours([value for sweep in sweeps for value in sweep.lambdas])
        parts = figure.subfigures(len(sweeps), 1, squeeze=False)[:, 0]
        for sweep, part in zip(sweeps, parts, strict=True):
            part.suptitle(sweep.title, weight="bold", size=11, x=0.01, ha="left")
            panels = part.subplots(1, 3)
            _error_panel(panels[0], sweep, colours)
            _score_panel(panels[1], sweep, sweep.lambdas)
            _score_panel(panels[2], sweep, sweep.ratio.mean(1), colours)
            for axes, (x, y) in zip(panels, _COLUMNS, strict=True):
                axes.set(xlabel=x, ylabel=y)
            panels[1].set_xscale("log")
        handles = [_marker("o", colour, f"{value:g}") for value, colour in colours.items()]
        figure.legend(handles=handles[::-1], loc="outside right upper", title=r"$\lambda$")
        figure.legend(handles=_line_handles(sweeps), loc="outside right lower")
    return figure


def _line_handles(sweeps: Sequence[Sweep]) -> list[Any]:
    names = dict.fromkeys(name for sweep in sweeps for name in sweep.scores)
    handles: list[Any] = [
        Line2D([], [], color=colour, marker=marker, ls=line, label=name, ms=6)
        for name, (colour, marker, line) in zip(names, _SCORE_STYLES, strict=False)
    ]
    if any(sweep.permissible is not None for sweep in sweeps):
        handles.append(Patch(color=_RANGE, alpha=0.15, lw=0, label="permissible\nrange"))
    return handles


def _lambda_colours(lambdas: Sequence[float]) -> dict[float, Any]:
    """A colour for every lambda, dark to light as it rises."""
    values = sorted(set(lambdas))
    shades = mpl.colormaps["cividis"](np.linspace(0, 0.95, len(values)))
    return dict(zip(values, shades, strict=True))


def _error_panel(axes: Axes, sweep: Sweep, colours: Mapping[float, Any]) -> None:
    ratio, error = sweep.ratio.mean(1), sweep.error.mean(1)
    _shade(axes, sweep.permissible)
    order = np.argsort(sweep.lambdas)
    axes.plot(ratio[order], error[order], color="#808080", lw=1, zorder=1)
    axes.errorbar(ratio, error, *_spans(sweep.error, sweep.ratio), **_BARS)
    axes.scatter(ratio, error, c=[colours[v] for v in sweep.lambdas], **_POINTS)


def _score_panel(
    axes: Axes, sweep: Sweep, x: FloatArray, colours: Mapping[float, Any] | None = None
) -> None:
    """Scores against lambda, or, with a colour for every lambda, against the ratio."""
    inside = _inside(sweep)
    _shade(axes, sweep.permissible if colours else inside)
    order = np.argsort(sweep.lambdas)
    for (name, values), (colour, marker, line) in zip(
        sweep.scores.items(), _SCORE_STYLES, strict=False
    ):
        mean = 100 * values.mean(1)
        axes.plot(x[order], mean[order], color=colour, ls=line, lw=1.3, zorder=1)
        axes.errorbar(x, mean, *_spans(100 * values, sweep.ratio if colours else None), **_BARS)
        fill = [colours[v] for v in sweep.lambdas] if colours else [colour] * len(x)
        axes.scatter(x, mean, c=fill, marker=marker, label=name, **_POINTS)


def _inside(sweep: Sweep) -> tuple[float, float] | None:
    """The lambdas, lowest and highest, whose ratio is permissible."""
    if sweep.permissible is None:
        return None
    low, high = sweep.permissible
    ratio = sweep.ratio.mean(1)
    found = sweep.lambdas[(ratio >= low) & (ratio <= high)]
    return (float(found.min()), float(found.max())) if len(found) else None


def _spans(y: FloatArray, x: FloatArray | None) -> tuple[FloatArray, FloatArray | None]:
    """How far the seeds reach below and above their mean, (2, n), as yerr and xerr."""
    return _reach(y), None if x is None else _reach(x)


def _reach(values: FloatArray) -> FloatArray:
    mean = values.mean(1)
    # The mean of equal values can be off by rounding; bars must not be negative.
    reach: FloatArray = np.maximum(0, np.stack([mean - values.min(1), values.max(1) - mean]))
    return reach


def _shade(axes: Axes, limits: tuple[float, float] | None) -> None:
    if limits is not None:
        axes.axvspan(*limits, color=_RANGE, alpha=0.15, lw=0, zorder=0)


# Any score over time ---


@dataclass(frozen=True, eq=False)
class Trace:
    """A score that was measured again and again.

    Attributes:
        name: for the legend.
        x: (n,) float, n >= 1, where it was measured, rising.
        y: (n,) float, the score.

    Raises:
        ValueError: a shape does not fit, or a value is not finite.
    """

    name: str
    x: FloatArray
    y: FloatArray

    def __post_init__(self) -> None:
        x, y = np.asarray(self.x, np.float64), np.asarray(self.y, np.float64)
        if x.ndim != 1 or len(x) == 0 or x.shape != y.shape:
            raise ValueError(f"expected x and y of shape (n,), n >= 1, got {x.shape}, {y.shape}")
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise ValueError(f"expected finite values of {self.name}, got NaN or infinity")


def traces_figure(
    traces: Sequence[Trace], *, levels: Mapping[str, float], xlabel: str, ylabel: str
) -> Figure:
    """Scores over time, and the scores of what takes no time to speak of as level lines.

    Args:
        traces: at least one, and with the levels as many as there are colours.
        levels: name to score.
        xlabel: of the time axis, with its unit.
        ylabel: of the score's, with its unit.

    Raises:
        ValueError: no trace, or too many.
    """
    if not 1 <= len(traces) <= len(COLOURS) - len(levels):
        raise ValueError(f"expected 1 to {len(COLOURS) - len(levels)} traces, got {len(traces)}")
    with mpl.rc_context({**_STYLE, "axes.grid": True}):
        figure = Figure(figsize=(7, 4.4), layout="constrained")
        axes = figure.subplots()
        colours = iter(COLOURS)
        for trace, marker in zip(traces, itertools.cycle("os^Dv"), strict=False):
            colour = next(colours)
            axes.plot(trace.x, trace.y, color=colour, marker=marker, ms=5, label=trace.name)
        for name, level in levels.items():
            axes.axhline(level, color=next(colours), ls="--", label=name)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.set_xlim(left=0)
        figure.legend(loc="outside upper left", ncols=min(3, len(traces) + len(levels)))
    return figure


# Files ---


def save_figure(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """Writes a figure as SVG and PNG; the same figure gives the same bytes.

    Args:
        figure: what to draw.
        stem: path without suffix; its folder is made.

    Returns:
        The paths of the two files.

    Raises:
        OSError: the disk is full or failing; older files are still there.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, metadata in (
        ("svg", {"Date": None, "Creator": None}),
        ("png", {"Software": None}),
    ):
        buffer = io.BytesIO()
        with mpl.rc_context(_STYLE):
            figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
        path = stem.with_name(f"{stem.name}.{kind}")
        replace_bytes(path, buffer.getvalue())
        paths.append(path)
    return paths[0], paths[1]
