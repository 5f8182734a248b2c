"""As many vectors as one wants, made from a few real ones by small seeded changes.

Vector i is a real one, moved by a share of the difference of two others: so it moves as the real
ones differ, in the directions in which they do, which noise in every dimension would not. It
depends on the seed and on i alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from faiss_pqvae.types import FloatArray

CHUNK = 50_000  # vectors that are made at a time
SHARE = 0.2  # of a difference


@dataclass(frozen=True)
class Many:
    """Vectors that are made when they are asked for.

    Attributes:
        real: (m, d) uint8 or float32.
        seed: of the changes.
    """

    real: np.ndarray
    seed: int = 0

    def chunk(self, number: int) -> FloatArray:
        """Vectors number * CHUNK to (number + 1) * CHUNK - 1, (CHUNK, d) float32."""
        rng = np.random.default_rng([self.seed, number])
        a, b, c = (rng.integers(0, len(self.real), CHUNK) for _ in range(3))
        x: FloatArray = self.real[b].astype(np.float32)
        x -= self.real[c]
        x *= np.float32(SHARE)
        x += self.real[a]
        return x
