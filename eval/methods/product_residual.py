"""Product-residual quantization: residual codes of two halves of a vector."""

from __future__ import annotations

from collections.abc import Iterator

from faiss_pqvae.registry import methods

from .additive import NORM_BITS, additive_rows
from .build import pad, reduced_by_pca
from .method import Method, Request

SPLITS = 2
_NBITS = (8, 7, 6)  # of a codeword beside a norm, the most that fill the bytes
_NORMS = (NORM_BITS, 4)


@methods.register("Product-residual")
def rows(request: Request) -> Iterator[Method]:
    """FAISS's, where each half has two codewords or more.

    Codewords have 8 bits where no norm is stored. With it they have what fills the bytes; where
    nothing from 6 to 8 bits does, there is no such row.
    """
    start = pad(reduced_by_pca(request.shape).d, SPLITS)
    whole = request.bits // (8 * SPLITS)
    fills = request.bits % (8 * SPLITS) == 0 and whole > 1
    decoded = f"{start}PRQ{SPLITS}x{whole}x8" if fills else None
    scanned = _with_norm(request.bits)
    with_norm = None if scanned is None else f"{start}{scanned}"
    yield from additive_rows("Product-residual", request, with_norm, decoded)


def _with_norm(bits: int) -> str | None:
    """The code with a norm that has exactly so many bits, which are whole bytes."""
    for norm in _NORMS if bits % 8 == 0 else ():
        for nbits in _NBITS:
            count, rest = divmod(bits - norm, SPLITS * nbits)
            if count > 1 and rest == 0:
                return f"PRQ{SPLITS}x{count}x{nbits}_Nqint{norm}"
    return None
