"""The bottleneck of a PQ-VAE: a product quantizer that is trained with the networks around it."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from faiss_pqvae.codebooks import MAX_NBITS, MIN_NBITS

Update = Literal["ema", "gradient"]

# Rows of a distance block: bounds the (M, rows, ksub) temporary to 128 MiB at M = 8, ksub = 4096.
_BLOCK_ELEMENTS = 2**25


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


def split(z: Tensor, M: int) -> Tensor:
    """(n, M * dsub) to (M, n, dsub), without a copy."""
    return z.reshape(len(z), M, -1).transpose(0, 1)


def squared_distances(z_m: Tensor, codewords: Tensor) -> Tensor:
    """Squared distances of every sub-vector to every codeword of its sub-quantizer.

    Args:
        z_m: (M, n, dsub) float.
        codewords: (M, ksub, dsub) float.

    Returns:
        (M, n, ksub) float, up to rounding (so tiny negatives are possible).
    """
    norms = z_m.square().sum(-1, keepdim=True)  # (M, n, 1)
    e_norms = codewords.square().sum(-1).unsqueeze(1)  # (M, 1, ksub)
    return torch.baddbmm(e_norms, z_m, codewords.transpose(1, 2), alpha=-2.0) + norms


def assign(z_m: Tensor, codewords: Tensor) -> Tensor:
    """Nearest codeword of every sub-vector, eq. (23).

    Args:
        z_m: (M, n, dsub) float.
        codewords: (M, ksub, dsub) float.

    Returns:
        (n, M) int64.
    """
    e_norms = codewords.square().sum(-1).unsqueeze(1)
    M, n, _ = z_m.shape
    rows = max(1, _BLOCK_ELEMENTS // (M * codewords.shape[1]))
    # ||z||^2 is the same for every codeword: leave it out.
    blocks = [
        torch.baddbmm(e_norms, block, codewords.transpose(1, 2), alpha=-2.0).argmin(-1)
        for block in torch.split(z_m, rows, dim=1)
    ]
    return torch.cat(blocks, dim=1).T if n else z_m.new_empty(0, M, dtype=torch.long)


def look_up(codewords: Tensor, ids: Tensor) -> Tensor:
    """The codewords that `ids` name.

    Args:
        codewords: (M, ksub, dsub) float.
        ids: (n, M) int64.

    Returns:
        (M, n, dsub) float.
    """
    return codewords.gather(1, ids.T.unsqueeze(-1).expand(-1, -1, codewords.shape[-1]))


def accumulate(z_m: Tensor, ids: Tensor, ksub: int) -> tuple[Tensor, Tensor]:
    """Number and sum of the sub-vectors that each codeword got.

    Args:
        z_m: (M, n, dsub) float.
        ids: (n, M) int64.
        ksub: codewords per sub-quantizer.

    Returns:
        counts (M, ksub) and sums (M, ksub, dsub), of z_m's dtype.
    """
    M, n, dsub = z_m.shape
    flat = (ids.T + ksub * torch.arange(M, device=ids.device).unsqueeze(1)).reshape(-1)
    counts = torch.bincount(flat, minlength=M * ksub).to(z_m.dtype)
    sums = z_m.new_zeros(M * ksub, dsub).index_add_(0, flat, z_m.reshape(M * n, dsub))
    return counts.view(M, ksub), sums.view(M, ksub, dsub)


def kmeans(z_m: Tensor, ksub: int, *, iterations: int, generator: torch.Generator) -> Tensor:
    """Lloyd's algorithm in every sub-space at once, from randomly drawn points.

    Args:
        z_m: (M, n, dsub) float, n >= 1. With n < ksub points are drawn more than once and
            told apart by a little noise.
        ksub: codewords per sub-quantizer.
        iterations: of Lloyd's algorithm.
        generator: source of randomness, on the CPU.

    Returns:
        (M, ksub, dsub) float.
    """
    M, n, dsub = z_m.shape
    codewords = z_m.new_empty(M, ksub, dsub)
    for m in range(M):
        draws = torch.cat([torch.randperm(n, generator=generator) for _ in range(-(-ksub // n))])
        codewords[m] = z_m[m, draws[:ksub].to(z_m.device)]
    if n < ksub:
        noise = torch.randn(codewords.shape, generator=generator).to(z_m)
        codewords += 1e-3 * z_m.std(dim=1, keepdim=True, correction=0) * noise
    return lloyd(z_m, codewords, iterations=iterations)


def lloyd(z_m: Tensor, codewords: Tensor, *, iterations: int) -> Tensor:
    """Lloyd's algorithm in every sub-space at once; codewords without points stay.

    Args:
        z_m: (M, n, dsub) float, n >= 1.
        codewords: (M, ksub, dsub) float, where it begins.
        iterations: how often points are assigned and means taken.

    Returns:
        (M, ksub, dsub) float.
    """
    for _ in range(iterations):
        counts, sums = accumulate(z_m, assign(z_m, codewords), codewords.shape[1])
        means = sums / counts.clamp(min=1).unsqueeze(-1)
        codewords = torch.where((counts > 0).unsqueeze(-1), means, codewords)
    return codewords


def histogram(ids: Tensor, ksub: int) -> Tensor:
    """How often each codeword was chosen: (n, M) int64 ids to (M, ksub) int64 counts."""
    M = ids.shape[1]
    flat = ids + ksub * torch.arange(M, device=ids.device)
    return torch.bincount(flat.reshape(-1), minlength=M * ksub).view(M, ksub)


def usage(counts: Tensor) -> Tensor:
    """Share of the codewords chosen at least once: (M, ksub) counts to (M,) in [0, 1]."""
    return (counts > 0).float().mean(-1)


def perplexity(counts: Tensor) -> Tensor:
    """exp(entropy) of the codeword choice: (M, ksub) counts to (M,) in [1, ksub]."""
    p = counts.double() / counts.sum(-1, keepdim=True).clamp(min=1)
    entropy: Tensor = torch.special.entr(p).sum(-1)
    return entropy.exp().float()


def distance_ratio(z: Tensor, codewords: Tensor) -> float:
    """Mean distance to the nearest codeword over mean distance to the second nearest.

    The paper's measure of how strongly the quantizer shapes the latents (section IV-B).

    Args:
        z: (n, latent_dim) float, n >= 1.
        codewords: (M, ksub, dsub) float.

    Returns:
        A number in [0, 1]; 1 when both are zero (all codewords coincide with all latents).
    """
    squared = squared_distances(split(z, len(codewords)), codewords)
    nearest = squared.topk(2, dim=-1, largest=False).values.clamp(min=0).sqrt().mean((0, 1))
    return float(nearest[0] / nearest[1]) if nearest[1] > 0 else 1.0


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
        if not MIN_NBITS <= nbits <= MAX_NBITS:
            raise ValueError(f"expected nbits from {MIN_NBITS} to {MAX_NBITS}, got {nbits}")
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
        commitment_loss = (z - e.detach()).square().sum(-1).mean()  # eq. (24), second part
        codebook_loss = commitment_loss.new_zeros(())
        if self.update == "gradient":
            codebook_loss = (z.detach() - e).square().sum(-1).mean()  # eq. (24), first part
        if self.training:
            self._observe(z_m.detach(), ids)
        z_q = z + (e - z).detach()  # eq. (21)
        return Quantized(z, z_q, ids, codebook_loss, commitment_loss)

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
        even = len(z) / self.ksub
        dead = (self.ema_counts < threshold * even).nonzero()  # (r, 2): sub-quantizer, codeword
        if not len(dead):
            return 0
        m, k = dead.unbind(1)
        rows = torch.randint(len(z), (len(dead),), generator=generator).to(z.device)
        self.codewords[m, k] = split(z, self.M)[m, rows]
        self.ema_counts[m, k] = even
        if self.update == "ema":
            self.ema_sums[m, k] = self.codewords[m, k] * even
        return len(dead)
