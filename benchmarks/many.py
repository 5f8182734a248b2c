"""As many vectors as one wants, made from a few real ones by small seeded changes.

Vector i is a real one, moved by a share of the difference of two others: so it moves as the real
ones differ, in the directions in which they do, which noise in every dimension would not. It
depends on the seed and on i alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from faiss_pqvae.data.open import open_source
from faiss_pqvae.types import FloatArray

CHUNK = 50_000  # vectors that are made at a time
SHARE = 0.2  # of a difference
_ROWS = 2000  # that stay in the cache


@dataclass(frozen=True)
class Many:
    """Vectors that are made when they are asked for.

    Attributes:
        real: (m, d) uint8 or float32.
        seed: of the changes.
    """

    real: np.ndarray
    seed: int = 0

    @classmethod
    def of(cls, path: Path) -> Many:
        """Those of a file, in bytes where that is what they are."""
        real = np.asarray(open_source(path)[:])
        in_bytes = real.astype(np.uint8)
        return cls(in_bytes if (in_bytes == real).all() else real)

    def chunk(self, number: int) -> FloatArray:
        """Vectors number * CHUNK to (number + 1) * CHUNK - 1, (CHUNK, d) float32."""
        rng = np.random.default_rng([self.seed, number])
        a, b, c = (rng.integers(0, len(self.real), CHUNK) for _ in range(3))
        x = np.empty((CHUNK, self.real.shape[1]), np.float32)
        for start in range(0, CHUNK, _ROWS):
            rows = slice(start, start + _ROWS)
            part = x[rows]
            np.subtract(self.real[b[rows]], self.real[c[rows]], out=part, dtype=np.float32)
            part *= np.float32(SHARE)
            part += self.real[a[rows]]
        return x
