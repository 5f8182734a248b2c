"""Product-residual quantization: residual codes of two halves of a vector."""

from __future__ import annotations

from collections.abc import Iterator

from faiss_pqvae.registry import methods

from .build import PCA_DIM, from_factory, pad, reduced_by_pca
from .method import Method, Request


@methods.register("Product-residual")
def rows(request: Request) -> Iterator[Method]:
    """FAISS's, where each half has two whole bytes or more; no norm is stored."""
    pca, label = reduced_by_pca(request.d)
    if request.bits % 16 == 0 and request.bits > 16:
        factory = f"{pca}{pad(min(request.d, PCA_DIM), 2)}PRQ2x{request.bits // 16}x8"
        yield from_factory(
            f"{label}Product-residual", request.bits, request.d, factory, seed=request.seed
        )
