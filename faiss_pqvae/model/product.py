"""The bottleneck of a PQ-VAE: a product quantizer that is trained with the networks around it."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from faiss_pqvae.codebooks import MAX_NBITS, MIN_NBITS
from faiss_pqvae.model.clustering import (
    accumulate,
    assign,
    distance_ratio,
    kmeans,
    lloyd,
    look_up,
    replace_dead,
    split,
)

Update = Literal["ema", "gradient"]


class Quantized(NamedTuple):
    """What the bottleneck returns for a batch.

    Attributes:
        z: (n, latent_dim) float, what came in.
        z_q: (n, latent_dim) float, the straight-through output that the decoder gets, eq. (21).
        ids: (n, M) int64, the codewords chosen, eq. (23).
        codebook_loss: scalar, sum over m of ||sg(z_m) - e_m||^2, mean over the batch; zero with
            EMA updates.
        commitment_loss: scalar, sum over m of ||z_m - sg(e_m)||^2, mean over the batch.
    """

    z: Tensor
    z_q: Tensor
    ids: Tensor
    codebook_loss: Tensor
    commitment_loss: Tensor


def straight_through(z: Tensor, e: Tensor, ids: Tensor, *, update: Update) -> Quantized:
    """What the bottleneck returns for latents, and the codewords that stand for them.

    Args:
        z: (n, latent_dim) float.
        e: (n, latent_dim) float, of the codewords, with their gradient.
        ids: (n, M) int64, which they are.
        update: how the codewords learn; with "gradient" there is a codebook loss.
    """
    commitment_loss = (z - e.detach()).square().sum(-1).mean()  # eq. (24), second part
    codebook_loss = commitment_loss.new_zeros(())
    if update == "gradient":
        codebook_loss = (z.detach() - e).square().sum(-1).mean()  # eq. (24), first part
    z_q = z + (e - z).detach()  # eq. (21)
    return Quantized(z, z_q, ids, codebook_loss, commitment_loss)


def check_nbits(nbits: int) -> None:
    """Raises a ValueError for bits that FAISS has no codes of."""
    if not MIN_NBITS <= nbits <= MAX_NBITS:
        raise ValueError(f"expected nbits from {MIN_NBITS} to {MAX_NBITS}, got {nbits}")


class ProductQuantizer(nn.Module):
    """Product quantization as a layer (Wu and Flierl, arXiv 1807.04629, eq. 21 to 26).

    Args:
        M: number of sub-quantizers.
        nbits: bits per sub-quantizer, 1 to 12; ksub = 2**nbits codewords each.
        latent_dim: dimension of the latents, divisible by M.
        update: "ema" moves the codewords by moving averages, eq. (25, 26); "gradient" gives
            them the gradient of `codebook_loss`.
        ema_decay: gamma of eq. (25, 26), in (0, 1).
        radius: length that `project` brings the codewords to; None leaves them as they are.

    Raises:
        ValueError: a parameter out of its range.
    """

    codewords: Tensor
    ema_counts: Tensor
    ema_sums: Tensor

    def __init__(
        self,
        M: int,
        nbits: int,
        *,
        latent_dim: int,
        update: Update = "ema",
        ema_decay: float = 0.99,
        radius: float | None = None,
    ) -> None:
        super().__init__()
        if M < 1 or latent_dim < 1 or latent_dim % M:
            raise ValueError(
                f"expected a latent_dim that M divides, got latent_dim={latent_dim} and M={M}"
            )
        check_nbits(nbits)
        if update not in ("ema", "gradient"):
            raise ValueError(f"expected update 'ema' or 'gradient', got {update!r}")
        if not 0 < ema_decay < 1:
            raise ValueError(f"expected ema_decay between 0 and 1, got {ema_decay}")
        self.M, self.ksub, self.dsub = M, 2**nbits, latent_dim // M
        self.update, self.ema_decay, self.radius = update, ema_decay, radius
        start = torch.zeros(M, self.ksub, self.dsub)
        if update == "gradient":
            self.codewords = nn.Parameter(start)
        else:
            self.register_buffer("codewords", start)
            self.register_buffer("ema_sums", torch.zeros_like(start))
        # With gradient updates the counts still tell which codewords are dead.
        self.register_buffer("ema_counts", torch.zeros(M, self.ksub))

    def forward(self, z: Tensor) -> Quantized:
        """Quantizes a batch; in training mode with EMA it moves the codewords too.

        Args:
            z: (n, latent_dim) float32, n >= 1.
        """
        z_m = split(z, self.M)
        with torch.no_grad():
            ids = assign(z_m, self.codewords)
        e = look_up(self.codewords, ids).transpose(0, 1).reshape(z.shape)  # (n, latent_dim)
        if self.training:
            self._observe(z_m.detach(), ids)
        return straight_through(z, e, ids, update=self.update)

    def distance_ratio(self, z: Tensor) -> float:
        """See the function of that name: latents (n, latent_dim) float, n >= 1."""
        return distance_ratio(z, self.codewords)

    @torch.no_grad()
    def _observe(self, z_m: Tensor, ids: Tensor) -> None:
        counts, sums = accumulate(z_m, ids, self.ksub)
        self.ema_counts.lerp_(counts, 1 - self.ema_decay)  # eq. (25)
        if self.update == "ema":
            self.ema_sums.lerp_(sums, 1 - self.ema_decay)  # eq. (26)
            # A codeword without weight stays where it is until `revive` moves it.
            alive = (self.ema_counts > 1e-4).unsqueeze(-1)
            means = self.ema_sums / self.ema_counts.clamp(min=1e-4).unsqueeze(-1)
            self.codewords.copy_(torch.where(alive, means, self.codewords))

    @torch.no_grad()
    def initialize(
        self, z: Tensor, *, batch_size: int, generator: torch.Generator, iterations: int = 10
    ) -> None:
        """Sets the codewords to the k-means centroids of latents.

        Args:
            z: (n, latent_dim) float32, finite, n >= 1.
            batch_size: of the training that follows; the moving counts start at what a batch
                spreads over the codewords, so that the first batches do not undo the start.
            generator: source of randomness, on the CPU.
            iterations: of Lloyd's algorithm.
        """
        z_m = split(z, self.M)
        self.codewords.copy_(kmeans(z_m, self.ksub, iterations=iterations, generator=generator))
        self.project()
        self.ema_counts.fill_(batch_size / self.ksub)
        if self.update == "ema":
            self.ema_sums.copy_(self.codewords * self.ema_counts.unsqueeze(-1))

    @torch.no_grad()
    def refine(self, z: Tensor, *, iterations: int) -> None:
        """Moves the codewords by Lloyd's algorithm, from where they are.

        Args:
            z: (n, latent_dim) float32, finite, n >= 1.
            iterations: of the algorithm.
        """
        z_m = split(z, self.M)
        self.codewords.copy_(lloyd(z_m, self.codewords, iterations=iterations))
        self.project()
        if self.update == "ema":
            self.ema_sums.copy_(self.codewords * self.ema_counts.unsqueeze(-1))

    @torch.no_grad()
    def project(self) -> None:
        """Brings every codeword to the length `radius`, where there is one; after a step."""
        if self.radius is not None:
            self.codewords.copy_(self.radius * nn.functional.normalize(self.codewords, dim=-1))

    @torch.no_grad()
    def revive(self, z: Tensor, *, threshold: float, generator: torch.Generator) -> int:
        """Moves codewords that are hardly used onto random latents of a batch.

        Args:
            z: (n, latent_dim) float32, n >= 1, the latents to choose from.
            threshold: a codeword is dead below this share of the even spread n / ksub.
            generator: source of randomness, on the CPU.

        Returns:
            The number of codewords moved.
        """
        moved = 0
        for m, part in enumerate(split(z, self.M)):
            codewords, counts = self.codewords[m], self.ema_counts[m]
            dead = replace_dead(codewords, counts, part, threshold=threshold, generator=generator)
            if self.update == "ema":
                self.ema_sums[m, dead] = codewords[dead] * counts[dead].unsqueeze(-1)
            moved += len(dead)
        return moved
