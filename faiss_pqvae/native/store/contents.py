"""What a native index holds: codes and ids, read out of it and written into one like it."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.native import additive as native_additive
from faiss_pqvae.native import faiss
from faiss_pqvae.native.inject import (
    check_residual,
    extract_codebooks,
    inject_codebooks,
    new_residual_index,
)
from faiss_pqvae.native.scan.packing import flatten_blocks, pack_blocks
from faiss_pqvae.native.store.ids import id_map_changed, list_ids
from faiss_pqvae.native.walk import codebook_index
from faiss_pqvae.types import CodeArray, IdArray

_IVF = (faiss.IndexIVFPQ, faiss.IndexIVFPQFastScan)
_FAST_SCAN = (faiss.IndexPQFastScan, faiss.IndexIVFPQFastScan)
_FLAT = (faiss.IndexPQ, faiss.IndexPQFastScan, faiss.IndexResidualQuantizer)
_KINDS = (faiss.IndexPQ, faiss.IndexPQFastScan, *_IVF)  # those of a product quantizer


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
        index: a trained IndexPQ, IndexPQFastScan, IndexIVFPQ or IndexIVFPQFastScan, alone or in
            an IDMap.

    Raises:
        TypeError: another kind of index.
        ValueError: an untrained index; codes of residuals.
    """
    native, id_map = _unwrap(index)
    if not isinstance(native, _IVF):
        codes = flat_codes(native)
        return Stored(codes, np.arange(native.ntotal) if id_map is None else id_map)
    lists = [entries(native, list_no) for list_no in range(native.nlist)]
    codes, ids = (np.concatenate(parts) for parts in zip(*lists, strict=True))
    sizes = np.array([len(codes) for codes, _ in lists])
    if id_map is None:
        return Stored(codes, ids, sizes)
    return Stored(codes, id_map[ids], sizes, ids)


def empty_like(index: Any) -> Any:
    """An index of the same kind and training that holds nothing.

    Not a clone that is emptied: it would copy the codes first, and of a mapped file it aborts.
    """
    native, id_map = _unwrap(index)
    arguments = [native.d, native.pq.M, native.pq.nbits, native.metric_type]
    if isinstance(native, _IVF):
        arguments = [faiss.clone_index(native.quantizer), native.d, native.nlist, *arguments[1:]]
    if isinstance(native, _FAST_SCAN):
        arguments.append(native.bbs)
    empty = type(native)(*arguments)
    if isinstance(native, _IVF):
        empty.by_residual, empty.nprobe = False, native.nprobe
    inject_codebooks(empty, extract_codebooks(native))
    return empty if id_map is None else type(faiss.downcast_index(index))(empty)


def write(index: Any, stored: Stored) -> None:
    """Fills an empty index, so that `read` gives `stored`."""
    native, id_map = _unwrap(index)
    ids = stored.ids
    if stored.list_sizes is not None:
        inner_ids = ids if stored.inner_ids is None else stored.inner_ids
        starts = np.cumsum(stored.list_sizes) - stored.list_sizes
        for list_no, (start, size) in enumerate(zip(starts, stored.list_sizes, strict=True)):
            rows = slice(start, start + size)
            add_entries(native, list_no, stored.codes[rows], inner_ids[rows])
        ids = ids[np.argsort(inner_ids)]
    elif isinstance(native, faiss.IndexPQ):
        faiss.copy_array_to_vector(stored.codes.ravel(), native.codes)
    else:
        packed = _pack(stored.codes, native)
        faiss.copy_array_to_AlignedTable(packed.ravel(), native.codes)
        native.ntotal2 = len(packed) * native.bbs
    native.ntotal = len(ids)
    if id_map is not None:
        outer = faiss.downcast_index(index)
        faiss.copy_array_to_vector(ids, outer.id_map)
        id_map_changed(outer)


def _unwrap(index: Any) -> tuple[Any, IdArray | None]:
    """The index in an IDMap, and the IDMap's ids; raises as `read` does."""
    native, id_map = faiss.downcast_index(index), None
    if isinstance(native, faiss.IndexIDMap):
        id_map = faiss.vector_to_array(native.id_map)
        native = faiss.downcast_index(native.index)
    if type(native) not in _KINDS:  # a subclass may search otherwise
        names = ", ".join(kind.__name__ for kind in _KINDS)
        raise TypeError(
            f"expected one of {names}, alone or in an IDMap, got {type(native).__name__}"
        )
    if not native.is_trained:
        raise ValueError("expected a trained index, got an untrained one")
    if isinstance(native, _IVF) and native.by_residual:
        raise ValueError(
            "expected codes of the vectors themselves, got codes of residuals (by_residual is "
            "True): faiss.index_cpu_to_gpu copies such an index"
        )
    return native, id_map


