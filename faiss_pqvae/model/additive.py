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
        vectors = self.codewords[0][ids[:, 0]]
        lengths = self.biases[0][ids[:, 0]]
        for codewords, biases, chosen in zip(
            self.codewords[1:], self.biases[1:], ids.T[1:], strict=True
        ):
            vectors = vectors + codewords[chosen]
            lengths = lengths + biases[chosen]
        return vectors, lengths


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
    lengths = x.square().sum(1, keepdim=True)
    usual = (lengths.mean() / len(prior)).expand(*prior.shape[:2], 1)
    found = _least_squares(ids, torch.cat([x, lengths], 1), torch.cat([prior, usual], -1))
    return Tables(found[..., :-1].contiguous(), found[..., -1].contiguous())


def _least_squares(ids: Tensor, target: Tensor, prior: Tensor) -> Tensor:
    """The codewords (M, ksub, e) whose sums by ids (n, M) are nearest to a target (n, e)."""
    (n, M), (ksub, e) = ids.shape, prior.shape[1:]
    places = ids + ksub * torch.arange(M, device=ids.device)  # of the ones in a row of M * ksub
    left = prior.double().reshape(M * ksub, e)
    rest = target.double()
    for m in range(M):
        rest = rest - left[places[:, m]]
    right = torch.zeros_like(left)
    normal = torch.zeros(M * ksub, M * ksub, dtype=torch.float64, device=ids.device)
    ones = torch.ones(n, dtype=torch.float64, device=ids.device)
    for m in range(M):
        right.index_add_(0, places[:, m], rest)
        for j in range(m, M):
            flat = places[:, m] * (M * ksub) + places[:, j]
            normal.view(-1).index_add_(0, flat, ones)
    normal = normal.triu() + normal.triu(1).T
    # One codebook can take from another what all its codewords have in common: a ridge decides.
    normal.diagonal().add_(_RIDGE * n / ksub)
    solved: Tensor = left + torch.linalg.solve(normal, right)
    return solved.float().view(M, ksub, e)
