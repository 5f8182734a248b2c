"""LSQ: additive codes that local search finds."""

from __future__ import annotations

from collections.abc import Iterator

from faiss_pqvae.registry import methods

from .build import from_factory, reduced_by_pca
from .method import Method, Request


@methods.register("LSQ")
def rows(request: Request) -> Iterator[Method]:
    """FAISS's, of two whole bytes or more (one byte would be PQ); no norm is stored."""
    pca, label = reduced_by_pca(request.d)
    if request.bits % 8 == 0 and request.bits > 8:
        factory = f"{pca}LSQ{request.bits // 8}x8"
        yield from_factory(f"{label}LSQ", request.bits, request.d, factory, seed=request.seed)
