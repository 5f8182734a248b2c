"""FAISS's additive codes decoded item by item, for `evaluate --methods decoded:lsq`.

What `evaluate` calls RQ, LSQ and Product-residual has a second row each, with the norm that a scan
needs. That is as long a training again, which at 16 bytes and more takes LSQ half an hour and more.
At 32 bytes local search with FAISS's own rounds takes hours; "lsq_few_rounds" has those that images
get. Run in this folder, or with it in PYTHONPATH.
"""

from __future__ import annotations

from collections.abc import Iterator

from faiss_pqvae.eval.methods.build import FEW_ROUNDS, from_factory
from faiss_pqvae.eval.methods.method import Method, Request
from faiss_pqvae.registry import methods


def rq(request: Request) -> Iterator[Method]:
    """RQ."""
    yield from _references("RQ", request)


def lsq(request: Request) -> Iterator[Method]:
    """LSQ."""
    yield from _references("LSQ", request)


def lsq_few_rounds(request: Request) -> Iterator[Method]:
    """LSQ with the rounds it has for images: 8 in place of 25, half as many to choose codes."""
    (d,) = request.shape
    yield from_factory(
        f"LSQ, decoded, {FEW_ROUNDS['train_iters']} rounds",
        request.bits,
        d,
        f"LSQ{request.bits // 8}x8",
        search="reference",
        reference=True,
        decoded=True,
        few_rounds=True,
        seed=request.seed,
    )


def product_residual(request: Request) -> Iterator[Method]:
    """Product-residual."""
    yield from _references("Product-residual", request)


def _references(name: str, request: Request) -> Iterator[Method]:
    yield from (row for row in methods.get(name)(request) if row.reference)
