"""What FAISS does not compare in an index: sizes, bounds and values that a search relies on."""

from __future__ import annotations

from typing import Any

import numpy as np

from faiss_pqvae.codebooks import MAX_NBITS, MIN_NBITS
from faiss_pqvae.native import faiss
from faiss_pqvae.native.store.ids import list_ids

_LINEAR = faiss.LinearTransform
# Far beyond anything of use, but not beyond memory.
_MAX_SDC_BYTES = 2**32
_MAX_LEVELS = 64
_MAX_LINKS = 2**16
_MAX_EF = 2**24
_MAX_BBS = 2**12
_MAX_VALUE = 1e18  # whose square float32 still holds


class DisagreementError(Exception):
    """Two parts of an index that do not fit together."""


def _expect(what: str, expected: Any, got: Any) -> None:
    if expected != got:
        raise DisagreementError(f"expected {what} = {expected}, got {got}")


def _require(what: str, fits: bool | np.bool_) -> None:
    if not fits:
        raise DisagreementError(f"expected {what}")


def check_index(index: Any) -> None:
    """Compares all sizes and bounds that a search, an addition or a decoding relies on.

    Args:
        index: of a kind that bundles hold; nothing is changed in it.

    Raises:
        DisagreementError: two parts that do not fit together, or another kind.
    """
    _require("items in trained indexes only", index.is_trained or not index.ntotal)
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
        raise DisagreementError(f"expected an index of codes, got {type(index).__name__}")


def _check_id_map(index: Any) -> None:
    inner = faiss.downcast_index(index.index)
    _require("an index in the IDMap", inner is not None)
    check_index(inner)
    for name in ("d", "ntotal", "metric_type", "is_trained"):
        _expect(f"{name} of the IDMap", getattr(inner, name), getattr(index, name))
    _expect("number of ids", inner.ntotal, index.id_map.size())
    if isinstance(inner, faiss.IndexIVF):
        _check_places(inner)


def _check_places(index: Any) -> None:
    """Whether the ids in the inverted lists are 0 to ntotal, every one once."""
    found = np.zeros(index.ntotal, bool)
    for number in range(index.nlist):
        places = list_ids(index, number)
        within = not len(places) or (places.min() >= 0 and places.max() < index.ntotal)
        _require("inverted lists of places in the IDMap", within)
        found[places] = True
    _require("every place of the IDMap in the inverted lists", found.all())


def _check_flat_codes(index: Any) -> None:
    if hasattr(index, "pq"):
        _check_pq(index.pq, index.d)
        _expect("code_size", index.pq.code_size, index.code_size)
    elif isinstance(index, faiss.IndexResidualQuantizer):
        _check_rq(index)
    elif hasattr(index, "sq"):
        _expect("sq.d", index.d, index.sq.d)
        _expect("code_size", index.sq.code_size, index.code_size)
        trained = faiss.ScalarQuantizer(index.d, index.sq.qtype)
        _expect("sq.code_size", trained.code_size, index.sq.code_size)
        _require_finite("ranges", index.sq.trained)
    elif isinstance(index, faiss.IndexFlat):
        _expect("code_size", 4 * index.d, index.code_size)
    else:
        raise DisagreementError(f"expected Flat, SQ or PQ codes, got {type(index).__name__}")
    _expect("bytes of codes", index.ntotal * index.code_size, index.codes.size())


