"""Where additive codes start: codebooks of residual quantization."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from faiss_pqvae.model import team
from faiss_pqvae.model.clustering import kmeans
from faiss_pqvae.progress import Progress
from faiss_pqvae.types import FloatArray

from .neighbours import nearest


class MakeCodebooks(Protocol):
    """A residual quantizer."""

    def __call__(self, x: FloatArray, *, M: int, nbits: int) -> FloatArray:
        """Codebooks (M, 2**nbits, d) float32 of vectors (n, d) float32, n >= 1."""


@torch.no_grad()
def residual_codebooks(
    x: Tensor,
    M: int,
    ksub: int,
    make: MakeCodebooks | None,
    *,
    generator: torch.Generator,
    progress: bool,
) -> Tensor:
    """Codebooks (M, ksub, d) of vectors (n, d) float32.

    Args:
        x: the vectors.
        M: codebooks.
        ksub: codewords of each.
        make: a better residual quantizer than the one here; None takes plain k-means, level by
            level, of what is left.
        generator: of k-means, on the CPU.
        progress: draw a bar, where standard error is a terminal.
    """
    if make is not None:
        with Progress("codebooks", shown=progress):
            vectors, nbits = x.cpu().numpy(), ksub.bit_length() - 1
            made = team.by_first(lambda: make(vectors, M=M, nbits=nbits))
        return torch.from_numpy(np.array(made, np.float32))
    found = []
    with Progress("codebooks", M, unit="codebooks", shown=progress) as bar:
        for _ in range(M):
            centroids = kmeans(x.unsqueeze(0), ksub, iterations=10, generator=generator)[0]
            nearest_ids, _ = nearest(x, centroids, 1, metric="l2")
            x = x - centroids[nearest_ids[:, 0]]
            found.append(centroids)
            bar.update()
    return torch.stack(found)
