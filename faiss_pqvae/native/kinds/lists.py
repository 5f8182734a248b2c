"""What inverted files have in common: lists of codes, under keys of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from faiss_pqvae.native import faiss
from faiss_pqvae.native.faiss_method import faiss_method
from faiss_pqvae.native.ids import in_id_map, list_ids, places_of, unwrapped
from faiss_pqvae.native.kinds import plain
from faiss_pqvae.native.kinds.kind import Contents, Parameters
from faiss_pqvae.types import CodeArray, FloatArray, IdArray

_NAMES = (
    "nprobe",
    "max_codes",
    "max_lists_num",
    "max_empty_result_buckets",
    "ensure_topk_full",
    "quantizer_params",
    "inverted_list_context",
)
_PQ_NAMES = (*_NAMES, "scan_table_threshold", "polysemous_ht")

Entries = Callable[[Any, int], tuple[CodeArray, IdArray]]
AddEntries = Callable[[Any, int, CodeArray, IdArray], None]


def coarse_is_trained(index: Any) -> bool:
    """Whether the coarse quantizer of an inverted file has its centroids."""
    return bool(index.quantizer.is_trained) and index.quantizer.ntotal == index.nlist


def coarse_centroids(bare: Any) -> FloatArray:
    """(nlist, d) float32, as the coarse quantizer has them."""
    quantizer = faiss.downcast_index(bare.quantizer)
    centroids: FloatArray = faiss_method(quantizer, "reconstruct_n")(0, quantizer.ntotal)
    return centroids


def nearest_lists(bare: Any, z: FloatArray) -> tuple[IdArray, FloatArray]:
    """The inverted lists (n,) that latents (n, d) belong to, and their centroids (n, d)."""
    quantizer = faiss.downcast_index(bare.quantizer)
    numbers: IdArray = faiss_method(quantizer, "assign")(z, 1)[:, 0]
    centroids: FloatArray = faiss_method(quantizer, "reconstruct_batch")(numbers)
    return numbers, centroids


def derive(index: Any) -> None:
    """Tables of coarse centroids and codewords."""
    if coarse_is_trained(index):
        index.precompute_table()


def parameters(params: Any) -> Parameters:
    """Those of IVFPQ where the caller has them, else those of every inverted file."""
    if isinstance(params, faiss.IVFPQSearchParameters):
        return Parameters(faiss.IVFPQSearchParameters, _PQ_NAMES)
    return Parameters(faiss.SearchParametersIVF, _NAMES)


# -- searching and stored vectors


def quantize(bare: Any, z: FloatArray) -> FloatArray:
    """Every latent's own codewords; by residuals those of what a centroid leaves over."""
    return plain.by_codes(bare, z) if bare.by_residual else plain.quantize(bare, z)


def search_and_reconstruct(
    bare: Any, z: FloatArray, k: int, params: Any
) -> tuple[FloatArray, IdArray, FloatArray]:
    """FAISS's own: while it searches, an inverted file knows where its results lie."""
    D, I, R = faiss_method(bare, "search_and_reconstruct")(z, k, params=params)  # noqa: E741
    return D, I, R


def search_and_return_codes(
    bare: Any, z: FloatArray, k: int, params: Any
) -> tuple[FloatArray, IdArray, CodeArray]:
    """FAISS's own, likewise."""
    search = faiss_method(bare, "search_and_return_codes")
    D, I, codes = search(z, k, include_listnos=True, params=params)  # noqa: E741
    return D, I, codes


def reconstruct(bare: Any, keys: IdArray) -> FloatArray:
    """Looks through all lists, unless they are in a direct map."""
    if bare.direct_map.type != faiss.DirectMap.NoMap:
        # A key that is not there is then named by `places_of`.
        with contextlib.suppress(RuntimeError):
            return plain.reconstruct(bare, keys)
    latents = np.empty((len(keys), bare.d), np.float32)
    for row, (number, offset) in enumerate(zip(*found_at(bare, keys), strict=True)):
        bare.reconstruct_from_offset(int(number), int(offset), faiss.swig_ptr(latents[row]))
    return latents