def codeword_ids(index: Any) -> npt.NDArray[np.int64]:
    """The codeword of every stored vector in every sub-quantizer, in no particular order.

    Args:
        index: what `read` takes, an IndexHNSWPQ or an IndexResidualQuantizer, alone or in an
            IDMap. Of a residual quantizer, a sub-quantizer is a level.

    Returns:
        (ntotal, M) int64 in [0, ksub).
    """
    holder = codebook_index(index)
    if isinstance(holder, faiss.IndexResidualQuantizer):
        codes, nbits = flat_codes(holder), native_additive.nbits_of(holder.rq)
        return np.asarray(faiss.unpack_bitstrings(codes, holder.rq.M, nbits), np.int64)
    if isinstance(holder, faiss.IndexHNSWPQ):
        holder = faiss.downcast_index(holder.storage)
    codes = np.ascontiguousarray(read(holder).codes)
    return np.asarray(faiss.unpack_bitstrings(codes, holder.pq.M, holder.pq.nbits), np.int64)


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
    ids = None
    if isinstance(outer, faiss.IndexIDMap):
        ids = faiss.vector_to_array(outer.id_map)
    bare = outer if ids is None else faiss.downcast_index(outer.index)
    if not isinstance(bare, faiss.IndexResidualQuantizer):
        raise TypeError(
            f"expected an IndexResidualQuantizer, alone or in an IDMap, got {type(bare).__name__}"
        )
    check_residual(bare)
    codebooks, n_levels = extract_codebooks(bare), operator.index(n_levels)
    if not 1 <= n_levels <= codebooks.M:
        raise ValueError(f"expected n_levels from 1 to {codebooks.M}, got {n_levels}")
    first = new_residual_index(codebooks.d, n_levels, codebooks.nbits)
    inject_codebooks(first, Codebooks(codebooks.centroids[:n_levels], structure="residual"))
    # A code begins with the lowest bits of its first byte.
    codes, rest = flat_codes(bare)[:, : first.code_size], n_levels * codebooks.nbits % 8
    codes = np.ascontiguousarray(codes)
    if rest:
        codes[:, -1] &= (1 << rest) - 1
    if ids is None:
        first.add_sa_codes(codes)
        return first
    wrapped = type(outer)(first)
    wrapped.add_sa_codes(codes, ids)
    return wrapped


def flat_codes(index: Any) -> CodeArray:
    """The codes of an index, as IndexPQ stores them.

    Args:
        index: a faiss.IndexPQ, IndexPQFastScan or IndexResidualQuantizer.

    Returns:
        (ntotal, code_size) uint8, a copy: the index moves its own when codes are added.

    Raises:
        TypeError: another kind of index.
    """
    if not isinstance(index, _FLAT):
        names = ", ".join(kind.__name__ for kind in _FLAT)
        raise TypeError(f"expected one of {names}, got {type(index).__name__}")
    return _unpack(faiss.vector_to_array(index.codes), index.ntotal, index)


def entries(ivf: Any, list_no: int) -> tuple[CodeArray, IdArray]:
    """Codes (m, code_size) and ids (m,) of a list, as copies."""
    lists = ivf.invlists
    size = lists.list_size(list_no)
    if not size:
        return np.empty((0, ivf.code_size), np.uint8), np.empty(0, np.int64)
    bbs = _block_size(ivf)
    raw = faiss.rev_swig_ptr(lists.get_codes(list_no), -(-size // bbs) * bbs * ivf.code_size)
    return _unpack(raw, size, ivf).copy(), list_ids(ivf, list_no).copy()


def add_entries(ivf: Any, list_no: int, codes: CodeArray, ids: IdArray) -> None:
    """Appends codes (m, code_size) and ids (m,) to a list; `ntotal` is the caller's."""
    if not len(ids):
        return
    if not isinstance(ivf, _FAST_SCAN):
        codes, ids = np.ascontiguousarray(codes), np.ascontiguousarray(ids)
        ivf.invlists.add_entries(list_no, len(ids), faiss.swig_ptr(ids), faiss.swig_ptr(codes))
        return
    # FAISS 1.15 garbles blocks when it goes on in one that is not full. What was there is written
    # over with itself, so that an interruption loses nothing.
    before, _ = entries(ivf, list_no)
    packed = _pack(np.concatenate([before, codes]), ivf).ravel()
    ivf.invlists.resize(list_no, len(before) + len(ids))
    faiss.rev_swig_ptr(ivf.invlists.get_codes(list_no), packed.size)[:] = packed
    list_ids(ivf, list_no)[len(before) :] = ids


def clear_ends(native: Any) -> None:
    """Makes zeros of what lies behind the last codes of an index with fast scan, or of its lists.

    What FAISS leaves there when it removes or merges codes, it mixes into those that are added
    next.
    """
    if isinstance(native, faiss.IndexPQFastScan):
        ends = [(native.codes.get(), native.ntotal)]
    else:
        lists = native.invlists
        ends = [(lists.get_codes(i), lists.list_size(i)) for i in range(native.nlist)]
    block_bytes = native.bbs * native.code_size
    for pointer, size in ends:
        full, rest = divmod(int(size), int(native.bbs))
        if rest:
            raw = faiss.rev_swig_ptr(pointer, (full + 1) * block_bytes)
            block = raw[full * block_bytes :]
            block[:] = _pack(_unpack(block, rest, native), native).ravel()


def _block_size(native: Any) -> int:
    return int(native.bbs) if isinstance(native, _FAST_SCAN) else 1


# FAISS's own CodePacker is for blocks of 32 only, and garbles others.


def _unpack(raw: CodeArray, n: int, native: Any) -> CodeArray:
    """Codes (n, code_size) as they lie in an index or in one of its lists."""
    if not isinstance(native, _FAST_SCAN):
        return raw.reshape(n, native.code_size)
    return flatten_blocks(raw, native.code_size, native.bbs)[:n]


def _pack(codes: CodeArray, native: Any) -> CodeArray:
    """Undoes `_unpack`, with zeros up to the end of the last block."""
    if not isinstance(native, _FAST_SCAN):
        return np.ascontiguousarray(codes)
    return pack_blocks(codes, native.bbs)
