"""Queries that are not like the items: a map of their own, in front of the encoder.

Lookup tables compare any vector with codes. What of a query tells its neighbours apart is not all
of it: codes leave an error, which is not the same for what a query is near to as for other items,
and queries of another kind lie beside the items. So the queries are moved (an offset), spread (a
scale) and turned (a matrix), until the order by codes is the order by distance. Items are coded as
before, and whatever does not help queries that are held out is not kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.model.spec import Metric
from faiss_pqvae.progress import Progress

from ..data.queries import Queries
from .neighbours import nearest, standard_errors

_RECALLS_AT = 1, 10  # what is judged by, together
_CONVINCING = 2.0  # standard errors by which held-out queries must find more
_NEAREST, _POOL = 10, 200  # of a query: true neighbours, and what a search takes for them
_ROUNDS, _STEPS, _BATCH = 8, 24, 64  # of a round at least so many steps
_OF_LITTLE = 3  # rounds without the matrix, which needs more queries than scale and offset
_LR_SCALE, _LR_OFFSET, _LR_MATRIX = 4e-3, 0.02, 4e-3
_SHARPNESS = 2.0  # of the order by distance, beside that by codes
_NEVER = 1e4  # units of distance: an item that is in the pool twice


class _Map(NamedTuple):
    """A map of queries q about the mean m of the items: scale * matrix @ (q - m) + m + offset."""

    scale: Tensor
    matrix: Tensor
    offset: Tensor

    def __call__(self, x: Tensor, mean: Tensor) -> Tensor:
        return self.scale * ((x - mean) @ self.matrix.T) + mean + self.offset

    @torch.no_grad()
    def write(self, model: PQVAE, mean: Tensor) -> None:
        """Makes it the model's, whose map is about another mean."""
        layer = model.query_map
        assert layer is not None
        weight, between = self.scale * self.matrix, mean - model.mean
        layer.weight.copy_(weight)
        layer.bias.copy_(self.offset + between - weight @ between)


