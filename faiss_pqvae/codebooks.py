"""The hinge between training and search: the codebooks, as one small value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from faiss_pqvae.foreign import as_array, how_to_convert
from faiss_pqvae.types import FloatArray

Structure = Literal["product", "residual"]

MIN_NBITS, MAX_NBITS = 1, 12


@dataclass(frozen=True, eq=False)
class Codebooks:
    """Codewords of a quantizer: all that search has to know of a trained model.

    Args:
        centroids: (M, ksub, dsub) float, finite; ksub is a power of two from 2 to 4,096. It is
            copied to float32 and made read-only. For structure "residual" (M, ksub, d).
        structure: how a vector is made of its M codewords. "product" concatenates them, each
            being a sub-vector; "residual" adds them, each having all d dimensions, as the
            additive quantizers do (residual, local search).

    Raises:
        TypeError: `centroids` is not an array of floats.
        ValueError: a wrong rank, an empty axis, a ksub that is no power of two, a value that is
            not finite, another structure.
    """

    centroids: FloatArray
    structure: Structure = field(default="product", kw_only=True)

    def __post_init__(self) -> None:
        if self.structure not in get_args(Structure):
            raise ValueError(f"expected structure 'product' or 'residual', got {self.structure!r}")
        given = as_array(self.centroids, "centroids")
        if not np.issubdtype(given.dtype, np.floating):
            raise TypeError(
                f"expected centroids of a float dtype, got {given.dtype}"
                f"{how_to_convert(given.dtype, 'centroids')}"
            )
        if given.ndim != 3 or 0 in given.shape:
            raise ValueError(f"expected centroids of shape (M, ksub, dsub), got {given.shape}")
        ksub = given.shape[1]
        if not 2**MIN_NBITS <= ksub <= 2**MAX_NBITS or ksub & (ksub - 1):
            raise ValueError(
                f"expected ksub to be a power of two from {2**MIN_NBITS} to {2**MAX_NBITS}, "
                f"got {ksub} in centroids of shape {given.shape}"
            )
        if not np.isfinite(given).all():
            raise ValueError("expected finite centroids, got NaN or infinity")
        with np.errstate(over="ignore"):
            centroids = np.array(given, dtype=np.float32, order="C")
        if not np.isfinite(centroids).all():
            raise ValueError("expected centroids that fit float32, got values beyond its range")
        centroids.flags.writeable = False
        object.__setattr__(self, "centroids", centroids)

    @property
    def M(self) -> int:  # noqa: N802 - FAISS's name
        """Number of sub-quantizers."""
        return int(self.centroids.shape[0])

    @property
    def ksub(self) -> int:
        """Codewords per sub-quantizer."""
        return int(self.centroids.shape[1])

    @property
    def dsub(self) -> int:
        """Dimension of a codeword: of a sub-vector, or d when codewords are added."""
        return int(self.centroids.shape[2])

    @property
    def nbits(self) -> int:
        """Bits per sub-quantizer: log2(ksub)."""
        return self.ksub.bit_length() - 1

    @property
    def d(self) -> int:
        """Dimension of the vectors that are coded: M * dsub, or dsub when codewords are added."""
        return self.M * self.dsub if self.structure == "product" else self.dsub

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Codebooks):
            return NotImplemented
        return self.structure == other.structure and np.array_equal(self.centroids, other.centroids)

    __hash__ = None  # type: ignore[assignment]  # compared by value, an array within

    def __repr__(self) -> str:
        if self.structure == "residual":
            return f"Codebooks(M={self.M}, ksub={self.ksub}, d={self.d}, structure='residual')"
        return f"Codebooks(M={self.M}, ksub={self.ksub}, dsub={self.dsub})"

    def decode(self, ids: npt.NDArray[np.integer]) -> FloatArray:
        """Concatenates, or adds, the codewords that `ids` name.

        Args:
            ids: (n, M) integers in [0, ksub).

        Returns:
            (n, d) float32.

        Raises:
            TypeError: `ids` are not integers.
            ValueError: a wrong shape or an id out of range.
        """
        ids = as_array(ids, "ids")
        if not np.issubdtype(ids.dtype, np.integer):
            raise TypeError(f"expected integer ids, got {ids.dtype}")
        if ids.ndim != 2 or ids.shape[1] != self.M:
            raise ValueError(f"expected ids of shape (n, {self.M}), got {ids.shape}")
        if ids.size and (ids.min() < 0 or ids.max() >= self.ksub):
            raise ValueError(f"expected ids in [0, {self.ksub}), got {ids.min()} to {ids.max()}")
        if self.structure == "product":
            vectors: FloatArray = self.centroids[np.arange(self.M), ids].reshape(len(ids), self.d)
            return vectors
        vectors = self.centroids[0, ids[:, 0]]
        for m in range(1, self.M):  # one after the other, as FAISS rounds
            vectors += self.centroids[m, ids[:, m]]
        return vectors
