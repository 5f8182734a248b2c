"""Voronoi cells of codewords in the plane, cut to a rectangle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.spatial import Voronoi

try:
    from matplotlib.path import Path as Outline
    from matplotlib.transforms import Bbox
except ImportError as missing:
    raise ImportError(
        f'{missing.name} is needed for figures: pip install "faiss-pqvae[eval]"'
    ) from missing

_MERGED = 1e-7  # codewords nearer than this share of the box are one

FloatArray: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Box:
    """A rectangle: low < high along both axes."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def __post_init__(self) -> None:
        sides = (self.x_low, self.x_high, self.y_low, self.y_high)
        if not np.isfinite(sides).all() or self.x_low >= self.x_high or self.y_low >= self.y_high:
            raise ValueError(f"expected a box with low < high along both axes, got {sides}")

    @classmethod
    def around(cls, *points: npt.ArrayLike, margin: float = 0.04) -> Box:
        """The square around all points (n, 2), wider by a margin on each side."""
        stacked = np.concatenate([finite_points("points", part) for part in points])
        low, high = stacked.min(0), stacked.max(0)
        half = (0.5 + margin) * float((high - low).max()) or 0.5  # of one point only
        x, y = ((low + high) / 2).tolist()
        return cls(x - half, x + half, y - half, y + half)

    @property
    def area(self) -> float:
        """Area of the box."""
        return (self.x_high - self.x_low) * (self.y_high - self.y_low)


def voronoi_cells(codewords: npt.ArrayLike, box: Box) -> list[FloatArray]:
    """What of a box is nearer to each codeword than to all others; the cells tile the box.

    Args:
        codewords: (K, 2) float, K >= 1, inside the box or not, in any position.
        box: what is tiled.

    Returns:
        K convex polygons, (v, 2) float64 corners in order. A codeword whose cell lies outside of
        the box has none, (0, 2); of equal codewords the first has the cell.

    Raises:
        ValueError: codewords are not (K, 2), finite, with K >= 1.
    """
    points = finite_points("codewords", codewords)
    centre = np.array([(box.x_low + box.x_high) / 2, (box.y_low + box.y_high) / 2])
    reach = np.hypot(box.x_high - box.x_low, box.y_high - box.y_low) / 2
    distances = np.hypot(*(points - centre).T)
    # All of the box is nearer to the codeword nearest to its centre than to one beyond this.
    (close,) = np.nonzero(distances <= distances.min() + 2 * reach)
    size = reach + distances[close].max()  # the unit from here on
    local = (points[close] - centre) / size
    _, kept = np.unique(np.round(local / _MERGED), axis=0, return_index=True)
    # Far points make every cell finite. No place in the box is farther than 1 from a codeword,
    # or nearer than 7 to one of these.
    far = 8 * np.array([(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)])
    diagram = Voronoi(np.concatenate([local[kept], far]))
    cells: list[FloatArray] = [np.empty((0, 2))] * len(points)
    bounds = Bbox([(box.x_low, box.y_low), (box.x_high, box.y_high)])
    for site, first in enumerate(close[kept]):
        region = diagram.regions[diagram.point_region[site]]
        cells[first] = _clipped(diagram.vertices[region] * size + centre, bounds)
    return cells


def _clipped(polygon: FloatArray, bounds: Bbox) -> FloatArray:
    """A convex polygon (v, 2) cut to a rectangle; (0, 2) when nothing is left."""
    centre = polygon.mean(0)
    turns = np.argsort(np.arctan2(*(polygon - centre).T[::-1]))
    outline = Outline(np.concatenate([polygon[turns], polygon[turns[:1]]]), closed=True)
    parts = outline.clip_to_bbox(bounds).to_polygons()
    return np.asarray(parts[0], np.float64)[:-1] if parts else np.empty((0, 2))


def finite_points(name: str, array: npt.ArrayLike) -> FloatArray:
    """Points (n, 2) as float64.

    Raises:
        ValueError: `array` is not (n, 2) with n >= 1, or not finite; the message has its name.
    """
    out = np.asarray(array, np.float64)
    if out.ndim != 2 or out.shape[1] != 2 or len(out) == 0:
        raise ValueError(f"expected {name} of shape (n, 2) with n >= 1, got {out.shape}")
    if not np.isfinite(out).all():
        raise ValueError(f"expected finite {name}, got NaN or infinity")
    return out
