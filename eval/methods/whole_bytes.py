"""PQ and OPQ with sub-quantizers of 8 bits, where those of the comparison have others."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from faiss_pqvae.registry import methods

from .build import from_factory, pq_code, reduced_by_pca
from .method import Method, Request
from .opq import opq_code


@methods.register("PQ, 8 bits")
def pq_rows(request: Request) -> Iterator[Method]:
    """PQ, with M x 8 in its name."""
    yield from _rows(request, "PQ", pq_code)


@methods.register("OPQ, 8 bits")
def opq_rows(request: Request) -> Iterator[Method]:
    """OPQ, with M x 8 in its name."""
    yield from _rows(request, "OPQ", opq_code)


def _rows(
    request: Request, name: str, code: Callable[[str, int, int, int], str]
) -> Iterator[Method]:
    """One row, where the sub-quantizers of the comparison are others."""
    if request.bits % 8 == 0 and request.bits != 8 * request.M:
        d, pca, label = reduced_by_pca(request.shape)
        count = request.bits // 8
        factory = code(pca, d, count, 8)
        yield from_factory(
            f"{label}{name} ({count}x8)", request.bits, request.d, factory, seed=request.seed
        )
