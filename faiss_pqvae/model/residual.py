"""The bottleneck of DPQ: codebooks over the whole latent, each for what is left by those before."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from faiss_pqvae.model.clustering import (
    assign,
    histogram,
    kmeans,
    lloyd,
    replace_dead,
    squared_distances,
    two_nearest,
)
from faiss_pqvae.model.product import Quantized, check_nbits, straight_through


class Prefixes(NamedTuple):
    """What the first l levels make of latents, for every l.

    Attributes:
        soft: (M, n, d) float, sums of the means of each level's codewords, weighted by nearness.
        hard: (M, n, d) float, sums of the codewords chosen.
        ids: (n, M) int64, the codewords chosen.
    """

    soft: Tensor
    hard: Tensor
    ids: Tensor


def prefixes(z: Tensor, codewords: Tensor, softness: float) -> Prefixes:
    """Soft and hard approximations by the first l levels, l = 1 to M (Gao et al., IJCAI 2019).

    The nearest codeword is chosen and taken away, level by level, as FAISS's greedy encoder does
    (`max_beam_size = 1`); the authors' code compares by cosine instead.

    Args:
        z: (n, d) float.
        codewords: (M, ksub, d) float.
        softness: factor on squared distances before the softmax, in units of a level's mean squared
            residual.
    """
    residual, soft, hard, ids = z, [], [], []
    for level in codewords:
        squared = squared_distances(residual.unsqueeze(0), level.unsqueeze(0))[0]  # (n, ksub)
        # The levels are of very different sizes: each has its own unit.
        unit = residual.detach().square().sum(-1).mean().clamp(min=1e-12)
        p = (-softness / unit * squared).softmax(-1)
        chosen = squared.argmin(-1)
        codeword = level[chosen]
        soft.append(p @ level)
        hard.append(codeword)
        ids.append(chosen)
        residual = residual - codeword
    return Prefixes(
        torch.stack(soft).cumsum(0), torch.stack(hard).cumsum(0), torch.stack(ids, dim=1)
    )


def descend(residual: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """One level down: the nearest codewords, and what they leave over.

    Args:
        residual: (n, d) float.
        level: (ksub, d) float.

    Returns:
        ids (n,) int64 and residuals (n, d) float.
    """
    chosen = assign(residual.unsqueeze(0), level.unsqueeze(0))[:, 0]
    return chosen, residual - level[chosen]


class ResidualQuantizer(nn.Module):
    """Residual quantization as a layer, every prefix of whose codes is a code (DPQ).

    It has the methods of `faiss_pqvae.model.product.ProductQuantizer`; the codewords learn by
    gradient.

    Args:
        M: number of levels.
        nbits: bits per level, 1 to 12; ksub = 2**nbits codewords each.
        latent_dim: dimension of the latents, and of every codeword.

    Raises:
        ValueError: a parameter out of its range.
    """

    counts: Tensor

    def __init__(self, M: int, nbits: int, *, latent_dim: int) -> None:
        super().__init__()
        if M < 1 or latent_dim < 1:
            raise ValueError(f"expected M and latent_dim >= 1, got {M} and {latent_dim}")
        check_nbits(nbits)
        self.M, self.ksub, self.dsub = M, 2**nbits, latent_dim
        self.codewords = nn.Parameter(torch.zeros(M, self.ksub, latent_dim))
        # A moving average, to know which codewords are dead.
        self.register_buffer("counts", torch.zeros(M, self.ksub))

    def forward(self, z: Tensor) -> Quantized:
        """Quantizes a batch (n, latent_dim) float32, n >= 1."""
        with torch.no_grad():
            ids = self.choose(z)
        return straight_through(z, self.look_up(ids), ids, update="gradient")

    def choose(self, z: Tensor) -> Tensor:
        """The codewords of latents (n, latent_dim), greedily: (n, M) int64."""
        residual, ids = z, []
        for level in self.codewords.detach():
            chosen, residual = descend(residual, level)
            ids.append(chosen)
        return torch.stack(ids, dim=1)

    def look_up(self, ids: Tensor) -> Tensor:
        """The sums (n, latent_dim) of the codewords that ids (n, M) name."""
        e = self.codewords[0][ids[:, 0]]
        for m in range(1, self.M):
            e = e + self.codewords[m][ids[:, m]]
        return e

    def distance_ratio(self, z: Tensor) -> float:
        """Mean distance to the nearest over that to the second nearest codeword, over all levels.

        Args:
            z: (n, latent_dim) float, n >= 1.
        """
        residual, nearest = z, []
        for level in self.codewords.detach():
            distances, ids = two_nearest(residual.unsqueeze(0), level.unsqueeze(0))
            nearest.append(distances[0].mean(0))
            residual = residual - level[ids[0, :, 0]]
        first, second = torch.stack(nearest).mean(0).tolist()
        return first / second if second > 0 else 1.0

    @torch.no_grad()
    def observe(self, ids: Tensor, decay: float = 0.99) -> None:
        """Counts the codewords (n, M) int64 of a batch, for `revive`."""
        self.counts.lerp_(histogram(ids, self.ksub).to(self.counts), 1 - decay)

    @torch.no_grad()
    def initialize(
        self, z: Tensor, *, batch_size: int, generator: torch.Generator, iterations: int = 10
    ) -> None:
        """Sets every level's codewords to k-means centroids of what the levels before leave over.

        Args:
            z: (n, latent_dim) float32, finite, n >= 1.
            batch_size: of the training that follows, see `ProductQuantizer.initialize`.
            generator: source of randomness, on the CPU.
            iterations: of Lloyd's algorithm.
        """
        residual = z
        for m in range(self.M):
            found = kmeans(
                residual.unsqueeze(0), self.ksub, iterations=iterations, generator=generator
            )
            self.codewords[m] = found[0]
            _, residual = descend(residual, found[0])
        self.counts.fill_(batch_size / self.ksub)

    @torch.no_grad()
    def refine(self, z: Tensor, *, iterations: int) -> None:
        """Moves the codewords, level by level, by Lloyd's algorithm from where they are.

        Args:
            z: (n, latent_dim) float32, finite, n >= 1.
            iterations: of the algorithm.
        """
        residual = z
        for m in range(self.M):
            level = self.codewords[m : m + 1]
            found = lloyd(residual.unsqueeze(0), level, iterations=iterations)
            self.codewords[m] = found[0]
            _, residual = descend(residual, found[0])

    def project(self) -> None:
        """Codewords keep the lengths they have."""

    @torch.no_grad()
    def revive(self, z: Tensor, *, threshold: float, generator: torch.Generator) -> int:
        """Moves codewords that are hardly used onto random residuals of a batch.

        Args:
            z: (n, latent_dim) float32, n >= 1.
            threshold: a codeword is dead below this share of the even spread n / ksub.
            generator: source of randomness, on the CPU.

        Returns:
            The number of codewords moved.
        """
        residual, moved = z, 0
        for level, counts in zip(self.codewords, self.counts, strict=True):
            # By the codewords as they are: those that move take single residuals away whole.
            _, left = descend(residual, level)
            dead = replace_dead(level, counts, residual, threshold=threshold, generator=generator)
            residual, moved = left, moved + len(dead)
        return moved
