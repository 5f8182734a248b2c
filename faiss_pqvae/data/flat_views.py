"""Views of items that were made before, in one row after another."""

from __future__ import annotations

from typing import Any

import numpy as np

from faiss_pqvae.data.as_rows import as_rows
from faiss_pqvae.data.batches import check_items
from faiss_pqvae.data.source import Rows, row_ids

WHAT = "views"  # their name in messages


class _Flat:
    """The views (n, K, ...) of a source as rows (n * K, ...)."""

    def __init__(self, views: Any) -> None:
        self.views, self.dtype = views, views.dtype
        n, self._n_views, *item = views.shape
        self.shape = (n * self._n_views, *item)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: Rows, /) -> Any:
        wanted = row_ids(rows, len(self))
        items, place = np.unique(wanted // self._n_views, return_inverse=True)
        return np.asarray(self.views[items])[place, wanted % self._n_views]


def flat_views(views: Any, n: int, item_shape: tuple[int, ...]) -> Any:
    """Views of n items, the same number of each.

    Args:
        views: (n, K, *item_shape) uint8 or float, or (n * K, *item_shape), the K views of an item
            one after another, as a source has them.
        n: items that they are of.
        item_shape: of an item, (c, h, w) or (d,).

    Returns:
        (n * K, *item_shape), not yet read.

    Raises:
        TypeError: no such items.
        ValueError: another shape, or views that are not those of n items.
    """
    views = as_rows(views, None, WHAT)
    shape = tuple(views.shape)
    if len(shape) == len(item_shape) + 2:
        if shape[0] != n or not shape[1]:
            raise ValueError(
                f"expected views of {n} items, ({n}, K, {', '.join(map(str, item_shape))}), got "
                f"shape {shape}"
            )
        views = views.reshape(-1, *shape[2:]) if hasattr(views, "reshape") else _Flat(views)
    views = check_items(views, item_shape, WHAT)
    if len(views) % n:
        raise ValueError(
            f"expected as many views of each of {n} items, got {len(views)} views: no multiple"
        )
    return views
