"""RaBitQ: a bit for each of some randomly rotated dimensions, and two factors."""

from __future__ import annotations

from collections.abc import Iterator

from faiss_pqvae.registry import methods

from .build import PCA_DIM, from_factory, reduced_by_pca
from .method import Method, Request

FACTOR_BYTES = 8  # of two factors that IndexRaBitQ stores beside one bit per dimension


@methods.register("RaBitQ")
def rows(request: Request) -> Iterator[Method]:
    """FAISS's; no row up to 64 bits, and where there are fewer dimensions than bits."""
    pca, label = reduced_by_pca(request.d)
    inner, dimensions = min(request.d, PCA_DIM), request.bits - 8 * FACTOR_BYTES
    if 0 < dimensions <= inner:
        fewer = f"PCA{dimensions}," if dimensions < inner else ""
        name = f"{label}RaBitQ" if label or not fewer else "PCA+RaBitQ"
        factory = f"{pca}{fewer}RR{dimensions},RaBitQ"
        yield from_factory(name, request.bits, request.d, factory, seed=request.seed)
