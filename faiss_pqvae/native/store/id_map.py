"""The ids of an IDMap around an index: what users call the vectors."""

from __future__ import annotations

from typing import Any

import numpy as np

from faiss_pqvae.native import faiss
from faiss_pqvae.native.faiss_method import faiss_method
from faiss_pqvae.native.ids import id_map_changed, in_id_map, list_ids, places_of, view_ids
from faiss_pqvae.native.kinds.kind import Kind
from faiss_pqvae.types import FloatArray, IdArray


def ids_by_place(index: Any) -> IdArray:
    """The ids of an IDMap by place: a view, valid until the next change."""
    return view_ids(index.id_map.data(), index.id_map.size())


def ids_of(index: Any, keys: IdArray) -> IdArray:
    """What users call the keys, any shape; -1 stays -1."""
    if not in_id_map(index):
        return keys
    id_map = ids_by_place(index)
    return np.where(keys < 0, -1, id_map[keys]) if len(id_map) else keys


def keys_of(index: Any, ids: IdArray) -> IdArray:
    """The places of ids in an IDMap, of which it looks through all.

    Raises:
        ValueError: no such id.
    """
    return places_of(ids_by_place(index), ids)


def reconstruct(index: Any, bare: Any, kind: Kind, ids: IdArray) -> FloatArray:
    """The quantized latents of ids: (n,) int64 to (n, d) float32.

    An IDMap2 knows where its ids are; an IDMap is looked through. Of vectors under one id, any may
    be meant.

    Raises:
        ValueError: no such id.
    """
    if not in_id_map(index):
        kind.check_keys(bare, ids)
        return kind.reconstruct(bare, ids)
    if not isinstance(index, faiss.IndexIDMap2) or kind.has_lists:
        return kind.reconstruct(bare, keys_of(index, ids))
    try:
        latents: FloatArray = index.reconstruct_batch(ids)
    except RuntimeError:  # FAISS names no id
        return kind.reconstruct(bare, keys_of(index, ids))
    return latents


def over_keys(index: Any, sel: Any) -> Any:
    """A selector of ids as one of keys; it is good until the ids change."""
    return faiss.IDSelectorTranslated(index.id_map, sel) if in_id_map(index) else sel


def remove_places(index: Any, bare: Any, kind: Kind, sel: Any) -> IdArray:
    """Removes from an inverted file in an IDMap, whose keys are places.

    FAISS's IDMap moves the ids up, and an inverted file leaves its own where they are.

    Returns:
        The new key of every old one, -1 for those that are gone.
    """
    id_map = ids_by_place(index).copy()
    kept = np.array([not sel.is_member(int(i)) for i in id_map], bool)
    faiss_method(bare, "remove_ids")(over_keys(index, sel))
    kind.tidy(bare)
    keys: IdArray = np.where(kept, np.cumsum(kept) - 1, -1)
    for number in range(bare.nlist):
        ids = list_ids(bare, number)
        ids[:] = keys[ids]
    set_ids(index, id_map[kept])
    return keys


def merge_places(index: Any, bare: Any, other: Any, other_bare: Any, add_id: int) -> None:
    """Takes the vectors of another inverted file in an IDMap over.

    FAISS's IDMap would give the keys of the inverted lists twice.
    """
    ids = np.concatenate([ids_by_place(index), ids_by_place(other) + add_id])
    bare.merge_from(other_bare, bare.ntotal)
    set_ids(index, ids)
    set_ids(other, ids[:0])


def set_ids(index: Any, ids: IdArray) -> None:
    """Makes ids those of an IDMap, by place."""
    faiss.copy_array_to_vector(np.ascontiguousarray(ids), index.id_map)
    id_map_changed(index)
