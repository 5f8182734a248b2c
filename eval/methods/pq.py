"""PQ with the sub-quantizers of the comparison: on the values, and after a PCA."""

from __future__ import annotations

from collections.abc import Iterator

from faiss_pqvae.registry import methods

from .build import PCA_DIM, from_factory, pq_code, reduced_by_pca
from .method import Method, Request


@methods.register("PQ")
def rows(request: Request) -> Iterator[Method]:
    """Of more than 256 values both, else the first."""
    pca, label = reduced_by_pca(request.d)
    starts = {"PQ": ("", request.d), f"{label}PQ": (pca, min(request.d, PCA_DIM))}
    for name, (start, inner) in starts.items():
        factory = pq_code(start, inner, request.M, request.bits // request.M)
        yield from_factory(name, request.bits, request.d, factory, seed=request.seed)
