"""LSQ: additive codes that local search finds."""

from __future__ import annotations

from collections.abc import Iterator

from faiss_pqvae.registry import methods

from .additive import one_after_another
from .method import Method, Request


@methods.register("LSQ")
def rows(request: Request) -> Iterator[Method]:
    """FAISS's, with the byte of its norm inside, and decoded as a reference."""
    yield from one_after_another("LSQ", request)
