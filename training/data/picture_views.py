"""Augmented views of images, as a source: what a frozen network is to see of them."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from faiss_pqvae.arguments import instance
from faiss_pqvae.data.as_rows import as_rows
from faiss_pqvae.data.batches import check_items, read_any_rows
from faiss_pqvae.data.source import Rows, row_ids
from faiss_pqvae.model.pqvae import to_float

from .views import EachItsOwn, Views, image_views

_WHAT = "images to make views of"
_AT_A_TIME = 128  # whose pixels stay in the cache


class PictureViews:
    """K augmented views of every image, the same ones whenever they are read.

    `index.train(x, views=PictureViews(x, 4))` lets a frozen network before an index see each view
    once; an objective that compares views, `Contrastive`, then learns from their features.

    Args:
        x: (n, c, h, w) uint8 or float: an array, a memory map, a tensor or a source.
        n_views: K, of every image.
        views: how they differ; None takes the strong ones of `Views.for_shape`.
        seed: of all that is random in them.

    Attributes:
        shape: (n * K, c, h, w), the views of an image one after another.
        dtype: uint8.

    Raises:
        TypeError: no such items, or no `Views`.
        ValueError: no images, no view, or views that change nothing or that images cannot have.
    """

    def __init__(self, x: Any, n_views: int, views: Views | None = None, *, seed: int = 0) -> None:
        x = as_rows(x, None, _WHAT)
        shape = tuple(x.shape)[1:]
        if len(shape) != 3:
            raise ValueError(f"expected images (n, c, h, w) to make views of, got items of {shape}")
        if not isinstance(n_views, int | np.integer) or n_views < 1:
            raise ValueError(f"expected n_views >= 1, got {n_views}")
        if views is not None:
            instance("views", views, Views, "as in views=Views(flip=0.5)")
        self.x = check_items(x, shape, _WHAT)
        self.views = Views.for_shape(shape, strong=True) if views is None else views
        self.views.check(shape)
        if self.views == Views():
            raise ValueError("expected views that change something, got none")
        self.n_views, self.seed = int(n_views), seed
        self.shape = (len(self.x) * self.n_views, *shape)
        self.dtype = np.dtype(np.uint8)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Rows, /) -> npt.NDArray[np.uint8]:
        wanted = row_ids(rows, len(self))
        found = np.empty((len(wanted), *self.shape[1:]), np.uint8)
        x = to_float(read_any_rows(self.x, wanted // self.n_views, _WHAT))
        for start in range(0, len(wanted), _AT_A_TIME):
            part = slice(start, start + _AT_A_TIME)
            generators = [
                torch.Generator().manual_seed(zlib.crc32(f"{self.seed}/{row}".encode()))
                for row in wanted[part].tolist()
            ]
            views = image_views(x[part], self.views, EachItsOwn(generators, x.device))
            found[part] = views.mul(255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
        return found
