"""Clusters of sub-vectors: assignment, k-means, and how evenly codewords are used."""

from __future__ import annotations

import torch
from torch import Tensor


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


def assign(z_m: Tensor, codewords: Tensor, *, block_elements: int = 2**25) -> Tensor:
    """Nearest codeword of every sub-vector, eq. (23).

    Args:
        z_m: (M, n, dsub) float.
        codewords: (M, ksub, dsub) float.
        block_elements: of the (M, rows, ksub) distances at a time, by default 128 MiB of them.

    Returns:
        (n, M) int64.
    """
    e_norms = codewords.square().sum(-1).unsqueeze(1)
    M, n, _ = z_m.shape
    rows = max(1, block_elements // (M * codewords.shape[1]))
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


def replace_dead(
    codewords: Tensor, counts: Tensor, z: Tensor, *, threshold: float, generator: torch.Generator
) -> Tensor:
    """Moves codewords that are hardly used onto random points, in place.

    Args:
        codewords: (ksub, d) float, of one codebook.
        counts: (ksub,) float: how often each is chosen in a batch; those moved get an even share.
        z: (n, d) float, n >= 1, the points to choose from.
        threshold: a codeword is dead below this share of the even spread n / ksub.
        generator: source of randomness, on the CPU.

    Returns:
        (r,) int64: which were moved.
    """
    even = len(z) / len(codewords)
    dead = (counts < threshold * even).nonzero()[:, 0]
    rows = torch.randint(len(z), (len(dead),), generator=generator).to(z.device)
    codewords[dead] = z[rows]
    counts[dead] = even
    return dead


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


def two_nearest(z_m: Tensor, codewords: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest and the second nearest codeword of every sub-vector.

    Args:
        z_m: (M, n, dsub) float.
        codewords: (M, ksub, dsub) float.

    Returns:
        Distances (M, n, 2) float and ids (M, n, 2) int64.
    """
    found = squared_distances(z_m, codewords).topk(2, dim=-1, largest=False)
    return found.values.clamp(min=0).sqrt(), found.indices


def distance_ratio(z: Tensor, codewords: Tensor) -> float:
    """Mean distance to the nearest codeword over mean distance to the second nearest.

    The paper's measure of how strongly the quantizer shapes the latents (section IV-B).

    Args:
        z: (n, latent_dim) float, n >= 1.
        codewords: (M, ksub, dsub) float.

    Returns:
        A number in [0, 1]; 1 when both are zero (all codewords coincide with all latents).
    """
    nearest = two_nearest(split(z, len(codewords)), codewords)[0].mean((0, 1))
    return float(nearest[0] / nearest[1]) if nearest[1] > 0 else 1.0
