"""ITQ: a PCA to as many dimensions as bits, a learned rotation, and signs."""

from __future__ import annotations

from collections.abc import Iterator

from faiss_pqvae.registry import methods

from .build import from_factory, reduced_by_pca
from .method import Method, Request


@methods.register("ITQ")
def rows(request: Request) -> Iterator[Method]:
    """FAISS's; no row where there are more bits than dimensions to start from."""
    d, pca, label = reduced_by_pca(request.shape)
    if request.bits <= d:
        factory = f"{pca}ITQ{request.bits},LSH"
        yield from_factory(
            f"{label}ITQ", request.bits, request.d, factory, search="hamming", seed=request.seed
        )
