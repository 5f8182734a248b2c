"""The bottleneck of DPQ: codebooks over the whole latent, each for what is left by those before."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from faiss_pqvae.codebooks import MAX_NBITS, MIN_NBITS
from faiss_pqvae.model.clustering import assign, histogram, kmeans, lloyd, squared_distances
from faiss_pqvae.model.product import Quantized


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
        if not MIN_NBITS <= nbits <= MAX_NBITS:
            raise ValueError(f"expected nbits from {MIN_NBITS} to {MAX_NBITS}, got {nbits}")
        self.M, self.ksub, self.dsub = M, 2**nbits, latent_dim
        self.codewords = nn.Parameter(torch.zeros(M, self.ksub, latent_dim))
        # A moving average, to know which codewords are dead.
        self.register_buffer("counts", torch.zeros(M, self.ksub))

    def forward(self, z: Tensor) -> Quantized:
        """Quantizes a batch (n, latent_dim) float32, n >= 1."""
        with torch.no_grad():
            ids = self.choose(z)
        e = self.look_up(ids)
        z_q = z + (e - z).detach()
        return Quantized(z, z_q, ids, _squared(z.detach() - e), _squared(z - e.detach()))

    def choose(self, z: Tensor) -> Tensor:
        """The codewords of latents (n, latent_dim), greedily: (n, M) int64."""
        residual, ids = z, []
        for level in self.codewords.detach():
            chosen = assign(residual.unsqueeze(0), level.unsqueeze(0))[:, 0]
            ids.append(chosen)
            residual = residual - level[chosen]
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
            squared = squared_distances(residual.unsqueeze(0), level.unsqueeze(0))[0]
            found = squared.topk(2, dim=-1, largest=False)
            nearest.append(found.values.clamp(min=0).sqrt().mean(0))
            residual = residual - level[found.indices[:, 0]]
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
            residual = residual - found[0][assign(residual.unsqueeze(0), found)[:, 0]]
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
            residual = residual - found[0][assign(residual.unsqueeze(0), found)[:, 0]]

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
        even, residual, moved = len(z) / self.ksub, z, 0
        for m in range(self.M):
            before = self.codewords[m].clone()
            dead = (self.counts[m] < threshold * even).nonzero()[:, 0]
            rows = torch.randint(len(z), (len(dead),), generator=generator).to(z.device)
            self.codewords[m, dead] = residual[rows]
            self.counts[m, dead] = even
            moved += len(dead)
            # By the codewords as they were: those that moved took single residuals away whole.
            chosen = assign(residual.unsqueeze(0), before.unsqueeze(0))[:, 0]
            residual = residual - before[chosen]
        return moved


def _squared(difference: Tensor) -> Tensor:
    return difference.square().sum(-1).mean()
