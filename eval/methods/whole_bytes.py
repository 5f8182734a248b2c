"""PQ and OPQ with sub-quantizers of 8 bits, where those of the comparison have others."""

from __future__ import annotations

from collections.abc import Iterator

from faiss_pqvae.registry import methods

from .build import PCA_DIM, from_factory, pq_code, reduced_by_pca
from .method import Method, Request
from .opq import opq_code


@methods.register("PQ, 8 bits")
def pq_rows(request: Request) -> Iterator[Method]:
    """PQ, with M x 8 in its name."""
    if _differs(request):
        pca, label = reduced_by_pca(request.d)
        count = request.bits // 8
        factory = pq_code(pca, min(request.d, PCA_DIM), count, 8)
        yield from_factory(
            f"{label}PQ ({count}x8)", request.bits, request.d, factory, seed=request.seed
        )


@methods.register("OPQ, 8 bits")
def opq_rows(request: Request) -> Iterator[Method]:
    """OPQ, with M x 8 in its name."""
    if _differs(request):
        pca, label = reduced_by_pca(request.d)
        count = request.bits // 8
        factory = opq_code(pca, min(request.d, PCA_DIM), count, 8)
        yield from_factory(
            f"{label}OPQ ({count}x8)", request.bits, request.d, factory, seed=request.seed
        )


def _differs(request: Request) -> bool:
    return request.bits % 8 == 0 and request.bits != 8 * request.M
