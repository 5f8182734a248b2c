"""The codes of a native index, dealt to the lists of an IVFPQ that a GPU can take, and back.

FAISS has no IndexPQ on the GPU. An IVFPQ whose coarse centroids are all zero is the same index:
a residual is then the vector itself. Its GPU version gives a block of threads to every list of
every query, so the codes are dealt to many lists, and all of them are probed. It knows codes of
8 bits and certain M only: smaller codes are merged into bytes or widened to one, and sub-quantizers
of zeros, which add nothing to a distance, fill up M.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae.codebooks import Codebooks, FloatArray
from faiss_pqvae.native import extract_codebooks, faiss, inject_codebooks
from faiss_pqvae.packing import CodeArray, flatten_blocks, merge_codebooks

IdArray = npt.NDArray[np.int64]

MAX_SELECTION = 2048  # of k and of the lists probed: what a GPU's k-selection takes

_SUPPORTED_M = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96)
_IVF = (faiss.IndexIVFPQ, faiss.IndexIVFPQFastScan)
_FAST_SCAN = (faiss.IndexPQFastScan, faiss.IndexIVFPQFastScan)
# Where FastScan puts each of 16 vectors, see `flatten_blocks`.
_PLACES = np.arange(16).reshape(8, 2).T.ravel()
_KINDS = (faiss.IndexPQ, faiss.IndexPQFastScan, *_IVF)


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


def gpu_layout(index: Any, *, nlist: int | None = None) -> Any:
    """Deals the codes of a native index to the lists of an IVFPQ that a GPU can take.

    Its vectors have more dimensions where sub-quantizers were added: fill up with zeros.

    Args:
        index: a trained IndexPQ, IndexPQFastScan, IndexIVFPQ or IndexIVFPQFastScan, which an
            IDMap may be around. Of an inverted file all lists are searched from now on.
        nlist: number of lists; None takes sqrt(ntotal) / 16. A block of threads makes a
            sub-quantizer's tables for one list after another, then a block a list scans the
            codes, so that a query alone takes a * nlist + b * ntotal / nlist. The factor is an
            estimate, not a measurement.

    Returns:
        A faiss.IndexIVFPQ on the CPU that finds what `index` finds.

    Raises:
        TypeError: another kind of index.
        ValueError: an untrained index; more than 8 bits a code; codes of more than 96 bytes;
            codes of residuals; an nlist out of [1, 2048].
    """
    stored = read(index)
    return deal(stored.codes, stored.ids, extract_codebooks(index), index.metric_type, nlist)


def deal(
    codes: CodeArray, ids: IdArray, codebooks: Codebooks, metric_type: int, nlist: int | None
) -> Any:
    """As `gpu_layout`; list l has the rows l, l + nlist, l + 2 * nlist and so on."""
    centroids = _byte_centroids(codebooks)
    M, _, dsub = centroids.shape
    codes = to_bytes(codes, codebooks, M)
    if nlist is None:
        nlist = min(max(math.isqrt(len(codes)) // 16, 1), MAX_SELECTION)
    nlist = operator.index(nlist)
    if not 1 <= nlist <= MAX_SELECTION:
        raise ValueError(f"expected nlist from 1 to {MAX_SELECTION}, got {nlist}")
    quantizer = faiss.IndexFlat(M * dsub, metric_type)
    quantizer.add(np.zeros((nlist, M * dsub), np.float32))
    layout = faiss.IndexIVFPQ(quantizer, M * dsub, nlist, M, 8, metric_type)
    faiss.copy_array_to_vector(centroids.ravel(), layout.pq.centroids)
    # A GPU takes residuals only: those to zero are the vectors.
    layout.is_trained, layout.by_residual, layout.nprobe = True, True, nlist
    for list_no in range(nlist):
        # Not `add`: it would put all of them in list 0.
        _add_entries(layout, list_no, codes[list_no::nlist], ids[list_no::nlist])
    layout.ntotal = len(codes)
    return layout


def collect(layouts: list[Any]) -> tuple[CodeArray, IdArray]:
    """Undoes `deal`, of rows that were dealt to several layouts in turn before.

    Returns:
        Codes as bytes (n, M) uint8, and ids (n,) int64.
    """
    n, M = sum(layout.ntotal for layout in layouts), layouts[0].pq.M
    codes, ids = np.empty((n, M), np.uint8), np.empty(n, np.int64)
    for g, layout in enumerate(layouts):
        rows = slice(g, None, len(layouts))
        for list_no in range(layout.nlist):
            dealt = slice(list_no, None, layout.nlist)
            codes[rows][dealt], ids[rows][dealt] = _entries(layout, list_no)
    return codes, ids


# -- codes as bytes


def _byte_centroids(codebooks: Codebooks) -> FloatArray:
    """Codebooks for the bytes of `to_bytes`: (M, 256, dsub) float32, with M as a GPU takes it.

    Raises:
        ValueError: more than 8 bits a code; codes of more than 96 bytes.
    """
    nbits = codebooks.nbits
    if nbits > 8:
        raise ValueError(f"expected at most 8 bits a code on a GPU, got {nbits}")
    group = 1 if 8 % nbits else 8 // nbits  # codes in a byte
    needed = -(-codebooks.M // group)
    if needed > _SUPPORTED_M[-1]:
        raise ValueError(
            f"expected codes of at most {_SUPPORTED_M[-1]} bytes on a GPU, got {needed}"
        )
    M = next(m for m in _SUPPORTED_M if m >= needed)
    merged = merge_codebooks(codebooks.centroids, group)
    filled = np.zeros((M, 256, merged.shape[2]), np.float32)
    # Of a widened code, the bytes from ksub on never occur.
    filled[: len(merged), : merged.shape[1]] = merged
    return filled


def to_bytes(codes: CodeArray, codebooks: Codebooks, M: int) -> CodeArray:
    """FAISS's codes (n, code_size) uint8 to (n, M) uint8, filled up with zeros."""
    if 8 % codebooks.nbits:
        codes = np.ascontiguousarray(codes)
        codes = faiss.unpack_bitstrings(codes, codebooks.M, codebooks.nbits)
    filled = np.zeros((len(codes), M), np.uint8)
    filled[:, : codes.shape[1]] = codes
    return filled


