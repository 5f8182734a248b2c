"""How the names of items follow the changes of an index: no item gets the name of another."""

from __future__ import annotations

from typing import Any

import numpy as np

from faiss_pqvae.foreign import as_ids
from faiss_pqvae.index.items import Items
from faiss_pqvae.native import faiss
from faiss_pqvae.native.ids import as_selector, selected, stored_ids, taken_of


def after_adding(items: Items | None, ids: Any, before: int, ntotal: int) -> Items | None:
    """The names when items were added, which have none and share none.

    Args:
        items: the names before.
        ids: (n,) int64 of what was added; None where it was counted.
        before: items that the index held.
        ntotal: items that it holds.
    """
    if items is None:
        return None
    return items.without(np.arange(before, ntotal) if ids is None else as_ids(ids))


def after_removing(items: Items | None, sel: Any, ntotal: int, *, takes_ids: bool) -> Items | None:
    """The names when what a selector or ids (n,) int64 name is gone.

    Args:
        items: the names before.
        sel: see `LatentIndex.remove_ids`.
        ntotal: items that the index holds before.
        takes_ids: whether they have ids of their own, or are counted and move up.

    Raises:
        TypeError: ids that are not integers.
    """
    if items is None:
        return None
    if not isinstance(sel, faiss.IDSelector):
        ids = np.unique(as_ids(sel))
        return items.without(ids) if takes_ids else items.closed(ids[ids >= 0])
    sel = as_selector(sel)
    if takes_ids:
        return items.without(taken_of(sel, items.all_ids()))
    return items.closed(selected(sel, ntotal))


def after_merging(
    mine: Items | None,
    theirs: Items | None,
    index: Any,
    other: Any,
    add_id: int,
    *,
    takes_ids: bool,
) -> Items | None:
    """The names when an index has taken over the items of another; an id twice has none.

    Args:
        mine: the names of the one.
        theirs: of the other.
        index: the native index of the one, before.
        other: likewise.
        add_id: added to the other's ids.
        takes_ids: whether items have ids of their own, or are counted.
    """
    if not takes_ids:
        theirs = None if theirs is None else theirs.under(int(index.ntotal))
    else:
        mine = None if mine is None else mine.without(stored_ids(other) + add_id)
        theirs = None if theirs is None else theirs.under(add_id).without(stored_ids(index))
    if mine is None or theirs is None:
        return mine if theirs is None else theirs
    return mine.joined(theirs)
