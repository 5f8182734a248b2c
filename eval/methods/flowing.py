"""Items that come and go in a trained index, under ids that they keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae.types import FloatArray, IdArray

from ..faiss_library import faiss
from .method import LeftOutError
from .native_training import parts_of

Search = Callable[[npt.NDArray[Any], int], tuple[FloatArray, IdArray]]


class Flowing:
    """An index that items are inserted into and deleted from.

    Inverted lists keep ids themselves; of what stands in one row, later items move up when one is
    removed, as FAISS does it, and the ids are kept here.

    Args:
        index: trained and empty, a native one or a `LatentIndex`.
        search: what finds places, or ids, in it.
        prepared: what makes of items what the index takes.

    Raises:
        LeftOutError: a native index of FastScan's blocks, which do not survive removals.
    """

    def __init__(self, index: Any, search: Search, prepared: Callable[[Any], Any] | None = None):
        self._index, self._search, self._prepared = index, search, prepared
        native = index if isinstance(index, faiss.Index) else index.faiss_index
        self._has_ids = faiss.try_extract_index_ivf(native) is not None
        self._ids = np.empty(0, np.int64)
        if native is index and isinstance(parts_of(native)[1], faiss.IndexFastScan):
            raise LeftOutError("FAISS mixes codes that it removed into those that come next")

    def insert(self, x: npt.NDArray[Any], ids: IdArray) -> None:
        """Adds x: (n, *item_shape) under ids (n,) int64."""
        items = x if self._prepared is None else self._prepared(x)
        if self._has_ids:
            self._index.add_with_ids(items, ids)
            return
        self._index.add(items)
        self._ids = np.concatenate([self._ids, ids])

    def delete(self, ids: IdArray) -> None:
        """Removes items by their ids, (n,) int64.

        Raises:
            ValueError: fewer were there.
        """
        gone = ids if self._has_ids else np.flatnonzero(np.isin(self._ids, ids))
        n = self._index.remove_ids(np.ascontiguousarray(gone, np.int64))
        if n != len(ids):
            raise ValueError(f"expected {len(ids):,} items to be removed, got {n:,}")
        if not self._has_ids:
            self._ids = np.delete(self._ids, gone)

    def search(self, xq: npt.NDArray[Any], k: int) -> tuple[FloatArray, IdArray]:
        """D (nq, k) float32 and the ids I (nq, k) int64 of queries (nq, *item_shape)."""
        D, I = self._search(xq, k)  # noqa: E741
        if not self._has_ids and len(self._ids):
            I = np.where(I < 0, -1, self._ids[np.maximum(I, 0)])  # noqa: E741
        return D, I
