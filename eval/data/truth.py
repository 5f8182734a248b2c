"""The true nearest neighbours of a data set's queries, kept under a fingerprint of the data.

A ground truth that comes with a data set is compared with our own on a sample of the queries
before it is used, and its distances are computed from the vectors.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import zipfile
from pathlib import Path

import numpy as np

from faiss_pqvae.data.source import Source, chunks
from faiss_pqvae.files import replace_bytes
from faiss_pqvae.progress import Progress
from faiss_pqvae.types import FloatArray, IdArray

from ..metrics.recalls import TIE_TOLERANCE
from .brute_force import BLOCK_BYTES, Metric, Neighbours, block_rows, distances, float_rows, nearest

DEPTH = 100  # neighbours of every query
SAMPLE = 200  # queries that a ground truth from elsewhere is compared on
FORMAT = 1

_log = logging.getLogger(__name__)


def digest(source: Source, what: str, *, block_bytes: int = BLOCK_BYTES) -> str:
    """sha256 of all rows as float32, with their shape, in hexadecimal.

    All of the content, since a sample could miss what changed; at 1 GB/s this costs less than
    the first search over the same data.

    Raises:
        ValueError: NaN or infinity (the message gives the first such row).
    """
    hashed = hashlib.sha256(repr(tuple(source.shape)).encode())
    start = 0
    with Progress(f"reading {what}", len(source), unit="vectors", inner=True) as bar:
        for block in chunks(source, block_rows(source.shape[1], block_bytes)):
            rows = float_rows(block)
            finite = np.isfinite(rows).all(axis=1)
            if not finite.all():
                row = start + int(finite.argmin())
                raise ValueError(f"expected finite {what}, got NaN or infinity in row {row}")
            hashed.update(rows.data)
            start += len(rows)
            bar.update(len(rows))
    return hashed.hexdigest()


def ground_truth(
    queries: FloatArray,
    database: Source,
    metric: Metric,
    fingerprint: str,
    *,
    shipped: IdArray | None = None,
    sample: int = SAMPLE,
    cache: Path | None = None,
) -> Neighbours:
    """The `DEPTH` nearest neighbours of every query (or all of a smaller database).

    Args:
        queries: (nq, d) float32, in memory.
        database: (n, d) float32.
        metric: "l2" or "inner_product".
        fingerprint: of queries and database; the result is kept under it.
        shipped: (nq, at least depth) ids that come with the data. They are taken when, for a
            random sample of the queries, they lie at the distances that brute force finds.
        sample: how many queries.
        cache: folder; by default ground-truth in the user's cache folder for this package.
    """
    k = min(DEPTH, len(database))
    key = json.dumps([FORMAT, fingerprint, metric, k, len(queries), len(database)])
    name = hashlib.sha256(key.encode()).hexdigest()[:20]
    path = (cache or cache_folder()) / f"{name}.npz"
    known = _cached(path, key, (len(queries), k), len(database), metric)
    if known is not None:
        return known
    found = None if shipped is None else _verified(queries, database, k, metric, shipped, sample)
    if found is None:
        found = nearest(queries, database, k, metric)
    _keep(path, key, found)
    return found


def cache_folder() -> Path:
    """Where ground truths are kept: in the user's cache folder, XDG_CACHE_HOME or ~/.cache."""
    folder = os.environ.get("XDG_CACHE_HOME")
    return (Path(folder) if folder else Path.home() / ".cache") / "faiss-pqvae" / "ground-truth"


def _verified(
    queries: FloatArray, database: Source, k: int, metric: Metric, shipped: IdArray, sample: int
) -> Neighbours | None:
    """What came with the data, with its distances; None when it is not right."""
    problem = _not_neighbours(shipped, (len(queries), k), len(database))
    if problem is None:
        I = np.ascontiguousarray(shipped[:, :k])  # noqa: E741
        D = distances(queries, database, I, metric)
        order = np.lexsort((I, -D if metric == "inner_product" else D), axis=-1)
        I, D = np.take_along_axis(I, order, 1), np.take_along_axis(D, order, 1)  # noqa: E741
        size = min(sample, len(queries))
        rows = np.sort(np.random.default_rng(0).choice(len(queries), size, replace=False))
        exact = nearest(float_rows(queries[rows]), database, k, metric).D
        wrong = (np.abs(D[rows] - exact) > TIE_TOLERANCE * np.abs(exact)).any(axis=1)
        if not wrong.any():
            return Neighbours(I, D)
        problem = f"it is wrong for {wrong.sum()} of {size} queries"
    _log.warning("the ground truth of the data set is not used: %s; it is measured", problem)
    return None


def _not_neighbours(I: IdArray, shape: tuple[int, int], n: int) -> str | None:  # noqa: E741
    """What keeps ids from being neighbours of (nq, k) = shape in n items; None if nothing."""
    if I.ndim != 2 or len(I) != shape[0] or I.shape[1] < shape[1]:
        return f"expected ids of shape ({shape[0]}, at least {shape[1]}), got {I.shape}"
    if I.min() < 0 or I.max() >= n:
        return f"expected ids from 0 to {n - 1}, got {I.min()} to {I.max()}"
    if (np.diff(np.sort(I, axis=1), axis=1) == 0).any():
        return "expected distinct ids, got repeated ones"
    return None


def _cached(
    path: Path, key: str, shape: tuple[int, int], n: int, metric: Metric
) -> Neighbours | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = Neighbours(arrays["I"].astype(np.int64), arrays["D"].astype(np.float32))
            if str(arrays["key"]) != key or found.D.shape != found.I.shape:
                raise ValueError("it is the ground truth of other data")
    except FileNotFoundError:
        return None
    except (KeyError, EOFError, ValueError, TypeError, OSError, zipfile.BadZipFile) as error:
        _log.warning("cannot use %s: %s; the ground truth is measured again", path, error)
        return None
    problem = _not_neighbours(found.I, shape, n)
    rising = found.D if metric == "l2" else -found.D
    if problem is None and not (rising[:, 1:] >= rising[:, :-1]).all():
        problem = "expected distances in order"
    if problem is not None:
        _log.warning("cannot use %s: %s; the ground truth is measured again", path, problem)
        return None
    return found


def _keep(path: Path, key: str, found: Neighbours) -> None:
    content = io.BytesIO()
    np.savez(content, I=found.I, D=found.D, key=np.array(key))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_bytes(path, content.getvalue())
    except OSError as error:
        _log.warning("the ground truth is not kept: %s", error)
