"""Scores that choose between trainings; those measured here need no labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from faiss_pqvae.data.batches import check_items, read_batches
from faiss_pqvae.model.clustering import look_up
from faiss_pqvae.model.pqvae import PQVAE, to_float

from ..config import TrainingConfig
from ..data.views import Views, random_views

QUERIES = 1000


@dataclass(frozen=True)
class Score:
    """What is searched for.

    Attributes:
        name: a search is resumed with the score of the same name only.
        measure: of a trained model, the items it was trained on and the held-out ones, the first
            `QUERIES` of which are the queries: a mean over them of values from 0 to 1, higher is
            better. Both parts have `rows`, the items' numbers among all.
        labels: a key of the labels that it reads, likewise.
    """

    name: str
    measure: Callable[[PQVAE, Part, Part], float]
    labels: str | None = None


class Part:
    """Some of the items, read when they are asked for.

    Args:
        x: all items.
        rows: (m,) int64, those of this part.
    """

    def __init__(self, x: Any, rows: npt.NDArray[np.int64]) -> None:
        self.x, self.rows = x, rows
        self.shape, self.dtype = (len(rows), *x.shape[1:]), x.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Any) -> Any:
        return self.x[self.rows[rows]]


def default_score(
    shape: tuple[int, ...], training: TrainingConfig, name: str | None = None
) -> Score:
    """A score that needs no labels.

    "view-recall" (images): `view_recall` of the held-out images among themselves, with the
    training's views, or the default ones where it has none. "recall": `neighbour_recall` of at
    most 1,000 held-out items among those trained on.

    Args:
        shape: of an item.
        training: whose views count.
        name: one of the two; None takes view-recall for images and recall for vectors.

    Raises:
        ValueError: another name, or views of what are no images.
    """
    images = len(shape) == 3
    name = name or ("view-recall" if images else "recall")
    if name == "recall":
        return Score(
            name, lambda model, stored, held: neighbour_recall(model, stored, held[:QUERIES])
        )
    if name != "view-recall":
        raise ValueError(f"expected the score 'view-recall' or 'recall', got {name!r}")
    if not images:
        raise ValueError(f"expected images for the score 'view-recall', got items of shape {shape}")
    views = training.for_shape(shape).views
    if views is None or views == Views():
        views = Views.for_shape(shape)
    return Score(name, lambda model, _, held: view_recall(model, held, views=views))


@torch.inference_mode()
def view_recall(
    model: PQVAE, x: Any, *, views: Views, k: int = 1, n_queries: int = QUERIES, seed: int = 0
) -> float:
    """How often a changed image finds its original among the codes of all images.

    The first `n_queries` images are changed and searched for, by their latents against the codes
    of all of `x` (ADC). It needs codes that agree on what the views leave and differ otherwise.

    Args:
        model: trained.
        x: (n, c, h, w) uint8 or float images that were not trained on.
        views: the changes; the same for all models that are compared.
        k: within how many nearest codes the original must be.
        n_queries: how many images are searched for, cut to n.
        seed: of the changes.

    Returns:
        The share of the images found, in [0, 1].
    """
    x = check_items(x, model.input_shape, "images")
    model.eval()
    device = model.device
    codes = []
    for batch in read_batches(x, 1024, "images"):
        codes.append(model.quantizer(model.encode(batch.to(device))).ids)  # noqa: PERF401
    stored = look_up(model.quantizer.codewords, torch.cat(codes)).transpose(0, 1).flatten(1)
    generator = torch.Generator().manual_seed(seed)
    hits, start = 0.0, 0
    for batch in read_batches(x[:n_queries], 1024, "images"):
        changed = random_views(to_float(batch.to(device)), views, generator)
        hits += _hits(model.encode_queries(changed), stored, start, k)
        start += len(batch)
    return hits / start


def _hits(queries: Tensor, stored: Tensor, start: int, k: int) -> float:
    """How many of the queries have stored row `start`, `start + 1`, ... among their k nearest."""
    distances = torch.cdist(queries, stored)  # (n, ntotal)
    return _found(distances, distances.diagonal(offset=start)[: len(queries)].unsqueeze(1), k)


def _found(distances: Tensor, own: Tensor, k: int) -> float:
    """How many rows have `own` (n, 1), one of their distances (n, ntotal), among the k lowest.

    Among items of the same code, which come in any order, a query hits with a probability: else
    an index of one code would find everything.
    """
    nearer, tied = (distances < own).sum(1), (distances == own).sum(1)
    return float(((k - nearer) / tied).clamp(0, 1).sum())


@torch.inference_mode()
def neighbour_recall(model: PQVAE, x: Any, queries: Any, *, k: int = 10) -> float:
    """1-recall@k: how often a query's true nearest neighbour is among its k nearest codes.

    Distances between items are Euclidean, those between latents and codes as well (ADC).

    Args:
        model: trained.
        x: (n, *input_shape) uint8 or float, stored.
        queries: (nq, *input_shape) uint8 or float, neither stored nor trained on.
        k: within how many nearest codes the neighbour must be.

    Returns:
        The share of the queries, in [0, 1].
    """
    x = check_items(x, model.input_shape, "stored items")
    queries = check_items(queries, model.input_shape, "queries")
    model.eval()
    device = model.device
    found = [batch.to(device) for batch in read_batches(queries, 1024, "queries")]
    xq = torch.cat([to_float(batch).flatten(1) for batch in found])
    zq = torch.cat([model.encode_queries(batch) for batch in found])
    nearest = torch.full((len(xq),), torch.inf, device=device)
    neighbours = torch.zeros(len(xq), dtype=torch.long, device=device)
    codes, start = [], 0
    for batch in read_batches(x, 1024, "stored items"):
        items = batch.to(device)
        codes.append(model.quantizer(model.encode(items)).ids)
        distances, rows = torch.cdist(xq, to_float(items).flatten(1)).min(1)
        neighbours = torch.where(distances < nearest, start + rows, neighbours)
        nearest = torch.minimum(distances, nearest)
        start += len(items)
    stored = look_up(model.quantizer.codewords, torch.cat(codes)).transpose(0, 1).flatten(1)
    hits = 0.0
    for rows in torch.arange(len(zq), device=device).chunk(-(-len(zq) // 256)):
        distances = torch.cdist(zq[rows], stored)
        hits += _found(distances, distances.gather(1, neighbours[rows].unsqueeze(1)), k)
    return hits / len(zq)