@dataclass(frozen=True)
class Compared:
    """What queries are compared with, and how.

    Attributes:
        items: (n, d) float32, as they are.
        stored: (n, D) float32, what the codes of the items stand for.
        encode: queries (nq, d), mapped, to what is compared with these, (nq, D).
        metric: of both comparisons.
    """

    items: Tensor
    stored: Tensor
    encode: Callable[[Tensor], Tensor]
    metric: Metric

    @torch.no_grad()
    def found(self, mapped: Tensor, truth: Tensor) -> Tensor:
        """Whether queries find their neighbours (nq, 1) among the first 1 and 10: (nq, 2)."""
        k = min(max(_RECALLS_AT), len(self.stored))
        ids, _ = nearest(self.encode(mapped), self.stored, k, metric=self.metric)
        hits = ids == truth
        return torch.stack([hits[:, :at].any(1) for at in _RECALLS_AT], 1).double().cpu()

    def nearest_items(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The true neighbours of queries (nq, d): ids and distances (nq, k)."""
        return nearest(queries, self.items, min(k, len(self.items)), metric=self.metric)


def learn_query_map(
    model: PQVAE,
    queries: Queries,
    compared: Compared,
    *,
    generator: torch.Generator,
    progress: bool = True,
) -> dict[str, Any]:
    """Gives a trained model a map of queries, if those that are held out find more by it.

    Args:
        model: of vectors; nothing else of it changes.
        queries: to learn from and to judge by; of length 1 like the items, where these are.
        compared: what they search.
        generator: of the order of the queries, on the CPU.
        progress: draw a bar, where standard error is a terminal.

    Returns:
        Facts for the log: what held-out queries find with the map and without, and whether it is
        kept.
    """
    learner = _Learner(queries, compared, generator)
    model.add_query_map()
    truth, _ = compared.nearest_items(queries.held_out, 1)
    mapped = queries.held_out
    before = compared.found(mapped, truth)
    best, found, best_round = None, before, 0
    with Progress("map of queries", _ROUNDS, unit="rounds", shown=progress) as bar:
        for number in range(_ROUNDS):
            learner.round(number)
            hits = compared.found(learner.mapped(queries.held_out), truth)
            if hits.mean() > found.mean():
                best, found, best_round = learner.copied(), hits, number + 1
            bar.update()
    gain = standard_errors((found - before).mean(1))
    kept = best is not None and gain >= _CONVINCING
    if best is not None and kept:
        best.write(model, learner.mean)
    else:
        model.query_map = None
    recalls = {
        f"held_out_recall@{at}": {"without": float(old), "with": float(new)}
        for at, old, new in zip(_RECALLS_AT, before.mean(0), found.mean(0), strict=True)
    }
    counts = {"queries": len(queries.train), "held_out": len(queries.held_out)}
    return {**counts, **recalls, "round": best_round, "gain_in_standard_errors": gain, "kept": kept}


class _Learner:
    """The map that is learned: towards the order of the items by distance.

    Args:
        queries, compared, generator: see `learn_query_map`.
    """

    def __init__(self, queries: Queries, compared: Compared, generator: torch.Generator) -> None:
        x, self.compared, self.generator = queries.train, compared, generator
        self.x, self.mean = x, compared.items.mean(0)
        d = x.shape[1]
        self.map = _Map(
            torch.ones((), device=x.device, requires_grad=True),
            torch.eye(d, device=x.device, requires_grad=True),
            torch.zeros(d, device=x.device, requires_grad=True),
        )
        self.neighbours, distances = compared.nearest_items(x, _NEAREST)
        gap = float((distances[:, -1] - distances[:, 0]).mean())
        self.unit = max(gap, 1e-6 * float(distances.abs().mean())) or 1.0
        spread = float(compared.items.std(0).square().mean().sqrt()) or 1.0
        rates = _LR_SCALE, _LR_MATRIX / math.sqrt(d), _LR_OFFSET * spread
        self.optimizer = torch.optim.Adam(
            [{"params": [p], "highest": lr} for p, lr in zip(self.map, rates, strict=True)]
        )
        self.steps = max(_STEPS, len(x) // _BATCH)

    def mapped(self, queries: Tensor) -> Tensor:
        with torch.no_grad():
            return self.map(queries, self.mean)

    def copied(self) -> _Map:
        return _Map(*(value.detach().clone() for value in self.map))

    def round(self, number: int) -> None:
        """Some steps against what a search finds with the map as it is."""
        share = 0.5 * (1 + math.cos(math.pi * number / _ROUNDS))
        for group, is_matrix in zip(self.optimizer.param_groups, (False, True, False), strict=True):
            waits = is_matrix and number < _OF_LITTLE
            group["lr"] = 0.0 if waits else share * group["highest"]
        compared = self.compared
        pool = min(_POOL, len(compared.stored))
        with torch.no_grad():
            z = compared.encode(self.mapped(self.x))
            found, _ = nearest(z, compared.stored, pool, metric=compared.metric)
        for _ in range(self.steps):
            rows = torch.randperm(len(self.x), generator=self.generator)[:_BATCH]
            self._step(rows.to(self.x.device), found)

    def _step(self, rows: Tensor, found: Tensor) -> None:
        loss = self._loss(rows, found[rows])
        gradients = torch.autograd.grad(loss, self.map)
        for value, gradient in zip(self.map, gradients, strict=True):
            value.grad = gradient
        self.optimizer.step()

    def _loss(self, rows: Tensor, found: Tensor) -> Tensor:
        """Cross-entropy between the order by distance and that by codes.

        It is over true neighbours and what a search takes for them, `found` (n, pool).
        """
        compared, x, neighbours = self.compared, self.x[rows], self.neighbours[rows]
        twice = (found.unsqueeze(2) == neighbours.unsqueeze(1)).any(2)
        twice = torch.cat([torch.zeros_like(neighbours, dtype=torch.bool), twice], 1)
        ids = torch.cat([neighbours, found], 1)
        with torch.no_grad():
            true = self._distances(x, compared.items[ids]).masked_fill(twice, _NEVER)
        z = compared.encode(self.map(x, self.mean))
        by_codes = self._distances(z, compared.stored[ids]).masked_fill(twice, _NEVER)
        wanted = torch.softmax(-_SHARPNESS * true, 1)
        return -(wanted * torch.log_softmax(-by_codes, 1)).sum(1).mean()

    def _distances(self, x: Tensor, candidates: Tensor) -> Tensor:
        """From x (n, D) to candidates (n, k, D): (n, k), in units of the gap between neighbours.

        They are less the nearest one's, so that none is beyond `_NEVER`.
        """
        if self.compared.metric == "inner_product":
            found = -torch.bmm(candidates, x.unsqueeze(2)).squeeze(2)
        else:
            found = (candidates - x.unsqueeze(1)).square().sum(2)
        return (found - found.min(1, keepdim=True).values.detach()) / self.unit
