"""Comparisons that FAISS does not make: sizes, bounds and values that a search relies on."""

from __future__ import annotations

from typing import Any

import numpy as np

from faiss_pqvae.codebooks import MAX_NBITS, MIN_NBITS
from faiss_pqvae.native import faiss

MAX_VALUE = 1e18  # whose square float32 still holds
_MAX_BBS = 2**12  # far beyond anything of use, but not beyond memory


class DisagreementError(Exception):
    """Two parts of an index that do not fit together."""


def expect(what: str, expected: Any, got: Any) -> None:
    """Refuses two values that differ."""
    if expected != got:
        raise DisagreementError(f"expected {what} = {expected}, got {got}")


def require(what: str, fits: bool | np.bool_) -> None:
    """Refuses what does not hold."""
    if not fits:
        raise DisagreementError(f"expected {what}")


def check_pq(pq: Any, d: int) -> None:
    """Whether the sizes of a faiss.ProductQuantizer over d dimensions agree."""
    expect("pq.d", d, pq.d)
    require(f"M in [1, {d}]", 1 <= pq.M <= d)
    require("nbits in [1, 16]", 1 <= pq.nbits <= 16)
    expect("M * dsub", d, pq.M * pq.dsub)
    expect("ksub", 2**pq.nbits, pq.ksub)
    expect("pq.code_size", (pq.M * pq.nbits + 7) // 8, pq.code_size)
    expect("number of centroid values", d * pq.ksub, pq.centroids.size())
    require_finite("centroids", pq.centroids)


def check_rq(index: Any) -> None:
    """Whether an IndexResidualQuantizer is as `new_residual_index` makes it, and sizes agree."""
    rq = index.rq
    expect("metric_type", faiss.METRIC_INNER_PRODUCT, index.metric_type)
    expect("rq.d", index.d, rq.d)
    nbits = faiss.vector_to_array(rq.nbits).tolist()
    expect("number of levels", rq.M, len(nbits))
    one = len(set(nbits)) == 1 and MIN_NBITS <= nbits[0] <= MAX_NBITS
    require(f"levels of the same nbits in [{MIN_NBITS}, {MAX_NBITS}]", one)
    expect("is_trained of the rq", index.is_trained, rq.is_trained)
    expect("search_type", faiss.AdditiveQuantizer.ST_LUT_nonorm, rq.search_type)
    expect("max_beam_size", 1, rq.max_beam_size)
    expect("rq.code_size", (rq.M * nbits[0] + 7) // 8, rq.code_size)
    expect("code_size", rq.code_size, index.code_size)
    codebooks = faiss.vector_to_array(rq.codebooks).astype(np.float64)
    expect("number of codebook values", rq.M * rq.d << nbits[0], codebooks.size)
    # The nearest codeword to what is left of a vector: FAISS reads out of bounds if there is none.
    longest = np.sqrt(np.square(codebooks.reshape(rq.M, -1, rq.d)).sum(-1)).max(-1)
    require("codewords with finite distances", longest.sum() < MAX_VALUE)


def check_fast_scan(index: Any) -> None:
    """Whether the sizes of codes in blocks agree."""
    check_pq(index.pq, index.d)
    for name in ("M", "nbits", "ksub", "code_size"):
        expect(name, getattr(index.pq, name), getattr(index, name))
    expect("nbits", 4, index.nbits)
    expect("M2", round_up(index.M, 2), index.M2)
    fits = 0 < index.bbs <= _MAX_BBS and index.bbs % 32 == 0
    require(f"bbs as a multiple of 32, at most {_MAX_BBS}", fits)


def require_finite(what: str, vector: Any) -> None:
    """Refuses NaN and infinity in a native vector."""
    require(f"finite values of {what}", np.isfinite(faiss.vector_to_array(vector)).all())


def values(vector: Any) -> Any:
    """The values of a native vector, whether it owns them or they lie in a mapped file."""
    if not vector.size():
        return np.empty(0, np.int32)
    return faiss.rev_swig_ptr(vector.data(), vector.size())


def round_up(n: int, step: int) -> int:
    """The next multiple of a step."""
    return -(-n // step) * step
