"""Changes of a native index that leave it whole: what FAISS does by halves, or forgets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from faiss_pqvae.native import faiss
from faiss_pqvae.native.store.contents import clear_ends
from faiss_pqvae.native.store.ids import id_map_changed


@contextmanager
def all_or_nothing(index: Any) -> Iterator[None]:
    """Takes back what was added to an index within, if an exception (Ctrl-C too) leaves the block.

    By place and not by id: an id may be there twice, and one of them is to stay. A graph cannot
    forget: to an HNSW index add everything in one call.
    """
    in_id_map = isinstance(index, faiss.IndexIDMap)
    bare = faiss.downcast_index(index.index) if in_id_map else index
    before = int(bare.ntotal)
    is_ivf = isinstance(bare, faiss.IndexIVF)
    sizes = [bare.invlists.list_size(i) for i in range(bare.nlist)] if is_ivf else []
    try:
        yield
    except BaseException:
        if is_ivf:
            for number, size in enumerate(sizes):
                bare.invlists.resize(number, size)
            bare.ntotal = before
            kind = bare.direct_map.type
            bare.set_direct_map_type(faiss.DirectMap.NoMap)
            bare.set_direct_map_type(kind)
        elif bare.ntotal > before and not isinstance(bare, faiss.IndexHNSW):
            bare.remove_ids(faiss.IDSelectorRange(before, bare.ntotal))
        tidy(bare)
        if in_id_map:
            index.id_map.resize(before)
            id_map_changed(index)
        raise


def tidy(bare: Any) -> None:
    """What FAISS forgets after it has taken vectors out of an index with fast scan."""
    if isinstance(bare, faiss.IndexPQFastScan) and not bare.ntotal:
        bare.ntotal2 = 0  # a search would read as many codes, which are gone
    if isinstance(bare, faiss.IndexPQFastScan | faiss.IndexIVFPQFastScan):
        clear_ends(bare)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds Ctrl-C back while a graph is linked: half of the links would be none."""
    faiss.InterruptCallback.clear_instance()
    try:
        yield
    finally:
        faiss.PythonInterruptCallback.reset()


@contextmanager
def without_direct_map(bare: Any) -> Iterator[None]:
    """Around changes that a direct map of inverted lists does not follow, or forbids.

    An array of ids that start at 0 and leave none out may not fit any more: it is gone then.
    """
    kind = bare.direct_map.type if isinstance(bare, faiss.IndexIVF) else faiss.DirectMap.NoMap
    if kind != faiss.DirectMap.NoMap:
        bare.set_direct_map_type(faiss.DirectMap.NoMap)
    try:
        yield
    finally:
        if kind == faiss.DirectMap.Hashtable:
            bare.set_direct_map_type(kind)
