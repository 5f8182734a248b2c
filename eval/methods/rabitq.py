"""RaBitQ: a bit for each of the randomly rotated dimensions, and two factors."""

from __future__ import annotations

from collections.abc import Iterator

from faiss_pqvae.registry import methods

from .build import from_factory, reduced_by_pca
from .method import Method, Request

FACTOR_BYTES = 8  # of two factors that IndexRaBitQ stores beside one bit per dimension


@methods.register("RaBitQ")
def rows(request: Request) -> Iterator[Method]:
    """FAISS's, at the bytes that it has: a bit for every dimension and the factors.

    Of fewer bytes it could only be had of fewer dimensions, which is no way to use it.
    """
    d, pca, label = reduced_by_pca(request.shape)
    if request.bits == 8 * (-(-d // 8) + FACTOR_BYTES):
        factory = f"{pca}RR{d},RaBitQ"
        yield from_factory(
            f"{label}RaBitQ",
            request.bits,
            request.d,
            factory,
            seed=request.seed,
            metric=request.metric,
        )
