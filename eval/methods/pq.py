"""PQ with the sub-quantizers of the comparison: on the values, and after a PCA."""

from __future__ import annotations

from collections.abc import Iterator

from faiss_pqvae.registry import methods

from .build import from_factory, pq_code, reduced_by_pca
from .method import Method, Request


@methods.register("PQ")
def rows(request: Request) -> Iterator[Method]:
    """Both for images that get a PCA, else the first."""
    start = reduced_by_pca(request.shape)
    starts = {"PQ": ("", request.d), f"{start.label}PQ": (start.factory, start.d)}
    for name, (pca, d) in starts.items():
        factory = pq_code(pca, d, request.M, request.bits // request.M)
        yield from_factory(
            name,
            request.bits,
            request.d,
            factory,
            seed=request.seed,
            metric=request.metric,
        )