def _check_pq(pq: Any, d: int) -> None:
    _expect("pq.d", d, pq.d)
    _require(f"M in [1, {d}]", 1 <= pq.M <= d)
    _require("nbits in [1, 16]", 1 <= pq.nbits <= 16)
    _expect("M * dsub", d, pq.M * pq.dsub)
    _expect("ksub", 2**pq.nbits, pq.ksub)
    _expect("pq.code_size", (pq.M * pq.nbits + 7) // 8, pq.code_size)
    _expect("number of centroid values", d * pq.ksub, pq.centroids.size())
    _require_finite("centroids", pq.centroids)


def _check_rq(index: Any) -> None:
    rq = index.rq
    _expect("metric_type", faiss.METRIC_INNER_PRODUCT, index.metric_type)
    _expect("rq.d", index.d, rq.d)
    nbits = faiss.vector_to_array(rq.nbits).tolist()
    _expect("number of levels", rq.M, len(nbits))
    one = len(set(nbits)) == 1 and MIN_NBITS <= nbits[0] <= MAX_NBITS
    _require(f"levels of the same nbits in [{MIN_NBITS}, {MAX_NBITS}]", one)
    _expect("is_trained of the rq", index.is_trained, rq.is_trained)
    _expect("search_type", faiss.AdditiveQuantizer.ST_LUT_nonorm, rq.search_type)
    _expect("max_beam_size", 1, rq.max_beam_size)
    _expect("rq.code_size", (rq.M * nbits[0] + 7) // 8, rq.code_size)
    _expect("code_size", rq.code_size, index.code_size)
    codebooks = faiss.vector_to_array(rq.codebooks).astype(np.float64)
    _expect("number of codebook values", rq.M * rq.d << nbits[0], codebooks.size)
    # The nearest codeword to what is left of a vector: FAISS reads out of bounds if there is none.
    longest = np.sqrt(np.square(codebooks.reshape(rq.M, -1, rq.d)).sum(-1)).max(-1)
    _require("codewords with finite distances", longest.sum() < _MAX_VALUE)


def _check_fast_scan(index: Any) -> None:
    _check_pq(index.pq, index.d)
    for name in ("M", "nbits", "ksub", "code_size"):
        _expect(name, getattr(index.pq, name), getattr(index, name))
    _expect("nbits", 4, index.nbits)
    _expect("M2", _round_up(index.M, 2), index.M2)
    fits = 0 < index.bbs <= _MAX_BBS and index.bbs % 32 == 0
    _require(f"bbs as a multiple of 32, at most {_MAX_BBS}", fits)


def _check_ivf(index: Any) -> None:
    quantizer, lists = faiss.downcast_index(index.quantizer), index.invlists
    _require("a coarse quantizer and inverted lists", quantizer is not None and lists is not None)
    coarse = faiss.IndexFlatCodes | faiss.IndexHNSWFlat | faiss.IndexHNSWSQ
    _require(
        "coarse centroids as Flat, SQ or PQ codes, or in a graph", isinstance(quantizer, coarse)
    )
    check_index(quantizer)
    _expect("d of the coarse quantizer", index.d, quantizer.d)
    _require("nlist and nprobe of 1 or more", index.nlist >= 1 and index.nprobe >= 1)
    _expect("number of inverted lists", index.nlist, lists.nlist)
    _expect("number of coarse centroids", index.nlist, quantizer.ntotal)
    centroids = quantizer.reconstruct_n(0, index.nlist)
    _require("coarse centroids with finite distances", (np.abs(centroids) < _MAX_VALUE).all())
    _check_lists(index, lists)
    sizes = [lists.list_size(number) for number in range(index.nlist)]
    _expect("vectors in the inverted lists", index.ntotal, sum(sizes))
    kinds = (faiss.DirectMap.NoMap, faiss.DirectMap.Array, faiss.DirectMap.Hashtable)
    _require("a direct map of a known type", index.direct_map.type in kinds)


def _check_lists(index: Any, lists: Any) -> None:
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
        raise DisagreementError(f"expected inverted lists of PQ codes, got {type(index).__name__}")


def _check_graph(index: Any) -> None:
    storage, graph, n = faiss.downcast_index(index.storage), index.hnsw, index.ntotal
    _require("a storage of codes", isinstance(storage, faiss.IndexFlatCodes))
    check_index(storage)
    if isinstance(storage, faiss.IndexPQ):
        table_bytes = 4 * storage.pq.M * storage.pq.ksub**2
        _require("a table of distances that fits into memory", table_bytes <= _MAX_SDC_BYTES)
    for name in ("d", "ntotal", "metric_type", "is_trained"):
        _expect(f"{name} of the graph", getattr(storage, name), getattr(index, name))
    for name in ("efSearch", "efConstruction"):
        _require(f"{name} from 1 to {_MAX_EF}", 1 <= getattr(graph, name) <= _MAX_EF)
    _check_room(graph)
    levels = faiss.vector_to_array(graph.levels)
    offsets = faiss.vector_to_array(graph.offsets).astype(np.int64)
    room = faiss.vector_to_array(graph.cum_nneighbor_per_level).astype(np.int64)
    _expect("levels of the graph", n, len(levels))
    _expect("offsets of the graph", n + 1, len(offsets))
    if n:
        _require("levels of 1 or more", levels.min() >= 1 and levels.max() < len(room))
        _require("a place to enter the graph", 0 <= graph.entry_point < n)
        _expect("level of the entry", levels[graph.entry_point] - 1, graph.max_level)
        _require("offsets as the levels say", (np.diff(offsets) == room[levels]).all())
    else:
        _expect("entry and top of an empty graph", (-1, -1), (graph.entry_point, graph.max_level))
    _expect("max_level", levels.max(initial=0) - 1, graph.max_level)
    _require("offsets from 0", offsets[0] == 0)
    _check_neighbors(levels, offsets, values(graph.neighbors), room)


def _check_room(graph: Any) -> None:
    """How many links a new vector gets is drawn from these."""
    probabilities = faiss.vector_to_array(graph.assign_probas)
    links = np.diff(faiss.vector_to_array(graph.cum_nneighbor_per_level).astype(np.int64))
    _require(f"1 to {_MAX_LEVELS} levels", 1 <= len(probabilities) <= _MAX_LEVELS)
    _expect("levels with room for links", len(probabilities), len(links))
    _require("room for links from 0", graph.cum_nneighbor_per_level.at(0) == 0)
    _require(f"0 to {_MAX_LINKS} links", links.min() >= 0 and links.max() <= _MAX_LINKS)


def _check_neighbors(levels: Any, offsets: Any, neighbors: Any, room: Any) -> None:
    n = len(levels)
    _expect("number of neighbors", offsets[-1], len(neighbors))
    _require(
        "neighbors in the graph",
        not len(neighbors) or (neighbors.min() >= -1 and neighbors.max() < n),
    )
    # A link on a level that its target does not have leads out of the target's neighbors.
    for level in range(1, levels.max(initial=0)):
        _check_links(levels, offsets, neighbors, room, level)


def _check_links(levels: Any, offsets: Any, neighbors: Any, room: Any, level: int) -> None:
    there = np.flatnonzero(levels > level)
    places = offsets[there][:, None] + np.arange(room[level], room[level + 1])
    targets = neighbors[places]
    _require("links within their level", (levels[targets[targets >= 0]] > level).all())


def _check_transforms(index: Any) -> None:
    d = index.d
    chain = [faiss.downcast_VectorTransform(index.chain.at(i)) for i in range(index.chain.size())]
    _require("at least one transform", bool(chain))
    for transform in chain:
        _expect("dimension into a transform", d, transform.d_in)
        d = transform.d_out
        _require("a positive dimension", d >= 1)
        _check_transform(transform)
    check_index(faiss.downcast_index(index.index))
    _expect("dimension behind the transforms", d, index.index.d)


def _check_transform(transform: Any) -> None:
    d_in, d_out = transform.d_in, transform.d_out
    _require("trained transforms", transform.is_trained)
    if isinstance(transform, _LINEAR):
        _check_linear(transform)
    elif isinstance(transform, faiss.RemapDimensionsTransform):
        places = faiss.vector_to_array(transform.map)
        _expect("dimensions of a map", d_out, len(places))
        _require("a map within d_in", bool((places >= -1).all() and (places < d_in).all()))
    elif isinstance(transform, faiss.NormalizationTransform):
        _expect("norm", 2.0, transform.norm)  # FAISS knows no other
    elif isinstance(transform, faiss.ITQTransform):
        _check_mean(transform)
        _expect("dimension into ITQ", d_in, transform.pca_then_itq.d_in)
        _expect("dimension behind ITQ", d_out, transform.pca_then_itq.d_out)
        _check_transform(transform.pca_then_itq)
    elif isinstance(transform, faiss.CenteringTransform):
        _check_mean(transform)


def _check_linear(transform: Any) -> None:
    d_out = transform.d_out
    _expect("values of a transform", transform.d_in * d_out, transform.A.size())
    _require("an offset of d_out values", not transform.have_bias or transform.b.size() == d_out)
    _require_finite("a transform", transform.A)
    _require_finite("an offset", transform.b)
    if isinstance(transform, faiss.PCAMatrix):
        _check_mean(transform)


def _check_mean(transform: Any) -> None:
    _expect("values of a mean", transform.d_in, transform.mean.size())
    _require_finite("a mean", transform.mean)


def _require_finite(what: str, vector: Any) -> None:
    _require(f"finite values of {what}", np.isfinite(faiss.vector_to_array(vector)).all())


def values(vector: Any) -> Any:
    """The values of a native vector, whether it owns them or they lie in a mapped file."""
    if not vector.size():
        return np.empty(0, np.int32)
    return faiss.rev_swig_ptr(vector.data(), vector.size())


def _round_up(n: int, step: int) -> int:
    return -(-n // step) * step
