"""Native files: written whole, and believed only when all their parts agree.

FAISS refuses truncated files and absurd sizes. What it does not compare is compared here, before a
search could read out of bounds.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from faiss_pqvae.native import faiss

_limits = threading.Lock()

_LINEAR = faiss.LinearTransform
_TABLE_BYTES = 2**31  # what FAISS lets a table take that it computes from a file
_FAST_SCAN = (faiss.IndexPQFastScan, faiss.IndexIVFPQFastScan)


def write_native(index: Any, path: Path) -> None:
    """Writes a native index.

    Raises:
        OSError: the disk is full or failing.
    """
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        raise OSError(f"cannot write {path}: {error}") from error


def read_native(path: Path, *, mmap: bool = False) -> Any:
    """Reads a native index and checks what FAISS does not: sizes that must agree.

    Args:
        path: of the file.
        mmap: leave codes and lists in the file, which is mapped into memory.

    Returns:
        The index, as its own class.

    Raises:
        ValueError: a file that FAISS cannot read, whose parts do not fit together, or whose kind
            of index FAISS cannot map.
    """
    index = _read(path, faiss.IO_FLAG_MMAP_IFC if mmap else 0)
    try:
        _check(index)
    except _DisagreementError as error:
        raise ValueError(f"the parts of {path} do not fit together: {error}") from error
    if mmap and isinstance(_unwrapped(index), _FAST_SCAN):
        raise ValueError(
            "FAISS cannot map the blocks of a FastScan index into memory: read it with mmap=False"
        )
    return index


def _read(path: Path, flags: int) -> Any:
    """FAISS's read_index, with no vector much larger than the file."""
    with _limits:  # they are the process's own
        before = faiss.get_deserialization_vector_byte_limit()
        loops = faiss.get_deserialization_loop_limit()
        size = path.stat().st_size
        faiss.set_deserialization_vector_byte_limit(size + _TABLE_BYTES)
        faiss.set_deserialization_loop_limit(size + 1)
        try:
            return faiss.read_index(str(path), flags)
        except (RuntimeError, MemoryError) as error:
            raise ValueError(f"FAISS cannot read {path}: {error}") from error
        finally:
            faiss.set_deserialization_vector_byte_limit(before)
            faiss.set_deserialization_loop_limit(loops)


class _DisagreementError(Exception):
    """Two parts of a file that do not fit together."""


def _expect(what: str, expected: Any, got: Any) -> None:
    if expected != got:
        raise _DisagreementError(f"expected {what} = {expected}, got {got}")


def _require(what: str, fits: bool) -> None:
    if not fits:
        raise _DisagreementError(f"expected {what}")


def _unwrapped(index: Any) -> Any:
    while isinstance(index, faiss.IndexIDMap | faiss.IndexPreTransform):
        index = faiss.downcast_index(index.index)
    return index


