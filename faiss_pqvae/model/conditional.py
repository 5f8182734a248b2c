"""A deep decoder over codes: what a codeword adds depends on the codewords before it.

So the nearest codewords are not the code. An item's code is the one from which the decoder gives
the item back, and a beam search looks for it (analysis by synthesis).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from faiss_pqvae.arguments import integer

BLOCKS = 2  # of a step's network
_TRIED_AT_A_TIME = 4096  # codewords, for all items together: they stay in the cache
_DECODED_AT_A_TIME = 2048  # codes, likewise


class Path(NamedTuple):
    """What codes decode to, step by step, in the decoder's own unit.

    Attributes:
        after: M times (n, d) float, the sum after each step.
        guessed: M times (n, d) float, what each step's guide expects the step to add.
    """

    after: list[Tensor]
    guessed: list[Tensor]


class Step(nn.Module):
    """What one sub-quantizer adds, given what those before it made.

    Args:
        d: dimension of the vectors.
        ksub: codewords.
        width: of the network, whose blocks have twice as many units.

    Attributes:
        codewords: (ksub, d), what is added before the network corrects it.
        guides: (ksub, d), what is expected to be added, to tell which codewords are worth a try.
    """

    def __init__(self, d: int, ksub: int, *, width: int) -> None:
        super().__init__()
        self.codewords = nn.Parameter(torch.zeros(ksub, d))
        self.guides = nn.Parameter(torch.zeros(ksub, d))
        self.names = nn.Parameter(torch.zeros(ksub, width))
        self.inner = nn.Linear(d, width)
        self.wider = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(BLOCKS))
        self.narrower = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(BLOCKS))
        self.outer = nn.Linear(width, d, bias=False)
        self.guiding = nn.Linear(width, d, bias=False)

    def forward(self, ids: Tensor, inner: Tensor) -> Tensor:
        """What codewords add.

        Args:
            ids: (...) int64.
            inner: (..., width), what `self.inner` made of the sums before.

        Returns:
            (..., d) float32.
        """
        # The network is in the precision of `inner`, sums of vectors in single precision.
        h = functional.embedding(ids, self.names.to(inner.dtype)) + inner
        for wider, narrower in zip(self.wider, self.narrower, strict=True):
            h = narrower(wider(h).relu_()).add_(h)
        return functional.embedding(ids, self.codewords).add_(self.outer(h))

    def guessed(self, ids: Tensor, inner: Tensor) -> Tensor:
        """What the guides expect codewords (...) to add, after the same inner (..., width)."""
        guess: Tensor = functional.embedding(ids, self.guides) + self.guiding(inner).float()
        return guess

    @torch.no_grad()
    def begin_at(self, codewords: Tensor) -> None:
        """Makes it a plain codebook (ksub, d), whose network has yet to say anything."""
        self.codewords.copy_(codewords)
        self.guides.copy_(codewords)
        self.names.copy_(codewords @ self.inner.weight.T)
        for silent in (self.outer, self.guiding, *self.narrower):
            for weight in silent.parameters():
                weight.zero_()


class ConditionalCode(nn.Module):
    """Additive codes whose codewords depend on the codes before (as QINCo: Huijben et al., 2024).

    x^ = sum_m (c_m[k_m] + f_m(k_m, x^ after m - 1)), f_m a small residual network; the first one is
    a plain codebook. Vectors are moved to `centre` and divided by `unit` within.

    Args:
        d: dimension of the vectors.
        M: sub-quantizers.
        ksub: codewords of each.
        width: of the networks.

    Attributes:
        plain: (M, ksub, d), codewords whose sums, without any network, are near the vectors, too.
        plain_weight: of what these sums miss, when codes are chosen.
        shrinks: decoded vectors are multiplied by this about the centre before they are compared:
            |q - x^|^2 leaves out the error that the decoder expects of itself.
        table_shrinks: likewise, the sums of codewords that tables stand for.
        offset: what distances by these tables have too much, see `additive.Lifted`.
    """

    centre: Tensor
    unit: Tensor
    plain_weight: Tensor
    shrinks: Tensor
    table_shrinks: Tensor
    offset: Tensor

    def __init__(self, d: int, M: int, ksub: int, *, width: int) -> None:
        super().__init__()
        self.d, self.M, self.ksub = d, M, ksub
        self.first = nn.Parameter(torch.zeros(ksub, d))
        self.plain = nn.Parameter(torch.zeros(M, ksub, d))
        self.steps = nn.ModuleList(Step(d, ksub, width=width) for _ in range(M - 1))
        self.register_buffer("centre", torch.zeros(d))
        self.register_buffer("unit", torch.ones(()))
        self.register_buffer("plain_weight", torch.zeros(()))
        self.register_buffer("shrinks", torch.ones(()))
        self.register_buffer("table_shrinks", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))

    def _steps(self) -> Iterator[Step]:
        return iter(cast(Iterable[Step], self.steps))

    @torch.no_grad()
    def begin_at(self, codebooks: Tensor) -> None:
        """Makes it the plain additive code of codebooks (M, ksub, d), in the decoder's unit."""
        self.plain.copy_(codebooks)
        self.first.copy_(codebooks[0])
        for step, codewords in zip(self._steps(), codebooks[1:], strict=True):
            step.begin_at(codewords)

    @torch.no_grad()
    def merge(self, m: int, alike: Tensor) -> None:
        """Gives each of the m-th codewords all that another one has, alike (ksub,) int64."""
        if m == 0:
            parameters = [self.first]
        else:
            step = cast(Step, self.steps[m - 1])
            parameters = [step.codewords, step.guides, step.names]
        for parameter in parameters:
            parameter.copy_(parameter[alike])
        self.plain[m] = self.plain[m, alike]

    @torch.no_grad()
    def fit_unit(self, x: Tensor) -> None:
        """Takes centre and unit from vectors (n, d) float32."""
        self.centre.copy_(x.mean(0))
        self.unit.copy_((x - self.centre).square().mean().sqrt().clamp(min=1e-12))

    def inside(self, x: Tensor) -> Tensor:
        """Vectors (n, d) in the decoder's unit."""
        return (x - self.centre) / self.unit

    def path(self, ids: Tensor) -> Path:
        """What codes (n, M) int64 decode to, with gradients."""
        made = functional.embedding(ids[:, 0], self.first)
        after, guessed = [made], [made]
        for m, step in enumerate(self._steps(), 1):
            inner = step.inner(made)
            guessed.append(step.guessed(ids[:, m], inner.detach()))
            made = made + step(ids[:, m], inner)
            after.append(made)
        return Path(after, guessed)

    @torch.no_grad()
    def decode(self, ids: Tensor) -> Tensor:
        """The vectors (n, d) float32 of codes (n, M) of any integers."""
        parts = [self._made(part.long()) for part in torch.split(ids, _DECODED_AT_A_TIME)]
        return torch.cat(parts or [self.first.new_empty(0, self.d)]) * self.unit + self.centre

    @torch.no_grad()
    def compared(self, ids: Tensor) -> Tensor:
        """What queries are compared with: as `decode`, shrunk about the centre."""
        return self.centre + self.shrinks * (self.decode(ids) - self.centre)

    def _made(self, ids: Tensor) -> Tensor:
        made = self.first[ids[:, 0]]
        for m, step in enumerate(self._steps(), 1):
            made = made + step(ids[:, m], step.inner(made))
        return made

    @torch.no_grad()
    def choose(self, x: Tensor, effort: int) -> Tensor:
        """The codes from which vectors are decoded best, as far as they are looked for.

        Args:
            x: (n, d) float32.
            effort: beginnings of codes that are kept at every step, of twice as many that are
                decoded; 0 takes the codewords that the guides say are nearest, one by one.

        Returns:
            (n, M) int64.
        """
        effort = integer("effort", effort, 0)
        if not len(x):
            return torch.empty(0, self.M, dtype=torch.long, device=x.device)
        rows = max(1, _TRIED_AT_A_TIME // max(1, 2 * effort))
        chosen = [self._chosen(self.inside(part), effort) for part in torch.split(x, rows)]
        return torch.cat(chosen)

    def _chosen(self, x: Tensor, effort: int) -> Tensor:
        kept, tried = max(1, effort), max(1, 2 * effort)
        weight = float(self.plain_weight)
        beam = _Beam.over(x, self.first, self.plain[0], min(kept, self.ksub))
        for m, step in enumerate(self._steps(), 1):
            last = m == self.M - 1
            beam = beam.extended(step, self.plain[m], weight, tried, 1 if last else kept)
        return beam.ids[:, 0]

    def plain_sums(self, ids: Tensor) -> Tensor:
        """Sums (n, d) of the plain codewords of codes (n, M) int64, in the decoder's unit."""
        return sum(
            (functional.embedding(ids[:, m], self.plain[m]) for m in range(1, self.M)),
            functional.embedding(ids[:, 0], self.plain[0]),
        )


class _Beam(NamedTuple):
    """The best beginnings of codes for some vectors.

    Attributes:
        x: (n, 1, d), the vectors.
        ids: (n, b, m) int64.
        left: (n, b, d), what is left of the vectors.
        plain: (n, b, d), likewise by the sums of plain codewords.
    """

    x: Tensor
    ids: Tensor
    left: Tensor
    plain: Tensor

    @classmethod
    def over(cls, x: Tensor, codewords: Tensor, plain: Tensor, kept: int) -> _Beam:
        """The nearest of the first codewords (ksub, d), whose plain ones are (ksub, d)."""
        x = x.unsqueeze(1)
        ids = _nearest(x, codewords, kept)
        return cls(x, ids.unsqueeze(-1), x - codewords[ids], x - plain[ids])

    def extended(self, step: Step, plain: Tensor, weight: float, tried: int, kept: int) -> _Beam:
        """By the codewords that decode best, of those that the guides say are nearest."""
        ksub, inner = len(step.codewords), step.inner(self.x - self.left)
        wanted = self.left - step.guiding(inner)
        found = _nearest(wanted, step.guides, min(tried, wanted.shape[1] * ksub))
        beginning, ids = found.div(ksub, rounding_mode="floor"), found % ksub
        left = _rows(self.left, beginning).sub_(step(ids, _rows(inner, beginning)))
        plain_left = _rows(self.plain, beginning).sub_(functional.embedding(ids, plain))
        if kept < left.shape[1]:
            error = _lengths(left)
            if weight:
                error += weight * _lengths(plain_left)
            best = error.topk(kept, largest=False).indices
            beginning, ids = beginning.gather(1, best), ids.gather(1, best)
            left, plain_left = _rows(left, best), _rows(plain_left, best)
        longer = torch.cat([_rows(self.ids, beginning), ids.unsqueeze(-1)], -1)
        return _Beam(self.x, longer, left, plain_left)


def _nearest(wanted: Tensor, codewords: Tensor, k: int) -> Tensor:
    """The nearest pairs of a wanted vector and a codeword.

    Args:
        wanted: (n, b, d).
        codewords: (ksub, d).
        k: pairs for each of the n, at most b * ksub.

    Returns:
        (n, k) int64, b' * ksub + the codeword's number.
    """
    n, b, d = wanted.shape
    squared = torch.addmm(_lengths(codewords), wanted.view(-1, d), codewords.T, alpha=-2)
    if b > 1:
        squared += _lengths(wanted).view(-1, 1)
    return squared.view(n, -1).topk(k, largest=False).indices


def _lengths(x: Tensor) -> Tensor:
    """The squared lengths (...) of vectors (..., d)."""
    lengths: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return lengths.square_()


def _rows(x: Tensor, places: Tensor) -> Tensor:
    """Of x (n, b, d) the rows at places (n, k): (n, k, d)."""
    n, b, d = x.shape
    rows = places + b * torch.arange(n, device=x.device).unsqueeze(1)
    return x.reshape(n * b, d).index_select(0, rows.flatten()).view(n, -1, d)
