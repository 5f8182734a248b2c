"""Exact nearest neighbours and distances, by brute force over blocks of a database."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from faiss_pqvae.data.source import Source, chunks
from faiss_pqvae.progress import Progress
from faiss_pqvae.types import FloatArray, IdArray

from ..faiss_library import faiss

Metric: TypeAlias = Literal["l2", "inner_product"]

# The matrix product of brute force rounds more than a sum of squared differences: this many
# candidates more than needed are found with it, and ranked by the latter.
MARGIN = 32
BLOCK_BYTES = 64 << 20  # of float32 that are read at once
FAISS_METRICS: dict[Metric, int] = {
    "l2": faiss.METRIC_L2,
    "inner_product": faiss.METRIC_INNER_PRODUCT,
}


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
    wanted, faiss_metric = min(n, k + MARGIN), FAISS_METRICS[metric]
    heap = faiss.ResultHeap(len(queries), wanted, keep_max=metric == "inner_product")
    start = 0
    with Progress("exact neighbours", n, unit="vectors", shown=progress) as bar:
        for block in chunks(database, block_rows(d, block_bytes)):
            most = min(wanted, len(block))
            D, I = faiss.knn(queries, float_rows(block), most, faiss_metric)  # noqa: E741
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
    queries = float_rows(queries)
    if isinstance(database, np.ndarray) and _is_plain(database):
        _by_ids(out, queries, database, np.ascontiguousarray(I, np.int64), metric)
    else:
        rows = max(1, block_rows(d, block_bytes) // max(1, I.shape[1]))
        for start in range(0, len(I), rows):
            part = slice(start, start + rows)
            ids, places = np.unique(I[part], return_inverse=True)
            near = float_rows(database[np.maximum(ids, 0)])
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


def float_rows(x: npt.NDArray[Any]) -> FloatArray:
    """(n, d) numbers as contiguous float32."""
    return np.ascontiguousarray(x, dtype=np.float32)
