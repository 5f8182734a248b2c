"""Training of vectors towards the distances that are searched.

A linear code that reconstructs better does not find more neighbours. So what is trained here is the
search itself: the true nearest neighbour of an anchor should come before the other items when they
are compared by lookup tables (ADC), and what is measured is how often it does for held-out items.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from faiss_pqvae.model import team
from faiss_pqvae.model.clustering import assign, split, squared_distances
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.model.spec import Metric
from faiss_pqvae.progress import Progress

from ..kept import Kept
from ..latents import fit_linear
from .linear_start import Coarse, linear_layers
from .protocol import Terms

_ENCODED_AT_A_TIME = 512  # their distances to all codewords stay in the cache
_TILE = 256, 4096  # queries and items, likewise
_SCALE_NEIGHBOUR = 10  # the scale of distances: from the nearest to the tenth neighbour


class Settings(Protocol):
    """What this reads of the objective's settings, see `Ranking`."""

    @property
    def anchors(self) -> int: ...  # noqa: D102
    @property
    def sample(self) -> int: ...  # noqa: D102
    @property
    def pool(self) -> int: ...  # noqa: D102
    @property
    def temperature(self) -> float: ...  # noqa: D102
    @property
    def commitment(self) -> float: ...  # noqa: D102
    @property
    def lr(self) -> float: ...  # noqa: D102


