"""Items to rows of floats: read in chunks, flattened, and brought to fewer dimensions by PCA.

Every baseline sees the same floats: pixels / 255, flattened, in float32. Sources are read in
chunks, so that a data set on disk is never copied whole.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae.data.source import Source, chunks
from faiss_pqvae.types import FloatArray, IdArray

from ..faiss_library import faiss
from .among import native_among
from .enough import check_enough_for
from .flowing import Flowing
from .method import LeftOutError, check_enough
from .native_training import native_bytes, train_native

TRAIN_LIMIT = 50_000
CHUNK_BYTES = 64 << 20  # of float32 in one chunk
REMEMBERED = 2  # reductions that are kept


class FlatPixels:
    """An index of vectors that takes images (or vectors) and flattens them.

    Results come as the index ranks them; the runner puts tied items in the order of their ids.

    Args:
        index: an untrained index of dimension index.d: a faiss.Index, or one of our own with
            `d`, `is_trained`, `train`, `add`, `search` and `sa_code_size`.
        d: values per item; where there are more than index.d, a PCA to index.d comes first.
        train_limit: training takes at most this many items, chosen by the seed.
        seed: of that choice.
        chunk_bytes: of float32 that are read at a time.

    Attributes:
        ntotal: stored items.
        train_s: seconds of the training, after it. Indexes that start from the same PCA share it;
            its seconds are in the time of each.

    Raises:
        ValueError: d is below index.d.
    """

    def __init__(
        self,
        index: Any,
        *,
        d: int | None = None,
        train_limit: int = TRAIN_LIMIT,
        seed: int = 0,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self.faiss_index = index
        self.d = index.d if d is None else d
        if self.d < index.d:
            raise ValueError(f"expected d >= {index.d}, the dimension of the index, got {self.d}")
        self.train_limit = train_limit
        self.seed = seed
        self.chunk_bytes = chunk_bytes
        self.train_s = 0.0
        self.ntotal = 0
        self._pca: Any = None

    @property
    def learns(self) -> bool:
        """Whether there is anything to train; not after it was."""
        return not self.faiss_index.is_trained or self.d > self.faiss_index.d

    def model_bytes(self) -> int | None:
        """Bytes of the trained index, which is empty, and of the PCA before it; None: unknown."""
        index = self.faiss_index
        if isinstance(index, faiss.Index):
            own = native_bytes(index)
        elif hasattr(index, "model_bytes"):
            own = index.model_bytes()
        else:
            return None
        return int(own) + self._pca_bytes()

    def stored_bytes(self) -> int | None:
        """Bytes of the filled index and of the PCA before it; None: unknown."""
        index = self.faiss_index
        if isinstance(index, faiss.Index):
            return native_bytes(index) + self._pca_bytes()
        kept = self.model_bytes()
        return None if kept is None else kept + self.ntotal * self.sa_code_size()

    def _pca_bytes(self) -> int:
        return 0 if self._pca is None else 4 * (self._pca.A.size() + self._pca.b.size())

    def train(self, x: Source, /) -> None:
        """Trains on x: (n, *item_shape) uint8 or float.

        Raises:
            TooFewItemsError: for the PCA, or for what follows.
        """
        if not self.learns:
            return
        n = min(len(x), self.train_limit)
        if self.d > self.faiss_index.d:
            check_enough(n, self.faiss_index.d, f"a PCA to {self.faiss_index.d} dimensions")
        check_enough_for(self.faiss_index, n)
        if self.d > self.faiss_index.d:
            reduction = reduced(x, self.d, self.faiss_index.d, self.train_limit, self.seed)
            self._pca, sample, before_s = reduction.pca, reduction.sample, reduction.seconds
        else:
            started = time.perf_counter()
            sample = subsample(x, self.d, self.train_limit, self.seed, chunk_bytes=self.chunk_bytes)
            before_s = time.perf_counter() - started
        started = time.perf_counter()
        train_native(self.faiss_index, sample)
        self.train_s = before_s + (time.perf_counter() - started)

    def add(self, x: Source, /) -> None:
        """Adds x: (n, *item_shape) uint8 or float, chunk by chunk."""
        for chunk in flat_chunks(x, self.d, self.chunk_bytes):
            self.faiss_index.add(self._reduce(chunk))
            self.ntotal += len(chunk)

    def search(self, xq: npt.NDArray[Any], k: int, /) -> tuple[FloatArray, IdArray]:
        """Finds the k nearest of every query.

        Args:
            xq: (nq, *item_shape) uint8 or float.
            k: results per query.

        Returns:
            D: (nq, k) float32, as the index measures; I: (nq, k) int64.
        """
        D, I = self.faiss_index.search(self._prepared(xq), k)  # noqa: E741
        return D, I

    def search_among(self, xq: npt.NDArray[Any], k: int, sel: Any, /) -> tuple[FloatArray, IdArray]:
        """The same of the items that a faiss.IDSelector has; -1 behind them where they are few."""
        return native_among(self.faiss_index, self._prepared(xq), k, sel)

    def flowing(self) -> Flowing:
        """The trained index, emptied, as one that items come into and go from.

        Raises:
            LeftOutError: it is no native index.
        """
        if not isinstance(self.faiss_index, faiss.Index):
            raise LeftOutError("nothing deletes its items")
        self.faiss_index.reset()
        return Flowing(self.faiss_index, self.search, self._prepared)

    def sa_code_size(self) -> int:
        """Bytes per vector of the index."""
        return int(self.faiss_index.sa_code_size())

    def _prepared(self, x: npt.NDArray[Any]) -> FloatArray:
        return self._reduce(flatten(x, self.d))

    def _reduce(self, rows: FloatArray) -> FloatArray:
        if self._pca is None:
            return rows
        out: FloatArray = self._pca.apply(rows)
        return out


@dataclass(frozen=True, eq=False)
class Reduction:
    """A PCA, and what it makes of the items that it was learned from.

    Attributes:
        pca: a trained faiss.PCAMatrix.
        sample: (n, pca.d_out) float32.
        seconds: that reading, learning and applying took.
    """

    pca: Any
    sample: FloatArray
    seconds: float


_reductions: dict[tuple[Any, ...], Reduction] = {}


def reduced(source: Source, d: int, d_out: int, limit: int, seed: int) -> Reduction:
    """The PCA of a source's items, and the items themselves after it.

    A dozen baselines at several code lengths start from the same PCA, which takes longer than most
    of them: the last ones are kept, by the content of the source and everything else that decides.

    Args:
        source: (n, *item_shape) uint8 or float.
        d: values per item.
        d_out: dimensions that are kept.
        limit: at most this many items are learned from, and returned.
        seed: of their choice.
    """
    # With no more items than the limit nothing is chosen: every seed has the same PCA.
    key = (_digest(source), d, d_out, limit, seed if len(source) > limit else None)
    if key not in _reductions:
        started = time.perf_counter()
        rows = subsample(source, d, limit, seed)
        pca = faiss.PCAMatrix(d, d_out)
        pca.train(rows)
        sample = pca.apply(rows)
        while len(_reductions) >= REMEMBERED:
            del _reductions[next(iter(_reductions))]
        _reductions[key] = Reduction(pca, sample, time.perf_counter() - started)
    return _reductions[key]


def flatten(x: npt.NDArray[Any], d: int) -> FloatArray:
    """Makes contiguous float32 rows.

    Args:
        x: (n, *item_shape). uint8 is divided by 255, floats are taken as they are.
        d: values per item.

    Returns:
        (n, d) float32, x itself where it is that already.

    Raises:
        ValueError: an item has not d values.
        TypeError: the dtype is neither uint8 nor a float.
    """
    check_size(x.shape[1:], d)
    rows = x.reshape(len(x), d)
    if x.dtype == np.uint8:
        scaled: FloatArray = np.divide(rows, np.float32(255), dtype=np.float32)
        return scaled
    if not np.issubdtype(x.dtype, np.floating):
        raise TypeError(f"expected uint8 or floating point items, got {x.dtype}")
    return np.ascontiguousarray(rows, dtype=np.float32)


def flat_chunks(source: Source, d: int, chunk_bytes: int = CHUNK_BYTES) -> Iterator[FloatArray]:
    """The source in order, as (rows, d) float32 chunks of at most so many bytes."""
    for chunk in _chunks(source, d, chunk_bytes):
        yield flatten(chunk, d)


def subsample(
    source: Source, d: int, limit: int, seed: int, *, chunk_bytes: int = CHUNK_BYTES
) -> FloatArray:
    """At most `limit` items, drawn without replacement, in the source's order: (rows, d)."""
    n = len(source)
    chosen = np.ones(n, bool)
    if n > limit:
        chosen[:] = False
        chosen[np.random.default_rng(seed).choice(n, limit, replace=False)] = True
    out = np.empty((min(n, limit), d), np.float32)
    read = kept = 0
    for chunk in flat_chunks(source, d, chunk_bytes):
        rows = chunk[chosen[read : read + len(chunk)]]
        out[kept : kept + len(rows)] = rows
        read, kept = read + len(chunk), kept + len(rows)
    return out


def check_size(item_shape: tuple[int, ...], d: int) -> None:
    """Checks that an item has d values.

    Raises:
        ValueError: it has not.
    """
    size = math.prod(item_shape)
    if size != d:
        raise ValueError(f"expected items of {d} values, got shape {item_shape} ({size} values)")


def _chunks(source: Source, d: int, chunk_bytes: int = CHUNK_BYTES) -> Iterator[npt.NDArray[Any]]:
    return chunks(source, max(1, chunk_bytes // (4 * d)))


def _digest(source: Source) -> str:
    """Of shape, dtype and every value."""
    found = hashlib.blake2b(f"{source.shape} {source.dtype}".encode())
    for chunk in _chunks(source, math.prod(source.shape[1:])):
        found.update(np.ascontiguousarray(chunk).view(np.uint8).data)
    return found.hexdigest()
