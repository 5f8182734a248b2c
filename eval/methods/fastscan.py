"""FastScan: codes of 4 bits whose tables stay in registers, scanned several times faster."""

from __future__ import annotations

from collections.abc import Iterator

from faiss_pqvae.registry import methods

from .build import from_factory, pad
from .method import Method, Request

NBITS = 4
NORM_BITS = 8  # two codewords of 4 bits for the norm that distances need


@methods.register("FastScan")
def rows(request: Request) -> Iterator[Method]:
    """PQ and RQ of 4 bits a codeword, of vectors, at the same bytes; RQ has its norm inside.

    A distance is a sum of 8-bit tables: it is rounded more than a table of floats.
    """
    count, rest = divmod(request.bits, 8)
    if len(request.shape) > 1 or rest or count < 2:
        return
    M = request.bits // NBITS
    if request.d >= M:
        yield from_factory(
            "PQ FastScan",
            request.bits,
            request.d,
            f"{pad(request.d, M)}PQ{M}x{NBITS}fs",
            seed=request.seed,
            metric=request.metric,
        )
    if request.metric == "l2":
        M = (request.bits - NORM_BITS) // NBITS
        yield from_factory(
            "RQ FastScan, norm inside",
            request.bits,
            request.d,
            f"RQ{M}x{NBITS}fs_Nrq2x{NBITS}",
            seed=request.seed,
        )
