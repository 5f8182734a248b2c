"""A method to compare: a bit a chosen pixel."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from faiss_pqvae.eval.methods.method import Method, Request


class Signs:
    """Whether a pixel is above its median, compared by Hamming distance."""

    def __init__(self, bits: int, seed: int) -> None:
        self.bits, self.seed = bits, seed

    def train(self, x: Any) -> None:
        """Chooses the pixels, and takes their medians."""
        flat = np.asarray(x[:]).reshape(len(x), -1)
        rng = np.random.default_rng(self.seed)
        self.pixels = rng.choice(flat.shape[1], self.bits, replace=False)
        self.medians = np.median(flat[:, self.pixels], axis=0)

    def _code(self, x: Any) -> np.ndarray:
        flat = np.asarray(x[:]).reshape(len(x), -1)[:, self.pixels]
        return flat > self.medians

    def add(self, x: Any) -> None:
        """Stores codes."""
        self.stored = self._code(x)

    def search(self, xq: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
        """D (nq, k) float32 and I (nq, k) int64, best first."""
        distances = (self._code(xq)[:, None] != self.stored).sum(-1)
        ids = np.argsort(distances, axis=1, kind="stable")[:, :k]
        found = np.take_along_axis(distances, ids, 1)
        return found.astype(np.float32), ids.astype(np.int64)

    def sa_code_size(self) -> int:
        """Bytes per stored item."""
        return self.bits // 8


def rows(request: Request) -> Iterator[Method]:
    """One row a length."""
    yield Method(
        name="Signs",
        bits=request.bits,
        build=lambda shape: Signs(request.bits, request.seed),
        config={"method": "outside_people signs", "seed": request.seed},
        seed=request.seed,
    )
