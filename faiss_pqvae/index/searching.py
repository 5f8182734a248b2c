"""Batch by batch through a native index, and through what refines its results."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae.arguments import check_fits, integer, number, output
from faiss_pqvae.index.encoding import Batch
from faiss_pqvae.index.refine import Candidates, Decoder, Refiner, refine
from faiss_pqvae.native.store.store import Store
from faiss_pqvae.types import FloatArray, IdArray

MAX_K = 2**31 - 1  # FAISS's graphs count results in 32 bits

_MOST = float(np.finfo(np.float32).max)
_LISTED_AT_A_TIME = 2**24  # results of look-up tables, which take some 40 bytes each
# Of no queries.
_NOTHING = np.zeros(1, np.int64), np.empty(0, np.float32), np.empty(0, np.int64)


def check_k(k: Any) -> int:
    """A number of results as an int.

    Raises:
        TypeError: no integer.
        ValueError: below 1, or beyond what FAISS counts in.
    """
    return integer("k", k, 1, MAX_K)


@dataclass(frozen=True)
class Search:
    """How queries are answered.

    Attributes:
        store: what is searched.
        refiner: a second look at what is found, or None.
        k_factor: candidates per result that it looks at.
        params: faiss.SearchParameters of the native index's kind, or None.
        sdc: quantize the queries too, in the native index.
        offset: what the native index's distances have too much.
    """

    store: Store
    refiner: Refiner | None
    k_factor: float
    params: Any
    sdc: bool
    offset: float = 0.0

    def nearest(
        self, batches: Iterator[Batch], shape: tuple[int, int], *outputs: Any
    ) -> tuple[FloatArray, IdArray, FloatArray | None]:
        """The nearest stored items of queries.

        Args:
            batches: of n queries.
            shape: (n, k), k results per query.
            *outputs: arrays to write D, I and, where a third is given, R to; None makes new ones.

        Returns:
            D (n, k) float32, I (n, k) int64, and R (n, k, d) float32, the quantized latents, or
            None where they are not asked for.
        """
        # Twice: of the batch that is searched, and of all.
        n_bytes = 4 + 8 + (4 * self.store.index.d if len(outputs) == 3 else 0)
        check_fits(2 * math.prod(shape) * n_bytes, f"k={shape[1]} of {shape[0]} queries")
        D = output(outputs[0], shape, np.float32, "D")
        I = output(outputs[1], shape, np.int64, "I")  # noqa: E741
        R = None
        if len(outputs) == 3:
            R = output(outputs[2], (*shape, self.store.index.d), np.float32, "R")
        start = 0
        for batch in batches:
            rows = slice(start, start + len(batch.z))
            D[rows], keys = self._batch(batch, shape[1], None if R is None else R[rows])
            I[rows] = self.store.ids(keys)
            start = rows.stop
        return D, I, R

    def _batch(self, batch: Batch, k: int, R: FloatArray | None) -> tuple[FloatArray, IdArray]:
        store, index = self.store, self.store.index
        how = {"params": self.params, "sdc": self.sdc}
        if self.refiner is not None:
            candidates = max(
                k, int(min(max(k, self.refiner.least_k) * self.k_factor, index.ntotal))
            )
            found = self._candidates(batch, candidates, how)
            D, keys = refine(self.refiner, batch, found, k, int(index.metric_type))
            if R is not None:
                R[:] = store.reconstruct_found(keys)
        elif R is not None:
            D, keys, R[:] = store.search_and_reconstruct(batch.z, k, **how)
        else:
            D, keys = store.search(batch.z, k, **how)
        if self.refiner is None and self.offset:
            D -= np.where(keys == -1, 0, np.float32(self.offset))
        return D, keys

    def _candidates(self, batch: Batch, n: int, how: dict[str, Any]) -> Candidates:
        """The n best of every query, for the refiner."""
        refiner = self.refiner
        if not isinstance(refiner, Decoder) or not refiner.by_codes:
            return Candidates(self.store.search(batch.z, n, **how)[1])
        listed = max(n, min(n * refiner.listed, int(self.store.index.ntotal)))
        rows = max(1, _LISTED_AT_A_TIME // listed)
        parts = (batch.z[start : start + rows] for start in range(0, len(batch.z), rows))
        found = []
        for part in parts:
            D, keys, codes = self.store.search_and_return_codes(part, listed, **how)
            found.append(refiner.shortened(D, Candidates(keys, codes), n))
        keys, codes = (np.concatenate(each) for each in zip(*found, strict=True))
        return Candidates(keys, codes)

    def within(
        self, batches: Iterator[Batch], thresh: float
    ) -> tuple[npt.NDArray[np.uint64], FloatArray, IdArray]:
        """All stored items closer than a threshold; returns see `LatentIndex.range_search`.

        Raises:
            ValueError: a threshold that is no finite number; a refiner.
        """
        if self.refiner is not None:
            raise ValueError(
                "a refined index has no range_search: the threshold would be between latents and "
                "the distances between items; search with k, or make the index without refinement"
            )
        thresh = number("threshold", thresh, -_MOST, _MOST)
        found = [
            self.store.range_search(batch.z, thresh + self.offset, params=self.params, sdc=self.sdc)
            for batch in batches
        ] or [_NOTHING]
        counts = np.concatenate([np.diff(lims) for lims, _, _ in found])
        lims = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
        D = np.concatenate([distances for _, distances, _ in found]) - np.float32(self.offset)
        return lims, D, self.store.ids(np.concatenate([keys for _, _, keys in found]))
