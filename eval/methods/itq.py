"""ITQ: a PCA to as many dimensions as bits, a learned rotation, and signs."""

from __future__ import annotations

from collections.abc import Iterator

from faiss_pqvae.registry import methods

from .build import PCA_DIM, from_factory, reduced_by_pca
from .method import Method, Request


@methods.register("ITQ")
def rows(request: Request) -> Iterator[Method]:
    """FAISS's; no row where there are more bits than dimensions to start from."""
    pca, label = reduced_by_pca(request.d)
    if request.bits <= min(request.d, PCA_DIM):
        factory = f"{pca}ITQ{request.bits},LSH"
        yield from_factory(
            f"{label}ITQ", request.bits, request.d, factory, search="hamming", seed=request.seed
        )
