"""Ids and selectors of ids: as they come in, and where they lie."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from faiss_pqvae.foreign import as_ids
from faiss_pqvae.native import faiss
from faiss_pqvae.types import IdArray

# Of users: all other negative ones are theirs.
POSSIBLE_IDS = "ids other than -1, by which FAISS means 'nothing found'"


def in_id_map(index: Any) -> bool:
    """Whether an index is an IDMap or an IDMap2."""
    return isinstance(index, faiss.IndexIDMap)


def unwrapped(index: Any) -> Any:
    """What is in an IDMap, or an index without one: by its own class, valid as long as `index`."""
    return faiss.downcast_index(index.index if in_id_map(index) else index)


def as_selector(sel: Any) -> Any:
    """A selector of ids: a faiss.IDSelector as it is, integers as one of those ids.

    Raises:
        TypeError: ids that are not integers; a selector that is translated from ids to places,
            which FAISS would translate again, out of bounds.
    """
    if isinstance(sel, faiss.IDSelectorTranslated):
        raise TypeError("expected a selector of ids, got one that is translated to places")
    if isinstance(sel, faiss.IDSelector):
        return sel
    return faiss.IDSelectorBatch(as_ids(sel))


def view_ids(pointer: Any, size: int) -> IdArray:
    """Native memory as (size,) int64, without a copy."""
    view: IdArray = faiss.rev_swig_ptr(pointer, size) if size else np.empty(0, np.int64)
    return view


def list_ids(index: Any, number: int) -> IdArray:
    """The ids of an inverted list (n,) int64: a view, valid until the next change."""
    return view_ids(index.invlists.get_ids(number), index.invlists.list_size(number))


def given_ids(index: Any) -> Iterator[IdArray]:
    """The ids that vectors were given, in parts (n,) int64: views, good until the next change.

    Args:
        index: any; one that numbers its vectors itself has none.
    """
    if in_id_map(index):
        yield view_ids(index.id_map.data(), index.id_map.size())
    elif isinstance(index, faiss.IndexIVF):
        yield from (list_ids(index, number) for number in range(index.nlist))


def check_given_ids(index: Any) -> None:
    """Refuses an index that holds the id -1, which FAISS itself takes; raises ValueError."""
    if any((ids == -1).any() for ids in given_ids(index)):
        # FAISS's own `remove_ids` gives wrong ids where an IDMap is around lists.
        remedy = "give it another by faiss.copy_array_to_vector(ids, index.id_map)"
        if not in_id_map(index):
            remedy = "take it out by index.remove_ids(numpy.array([-1]))"
        raise ValueError(
            f"expected {POSSIBLE_IDS}, got a vector with it: in the faiss index, {remedy}"
        )


def places_of(stored: IdArray, wanted: IdArray) -> IdArray:
    """Where every wanted id lies among the stored ones: (n,) int64.

    Raises:
        ValueError: an id that is not there.
    """
    there = np.flatnonzero(np.isin(stored, wanted))
    order = there[np.argsort(stored[there], kind="stable")]
    slots = np.searchsorted(stored[order], wanted)
    found = slots < len(order)
    found[found] = stored[order[slots[found]]] == wanted[found]
    if not found.all():
        raise ValueError(f"expected ids that are stored, got {wanted[~found][0]}")
    return order[slots]


def id_map_changed(index: Any) -> None:
    """What follows from new ids in an IDMap's `id_map`."""
    index.ntotal = index.id_map.size()
    if isinstance(index, faiss.IndexIDMap2):
        index.construct_rev_map()


def selected(sel: Any, n: int, rows: int = 2**20) -> IdArray:
    """The ids below n that an IDSelector takes: (n',) int64, ascending.

    Args:
        sel: a faiss.IDSelector.
        n: a number of ids, from 0 on.
        rows: ids that it is asked about at a time.
    """
    starts = range(0, n, rows)
    return np.concatenate(
        [
            np.empty(0, np.int64),
            *(taken_of(sel, np.arange(start, min(n, start + rows))) for start in starts),
        ]
    )


def taken_of(sel: Any, ids: IdArray) -> IdArray:
    """Those of ids (n,) int64 that an IDSelector takes: (n',) int64, in their order."""
    id_map = faiss.Int64Vector()
    faiss.copy_array_to_vector(ids, id_map)
    # FAISS asks a selector about many ids only where it removes: from the ids themselves.
    asked = faiss.IndexBinaryFlat(64)
    asked.add(ids.view(np.uint8).reshape(-1, 8))
    asked.remove_ids(faiss.IDSelectorNot(faiss.IDSelectorTranslated(id_map, sel)))
    taken: IdArray = faiss.vector_to_array(asked.xb).view(np.int64)
    return taken


def stored_ids(index: Any) -> IdArray:
    """The ids of all that a native index holds: (ntotal,) int64, a copy, in no order."""
    if in_id_map(index) or isinstance(index, faiss.IndexIVF):
        return np.concatenate([np.empty(0, np.int64), *given_ids(index)])
    return np.arange(index.ntotal)
