"""OPQ with the sub-quantizers of the comparison."""

from __future__ import annotations

from collections.abc import Iterator

from faiss_pqvae.registry import methods

from .build import from_factory, padded, reduced_by_pca
from .method import Method, Request


def opq_code(start: str, d: int, M: int, nbits: int) -> str:
    """The factory string; the rotation fills up with zeros what M does not divide."""
    return f"{start}OPQ{M}_{padded(d, M)},PQ{M}x{nbits}np"


@methods.register("OPQ")
def rows(request: Request) -> Iterator[Method]:
    """FAISS's; the rotation is learned for the bits of the code."""
    d, pca, label = reduced_by_pca(request.shape)
    factory = opq_code(pca, d, request.M, request.bits // request.M)
    yield from_factory(
        f"{label}OPQ",
        request.bits,
        request.d,
        factory,
        seed=request.seed,
        metric=request.metric,
    )
