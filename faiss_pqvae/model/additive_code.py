"""Sums of codewords that look-up tables compare exactly: the last code says how long a sum is."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from faiss_pqvae.arguments import integer
from faiss_pqvae.model.additive import Tables

_TRIED_AT_A_TIME = 2**18  # sums for all items together: they stay in the cache


class AdditiveCode(nn.Module):
    """Additive codes without a network (as RQ: Chen et al., 2010, and LSQ: Martinez et al., 2016).

    x^ = sum_m c_m[k_m] over all sub-quantizers but the last one, whose codewords are numbers: the
    squared length of the sum, which no table of the others knows. Inner products need no length,
    and then all of them have codewords.

    Args:
        d: dimension of the vectors.
        M: sub-quantizers.
        ksub: codewords of each.
        has_lengths: whether the last one says how long a sum is.

    Attributes:
        centre: (d,), what the codewords are about.
        codebooks: (M - 1 or M, ksub, d).
        lengths: (ksub,), or (0,) without lengths.
        penalty: how much of its error is added to an item's squared length. |q - x^|^2 is least
            for items whose x^ lies near queries, and of these the badly decoded are the less sure.
        offset: what distances by tables have too much, see `additive.Lifted`.
    """

    centre: Tensor
    lengths: Tensor
    penalty: Tensor
    offset: Tensor

    def __init__(self, d: int, M: int, ksub: int, *, has_lengths: bool) -> None:
        super().__init__()
        self.d, self.M, self.ksub, self.has_lengths = d, M, ksub, has_lengths
        self.codebooks = nn.Parameter(torch.zeros(M - has_lengths, ksub, d))
        self.register_buffer("centre", torch.zeros(d))
        self.register_buffer("lengths", torch.zeros(ksub * has_lengths))
        self.register_buffer("penalty", torch.zeros(()))
        self.register_buffer("offset", torch.zeros(()))

    @torch.no_grad()
    def sums(self, ids: Tensor) -> Tensor:
        """Sums (n, d) of the codewords of codes (n, M or fewer) of any integers."""
        made = self.codebooks.new_zeros(len(ids), self.d)
        for codewords, chosen in zip(self.codebooks, ids.T, strict=False):
            made += functional.embedding(chosen.long(), codewords)
        return made

    def decode(self, ids: Tensor) -> Tensor:
        """The vectors (n, d) float32 of codes (n, M) of any integers."""
        return self.sums(ids) + self.centre

    def compared(self, ids: Tensor) -> Tensor:
        """What queries are compared with: as `decode`."""
        return self.decode(ids)

    @torch.no_grad()
    def choose(self, x: Tensor, effort: int) -> Tensor:
        """The codes whose sums are nearest to vectors, as far as they are looked for.

        Args:
            x: (n, d) float32.
            effort: beginnings of codes that are kept at every step; 0 takes the nearest codewords
                one by one, as 1 does.

        Returns:
            (n, M) int64.
        """
        kept = max(1, integer("effort", effort, 0))
        ids = torch.empty(len(x), self.M, dtype=torch.long, device=x.device)
        crossed = self._crossed()
        rows = max(1, _TRIED_AT_A_TIME // (kept * self.ksub))
        for start in range(0, len(x), rows):
            part = x[start : start + rows] - self.centre
            found = self._nearest(part, crossed, kept)
            ids[start : start + rows, : len(self.codebooks)] = found
            if self.has_lengths:
                ids[start : start + rows, -1] = nearest_level(
                    self.compared_lengths(part, found), self.lengths
                )
        return ids

    @torch.no_grad()
    def compared_lengths(self, x: Tensor, ids: Tensor) -> Tensor:
        """Squared lengths (n,) of sums, and of vectors (n, d) about the centre what they miss."""
        made = self.sums(ids)
        return made.square().sum(1) + self.penalty * (x - made).square().sum(1)

    def _crossed(self) -> list[Tensor]:
        """For every step (m * ksub, ksub), twice the inner products with the codewords before."""
        flat = self.codebooks.flatten(0, 1)
        return [
            2 * flat[: m * self.ksub] @ codewords.T for m, codewords in enumerate(self.codebooks)
        ]

    def _nearest(self, x: Tensor, crossed: list[Tensor], kept: int) -> Tensor:
        """Codes (n, M - 1 or M) of vectors (n, d) about the centre, by beam search.

        |x - s - c|^2 = |x - s|^2 + (|c|^2 - 2 <x, c>) + sum_j 2 <c_j, c>: all of it is looked up.
        """
        books, ksub, _ = self.codebooks.shape
        flat = self.codebooks.flatten(0, 1)
        alone = torch.addmm(flat.square().sum(1), x, flat.T, alpha=-2).view(-1, books, ksub)
        error, ids = alone[:, 0].topk(min(kept, ksub), largest=False)
        ids = ids.unsqueeze(-1)
        before = torch.arange(books, device=x.device) * ksub
        for m in range(1, books):
            n, b, _ = ids.shape
            summed = functional.embedding_bag(
                (ids + before[:m]).view(-1, m), crossed[m], mode="sum"
            ).view(n, b, ksub)
            summed += alone[:, m].unsqueeze(1)
            summed += error.unsqueeze(-1)
            k = 1 if m == books - 1 else min(kept, b * ksub)
            error, best = summed.view(n, -1).topk(k, largest=False)
            beginning = best.div(ksub, rounding_mode="floor")
            longer = ids.gather(1, beginning.unsqueeze(-1).expand(-1, -1, m))
            ids = torch.cat([longer, (best % ksub).unsqueeze(-1)], -1)
        return ids[:, 0]

    def tables(self) -> Tables:
        """What is looked up and added for these codes."""
        vectors, biases = self.codebooks.detach(), self.lengths
        if not self.has_lengths:
            return Tables(vectors, vectors.new_zeros(vectors.shape[:2]))
        nothing = torch.zeros_like(vectors[:1])
        others = biases.new_zeros(len(vectors), self.ksub)
        return Tables(torch.cat([vectors, nothing]), torch.cat([others, biases.unsqueeze(0)]))

    @torch.no_grad()
    def merge(self, m: int, alike: Tensor) -> None:
        """Gives each of the m-th codewords all that another one has, alike (ksub,) int64."""
        if m < len(self.codebooks):
            self.codebooks[m] = self.codebooks[m, alike]
        else:
            self.lengths.copy_(self.lengths[alike])


def nearest_level(values: Tensor, levels: Tensor) -> Tensor:
    """The places (n,) int64 of the levels, in ascending order, that are nearest to values (n,)."""
    return torch.bucketize(values, (levels[1:] + levels[:-1]) / 2)


@torch.no_grad()
def levels_of(values: Tensor, n: int, *, rounds: int = 50) -> Tensor:
    """Numbers (n,) in ascending order that are near to values (nv,) float32, by Lloyd's rounds."""
    places = torch.linspace(0, len(values) - 1, n, device=values.device).round().long()
    as_often = values.sort().values[places].double()
    as_far = torch.linspace(float(as_often[0]), float(as_often[-1]), n, device=values.device)
    levels = (as_often + as_far) / 2  # the best ones are denser where values are, but not as dense
    for _ in range(rounds):
        nearest = nearest_level(values.double(), levels)
        counts = torch.bincount(nearest, minlength=n)
        sums = torch.zeros_like(levels).index_add_(0, nearest, values.double())
        levels = torch.where(counts > 0, sums / counts.clamp(min=1), levels)
    return levels.float().sort().values
