"""What a native index holds: codes and ids, read out of it and written into one like it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from faiss_pqvae.arguments import integer
from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.native import faiss
from faiss_pqvae.native.ids import id_map_changed, in_id_map, unwrapped
from faiss_pqvae.native.inject import extract_codebooks, inject_codebooks, new_residual_index
from faiss_pqvae.native.kinds import KINDS, kind_of
from faiss_pqvae.native.kinds.kind import Contents
from faiss_pqvae.native.kinds.residual_quantizer import check_residual
from faiss_pqvae.native.walk import codebook_index
from faiss_pqvae.types import CodeArray, IdArray

_BLOCK = 1 << 18  # codes that are taken apart at a time


@dataclass(frozen=True)
class Stored:
    """What a native index holds, in its order: list after list where it has lists.

    Attributes:
        codes: (n, code_size) uint8.
        ids: (n,) int64, what a search returns.
        list_sizes: (nlist,) int64, of an inverted file.
        inner_ids: (n,) int64, of an inverted file in an IDMap: positions in the IDMap.
    """

    codes: CodeArray
    ids: IdArray
    list_sizes: IdArray | None = None
    inner_ids: IdArray | None = None


def read(index: Any) -> Stored:
    """Reads what an index holds.

    Args:
        index: a trained index of product codes that is no graph, alone or in an IDMap.

    Raises:
        TypeError: another kind of index.
        ValueError: an untrained index.
    """
    native, id_map = _unwrap(index)
    codes, keys, sizes = kind_of(native).contents(native)
    if id_map is None:
        return Stored(codes, keys, sizes)
    return Stored(codes, id_map[keys], sizes, None if sizes is None else keys)


def empty_like(index: Any) -> Any:
    """An index of the same kind and training that holds nothing.

    Not a clone that is emptied: it would copy the codes first, and of a mapped file it aborts.
    """
    native, id_map = _unwrap(index)
    make = kind_of(native).empty
    assert make is not None  # `_unwrap` saw to it
    empty = make(native)
    inject_codebooks(empty, extract_codebooks(native))
    return empty if id_map is None else type(faiss.downcast_index(index))(empty)


def write(index: Any, stored: Stored) -> None:
    """Fills an empty index, so that `read` gives `stored`."""
    native, id_map = _unwrap(index)
    ids, keys = stored.ids, stored.inner_ids
    keys = ids if keys is None else keys
    kind_of(native).fill(native, Contents(stored.codes, keys, stored.list_sizes))
    native.ntotal = len(ids)
    if id_map is not None:
        outer = faiss.downcast_index(index)
        by_place = ids if stored.inner_ids is None else ids[np.argsort(keys)]
        faiss.copy_array_to_vector(by_place, outer.id_map)
        id_map_changed(outer)


def _unwrap(index: Any) -> tuple[Any, IdArray | None]:
    """The index in an IDMap, and the IDMap's ids; raises as `read` does."""
    outer = faiss.downcast_index(index)
    id_map = faiss.vector_to_array(outer.id_map) if in_id_map(outer) else None
    native = unwrapped(outer)
    known = [name for name, kind in KINDS.items() if kind.empty is not None]
    if type(native).__name__ not in known:  # a subclass may search otherwise
        raise TypeError(
            f"expected one of {', '.join(known)}, alone or in an IDMap, got {type(native).__name__}"
        )
    if not native.is_trained:
        raise ValueError("expected a trained index, got an untrained one")
    return native, id_map


def codeword_blocks(index: Any) -> Iterator[IdArray]:
    """The codeword of every stored vector in every sub-quantizer, in no particular order.

    As integers they take many times what the codes do, and so come a part at a time.

    Args:
        index: of a kind that `Store` takes, alone or in an IDMap. Of a residual quantizer, a
            sub-quantizer is a level.

    Yields:
        (n, M) int64 in [0, ksub), of ntotal vectors in all.

    Raises:
        TypeError: another kind of index.
        ValueError: an untrained index.
    """
    holder = codebook_index(index)
    codebooks = extract_codebooks(holder)
    codes = kind_of(holder).contents(holder).codes
    for first in range(0, max(1, len(codes)), _BLOCK):
        block = np.ascontiguousarray(codes[first : first + _BLOCK])
        yield np.asarray(faiss.unpack_bitstrings(block, codebooks.M, codebooks.nbits), np.int64)


def first_levels(index: Any, n_levels: int) -> Any:
    """The vectors of a residual quantizer by their first codewords alone.

    It searches as if it had been built from the first codebooks: codewords are chosen level after
    level, so a shorter code is the beginning of the longer one.

    Args:
        index: a trained IndexResidualQuantizer as `new_residual_index` makes it, alone or in an
            IDMap or IDMap2.
        n_levels: 1 to M.

    Returns:
        A new index of the same kind, with the same ids.

    Raises:
        TypeError: another kind of index, an n_levels that is no integer.
        ValueError: an n_levels out of range, an untrained index, another residual quantizer.
    """
    outer = faiss.downcast_index(index)
    ids = faiss.vector_to_array(outer.id_map) if in_id_map(outer) else None
    bare = unwrapped(outer)
    if not isinstance(bare, faiss.IndexResidualQuantizer):
        raise TypeError(
            f"expected an IndexResidualQuantizer, alone or in an IDMap, got {type(bare).__name__}"
        )
    check_residual(bare)
    codebooks = extract_codebooks(bare)
    n_levels = integer("n_levels", n_levels, 1, codebooks.M)
    first = new_residual_index(codebooks.d, n_levels, codebooks.nbits)
    inject_codebooks(first, Codebooks(codebooks.centroids[:n_levels], structure="residual"))
    # A code begins with the lowest bits of its first byte.
    rest = n_levels * codebooks.nbits % 8
    codes = np.ascontiguousarray(flat_codes(bare)[:, : first.code_size])
    if rest:
        codes[:, -1] &= (1 << rest) - 1
    if ids is None:
        first.add_sa_codes(codes)
        return first
    wrapped = type(outer)(first)
    wrapped.add_sa_codes(codes, ids)
    return wrapped


def flat_codes(index: Any) -> CodeArray:
    """The codes of an index without lists, as IndexPQ stores them.

    Args:
        index: of a kind that keeps codes by place.

    Returns:
        (ntotal, code_size) uint8, a copy: the index moves its own when codes are added.

    Raises:
        TypeError: another kind of index.
    """
    by_place = [k.name for k in KINDS.values() if k.stores and not (k.has_lists or k.grows_only)]
    if type(index).__name__ not in by_place:
        raise TypeError(f"expected one of {', '.join(by_place)}, got {type(index).__name__}")
    return kind_of(index).contents(index).codes
