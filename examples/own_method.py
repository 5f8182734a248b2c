"""A method of your own beside all others, measured as they are.

python examples/own_method.py
"""

from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np
import tyro

from faiss_pqvae.cli import main as command
from faiss_pqvae.eval.methods.method import Method, Request


class Centred:
    """FAISS's PQ of vectors about their mean: what `evaluate` asks is train, add and search."""

    def __init__(self, bits: int) -> None:
        self.bits = bits

    def train(self, x: Any) -> None:
        vectors = np.asarray(x[:], np.float32)
        self.mean = vectors.mean(0)
        self.index = faiss.IndexPQ(vectors.shape[1], self.bits // 4, 4)
        self.index.train(vectors - self.mean)

    def add(self, x: Any) -> None:
        self.index.add(np.asarray(x[:], np.float32) - self.mean)

    def search(self, xq: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
        return self.index.search(np.asarray(xq[:], np.float32) - self.mean, k)

    def sa_code_size(self) -> int:
        return self.bits // 8


def rows(request: Request) -> Iterator[Method]:
    """A row of the table for every length; several settings would be several rows."""
    yield Method(
        name="PQ about the mean",
        bits=request.bits,
        build=lambda shape: Centred(request.bits),
        config={"method": "own_method"},  # what stored results are known by
        seed=request.seed,
    )


def main(n: int = 3000) -> None:
    x = np.random.default_rng(0).standard_normal((n, 32), dtype="float32")
    np.save("x.npy", x[100:])
    np.save("q.npy", x[:100])
    data = ["--dataset", "x.npy", "--queries", "q.npy", "--bits", "32", "--out", "own"]
    command(["evaluate", *data, "--methods", "PQ", "own_method:rows"])


if __name__ == "__main__":
    tyro.cli(main)
