"""The report's gallery: queries with their nearest images by every method."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from faiss_pqvae.data.source import Source
from faiss_pqvae.data.thumbnails import thumbnail
from faiss_pqvae.types import IdArray

from ..data.labelled import LabelledData
from ..data.protocol import Evaluated, LabelArray
from ..measure.raw import read_ids
from ..measure.results import Results, main_metric
from ..metrics.precision import relevance
from .shown import best_settings, common_bits

N_QUERIES = 10
N_NEAREST = 10
SEED = 0  # of the queries in the gallery
THUMBNAIL = 64  # pixels, at most, of the longer side
GALLERY_BYTES = 2_000_000  # of images in base64; the queries beyond are left out

_log = logging.getLogger(__name__)


def gallery(
    results: Results, data: Evaluated | None, out: Path, *, limit_bytes: int = GALLERY_BYTES
) -> dict[str, Any] | None:
    """Queries with their nearest images by every method, as JSON values for the page.

    Args:
        results: of a run, with its raw files in `out/raw`.
        data: what was searched.
        out: the folder of the run.
        limit_bytes: of images in base64; the queries beyond are left out.

    Returns:
        None without labelled images, or without raw files of these data.
    """
    if not isinstance(data, LabelledData) or not _has_images(data):
        return None
    bits = common_bits(results.rows)
    nearest = nearest_by_method(results, bits, len(data.database), len(data.queries), out)
    if not nearest:
        return None
    images = _Images(data)
    queries: list[dict[str, Any]] = []
    for query in spread(data.query_labels, N_QUERIES, SEED):
        if images.size_bytes > limit_bytes:
            break
        rows = []
        for name, ids in nearest.items():
            cells = _cells(data, images, int(query), ids[query])
            rows.append({"method": name, "cells": cells, "hits": sum(c["hit"] for c in cells)})
        label = class_text(data.query_labels[query], data.class_names)
        queries.append({"image": images.number("q", int(query)), "label": label, "rows": rows})
    return {"bits": bits, "seed": SEED, "queries": queries, "images": images.encoded}


class _Images:
    """Images as they are on the page, each once."""

    def __init__(self, data: LabelledData) -> None:
        database, queries = _looks(data)
        self.sources = {"q": queries, "d": database}
        self.numbers: dict[tuple[str, int], int] = {}
        self.encoded: list[str] = []

    @property
    def size_bytes(self) -> int:
        """Of all images in base64."""
        return sum(map(len, self.encoded))

    def number(self, part: str, i: int) -> int:
        """The number of an image on the page."""
        if (part, i) not in self.numbers:
            self.numbers[part, i] = len(self.encoded)
            self.encoded.append(thumbnail(self.sources[part][i : i + 1][0], THUMBNAIL))
        return self.numbers[part, i]


def _cells(data: LabelledData, images: _Images, query: int, ids: IdArray) -> list[dict[str, Any]]:
    """What is shown of the items of ids (k,), without FAISS's padding."""
    wanted = data.query_labels[query : query + 1]
    hits = relevance(ids[None], data.database_labels, wanted)[0]
    return [
        {
            "image": images.number("d", int(i)),
            "hit": bool(hit),
            "label": class_text(data.database_labels[i], data.class_names),
        }
        for i, hit in zip(ids, hits, strict=True)
        if i >= 0
    ]


def class_text(label: Any, class_names: tuple[str, ...]) -> str:
    """The class of an item, a number, or its classes, (classes,) bool."""
    if np.ndim(label) == 0:
        return class_names[int(label)]
    return ", ".join(class_names[i] for i in np.flatnonzero(label)) or "-"


def spread(labels: LabelArray, n: int, seed: int) -> IdArray:
    """Draws n positions spread over the classes: no class comes twice before all came once.

    Args:
        labels: (nq,) int64, or (nq, classes) bool, of which the first class counts.
        n: how many; all of them when there are fewer.
        seed: of the order, in which nothing but the class counts.

    Returns:
        (min(n, nq),) int64.
    """
    labels = labels.argmax(axis=1) if labels.ndim > 1 else labels
    order = np.random.default_rng(seed).permutation(len(labels))
    seen: dict[int, int] = {}
    turns = np.empty(len(labels), np.int64)
    for position, label in enumerate(labels[order].tolist()):
        turns[position] = seen[label] = seen.get(label, -1) + 1
    return order[np.argsort(turns, kind="stable")][:n]


def _looks(data: LabelledData) -> tuple[Source, Source]:
    """Database and queries as one looks at them."""
    return data.looks or (data.database, data.queries)


def _has_images(data: LabelledData) -> bool:
    database, _ = _looks(data)
    shape = database.shape
    return database.dtype == np.uint8 and len(shape) == 4 and shape[1] in (1, 3)


def nearest_by_method(
    results: Results, bits: int, n_database: int, n_queries: int, out: Path
) -> dict[str, IdArray]:
    """Ids of the nearest, (nq, 10) int64, by method at a code length, references last.

    Of several search types the first is taken, of several settings the best; what has no raw
    results is left out.
    """
    rows = [row for row in results.rows if row.bits == bits and not row.reference]
    rows = best_settings(rows, main_metric(results))
    rows += [row for row in results.rows if row.reference]
    nearest: dict[str, IdArray] = {}
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
