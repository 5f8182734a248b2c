"""Batches with classes in them: enough pairs of one class, however many classes there are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from faiss_pqvae.data.labels import Labels

from .items import Rows

_PER_CLASS = 4  # items of a class in a batch, where there are more classes than a batch can hold


class Sampler:
    """Draws labelled items class by class.

    Args:
        labels: of all items.
        rows: (n,) int64, the items to draw from; at least one has a label.

    Attributes:
        n_classes: of these items.
    """

    def __init__(self, labels: Labels, rows: Rows) -> None:
        counts = np.diff(labels.starts)[rows]
        items = np.repeat(rows, counts)
        starts = labels.starts[rows]
        places = np.arange(len(items)) - np.repeat(np.cumsum(counts) - counts, counts)
        classes = labels.classes[np.repeat(starts, counts) + places]
        order = np.argsort(classes, kind="stable")
        self._items = torch.from_numpy(items[order])
        # Of the classes that occur: how many items, and where the first one is.
        sizes = np.bincount(classes, minlength=labels.n_classes)
        sizes = sizes[sizes > 0]
        self.n_classes = len(sizes)
        self._sizes = torch.from_numpy(sizes)
        self._starts = torch.from_numpy(np.cumsum(sizes) - sizes)

    def draw(self, n: int, generator: torch.Generator) -> Rows:
        """Rows (n,) int64: classes drawn at random, each with about as many items.

        Every class is there if n is at least four times their number; else every class that is
        there has about four items. An item may come twice.
        """
        n_classes = min(self.n_classes, max(2, n // _PER_CLASS))
        drawn = torch.randperm(self.n_classes, generator=generator)[:n_classes]
        classes = drawn[torch.arange(n) % len(drawn)]
        shares = torch.rand(n, generator=generator, dtype=torch.float64)
        places = (shares * self._sizes[classes]).long()
        rows: Rows = self._items[self._starts[classes] + places].numpy()
        return rows


def class_matrix(labels: Labels, rows: Rows) -> Tensor:
    """(len(rows), n_classes) float32: 1 where the item of a row is of a class."""
    counts = np.diff(labels.starts)[rows]
    places = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    classes = labels.classes[np.repeat(labels.starts[rows], counts) + places]
    found = torch.zeros(len(rows), labels.n_classes)
    found[np.repeat(np.arange(len(rows)), counts), classes] = 1
    return found


def share_class(y: Tensor, others: Tensor) -> Tensor:
    """Which pairs share a class: (n, C) and (m, C) float of zeros and ones to (n, m) bool."""
    return y @ others.T > 0
