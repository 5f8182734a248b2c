"""Scalar quantization: so many bits for every value."""

from __future__ import annotations

from collections.abc import Iterator

from faiss_pqvae.registry import methods

from .build import from_factory, reduced_by_pca
from .method import Method, Request

KINDS = {4: "SQ4", 6: "SQ6", 8: "SQ8", 16: "SQfp16"}


@methods.register("SQ")
def rows(request: Request) -> Iterator[Method]:
    """FAISS's, where the bytes hold 4, 6, 8 or 16 bits a value; nothing in it is random."""
    d, pca, label = reduced_by_pca(request.shape)
    each, rest = divmod(request.bits, d)
    if rest == 0 and each in KINDS:
        yield from_factory(
            f"{label}{KINDS[each]}",
            request.bits,
            request.d,
            f"{pca}{KINDS[each]}",
            metric=request.metric,
        )
