"""The report's gallery: queries with their nearest images by every method."""

from __future__ import annotations

import base64
import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..data.load import Evaluated, LabelledData
from ..measure.raw import read_ids
from ..measure.results import Results, main_metric
from .tables import best_settings, common_bits

N_QUERIES = 10
N_NEAREST = 10
SEED = 0  # of the queries in the gallery
THUMBNAIL = 64  # pixels, at most, of the longer side
GALLERY_BYTES = 2_000_000  # of images in base64; the queries beyond are left out

_log = logging.getLogger(__name__)


def gallery(results: Results, data: Evaluated | None, out: Path) -> dict[str, Any] | None:
    """Queries with their nearest images by every method, as JSON values for the page.

    Args:
        results: of a run, with its raw files in `out/raw`.
        data: what was searched.
        out: the folder of the run.

    Returns:
        None without labelled images, or without raw files of these data.
    """
    if not isinstance(data, LabelledData) or not _has_images(data):
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
                if i >= 0  # FAISS's padding
            ]
            rows.append({"method": name, "cells": cells, "hits": sum(c["hit"] for c in cells)})
        queries.append(
            {"image": number("q", int(query)), "label": data.class_names[label], "rows": rows}
        )
    return {
        "bits": common_bits(results.rows),
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

    Of several search types the first is taken, of several settings the best; what has no raw
    results is left out.
    """
    bits = common_bits(results.rows)
    rows = [row for row in results.rows if row.bits == bits and not row.reference]
    rows = best_settings(rows, main_metric(results))
    rows += [row for row in results.rows if row.reference]
    nearest: dict[str, npt.NDArray[np.int64]] = {}
    for row in rows:
        if row.method in nearest:
            continue
        try:
            ids = read_ids(out, row.key)[:, :N_NEAREST]
        except (ValueError, OSError) as error:
            _log.warning("%s is not in the gallery: %s", row.method, error)
            continue
        if len(ids) != n_queries or ids.min() < -1 or ids.max() >= n_database:
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
