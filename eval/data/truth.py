"""Exact nearest neighbours: measured by brute force, kept under a fingerprint of the data.

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
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from faiss_pqvae.data.source import Source, chunks
from faiss_pqvae.files import replace_bytes
from faiss_pqvae.types import FloatArray, IdArray

from ..faiss_library import faiss
from ..measure.metrics import TIE_TOLERANCE

Metric: TypeAlias = Literal["l2", "inner_product"]

DEPTH = 100  # neighbours of every query
SAMPLE = 200  # queries that a ground truth from elsewhere is compared on
# The matrix product of brute force rounds more than a sum of squared differences: this many
# candidates more than needed are found with it, and ranked by the latter.
MARGIN = 32
FORMAT = 1

BLOCK_BYTES = 64 << 20  # of float32 that are read at once
_METRICS: dict[Metric, int] = {
    "l2": faiss.METRIC_L2,
    "inner_product": faiss.METRIC_INNER_PRODUCT,
}
_log = logging.getLogger(__name__)


class Neighbours(NamedTuple):
    """The nearest neighbours of every query, best first.

    Attributes:
        I: (nq, depth) int64, positions in the database; ties in the order of their ids.
        D: (nq, depth) float32, squared L2 distances (rising) or inner products (falling).
    """

    I: IdArray  # noqa: E741 - FAISS's name
    D: FloatArray


def block_rows(d: int, block_bytes: int = BLOCK_BYTES) -> int:
    """How many vectors of d dimensions are read at once."""
    return max(1, block_bytes // (4 * d))


def nearest(
    queries: FloatArray,
    database: Source,
    k: int,
    metric: Metric = "l2",
    *,
    progress: bool = True,
    block_bytes: int = BLOCK_BYTES,
) -> Neighbours:
    """The exact k nearest neighbours, by brute force over blocks of the database.

    Args:
        queries: (nq, d) float32, in memory.
        database: (n, d) float32; one block is read at a time.
        k: at most n.
        metric: "l2" or "inner_product".
        progress: draw a bar, where standard error is a terminal.
        block_bytes: of float32 in a block.

    Raises:
        ValueError: k is not from 1 to n.
    """
    n, d = database.shape
    if not 1 <= k <= n:
        raise ValueError(f"expected k from 1 to the {n} vectors of the database, got {k}")
    wanted = min(n, k + MARGIN)
    heap = faiss.ResultHeap(len(queries), wanted, keep_max=metric == "inner_product")
    start = 0
    with tqdm(
        total=n, unit="vector", desc="exact neighbours", delay=1, disable=None if progress else True
    ) as bar:
        for block in chunks(database, block_rows(d, block_bytes)):
            D, I = faiss.knn(queries, _rows(block), min(wanted, len(block)), _METRICS[metric])  # noqa: E741
            heap.add_result(D, I + start)
            start += len(block)
            bar.update(len(block))
    heap.finalize()
    I = heap.I.astype(np.int64, copy=False)  # noqa: E741
    D = distances(queries, database, I, metric, block_bytes=block_bytes)
    order = np.lexsort((I, -D if metric == "inner_product" else D), axis=-1)[:, :k]
    return Neighbours(np.take_along_axis(I, order, 1), np.take_along_axis(D, order, 1))


def distances(
    queries: FloatArray,
    database: Source,
    I: IdArray,  # noqa: E741
    metric: Metric = "l2",
    *,
    block_bytes: int = BLOCK_BYTES,
) -> FloatArray:
    """The distance of every query to the items that were returned for it, from the vectors.

    Args:
        queries: (nq, d) float32, in memory.
        database: (n, d) float32; from a source that is no array in memory, one block is
            read at a time.
        I: (nq, k) int64, positions in the database; -1 is nothing.
        metric: "l2" or "inner_product".
        block_bytes: of float32 in a block.

    Returns:
        (nq, k) float32, squared L2 distances or inner products; for -1 infinity, or minus
        infinity. The same pair of vectors gives the same bits, wherever it stands.

    Raises:
        ValueError: a shape does not fit, or an id is neither -1 nor a position in the database.
    """
    n, d = database.shape
    if I.ndim != 2 or len(I) != len(queries) or queries.shape[1] != d:
        raise ValueError(
            f"expected I of shape ({len(queries)}, k) and queries of {d} dimensions, got {I.shape} "
            f"and {queries.shape}"
        )
    if I.size and (I.min() < -1 or I.max() >= n):
        raise ValueError(f"expected ids from -1 to {n - 1}, got {I.min()} to {I.max()}")
    out = np.empty(I.shape, np.float32)
    queries = _rows(queries)
    if isinstance(database, np.ndarray) and _is_plain(database):
        _by_ids(out, queries, database, np.ascontiguousarray(I, np.int64), metric)
    else:
        rows = max(1, block_rows(d, block_bytes) // max(1, I.shape[1]))
        for start in range(0, len(I), rows):
            part = slice(start, start + rows)
            ids, places = np.unique(I[part], return_inverse=True)
            near = _rows(database[np.maximum(ids, 0)])
            block = np.empty(I[part].shape, np.float32)
            places = np.ascontiguousarray(places.reshape(block.shape), np.int64)
            _by_ids(block, queries[part], near, places, metric)
            out[part] = block
    out[I < 0] = np.inf if metric == "l2" else -np.inf
    return out


def _by_ids(
    out: FloatArray, queries: FloatArray, rows: FloatArray, ids: IdArray, metric: Metric
) -> None:
    """FAISS's own kernel, with no copy of the rows."""
    compute = faiss.fvec_L2sqr_by_idx if metric == "l2" else faiss.fvec_inner_products_by_idx
    pointers = [faiss.swig_ptr(array) for array in (out, queries, rows, ids)]
    compute(*pointers, rows.shape[1], *ids.shape)


def _is_plain(x: npt.NDArray[Any]) -> bool:
    """Whether FAISS can read the array where it lies."""
    return x.dtype == np.float32 and x.flags.c_contiguous and x.flags.aligned


def _rows(x: npt.NDArray[Any]) -> FloatArray:
    return np.ascontiguousarray(x, dtype=np.float32)


def digest(source: Source, what: str, *, block_bytes: int = BLOCK_BYTES) -> str:
    """sha256 of all rows as float32, with their shape, in hexadecimal.

    All of the content, since a sample could miss what changed; at 1 GB/s this costs less than
    the first search over the same data.

    Raises:
        ValueError: NaN or infinity (the message gives the first such row).
    """
    hashed = hashlib.sha256(repr(tuple(source.shape)).encode())
    start = 0
    with tqdm(
        total=len(source), unit="vector", desc=f"reading {what}", delay=2, disable=None, leave=False
    ) as bar:
        for block in chunks(source, block_rows(source.shape[1], block_bytes)):
            rows = _rows(block)
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
        exact = nearest(_rows(queries[rows]), database, k, metric).D
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