def _mapped(array: Any, keys: IdArray) -> IdArray | None:
    """What a direct map has at keys (n,), list and offset in one; None where it lacks any."""
    n = array.size()
    if not n or not len(keys) or keys.min() < 0 or keys.max() >= n:
        return None
    places: IdArray = faiss.rev_swig_ptr(array.data(), n)[keys]
    return None if (places < 0).any() else places


def found_at(bare: Any, keys: IdArray, *, unique: bool = False) -> tuple[IdArray, IdArray]:
    """The numbers of the lists, and the places in them, where keys (n,) are.

    Args:
        bare: the index.
        keys: of vectors.
        unique: refuse keys that several vectors have.

    Raises:
        ValueError: a key that is in none, or in several places.
    """
    if bare.direct_map.type == faiss.DirectMap.Array:
        places = _mapped(bare.direct_map.array, keys)
        if places is not None:
            return places >> 32, places & 0xFFFFFFFF
    lists = [list_ids(bare, i) for i in range(bare.nlist)]
    starts = np.concatenate([[0], np.cumsum([len(ids) for ids in lists])])
    stored = np.concatenate(lists)
    places = places_of(stored, keys)
    if unique:
        _check_unique(stored, keys)
    numbers = np.searchsorted(starts, places, side="right") - 1
    return numbers, places - starts[numbers]


def _check_unique(stored: IdArray, keys: IdArray) -> None:
    of_these, counts = np.unique(stored[np.isin(stored, keys)], return_counts=True)
    several = of_these[counts > 1]
    if len(several):
        raise ValueError(
            "expected ids of which every item has its own, where items are looked up by these (a "
            f"selector, or FastScan, before RDecoder), got several items of the id {several[0]}: "
            "write 'IDMap,' in front of the description to use ids twice"
        )


# -- codes, whose first bytes name a list


def list_numbers(bare: Any, codes: CodeArray) -> IdArray:
    """Which inverted list every code belongs to: its first bytes, little-endian."""
    numbers = np.zeros(len(codes), np.int64)
    for byte in range(bare.coarse_code_size()):
        numbers |= codes[:, byte].astype(np.int64) << (8 * byte)
    return numbers


def in_lists(bare: Any, numbers: IdArray, ids: IdArray) -> CodeArray:
    """Codes (n, code_size) of inverted lists (n,) and of codewords (n, M) in them."""
    packed = faiss.pack_bitstrings(np.ascontiguousarray(ids, np.int32), bare.pq.nbits)
    return behind_numbers(bare, numbers, packed)


def behind_numbers(bare: Any, numbers: IdArray, codes: CodeArray) -> CodeArray:
    """Codes (n, code_size) of inverted lists (n,) and of what lies in these (n, bytes)."""
    n_bytes = bare.coarse_code_size()
    before = numbers.astype("<i8").view(np.uint8).reshape(len(numbers), 8)[:, :n_bytes]
    return np.ascontiguousarray(np.concatenate([before, codes], axis=1))


def codes_at(of_list: Callable[[Any, int], CodeArray]) -> Callable[[Any, IdArray], CodeArray]:
    """Reads the codes of keys (n,), by what reads those of a list.

    Two vectors may have one key, and of which of them a search has found is then not known.
    """

    def read(bare: Any, keys: IdArray) -> CodeArray:
        numbers, offsets = found_at(bare, keys, unique=True)
        codes = np.empty((len(keys), bare.code_size), np.uint8)
        order = np.argsort(numbers, kind="stable")
        visited, first = np.unique(numbers[order], return_index=True)
        for number, rows in zip(visited, np.split(order, first[1:]), strict=True):
            codes[rows] = of_list(bare, int(number))[offsets[rows]]
        return behind_numbers(bare, numbers, codes)

    return read


def check_codes(bare: Any, codes: CodeArray) -> None:
    """Refuses codes of a list that does not exist; raises ValueError."""
    numbers = list_numbers(bare, codes)
    if len(codes) and numbers.max() >= bare.nlist:
        raise ValueError(
            f"expected codes of inverted lists in [0, {bare.nlist}), got "
            f"{numbers.max()} in row {numbers.argmax()}"
        )


# -- changes


Marked = tuple[int, list[int], int]


