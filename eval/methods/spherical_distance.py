"""The distance between codes of Spherical Hashing, and the nearest by it."""

from __future__ import annotations

import numpy as np

from faiss_pqvae.types import BoolArray, FloatArray, IdArray, WordArray

from .binary import pack


def words(bits: BoolArray) -> WordArray:
    """Bits to words: (n, bits) bool to (n, ceil(bits / 64)) uint64, filled up with zeros."""
    codes = pack(bits)
    padded = np.zeros((len(codes), -(-codes.shape[1] // 8) * 8), np.uint8)
    padded[:, : codes.shape[1]] = codes
    return padded.view(np.uint64)


def spherical_distances(query: WordArray, stored: WordArray) -> FloatArray:
    """|a xor b| / |a and b|, eq. (4).

    Without a common set bit the quotient has no value. Then (assumed) it is 0 for two codes without
    any set bit, which are equal, and for others B + |a xor b|, with B the bits of the words: above
    every quotient, and by differing bits among themselves.

    Args:
        query: (nq, w) uint64.
        stored: (n, w) uint64.

    Returns:
        (nq, n) float32.
    """
    differing = np.zeros((len(query), len(stored)), np.uint8)
    common = np.zeros_like(differing)
    for w in range(query.shape[1]):
        a, b = query[:, w, None], stored[None, :, w]
        differing += np.bitwise_count(a ^ b)
        common += np.bitwise_count(a & b)
    apart = common == 0
    distances: FloatArray = np.divide(
        differing, common, dtype=np.float32, where=~apart, out=np.empty(apart.shape, np.float32)
    )
    far = differing[apart].astype(np.float32)
    distances[apart] = np.where(far > 0, far + 64 * query.shape[1], 0)
    return distances


def smallest(values: FloatArray, k: int) -> IdArray:
    """Positions of the k smallest of (n,) values, by value and then by position: (k,) int64."""
    limit = np.partition(values, k - 1)[k - 1]
    below = np.flatnonzero(values < limit)
    tied = np.flatnonzero(values == limit)[: k - len(below)]
    below = below[np.argsort(values[below], kind="stable")]
    return np.concatenate([below, tied])
