"""Spherical Hashing: bits that say in which hyperspheres a vector lies."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae.registry import methods
from faiss_pqvae.types import BoolArray, DoubleArray, FloatArray, IdArray, WordArray

from .binary import check_k, check_rows, check_sizes, check_trained, check_training
from .build import from_class, reduced_by_pca
from .method import Method, Request
from .spherical_distance import smallest, spherical_distances, words

BLOCK_BYTES = 16 << 20  # of float32 distances in one block of queries
PIVOT_SAMPLES = 10  # vectors whose mean a pivot starts from


_log = logging.getLogger(__name__)


class SphericalHashing:
    """Spherical Hashing (Heo, Lee, He, Chang and Yoon, CVPR 2012).

    A bit is set for the vectors inside of a hypersphere (their eq. 1). Every sphere holds half of
    the vectors (eq. 2), every two of them a quarter (eq. 3): an iteration moves the centres,
    the pivots, apart where two spheres share more than that and together where they share less,
    and sets the radii anew (their algorithm 1). It stops when the overlaps are near n / 4 by mean
    and by deviation. Distances count differing bits over common set bits (eq. 4).

    From the paper: the tolerances 0.10 and 0.15. Assumed: a pivot starts at the mean of 10 random
    vectors; the iteration learns from 10,000 random ones, and ends after 300 steps, with a
    warning; of two codes without a common set bit see `spherical_distances`.

    Args:
        d: dimension of the vectors.
        bits: hyperspheres, a multiple of 8.
        seed: of the vectors that are drawn.
        n_samples: vectors to learn from, at most.
        mean_tolerance: epsilon_m, of the mean of |overlap - n / 4|, in quarters of n.
        deviation_tolerance: epsilon_s, of the deviation of the overlaps, in quarters of n.
        max_steps: the iteration ends here if the tolerances were not reached.

    Attributes:
        pivots: (bits, d) float64, after training.
        radii: (bits,) float64.
        history: [(mean, deviation), ...] of the overlaps as above, step by step.
        settings: what decides the result besides d, bits and seed.
    """

    def __init__(
        self,
        d: int,
        bits: int,
        *,
        seed: int = 0,
        n_samples: int = 10_000,
        mean_tolerance: float = 0.10,
        deviation_tolerance: float = 0.15,
        max_steps: int = 300,
    ) -> None:
        check_sizes(bits, d)
        if n_samples < 2 or max_steps < 1 or min(mean_tolerance, deviation_tolerance) <= 0:
            raise ValueError(
                "expected n_samples >= 2, max_steps >= 1 and tolerances above 0, got "
                f"{n_samples}, {max_steps}, {mean_tolerance} and {deviation_tolerance}"
            )
        self.d, self.bits, self.seed = d, bits, seed
        self.n_samples, self.max_steps = n_samples, max_steps
        self.mean_tolerance, self.deviation_tolerance = mean_tolerance, deviation_tolerance
        self.settings = {
            "n_samples": n_samples,
            "mean_tolerance": mean_tolerance,
            "deviation_tolerance": deviation_tolerance,
            "max_steps": max_steps,
        }
        self.is_trained = False
        self.pivots: DoubleArray
        self.radii: DoubleArray
        self.history: list[tuple[float, float]] = []
        self._words: list[WordArray] = []

    def train(self, x: npt.NDArray[Any], /) -> None:
        """Learns from x: (n, d) floats.

        Raises:
            TypeError: x has no floating point values.
            ValueError: x has another shape, values that are not finite, or one vector only.
        """
        rows = check_training(x, self.d)
        generator = np.random.default_rng(self.seed)
        if len(rows) > self.n_samples:
            rows = rows[generator.choice(len(rows), self.n_samples, replace=False)]
        samples = rows.astype(np.float64)
        chosen = generator.integers(0, len(samples), (self.bits, PIVOT_SAMPLES))
        self.pivots = samples[chosen].mean(axis=1)  # (bits, d)
        self.history = []
        for _ in range(self.max_steps):
            self.radii, inside = median_spheres(samples, self.pivots)
            overlaps = count_overlaps(inside)
            self.history.append(overlap_errors(overlaps, len(samples)))
            mean, deviation = self.history[-1]
            if mean <= self.mean_tolerance and deviation <= self.deviation_tolerance:
                break
            self.pivots = self.pivots + forces(self.pivots, overlaps, len(samples))
        else:
            self.radii, _ = median_spheres(samples, self.pivots)
            _log.warning(
                "spherical hashing with %d bits: after %d steps the overlaps are off by %.2f and "
                "deviate by %.2f quarters of n, expected %.2f and %.2f",
                *(self.bits, self.max_steps, mean, deviation),
                *(self.mean_tolerance, self.deviation_tolerance),
            )
        self.is_trained = True

    def model_bytes(self) -> int:
        """Bytes of what was learned."""
        return self.pivots.nbytes + self.radii.nbytes

    def encode(self, x: npt.NDArray[Any], /) -> BoolArray:
        """The bits of x: (n, d) floats to (n, bits) bool, eq. (1)."""
        check_trained(self.is_trained)
        rows = check_rows(x, self.d).astype(np.float64)
        bits: BoolArray = pivot_distances(rows, self.pivots) <= self.radii
        return bits

    def add(self, x: npt.NDArray[Any], /) -> None:
        """Appends the codes of x: (n, d) floats."""
        self._words.append(words(self.encode(x)))

    def search(
        self, xq: npt.NDArray[Any], k: int, /, *, block_bytes: int = BLOCK_BYTES
    ) -> tuple[FloatArray, IdArray]:
        """Finds the k nearest by `spherical_distances`; of equal ones those of lowest id.

        Args:
            xq: (nq, d) floats.
            k: results per query, at most the stored codes.
            block_bytes: of distances that are held at a time.

        Returns:
            D: (nq, k) float32 and I: (nq, k) int64.

        Raises:
            ValueError: k is below 1 or above the number of stored codes.
        """
        ntotal = sum(map(len, self._words))
        check_k(k, ntotal)
        self._words = [np.concatenate(self._words)]
        query = words(self.encode(xq))
        D = np.empty((len(query), k), np.float32)
        I = np.empty((len(query), k), np.int64)  # noqa: E741
        step = max(1, block_bytes // (4 * ntotal))
        for start in range(0, len(query), step):
            distances = spherical_distances(query[start : start + step], self._words[0])
            for row, of_row in enumerate(distances, start):
                I[row] = smallest(of_row, k)
                D[row] = of_row[I[row]]
        return D, I

    def sa_code_size(self) -> int:
        """Bytes per stored vector."""
        return self.bits // 8


@methods.register("Spherical Hashing")
def rows(request: Request) -> Iterator[Method]:
    """At whole bytes only."""
    if request.bits % 8 == 0:
        name = f"{reduced_by_pca(request.shape).label}Spherical Hashing"
        yield from_class(
            name,
            SphericalHashing,
            bits=request.bits,
            shape=request.shape,
            seed=request.seed,
            search="spherical",
        )


def pivot_distances(x: DoubleArray, pivots: DoubleArray) -> DoubleArray:
    """Euclidean distances: (n, d) and (c, d) to (n, c)."""
    squared = (x**2).sum(axis=1)[:, None] - 2 * (x @ pivots.T) + (pivots**2).sum(axis=1)
    distances: DoubleArray = np.sqrt(np.maximum(squared, 0))
    return distances


def median_spheres(x: DoubleArray, pivots: DoubleArray) -> tuple[DoubleArray, BoolArray]:
    """Spheres that hold half of the vectors, eq. (2).

    Returns:
        radii: (c,) float64, the distance of the n / 2-th nearest vector; inside: (n, c) bool.
    """
    distances = pivot_distances(x, pivots)
    half = max(len(x) // 2, 1)
    radii = np.partition(distances, half - 1, axis=0)[half - 1]
    return radii, distances <= radii


def count_overlaps(inside: BoolArray) -> DoubleArray:
    """o_ij, the vectors that two spheres share: (n, c) bool to (c, c)."""
    ones = inside.astype(np.float32)  # exact: counts stay below 2**24
    return (ones.T @ ones).astype(np.float64)


def overlap_errors(overlaps: DoubleArray, n: int) -> tuple[float, float]:
    """Mean of |o_ij - n / 4| and standard deviation of o_ij over i < j, in quarters of n."""
    pairs = overlaps[np.triu_indices(len(overlaps), 1)] / (n / 4)
    return float(np.abs(pairs - 1).mean()), float(pairs.std())


def forces(pivots: DoubleArray, overlaps: DoubleArray, n: int) -> DoubleArray:
    """How every pivot moves: the mean of its pairs' forces, algorithm 1.

    Of j on i: 1/2 (o_ij - n / 4) / (n / 4) (p_i - p_j), away from j when they share too much.

    Args:
        pivots: (c, d).
        overlaps: (c, c), o_ij; the diagonal has no effect.
        n: vectors counted.

    Returns:
        (c, d) float64.
    """
    strength = (overlaps - n / 4) / (n / 4) / 2
    moves: DoubleArray = strength.sum(axis=1)[:, None] * pivots - strength @ pivots
    return moves / len(pivots)
