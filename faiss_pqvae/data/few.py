"""A warning where there is too little to learn centroids from."""

from __future__ import annotations

import logging

POINTS_PER_CENTROID = 39  # below which FAISS's k-means warns

_log = logging.getLogger(__name__)


def warn_of_few(n: int, k: int, points: str, centroids: str) -> None:
    """Warns of fewer than 39 points a centroid, as FAISS does; nothing else changes.

    Args:
        n: number of points.
        k: number of centroids.
        points: their name in the message.
        centroids: likewise.
    """
    if n < POINTS_PER_CENTROID * k:
        _log.warning(
            "%s %s for %s %s are few: it goes on, and finds more with %s or more",
            *(f"{n:,}", points, f"{k:,}", centroids, f"{POINTS_PER_CENTROID * k:,}"),
        )
