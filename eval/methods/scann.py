"""ScaNN: product codes of 4 bits whose error counts most along the vector, Google's library.

Guo et al., Accelerating Large-Scale Inference with Anisotropic Vector Quantization, ICML 2020.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from faiss_pqvae.registry import methods
from faiss_pqvae.types import FloatArray, IdArray

from ..faiss_library import faiss
from .build import from_class
from .method import LeftOutError, Method, Request

NBITS = 4
THRESHOLD = 0.2  # the authors', of the cosine from which on an error is weighted
SAME_LENGTH = 0.01  # how far lengths of vectors may be apart, relatively, to be taken as one


class ScannIndex:
    """ScaNN's codes alone, without its tree and without a second look at vectors.

    The library codes what it is built from. To learn from other vectors than it holds it is built
    from these, takes the others, and forgets the first. It weights errors for inner products only:
    between vectors of one length these rank as distances do; others get its plain codes.

    Args:
        d: dimensions; zeros fill up what the codewords do not divide.
        bits: of a code, a multiple of 8.
        seed: has no effect: the library has none.
    """

    def __init__(self, d: int, bits: int, *, seed: int = 0) -> None:
        self.d, self.bits, self.seed = d, bits, seed
        self.blocks = bits // NBITS
        self.dsub = -(-d // self.blocks)
        self.settings = {"dimensions_per_block": self.dsub, "threshold": THRESHOLD}
        self.ntotal = 0
        self._searcher: Any = None
        self._first: list[int] = []  # ids of what it was built from

    @property
    def is_trained(self) -> bool:
        """Whether `train` was called."""
        return self._searcher is not None

    def train(self, x: FloatArray, /) -> None:
        """Learns from x: (n, d) float32.

        Raises:
            LeftOutError: the library is not installed.
        """
        try:
            library: Any = importlib.import_module("scann").scann_ops_pybind
        except ModuleNotFoundError as error:
            raise LeftOutError(f"it needs a library: pip install scann ({error})") from error
        lengths = np.linalg.norm(x, axis=1)
        of_one_length = np.ptp(lengths) <= SAME_LENGTH * lengths.mean()
        builder = library.builder(
            self._filled(x), 100, "dot_product" if of_one_length else "squared_l2"
        )
        builder = builder.set_n_training_threads(faiss.omp_get_max_threads())
        builder = builder.score_ah(self.dsub, anisotropic_quantization_threshold=THRESHOLD)
        self._first = [-1 - i for i in range(len(x))]
        self._searcher = builder.build(docids=[*self._first])
        self._searcher.set_num_threads(faiss.omp_get_max_threads())

    def add(self, x: FloatArray, /) -> None:
        """Appends the codes of x: (n, d) float32."""
        ids = list(range(self.ntotal, self.ntotal + len(x)))
        self._searcher.upsert(ids, self._filled(x), len(x))
        if self._first:
            self._searcher.delete(self._first)
            self._first = []
        self.ntotal += len(x)

    def search(self, xq: FloatArray, k: int, /) -> tuple[FloatArray, IdArray]:
        """D: (nq, k) float32, inner products or distances, and I: (nq, k) int64."""
        found, D = self._searcher.search_batched_parallel(self._filled(xq), final_num_neighbors=k)
        return np.asarray(D, np.float32), np.array(found, np.int64)

    def sa_code_size(self) -> int:
        """Bytes per stored vector."""
        return self.bits // 8

    def model_bytes(self) -> int:
        """Bytes of the codewords."""
        return 4 * (1 << NBITS) * self.dsub * self.blocks

    def _filled(self, x: FloatArray) -> FloatArray:
        """Vectors with zeros behind them: (n, blocks * dsub)."""
        return np.pad(x, ((0, 0), (0, self.blocks * self.dsub - self.d)))


@methods.register("ScaNN")
def rows(request: Request) -> Iterator[Method]:
    """Of vectors with a dimension or more for every 4 bits."""
    vectors = len(request.shape) == 1
    if vectors and request.bits % 8 == 0 and request.bits // NBITS <= request.d:
        yield from_class(
            "ScaNN",
            ScannIndex,
            bits=request.bits,
            shape=request.shape,
            seed=request.seed,
            search="adc",
        )