class Neighbours:
    """The items, their true neighbours, and how well a model ranks them.

    Args:
        model: with a linear encoder and decoder.
        items: (n, d) float32, the training part; of length 1 for a model of unit latents.
        queries: (nq, d) float32 likewise, of the validation part.
        settings: anchors, sample, pool, temperature, commitment and learning rate.
        metric: what latents, and so items, are compared by.
        generator: of the anchors' choice, on the CPU.
        coarse: centroids of which the nearest is taken off an item before it is coded, or None.
        progress: draw bars, where standard error is a terminal.

    Attributes:
        anchors: (na,) int64, rows of the items to train with.
        truth, neighbours: (nq, 1) and (na, k) int64, the items nearest to queries and anchors.
        centroids: (nlist, d) float32, the coarse ones; of none without.
        lists: (n,) int64, the coarse centroid nearest to every item; None without any.
        unit: what a difference between two distances is measured in.
    """

    truth: Tensor
    neighbours: Tensor
    centroids: Tensor
    lists: Tensor | None
    unit: float

    def __init__(
        self,
        model: PQVAE,
        items: Tensor,
        queries: Tensor,
        settings: Settings,
        *,
        metric: Metric,
        generator: torch.Generator,
        coarse: Coarse | None = None,
        progress: bool = True,
    ) -> None:
        self.model, self.items, self.queries = model, items, queries
        self.coarse = coarse
        self.settings, self.metric = settings, metric
        chosen = torch.randperm(len(items), generator=generator)[: settings.anchors]
        self.anchors = chosen.sort().values.to(items.device)
        self.progress = progress
        self.scale = float(items.std(0).square().mean().sqrt()) or 1.0
        self.codes = torch.empty(0, dtype=torch.long)

    def find(self, kept: Kept) -> None:
        """Finds the neighbours, or takes those that are kept; before anything else is asked."""
        device = self.items.device
        nothing = np.empty((0, self.items.shape[1]), np.float32)
        centroids = nothing if self.coarse is None else self.coarse()
        self.centroids = torch.from_numpy(centroids).to(device)
        found = kept.made("neighbours", self._found_neighbours)
        lists: Tensor | None = found.get("lists")
        self.lists = None if lists is None else lists.to(device)
        self.truth, self.neighbours = found["truth"].to(device), found["neighbours"].to(device)
        self.unit = found["unit"]

    def _found_neighbours(self) -> dict[str, Any]:
        items, metric = self.items, self.metric
        k = min(_SCALE_NEIGHBOUR, len(items) - 1)
        total = len(self.queries) + len(self.anchors)
        with Progress("neighbours", total, unit="vectors", shown=self.progress) as bar:
            truth, _ = nearest(self.queries, items, 1, metric=metric, bar=bar)
            neighbours, distances = nearest(
                items[self.anchors], items, k, metric=metric, skip=self.anchors, bar=bar
            )
        lists = {}
        if self.coarse is not None:
            lists["lists"] = nearest(items, self.centroids, 1, metric=metric)[0][:, 0]
        gap = float((distances[:, -1] - distances[:, 0]).mean())
        spread = float(distances.abs().mean())
        return {
            "truth": truth,
            "neighbours": neighbours,
            **lists,
            "unit": max(gap, 1e-6 * spread) or 1.0,
        }

    def residuals(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """What coarse centroids leave over of items (n, d); all, where there are none."""
        if self.lists is None:
            return self.items[rows]
        return self.items[rows] - self.centroids[self.lists[rows]]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimizer moves: the encoder's matrix, and codewords in the data's scale."""
        encoder, _ = linear_layers(self.model)
        codewords = self.model.quantizer.codewords.requires_grad_(True)
        lr, decay = self.settings.lr, 0.0
        return [
            {"params": [encoder.weight], "lr": lr, "highest": lr, "weight_decay": decay},
            {
                "params": [codewords],
                "lr": lr * self.scale,
                "highest": lr * self.scale,
                "weight_decay": decay,
            },
        ]

    def release(self) -> None:
        """Makes the codewords what they were: a buffer gets no gradient outside of a training."""
        codewords = self.model.quantizer.codewords
        if not isinstance(codewords, nn.Parameter):
            codewords.requires_grad_(False)

    @torch.no_grad()
    def encode(self) -> None:
        """Takes the codes of all items anew; within an epoch they stay."""
        self.codes = self._codes(self.items, self.lists)

    def _codes(self, x: Tensor, lists: Tensor | None = None) -> Tensor:
        model = self.model.eval()
        codewords, centroids = model.quantizer.codewords, model.encode_centroids(self.centroids)
        parts = []
        n, own_rows = len(x), team.share(len(x))
        x, lists = x[own_rows], None if lists is None else lists[own_rows]
        with Progress("encoding", len(x), unit="vectors", shown=self.progress, inner=True) as bar:
            for part, own in _blocks(x, lists, _ENCODED_AT_A_TIME):
                z = model.encode(part) if own is None else model.encode(part) - centroids[own]
                parts.append(assign(split(z, model.M), codewords))
                bar.update(len(part))
        return team.gathered(torch.cat(parts), n)  # (n, M)

    def decoded(self) -> Tensor:
        """What the items' codes and lists stand for: (n, latent_dim)."""
        decoded = self._decoded(self.codes)
        if self.lists is None:
            return decoded
        return decoded + self.model.encode_centroids(self.centroids)[self.lists]

    def _decoded(self, codes: Tensor) -> Tensor:
        """What codes (n, M) stand for: (n, latent_dim)."""
        return self.model.quantized(codes)

    def terms(self, rows: Tensor, generator: torch.Generator) -> Terms:
        """The objective of a batch of anchors, without coarse centroids.

        Args:
            rows: (n,) int64, places in `anchors`.
            generator: of the items that they are compared with, on the CPU.
        """
        model, settings, n = self.model, self.settings, len(rows)
        rows = rows[team.share(n)]
        own = self.anchors[rows]
        z = model.encode(self.items[own])
        positive = self.neighbours[rows, 0]  # (n,)
        negatives, excluded = self._nearest_of_sample(z.detach(), own, positive, generator)
        codes = torch.cat([self.codes[positive].unsqueeze(1), negatives], 1)  # (n, 1 + pool, M)
        tables = lookup_tables(split(z, model.M), model.quantizer.codewords, self.metric)
        distances = tables.gather(2, codes.permute(2, 0, 1)).sum(0)  # (n, 1 + pool)
        # An item that came with the sample by chance is as good as infinitely far.
        distances = torch.cat(
            [distances[:, :1], distances[:, 1:].masked_fill(excluded, math.inf)], 1
        )
        loss = team.mean_of_own(ranking_losses(distances, settings.temperature * self.unit), n)
        squared = squared_distances(split(z, model.M), model.quantizer.codewords).min(-1)
        quantization = team.mean_of_own(squared.values.sum(0), n)
        loss = loss + settings.commitment / self.unit * quantization
        ids = squared.indices.T
        with torch.no_grad():
            errors = (model.decode(self._decoded(ids)) - self.items[own]).square()
            error = team.mean_of_own(errors, n) / self.scale**2
        parts = {"reconstruction": error, "quantization": quantization.detach()}
        return Terms(loss, parts, team.gathered(z.detach(), n), team.gathered(ids, n))

    @torch.no_grad()
    def _nearest_of_sample(
        self, z: Tensor, own: Tensor, positive: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Codes (n, pool, M) of the nearest by ADC among randomly drawn items.

        With them (n, pool) bool: those that are no competitors, the anchor and its neighbour.

        They are drawn anew and ranked by the model as it is: a list that was made once would teach
        the model to put others in their place.
        """
        total = len(self.items)
        drawn = torch.randint(total, (min(self.settings.sample, total),), generator=generator)
        drawn = drawn.to(z.device)
        distances = adc_distances(z, self._decoded(self.codes[drawn]), self.metric)
        for excluded in (own, positive):
            distances[drawn.unsqueeze(0) == excluded.unsqueeze(1)] = math.inf
        pool = min(self.settings.pool, len(drawn))
        values, found = distances.topk(pool, largest=False)
        return self.codes[drawn][found], values.isinf()

    @torch.no_grad()
    def hits(self, k: int = 10) -> Tensor:
        """Whether each query finds its neighbour among the k nearest items by ADC: (nq,) float64.

        The codes are those of `encode`. Among items of the same code, which come in any order, a
        neighbour is found with a probability. The mean is 1-recall@k.
        """
        stored, n = self.decoded(), len(self.queries)
        own = team.share(n)
        z = self.model.eval().encode(self.queries[own])
        parts = zip(torch.split(z, _TILE[0]), torch.split(self.truth[own], _TILE[0]), strict=True)
        found = []
        with Progress("searching", len(z), unit="queries", shown=self.progress, inner=True) as bar:
            for part, truth in parts:
                found.append(self._found(part, truth[:, 0], stored, k))
                bar.update(len(part))
        return team.gathered(torch.cat(found).to(z.device), n).cpu()

    def _found(self, z: Tensor, truth: Tensor, stored: Tensor, k: int) -> Tensor:
        """`hits` of some queries; in tiles that stay in the cache it is four times as fast."""
        target = stored[truth]
        own = -(z * target).sum(1, keepdim=True)
        largest = stored.square().sum(1).max()
        if self.metric == "l2":
            own = target.square().sum(1, keepdim=True) + 2 * own
        # The same sum in another order rounds otherwise.
        tolerance = 2e-6 * (own.abs() + largest)
        nearer, up_to = torch.zeros(2, len(z), dtype=torch.long, device=z.device)
        for tile in torch.split(stored, _TILE[1]):
            distances = adc_distances(z, tile, self.metric)
            nearer += (distances < own - tolerance).sum(1)
            up_to += (distances <= own + tolerance).sum(1)
        tied = (up_to - nearer).clamp(min=1).double()
        found: Tensor = ((k - nearer) / tied).clamp(0, 1)
        return found

    @torch.no_grad()
    def fit_decoder(self) -> None:
        """The linear decoder that reconstructs the items best from their codes."""
        _, decoder = linear_layers(self.model)
        fit_linear(decoder, self.decoded(), self.items)

    @torch.no_grad()
    def reconstruction_error(self, x: Tensor) -> float:
        """Mean squared error per component of x (n, d), relative to the data's variance."""
        decoded = self.model.decode(self._decoded(self._codes(x)))
        return float((decoded - x).square().mean()) / self.scale**2


def standard_errors(gains: Tensor) -> float:
    """How far the mean of gains (n,) is above zero, in standard errors: 0 where none is a gain."""
    error = float(gains.std(correction=0)) / math.sqrt(len(gains))
    return float(gains.mean()) / error if error > 0 else 0.0


def ranking_losses(distances: Tensor, temperature: float) -> Tensor:
    """Cross-entropies of the nearest neighbours among what they are searched with.

    Args:
        distances: (n, 1 + pool) float; the first is the neighbour's.
        temperature: of the softmax, in the unit of the distances.

    Returns:
        (n,) float, -log softmax(-distances / temperature) at the neighbour.
    """
    return -functional.log_softmax(-distances / temperature, 1)[:, 0]


def lookup_tables(z_m: Tensor, codewords: Tensor, metric: Metric) -> Tensor:
    """What a search adds up: (M, n, dsub) and (M, ksub, dsub) to (M, n, ksub)."""
    if metric == "l2":
        return squared_distances(z_m, codewords)
    return -torch.bmm(z_m, codewords.transpose(1, 2))


def adc_distances(z: Tensor, stored: Tensor, metric: Metric) -> Tensor:
    """Distances (n, ntotal), for l2 squared and less what is the same for a whole row."""
    if metric == "l2":
        return torch.addmm(stored.square().sum(1), z, stored.T, alpha=-2)
    return -(z @ stored.T)


@torch.no_grad()
def nearest(
    queries: Tensor,
    items: Tensor,
    k: int,
    *,
    metric: Metric,
    skip: Tensor | None = None,
    bar: Progress | None = None,
    block_elements: int = 2**24,
) -> tuple[Tensor, Tensor]:
    """Exact nearest neighbours; of several processes each looks for those of its share.

    Args:
        queries: (nq, d) float32.
        items: (n, d) float32, n >= k, or n > k with `skip`.
        k: neighbours of each.
        metric: "l2", or "inner_product" (the nearest is the largest).
        skip: (nq,) int64, an item that each query must not find: itself.
        bar: told of the queries that are done.
        block_elements: distances at a time, by default 64 MiB of them.

    Returns:
        ids (nq, k) int64 and distances (nq, k) float32, squared or negative products, nearest
        first.
    """
    n, own_rows = len(queries), team.share(len(queries))
    queries, skip = queries[own_rows], None if skip is None else skip[own_rows]
    nothing = queries.new_empty(0, k)
    found = [(nothing.long(), nothing)]
    for part, own in _blocks(queries, skip, max(1, block_elements // max(1, len(items)))):
        distances = adc_distances(part, items, metric)
        if own is not None:
            distances.scatter_(1, own.unsqueeze(1), math.inf)
        values, ids = distances.topk(k, largest=False)
        if metric == "l2":
            values = values + part.square().sum(1, keepdim=True)
        found.append((ids, values))
        if bar is not None:
            bar.update(team.size() * len(part))
    ids, values = (torch.cat(parts) for parts in zip(*found, strict=True))
    return team.gathered(ids, n), team.gathered(values, n)


class Around(NamedTuple):
    """What is taken off vectors: a coarse centroid of each.

    Attributes:
        centroids: (nlist, d).
        lists: (n,) int64.
    """

    centroids: Tensor
    lists: Tensor

    def of_all(self) -> Tensor:
        """(n, d)."""
        return self.centroids[self.lists]


@torch.no_grad()
def nearest_centroids(coarse: Coarse, x: Tensor, metric: Metric) -> Around:
    """The centroids nearest to vectors (n, d)."""
    centroids = torch.from_numpy(coarse()).to(x.device)
    lists, _ = nearest(x, centroids, 1, metric=metric)
    return Around(centroids, lists[:, 0])


def _blocks(x: Tensor, with_it: Any, rows: int) -> Iterator[tuple[Tensor, Any]]:
    """So many rows of two tensors together, at a time."""
    for start in range(0, len(x), rows):
        end = start + rows
        yield x[start:end], None if with_it is None else with_it[start:end]
