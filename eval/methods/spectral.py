"""Spectral Hashing: bits from the sinusoids that are smoothest on a uniform distribution."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae.registry import methods
from faiss_pqvae.types import BoolArray, DoubleArray, IdArray

from .binary import Hashing, check_rows, check_sizes, check_trained, check_training
from .build import from_class
from .method import Method, Request


class SpectralHashing(Hashing):
    """Spectral Hashing (Weiss, Torralba and Fergus, NIPS 2008).

    Codes of neighbours that differ in few bits, with bits that are balanced and uncorrelated, are
    thresholded eigenvectors of a graph Laplacian (their eq. 3, relaxed). For vectors that are
    uniform in a box these are known in closed form (their eqs. 7 and 8), for new vectors too.
    So: principal components, a box around the training vectors, the `bits` eigenfunctions of
    smallest eigenvalue over all (direction, frequency), and the signs of their sinusoids.

    There are min(bits, d) components. The box is from the lowest to the highest projection of the
    training vectors (assumed: the paper says a uniform distribution on [a, b]). Nothing is random.

    Args:
        d: dimension of the vectors.
        bits: bits of a code, a multiple of 8.
        seed: taken as the other methods take it, of no effect.

    Attributes:
        mean: (d,) float64, after training.
        components: (d, min(bits, d)) float64, by falling variance.
        low: (min(bits, d),) float64, where the box begins.
        width: (min(bits, d),) float64, its extent.
        modes: (bits, 2) int64, the direction and the frequency of every bit, smoothest first.
        settings: none.
    """

    def __init__(self, d: int, bits: int, *, seed: int = 0) -> None:
        check_sizes(bits, d)
        super().__init__(bits)
        self.d, self.seed = d, seed
        self.settings: dict[str, float] = {}
        self.is_trained = False
        self.mean: DoubleArray
        self.components: DoubleArray
        self.low: DoubleArray
        self.width: DoubleArray
        self.modes: IdArray

    def train(self, x: npt.NDArray[Any], /) -> None:
        """Learns from x: (n, d) floats.

        Raises:
            TypeError: x has no floating point values.
            ValueError: x has another shape, values that are not finite, or one vector only.
        """
        rows = check_training(x, self.d).astype(np.float64)
        self.mean = rows.mean(axis=0)
        rows -= self.mean
        _, vectors = np.linalg.eigh(rows.T @ rows)
        self.components = vectors[:, ::-1][:, : self.bits]
        projected = rows @ self.components
        self.low = projected.min(axis=0)
        self.width = projected.max(axis=0) - self.low
        self.modes = smoothest_modes(self.width, self.bits)
        self.is_trained = True

    def model_bytes(self) -> int:
        """Bytes of what was learned."""
        parts = (self.mean, self.components, self.low, self.width, self.modes)
        return sum(part.nbytes for part in parts)

    def encode(self, x: npt.NDArray[Any], /) -> BoolArray:
        """The bits of x: (n, d) floats to (n, bits) bool."""
        check_trained(self.is_trained)
        projected = (check_rows(x, self.d) - self.mean) @ self.components
        direction, frequency = self.modes.T
        # eq. (7): sin(pi/2 + k pi x / (b - a)) on [0, b - a], a cosine.
        phase = (projected - self.low)[:, direction] / self.width[direction]
        bits: BoolArray = np.cos(np.pi * frequency * phase) > 0
        return bits


@methods.register("Spectral Hashing")
def rows(request: Request) -> Iterator[Method]:
    """At whole bytes only."""
    if request.bits % 8 == 0:
        yield from_class(
            "Spectral Hashing",
            SpectralHashing,
            bits=request.bits,
            shape=request.shape,
            seed=request.seed,
        )


def eigenvalues(width: DoubleArray, frequency: IdArray, *, epsilon: float) -> DoubleArray:
    """Eigenvalues of the Laplacian of a uniform distribution, eq. (8): rising in k / (b - a).

    Args:
        width: b - a of every direction, any shape.
        frequency: k >= 1, of a shape that goes with it.
        epsilon: the radius of the neighbourhood. The order does not depend on it.
    """
    return -np.expm1(-(epsilon**2) / 2 * (frequency * np.pi / width) ** 2)


def smoothest_modes(width: DoubleArray, bits: int) -> IdArray:
    """The eigenfunctions of smallest eigenvalue, without the constant one.

    Args:
        width: (directions,) extents of the box; directions without extent are not used.
        bits: how many.

    Returns:
        (bits, 2) int64, direction and frequency from 1 on, by rising eigenvalue; of equal ones
        the earlier direction first.

    Raises:
        ValueError: no direction has an extent.
    """
    usable = np.flatnonzero(width > 0)
    if not len(usable):
        raise ValueError("expected vectors that vary, got a box without extent")
    direction = np.repeat(usable, bits)
    frequency = np.tile(np.arange(1, bits + 1), len(usable))
    # eq. (8) rises with k / (b - a), which unlike the eigenvalue does not saturate at 1.
    order = np.argsort(frequency / width[direction], kind="stable")[:bits]
    return np.stack([direction[order], frequency[order]], axis=1)
