"""Changes of a native index that leave it whole: what FAISS does by halves, or forgets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from faiss_pqvae.foreign import as_ids
from faiss_pqvae.native.faiss_method import faiss_method
from faiss_pqvae.native.ids import (
    POSSIBLE_IDS,
    given_ids,
    id_map_changed,
    in_id_map,
    unwrapped,
)
from faiss_pqvae.native.inject import extract_codebooks
from faiss_pqvae.native.kinds import index_pq, known_kind
from faiss_pqvae.native.kinds.lists import coarse_centroids
from faiss_pqvae.native.store import id_map
from faiss_pqvae.native.store.held import Held
from faiss_pqvae.types import IdArray


@contextmanager
def all_or_nothing(index: Any) -> Iterator[None]:
    """Takes back what was added to an index within, if an exception (Ctrl-C too) leaves the block.

    By place and not by id: an id may be there twice, and one of them is to stay. A graph cannot
    forget: it gets everything in one call.

    Args:
        index: of one of the `KINDS`, or of other flat codes; alone or in an IDMap.
    """
    bare, wrapped = unwrapped(index), in_id_map(index)
    kind = known_kind(bare) or index_pq.KIND  # flat codes of every kind are forgotten alike
    before, marked = int(bare.ntotal), kind.mark(bare)
    try:
        yield
    except BaseException:
        kind.roll_back(bare, marked)
        kind.tidy(bare)
        if wrapped:
            index.id_map.resize(before)
            id_map_changed(index)
        raise


def check_ids(held: Held, ids: Any, n: int) -> IdArray | None:
    """The ids for n vectors as (n,) int64; None where the index numbers them itself.

    Raises:
        TypeError: ids that are not integers.
        ValueError: another number of ids; the id -1; ids for an index that numbers its vectors
            itself, or none for an IDMap.
    """
    if ids is None and held.in_id_map:
        raise ValueError("an IDMap needs an id for every item: use add_with_ids")
    if ids is None:
        return None
    if not held.in_id_map and not held.kind.has_lists:
        raise ValueError(
            f"{held.kind.name} numbers its vectors itself: write 'IDMap2,' in front of the "
            "description for ids of your own"
        )
    given = as_ids(ids, n)
    nothing = np.flatnonzero(given == -1)
    if len(nothing):
        raise ValueError(
            f"expected {POSSIBLE_IDS}, got it in row {nothing[0]}: any other int64 will do"
        )
    return given


def remove(held: Held, sel: Any) -> tuple[int, IdArray | None]:
    """Removes the vectors that a selector of ids names.

    Returns:
        How many; and for an inverted file in an IDMap, whose keys are places, the new key of
        every old one, -1 for those that are gone.

    Raises:
        ValueError: an index whose graph cannot lose vectors.
    """
    index, bare, kind = held
    if kind.grows_only:
        raise ValueError(
            f"an {kind.grows_only} index cannot remove vectors, its graph runs through them: "
            "search with a selector that leaves them out, or build the index anew"
        )
    with kind.changing(bare):
        if held.in_id_map and kind.has_lists:
            keys = id_map.remove_places(index, bare, kind, sel)
            return int((keys < 0).sum()), keys
        removed = int(faiss_method(index, "remove_ids")(sel))
        kind.tidy(bare)
    return removed, None


def check_compatible(held: Held, other: Held) -> None:
    """Whether `merge` can take the vectors of another index.

    Raises:
        ValueError: another kind, other codebooks or coarse centroids, or a graph.
    """
    graph = held.kind.grows_only or other.kind.grows_only
    if graph:
        raise ValueError(f"{graph} indexes cannot be merged: add the vectors to one of them")
    kinds = [(type(each.index).__name__, each.kind.name) for each in (held, other)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"expected an index of {kinds[0]} to merge, got {kinds[1]}")
    if extract_codebooks(held.bare) != extract_codebooks(other.bare):
        raise ValueError("expected an index with the same codebooks, got other ones")
    if held.kind.has_lists:  # FAISS compares their number only
        centroids = coarse_centroids(held.bare), coarse_centroids(other.bare)
        if not np.array_equal(*centroids):
            raise ValueError("expected an index with the same coarse centroids, got other ones")
    try:
        with held.kind.set_aside(held.bare), other.kind.set_aside(other.bare):
            held.index.check_compatible_for_merge(other.index)
    except RuntimeError as error:
        raise ValueError(f"FAISS cannot merge these indexes: {error}") from error


def check_add_id(other: Held, add_id: int) -> None:
    """Refuses what would make ids of an index, which `merge` takes over, none that users may give.

    Raises:
        ValueError: ids beyond int64; the id -1.
    """
    limits = np.iinfo(np.int64)
    if not add_id:
        return
    for ids in given_ids(other.index):
        beyond = (ids < limits.min - add_id) | (ids > limits.max - add_id)
        if beyond.any():
            raise ValueError(
                f"expected an add_id that leaves ids within int64, got {add_id} for the id "
                f"{ids[beyond][0]}"
            )
        if (ids == -1 - add_id).any():
            raise ValueError(
                f"expected an add_id that makes {POSSIBLE_IDS}, got {add_id} for the id "
                f"{-1 - add_id}"
            )


def merge(held: Held, other: Held, add_id: int) -> None:
    """Takes the vectors of another index over, which is empty then.

    Args:
        held: an index.
        other: what `check_compatible` accepts.
        add_id: added to its ids.
    """
    with held.kind.changing(held.bare), other.kind.changing(other.bare):
        if held.in_id_map and held.kind.has_lists:
            id_map.merge_places(held.index, held.bare, other.index, other.bare, add_id)
        else:
            held.index.merge_from(other.index, add_id)
            other.kind.tidy(other.bare)
        held.kind.tidy(held.bare)


def reset(held: Held) -> None:
    """Forgets the vectors."""
    held.index.reset()
    if held.in_id_map:
        id_map_changed(held.index)  # an IDMap2 still finds the old ids
    held.kind.tidy(held.bare)
