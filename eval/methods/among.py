"""Searches that may return some of the items only."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from faiss_pqvae.types import BoolArray, FloatArray, IdArray

from ..faiss_library import faiss
from .method import Searchable

BLOCK_RESULTS = 1 << 22  # of one call: 48 MiB


def selector(allowed: BoolArray) -> Any:
    """A faiss.IDSelector of the places that are allowed, (n,) bool: a bit an item."""
    return faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))


def parameters(index: Any, sel: Any) -> Any:
    """The search parameters of a native index with a selector, and with its own settings."""
    if isinstance(index, faiss.IndexPreTransform):
        inner = parameters(faiss.downcast_index(index.index), sel)
        return faiss.SearchParametersPreTransform(index_params=inner)
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(sel=sel, nprobe=index.nprobe)
    if hasattr(index, "hnsw"):
        return faiss.SearchParametersHNSW(sel=sel, efSearch=index.hnsw.efSearch)
    return faiss.SearchParameters(sel=sel)


class NoSelectorError(Exception):
    """An index whose search takes no selector."""


def native_among(index: Any, x: Any, k: int, sel: Any) -> tuple[Any, Any]:
    """D and I (rows, k) of a native index among what a selector has.

    Raises:
        NoSelectorError: FAISS has no such search.
    """
    if not isinstance(index, faiss.Index):
        raise NoSelectorError
    try:
        found: tuple[Any, Any] = index.search(x, k, params=parameters(index, sel))
    except RuntimeError as error:  # FAISS says "not supported" in several ways
        raise NoSelectorError from error
    return found


def oversampled(
    index: Searchable, xq: Any, k: int, allowed: BoolArray, *, block: int = BLOCK_RESULTS
) -> tuple[FloatArray, IdArray]:
    """What people do where a search takes no selector: ask for more, and drop what is not allowed.

    So many more that there should be twice as many allowed ones as are wanted; all items for the
    queries that still find too few.

    Args:
        index: filled with n items.
        xq: (rows, *item_shape) queries.
        k: results per query.
        allowed: (n,) bool.
        block: results that one call returns at most.

    Returns:
        D (rows, k) float32 and I (rows, k) int64; ids of -1 behind what there is, and there as
        distances the last that was found, or 0 of nothing.
    """
    n, size = len(allowed), int(allowed.sum())
    D = np.zeros((len(xq), k), np.float32)
    I = np.full((len(xq), k), -1, np.int64)  # noqa: E741
    wanted, short = min(k, size), np.arange(len(xq))
    for asked in dict.fromkeys((min(n, math.ceil(2 * k * n / size)), n)):
        step = max(1, block // asked)
        for start in range(0, len(short), step):
            rows = short[start : start + step]
            near, ids = map(np.asarray, index.search(xq[rows], asked))
            kept = (ids >= 0) & allowed[np.maximum(ids, 0)]
            for row, d, i, keep in zip(rows, near, ids, kept, strict=True):
                found = i[keep][:k]
                D[row, : len(found)], I[row, : len(found)] = d[keep][:k], found
                D[row, len(found) :] = d[keep][len(found) - 1] if len(found) else 0
        short = np.flatnonzero((I >= 0).sum(axis=1) < wanted)
        if not len(short):
            break
    return D, I