def from_bytes(codes: CodeArray, codebooks: Codebooks) -> CodeArray:
    """Undoes `to_bytes`."""
    if 8 % codebooks.nbits:
        names = codes[:, : codebooks.M].astype(np.int32)
        packed: CodeArray = faiss.pack_bitstrings(names, codebooks.nbits)
        return packed
    return codes[:, : -(-codebooks.M * codebooks.nbits // 8)]


# -- native indexes


def read(index: Any) -> Stored:
    """Reads what an index holds; raises as `gpu_layout` does."""
    native, id_map = _unwrap(index)
    if not isinstance(native, _IVF):
        raw = faiss.vector_to_array(native.codes)
        codes = _unpack(raw, native.ntotal, native)
        return Stored(codes, np.arange(native.ntotal) if id_map is None else id_map)
    lists = [_entries(native, list_no) for list_no in range(native.nlist)]
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
            _add_entries(native, list_no, stored.codes[rows], inner_ids[rows])
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
        outer.ntotal = len(ids)
        if isinstance(outer, faiss.IndexIDMap2):
            outer.construct_rev_map()


def _unwrap(index: Any) -> tuple[Any, IdArray | None]:
    """The index in an IDMap, and the IDMap's ids; raises as `gpu_layout` does."""
    native, id_map = faiss.downcast_index(index), None
    if isinstance(native, faiss.IndexIDMap):
        id_map = faiss.vector_to_array(native.id_map)
        native = faiss.downcast_index(native.index)
    if type(native) not in _KINDS:  # a subclass may search otherwise
        names = ", ".join(kind.__name__ for kind in _KINDS)
        raise TypeError(
            f"expected one of {names} for a GPU, alone or in an IDMap, got {type(native).__name__}"
        )
    if not native.is_trained:
        raise ValueError("expected a trained index, got an untrained one")
    if isinstance(native, _IVF) and native.by_residual:
        raise ValueError(
            "expected codes of the vectors themselves, got codes of residuals (by_residual is "
            "True): faiss.index_cpu_to_gpu copies such an index"
        )
    return native, id_map


def _entries(ivf: Any, list_no: int) -> tuple[CodeArray, IdArray]:
    """Codes (m, code_size) and ids (m,) of a list, as copies."""
    lists = ivf.invlists
    size = lists.list_size(list_no)
    if not size:
        return np.empty((0, ivf.code_size), np.uint8), np.empty(0, np.int64)
    bbs = _block_size(ivf)
    raw = faiss.rev_swig_ptr(lists.get_codes(list_no), -(-size // bbs) * bbs * ivf.code_size)
    ids = faiss.rev_swig_ptr(lists.get_ids(list_no), size)
    return _unpack(raw, size, ivf).copy(), ids.copy()


def _add_entries(ivf: Any, list_no: int, codes: CodeArray, ids: IdArray) -> None:
    if len(ids):
        # Not `add_sa_codes`: FAISS 1.15 garbles the blocks of an IndexIVFPQFastScan in it.
        packed, ids = _pack(codes, ivf), np.ascontiguousarray(ids)
        ivf.invlists.add_entries(list_no, len(ids), faiss.swig_ptr(ids), faiss.swig_ptr(packed))


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
    blocks, pairs = -(-len(codes) // native.bbs), native.code_size
    filled = np.zeros((blocks * native.bbs, pairs), np.uint8)
    filled[: len(codes)] = codes
    low, high = filled.reshape(blocks, native.bbs // 32, 2, 16, pairs).transpose(2, 0, 4, 1, 3)
    packed = np.empty((blocks, pairs, native.bbs // 32, 2, 16), np.uint8)
    packed[..., 0, _PLACES] = (low & 15) | (high << 4)
    packed[..., 1, _PLACES] = (low >> 4) | (high & 240)
    return packed
