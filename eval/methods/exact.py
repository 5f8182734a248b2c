"""Exact L2 search: a yardstick and not a competitor."""

from __future__ import annotations

from collections.abc import Iterator

from faiss_pqvae.registry import methods

from .build import from_factory
from .method import Method, Request


def exact(d: int) -> Method:
    """Exact L2 search: 4 bytes a value."""
    return from_factory("Exact L2", 32 * d, d, "Flat", search="exact", reference=True)


@methods.register("Exact L2")
def rows(request: Request) -> Iterator[Method]:
    """A reference with its own bytes, at every length the same."""
    yield exact(request.d)
