"""LSH: the signs of random rotated hyperplanes."""

from __future__ import annotations

from collections.abc import Iterator

from faiss_pqvae.registry import methods

from .build import from_factory, reduced_by_pca
from .method import Method, Request


@methods.register("LSH")
def rows(request: Request) -> Iterator[Method]:
    """FAISS's, at any number of bits.

    PCA centres the values. Without it hyperplanes through the origin would have all pixels, which
    are never negative, on similar sides: then the thresholds are trained ("t").
    """
    _, pca, label = reduced_by_pca(request.shape)
    factory = f"{pca}LSH{request.bits}{'r' if pca else 'rt'}"
    yield from_factory(
        f"{label}LSH", request.bits, request.d, factory, search="hamming", seed=request.seed
    )
