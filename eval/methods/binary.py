"""What hashing methods share: their input, their bytes, and search by Hamming distance."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae.types import BoolArray, CodeArray, FloatArray, IdArray

from ..faiss_library import faiss
from .method import TooFewItemsError


class HammingIndex:
    """Stores binary codes and searches them by Hamming distance, with faiss.IndexBinaryFlat.

    Args:
        bits: bits of a code, a multiple of 8.

    Raises:
        ValueError: `bits` is none.
    """

    def __init__(self, bits: int) -> None:
        check_sizes(bits, 1)
        self.bits = bits
        self.faiss_index: Any = faiss.IndexBinaryFlat(bits)

    @property
    def ntotal(self) -> int:
        """Stored codes."""
        return int(self.faiss_index.ntotal)

    def add(self, bits: BoolArray) -> None:
        """Appends codes: (n, bits) bool."""
        self.faiss_index.add(pack(bits))

    def search(self, bits: BoolArray, k: int) -> tuple[FloatArray, IdArray]:
        """Finds the k nearest codes.

        Args:
            bits: (nq, bits) bool.
            k: results per query, at most `ntotal`.

        Returns:
            D: (nq, k) float32, differing bits; I: (nq, k) int64.

        Raises:
            ValueError: k is below 1 or above `ntotal`.
        """
        check_k(k, self.ntotal)
        D, I = self.faiss_index.search(pack(bits), k)  # noqa: E741
        return D.astype(np.float32), I


class Hashing:
    """A method whose bits are compared by Hamming distance: what follows from its `encode`.

    Args:
        bits: bits of a code, a multiple of 8.
    """

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self._codes = HammingIndex(bits)

    def encode(self, x: npt.NDArray[Any], /) -> BoolArray:
        """The bits of x: (n, d) floats to (n, bits) bool."""
        raise NotImplementedError

    def add(self, x: npt.NDArray[Any], /) -> None:
        """Appends the codes of x: (n, d) floats."""
        self._codes.add(self.encode(x))

    def search(self, xq: npt.NDArray[Any], k: int, /) -> tuple[FloatArray, IdArray]:
        """D: (nq, k) float32, Hamming distances, and I: (nq, k) int64, of xq: (nq, d) floats."""
        return self._codes.search(self.encode(xq), k)

    def sa_code_size(self) -> int:
        """Bytes per stored vector."""
        return self.bits // 8


def pack(bits: BoolArray) -> CodeArray:
    """Bits to bytes, the first bit lowest: (n, bits) bool to (n, bits / 8) uint8, contiguous."""
    return np.ascontiguousarray(np.packbits(bits, axis=1, bitorder="little"))


def check_rows(x: npt.NDArray[Any], d: int) -> FloatArray:
    """Checks vectors.

    Args:
        x: (n, d) floats.
        d: values that are expected.

    Returns:
        (n, d) float32, contiguous; x itself where it is that already.

    Raises:
        TypeError: x has no floating point values.
        ValueError: x has another shape, or values that are not finite.
    """
    x = np.asarray(x)
    if not np.issubdtype(x.dtype, np.floating):
        raise TypeError(f"expected floating point vectors, got {x.dtype}")
    if x.ndim != 2 or x.shape[1] != d:
        raise ValueError(f"expected vectors of shape (n, {d}), got {x.shape}")
    rows: FloatArray = np.ascontiguousarray(x, dtype=np.float32)
    if not np.isfinite(rows).all():
        raise ValueError("expected finite values, got NaN or infinity")
    return rows


def check_training(x: npt.NDArray[Any], d: int) -> FloatArray:
    """Checks vectors to learn from, as `check_rows` does.

    Raises:
        TooFewItemsError: there are fewer than 2, or they are all the same.
    """
    rows = check_rows(x, d)
    if len(rows) < 2 or not (rows != rows[0]).any():
        raise TooFewItemsError(
            f"hashing needs at least 2 different training items, got {len(rows):,} of them"
        )
    return rows


def check_sizes(bits: int, d: int) -> None:
    """Checks the sizes of a hashing method.

    Raises:
        ValueError: bits are no positive multiple of 8, or d is below 1.
    """
    if bits < 8 or bits % 8:
        raise ValueError(f"expected bits as a positive multiple of 8, got {bits}")
    if d < 1:
        raise ValueError(f"expected d >= 1, got {d}")


def check_k(k: int, ntotal: int) -> None:
    """Checks the number of results.

    Raises:
        ValueError: k is below 1 or above the number of stored codes.
    """
    if not 1 <= k <= ntotal:
        raise ValueError(f"expected k from 1 to the {ntotal} stored codes, got {k}")


def check_trained(trained: bool) -> None:
    """Refuses to encode before there is a training.

    Raises:
        RuntimeError: it is not trained.
    """
    if not trained:
        raise RuntimeError("expected a trained index: call train first")
