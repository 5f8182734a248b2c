"""Exact search: a yardstick and not a competitor."""

from __future__ import annotations

from collections.abc import Iterator

from faiss_pqvae.registry import methods

from ..data.brute_force import Metric
from .build import from_factory
from .method import Method, Request


def exact(d: int, metric: Metric = "l2") -> Method:
    """Exact search by a metric: 4 bytes a value."""
    name = {"l2": "Exact L2", "inner_product": "Exact inner product"}[metric]
    return from_factory(name, 32 * d, d, "Flat", search="exact", reference=True, metric=metric)


@methods.register("Exact L2")
def rows(request: Request) -> Iterator[Method]:
    """A reference with its own bytes, at every length the same."""
    yield exact(request.d, request.metric)
