"""Views of items that were made before, in one row after another."""

from __future__ import annotations

from typing import Any

from faiss_pqvae.data.as_rows import as_rows
from faiss_pqvae.data.batches import check_items

WHAT = "views"  # their name in messages


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
        views = views.reshape(-1, *shape[2:])
    views = check_items(views, item_shape, WHAT)
    if len(views) % n:
        raise ValueError(
            f"expected as many views of each of {n} items, got {len(views)} views: no multiple"
        )
    return views
