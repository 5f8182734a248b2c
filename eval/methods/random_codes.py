"""Random codes: what any method has to be better than."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae.data.source import Source
from faiss_pqvae.registry import methods
from faiss_pqvae.types import FloatArray, IdArray

from .method import Method, Request, Shape


class RandomCodes:
    """An index that answers with items drawn at random, each once.

    Args:
        item_shape: of one item; has no effect.
        bits: of a code.
        seed: of the draws.
    """

    def __init__(self, item_shape: Shape, *, bits: int, seed: int) -> None:
        self.bits, self.ntotal = bits, 0
        self.generator = np.random.default_rng(seed)

    def train(self, x: Source, /) -> None:
        """There is nothing to learn."""

    def add(self, x: Source, /) -> None:
        """Counts x: (n, *item_shape)."""
        self.ntotal += len(x)

    def search(self, xq: npt.NDArray[Any], k: int, /) -> tuple[FloatArray, IdArray]:
        """D (nq, k) float32 rising by rank, and I (nq, k) int64 at random."""
        I = [self.generator.permutation(self.ntotal)[:k] for _ in range(len(xq))]  # noqa: E741
        D = np.tile(np.arange(k, dtype=np.float32), (len(xq), 1))
        return D, np.stack(I)

    def sa_code_size(self) -> int:
        """Bytes per stored vector."""
        return -(-self.bits // 8)


@methods.register("Random")
def rows(request: Request) -> Iterator[Method]:
    """At any length."""
    yield Method(
        name="Random",
        bits=request.bits,
        build=partial(RandomCodes, bits=request.bits, seed=request.seed),
        config={"seed": request.seed},
        searches=("random",),
        seed=request.seed,
    )