def list_sizes(bare: Any) -> list[int]:
    """Vectors in every inverted list."""
    return [bare.invlists.list_size(number) for number in range(bare.nlist)]


def mark(bare: Any) -> Marked:
    """How many vectors there are, in all and in every list; the type of the direct map."""
    return int(bare.ntotal), list_sizes(bare), bare.direct_map.type


def roll_back(bare: Any, marked: Marked) -> None:
    """Forgets the vectors that came since. By place: an id may be there twice."""
    before, sizes, direct_map = marked
    for number, size in enumerate(sizes):
        bare.invlists.resize(number, size)
    bare.ntotal = before
    _make_direct_map(bare, direct_map)


def add(index: Any, batches: Iterable[FloatArray], ids: IdArray | None) -> None:
    """Stores latents batch by batch."""
    with _adding(index, ids):
        plain.add(index, batches, ids)


def add_codes(index: Any, bare: Any, codes: CodeArray, ids: IdArray | None) -> None:
    """Stores codes as FAISS does."""
    with _adding(index, ids):
        plain.add_codes(index, bare, codes, ids)


@contextmanager
def _adding(index: Any, ids: IdArray | None) -> Iterator[None]:
    """Around additions, of which a direct map of FAISS's follows two of four.

    Its hash table puts what comes without ids under other keys, from 0 again or from anywhere, so
    that other vectors are found there; its array refuses ids.
    """
    bare, numbered = unwrapped(index), ids is None or in_id_map(index)
    unable = faiss.DirectMap.Hashtable if numbered else faiss.DirectMap.Array
    with changing(bare) if bare.direct_map.type == unable else contextlib.nullcontext():
        yield


@contextmanager
def changing(bare: Any) -> Iterator[None]:
    """Around changes that a direct map does not follow, or forbids.

    An array of ids that start at 0 and leave none out may not fit any more: it is gone then.
    """
    kind = bare.direct_map.type
    if kind != faiss.DirectMap.NoMap:
        bare.set_direct_map_type(faiss.DirectMap.NoMap)
    try:
        yield
    finally:
        if kind == faiss.DirectMap.Hashtable:
            bare.set_direct_map_type(kind)


@contextmanager
def set_aside(bare: Any) -> Iterator[None]:
    """FAISS merges nothing into a direct map: `changing` takes it away then, a check need not."""
    kind = bare.direct_map.type
    bare.direct_map.type = faiss.DirectMap.NoMap
    try:
        yield
    finally:
        bare.direct_map.type = kind


def renew_direct_map(bare: Any) -> None:
    """Makes a direct map anew from the lists."""
    _make_direct_map(bare, bare.direct_map.type)


def _make_direct_map(bare: Any, kind: int) -> None:
    bare.set_direct_map_type(faiss.DirectMap.NoMap)
    bare.set_direct_map_type(kind)


# -- contents


def contents(entries: Entries) -> Callable[[Any], Contents]:
    """Reads all lists, by what reads one."""

    def read(bare: Any) -> Contents:
        lists = [entries(bare, list_no) for list_no in range(bare.nlist)]
        codes, keys = (np.concatenate(parts) for parts in zip(*lists, strict=True))
        return Contents(codes, keys, np.array([len(codes) for codes, _ in lists]))

    return read


def fill(add_entries: AddEntries) -> Callable[[Any, Contents], None]:
    """Fills all lists, by what appends to one."""

    def write(bare: Any, contents: Contents) -> None:
        sizes = contents.list_sizes
        assert sizes is not None
        for list_no, (start, size) in enumerate(zip(np.cumsum(sizes) - sizes, sizes, strict=True)):
            rows = slice(start, start + size)
            add_entries(bare, list_no, contents.codes[rows], contents.keys[rows])

    return write


def empty(bare: Any, *more: Any) -> Any:
    """An untrained inverted file with the same coarse quantizer, of codes of the same.

    Args:
        bare: the index.
        more: arguments behind the metric.
    """
    quantizer = faiss.clone_index(bare.quantizer)
    sizes = (bare.d, bare.nlist, bare.pq.M, bare.pq.nbits)
    other = type(bare)(quantizer, *sizes, bare.metric_type, *more)
    other.by_residual, other.nprobe = bare.by_residual, bare.nprobe
    return other
