"""Additive codes as product codes: how FAISS's look-up tables search sums of codewords.

The squared distance to a sum is |q|^2 - 2 sum_m <q, t_m> + |sum_m t_m|^2. The last term is no sum
over m; with its best approximation by one, sum_m b_m, all of it is what a product quantizer
computes of vectors that are repeated M times and have one component more.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from faiss_pqvae.model.spec import Metric

_RIDGE = 1e-3  # of the even spread
_SWEEPS = 6  # within 1 % of the least errors for M = 32, of which M = 8 needs two
_NONE = 1e-9  # vectors


class Tables(NamedTuple):
    """What is looked up and added for an additive code.

    Attributes:
        codewords: (M, ksub, d) float32; their sums stand for vectors.
        biases: (M, ksub) float32; their sums stand for the squared lengths of vectors.
    """

    codewords: Tensor
    biases: Tensor

    def sums(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Of codes (n, M) int64: (n, d) and (n,)."""
        M, ksub, _ = self.codewords.shape
        places = ids + ksub * torch.arange(M, device=ids.device)
        vectors = functional.embedding_bag(places, self.codewords.flatten(0, 1), mode="sum")
        return vectors, self.biases.flatten()[places].sum(1)


class Lifted(NamedTuple):
    """Tables as the codebooks of a product quantizer.

    Attributes:
        codewords: (M, ksub, d + 1) float32.
        offset: what its squared distances have too much, the same for all.
    """

    codewords: Tensor
    offset: Tensor


@torch.no_grad()
def lift(tables: Tables, centre: Tensor, shrinks: Tensor, metric: Metric) -> Lifted:
    """Codebooks whose distances to repeated queries are those to sums of codewords.

    Args:
        tables: of vectors about their centre.
        centre: (d,) float32.
        shrinks: scalar, what sums are multiplied by before they are compared, about the centre. As
            |q - a s|^2 = |q|^2 - 2 a (<q, s> - a |s|^2 / 2), lengths count so much less.
        metric: what is compared.
    """
    M = len(tables.codewords)
    codewords = tables.codewords + centre / M
    scaled = math.sqrt(M) * codewords
    if metric == "inner_product":
        return Lifted(functional.pad(scaled, (0, 1)), centre.new_zeros(()))
    # What the last component has to add, squared. The centre, of queries and codewords, is no part
    # of it: far from zero that would be a small difference of large numbers.
    lacking = shrinks * tables.biases - M * tables.codewords.square().sum(-1)
    least = lacking.min(-1, keepdim=True).values
    last = (lacking - least).sqrt()
    return Lifted(torch.cat([scaled, last.unsqueeze(-1)], -1), -least.sum())


@torch.no_grad()
def lowered(lifted: Lifted, centre: Tensor) -> Tables:
    """The tables that `lift` made codebooks of, biases times what they were shrunk by; for L2."""
    M = len(lifted.codewords)
    codewords = lifted.codewords[..., :-1] / math.sqrt(M) - centre / M
    added = lifted.codewords[..., -1].square() - lifted.offset / M
    return Tables(codewords, M * codewords.square().sum(-1) + added)


def first_alike(codewords: Tensor) -> Tensor:
    """For each of codewords (ksub, e) the first one that is the same: (ksub,) int64."""
    _, group = torch.unique(codewords, dim=0, return_inverse=True)
    places = torch.arange(len(group), device=group.device)
    first = torch.full_like(group, len(group)).scatter_reduce_(0, group, places, "amin")
    return first[group]


@torch.no_grad()
def fitted(ids: Tensor, x: Tensor, prior: Tensor) -> Tables:
    """The tables that stand best for vectors.

    Args:
        ids: (n, M) int64, their codes.
        x: (n, d) float32, about their centre.
        prior: (M, ksub, d) float32, where codewords stay that hardly any of the vectors have.
    """
    (n, M), ksub = ids.shape, prior.shape[1]
    lengths = x.square().sum(1, keepdim=True)
    usual = (lengths.mean() / M).expand(M, ksub, 1)
    codewords, left = torch.cat([prior, usual], -1), torch.cat([x, lengths], 1)
    for chosen, part in zip(ids.T, codewords, strict=True):
        left -= functional.embedding(chosen, part)
    # One codebook can take from another what all its codewords have in common: a ridge decides.
    sweep(codewords, ids, left, sweeps=_SWEEPS, ridge=_RIDGE * n / ksub)
    return Tables(codewords[..., :-1].contiguous(), codewords[..., -1].contiguous())


@torch.no_grad()
def sweep(codebooks: Tensor, ids: Tensor, left: Tensor, *, sweeps: int, ridge: float = 0.0) -> None:
    """Moves each codebook, in turn, by what sums of codewords leave over of vectors on average.

    That goes to the codebooks of least squares, whose equations would take (M * ksub)^2 numbers.

    Args:
        codebooks: (M, ksub, e) float32; changed in place.
        ids: (n, M or more) int64, the codes of the vectors.
        left: (n, e) float32, what these sums leave over of them; changed in place.
        sweeps: through all codebooks.
        ridge: every codeword is held where it began as if by so many vectors more.
    """
    moved = torch.zeros_like(codebooks)
    counts = [torch.bincount(chosen, minlength=codebooks.shape[1]) for chosen in ids.T]
    for _ in range(sweeps):
        for codewords, so_far, chosen, count in zip(codebooks, moved, ids.T, counts, strict=False):
            wanted = (-ridge * so_far).index_add_(0, chosen, left)
            # Of a codeword that no vector has, nothing is wanted.
            move = wanted / (count + ridge).clamp(min=_NONE).unsqueeze(1)
            codewords += move
            so_far += move
            left -= functional.embedding(chosen, move)