def _check(index: Any) -> None:
    """Compares all sizes and bounds that a search, an addition or a decoding relies on."""
    if isinstance(index, faiss.IndexIDMap):
        _check_id_map(index)
    elif isinstance(index, faiss.IndexPreTransform):
        _check_transforms(index)
    elif isinstance(index, faiss.IndexIVF):
        _check_ivf(index)
    elif isinstance(index, faiss.IndexHNSW):
        _check_graph(index)
    elif isinstance(index, faiss.IndexPQFastScan):
        _check_fast_scan(index)
        _expect("ntotal2", _round_up(index.ntotal, index.bbs), index.ntotal2)
        _expect("bytes of codes", index.ntotal2 * index.M2 // 2, index.codes.size())
    elif isinstance(index, faiss.IndexFlatCodes):
        _check_flat_codes(index)
    else:
        raise _DisagreementError(f"expected an index of codes, got {type(index).__name__}")


def _check_id_map(index: Any) -> None:
    inner = faiss.downcast_index(index.index)
    _require("an index in the IDMap", inner is not None)
    _check(inner)
    for name in ("d", "ntotal", "metric_type"):
        _expect(f"{name} of the IDMap", getattr(inner, name), getattr(index, name))
    _expect("number of ids", inner.ntotal, index.id_map.size())
    if isinstance(inner, faiss.IndexIVF):
        for number in range(inner.nlist):
            places = _list_ids(inner, number)
            _require(
                "inverted lists of places in the IDMap",
                not len(places) or (places.min() >= 0 and places.max() < inner.ntotal),
            )


def _check_flat_codes(index: Any) -> None:
    if hasattr(index, "pq"):
        _check_pq(index.pq, index.d)
        _expect("code_size", index.pq.code_size, index.code_size)
    elif hasattr(index, "sq"):
        _expect("sq.d", index.d, index.sq.d)
        _expect("code_size", index.sq.code_size, index.code_size)
        trained = faiss.ScalarQuantizer(index.d, index.sq.qtype)
        _expect("sq.code_size", trained.code_size, index.sq.code_size)
    elif isinstance(index, faiss.IndexFlat):
        _expect("code_size", 4 * index.d, index.code_size)
    else:
        raise _DisagreementError(f"expected Flat, SQ or PQ codes, got {type(index).__name__}")
    _expect("bytes of codes", index.ntotal * index.code_size, index.codes.size())


def _check_pq(pq: Any, d: int) -> None:
    _expect("pq.d", d, pq.d)
    _require(f"M in [1, {d}]", 1 <= pq.M <= d)
    _require("nbits in [1, 16]", 1 <= pq.nbits <= 16)
    _expect("M * dsub", d, pq.M * pq.dsub)
    _expect("ksub", 2**pq.nbits, pq.ksub)
    _expect("pq.code_size", (pq.M * pq.nbits + 7) // 8, pq.code_size)
    _expect("number of centroid values", d * pq.ksub, pq.centroids.size())


def _check_fast_scan(index: Any) -> None:
    _check_pq(index.pq, index.d)
    for name in ("M", "nbits", "ksub", "code_size"):
        _expect(name, getattr(index.pq, name), getattr(index, name))
    _expect("nbits", 4, index.nbits)
    _expect("M2", _round_up(index.M, 2), index.M2)
    _require("bbs as a multiple of 32", index.bbs > 0 and index.bbs % 32 == 0)


def _check_ivf(index: Any) -> None:
    quantizer, lists = faiss.downcast_index(index.quantizer), index.invlists
    _require("a coarse quantizer and inverted lists", quantizer is not None and lists is not None)
    _check(quantizer)
    _expect("d of the coarse quantizer", index.d, quantizer.d)
    _require("nlist of 1 or more", index.nlist >= 1)
    _expect("number of inverted lists", index.nlist, lists.nlist)
    if index.is_trained:
        _expect("number of coarse centroids", index.nlist, quantizer.ntotal)
    if isinstance(index, faiss.IndexIVFPQFastScan):
        _check_fast_scan(index)
        blocks = faiss.downcast_InvertedLists(lists)
        _require("lists of blocks", isinstance(blocks, faiss.BlockInvertedLists))
        _expect("vectors a block", index.bbs, blocks.n_per_block)
        _expect("bytes a block", index.bbs * index.M2 // 2, blocks.block_size)
    elif isinstance(index, faiss.IndexIVFPQ):
        _check_pq(index.pq, index.d)
        _expect("code_size", index.pq.code_size, index.code_size)
        _expect("code_size of the lists", index.code_size, lists.code_size)
    else:
        raise _DisagreementError(f"expected inverted lists of PQ codes, got {type(index).__name__}")
    sizes = [lists.list_size(number) for number in range(index.nlist)]
    _expect("vectors in the inverted lists", index.ntotal, sum(sizes))
    _expect("direct map", faiss.DirectMap.NoMap, index.direct_map.type)


def _check_graph(index: Any) -> None:
    storage, graph, n = faiss.downcast_index(index.storage), index.hnsw, index.ntotal
    _require("a storage", storage is not None)
    _check(storage)
    for name in ("d", "ntotal", "metric_type"):
        _expect(f"{name} of the graph", getattr(storage, name), getattr(index, name))
    levels = faiss.vector_to_array(graph.levels)
    offsets = faiss.vector_to_array(graph.offsets).astype(np.int64)
    neighbors = _array(graph.neighbors)
    room = faiss.vector_to_array(graph.cum_nneighbor_per_level).astype(np.int64)
    _expect("levels of the graph", n, len(levels))
    _expect("offsets of the graph", n + 1, len(offsets))
    _require("room for neighbors", bool(len(room)) and room[0] == 0 and (np.diff(room) >= 0).all())
    if n:
        _require("levels of 1 or more", levels.min() >= 1 and levels.max() < len(room))
        _expect("max_level", levels.max() - 1, graph.max_level)
        _require("a place to enter the graph", 0 <= graph.entry_point < n)
        _expect("level of the entry", graph.max_level, levels[graph.entry_point] - 1)
        _require("offsets as the levels say", (np.diff(offsets) == room[levels]).all())
    _require("offsets from 0", offsets[0] == 0)
    _expect("number of neighbors", offsets[-1], len(neighbors))
    _require(
        "neighbors in the graph",
        not len(neighbors) or (neighbors.min() >= -1 and neighbors.max() < n),
    )
    # A link on a level that its target does not have leads out of the target's neighbors.
    for level in range(1, int(levels.max()) if n else 0):
        _check_links(levels, offsets, neighbors, room, level)


def _check_links(levels: Any, offsets: Any, neighbors: Any, room: Any, level: int) -> None:
    there = np.flatnonzero(levels > level)
    places = offsets[there][:, None] + np.arange(room[level], room[level + 1])
    targets = neighbors[places]
    _require("links within their level", (levels[targets[targets >= 0]] > level).all())


def _check_transforms(index: Any) -> None:
    d = index.d
    chain = [faiss.downcast_VectorTransform(index.chain.at(i)) for i in range(index.chain.size())]
    for transform in chain:
        _expect("dimension into a transform", d, transform.d_in)
        d = transform.d_out
        _require("a positive dimension", d >= 1)
        _check_transform(transform)
    _check(faiss.downcast_index(index.index))
    _expect("dimension behind the transforms", d, index.index.d)


def _check_transform(transform: Any) -> None:
    d_in, d_out = transform.d_in, transform.d_out
    if isinstance(transform, _LINEAR) and transform.is_trained:
        _expect("values of a transform", d_in * d_out, transform.A.size())
        _require(
            "an offset of d_out values", not transform.have_bias or transform.b.size() == d_out
        )
        if isinstance(transform, faiss.PCAMatrix):
            _expect("values of a mean", d_in, transform.mean.size())
    elif isinstance(transform, faiss.RemapDimensionsTransform):
        places = faiss.vector_to_array(transform.map)
        _expect("dimensions of a map", d_out, len(places))
        _require("a map within d_in", bool((places >= -1).all() and (places < d_in).all()))
    elif isinstance(transform, faiss.CenteringTransform) and transform.is_trained:
        _expect("values of a mean", d_in, transform.mean.size())
    elif isinstance(transform, faiss.ITQTransform) and transform.is_trained:
        _expect("values of a mean", d_in, transform.mean.size())
        _expect("dimension into ITQ", d_in, transform.pca_then_itq.d_in)
        _expect("dimension behind ITQ", d_out, transform.pca_then_itq.d_out)
        _check_transform(transform.pca_then_itq)


def _array(vector: Any) -> Any:
    """The values of a native vector, whether it owns them or they lie in a mapped file."""
    if not vector.size():
        return np.empty(0, np.int32)
    return faiss.rev_swig_ptr(vector.data(), vector.size())


def _list_ids(index: Any, number: int) -> Any:
    size = index.invlists.list_size(number)
    return faiss.rev_swig_ptr(index.invlists.get_ids(number), size) if size else np.empty(0)


def _round_up(n: int, step: int) -> int:
    return -(-n // step) * step
