"""A native index over the latent space, with every operation that its codes allow.

FAISS's index types differ in what they implement. What one of them lacks and its codes can give is
built here out of what FAISS has; what they cannot give raises an error that says why.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import numpy as np

from faiss_pqvae.native import faiss
from faiss_pqvae.native.inject import (
    check_residual,
    extract_codebooks,
    inject_codebooks,
    new_index_pq,
)
from faiss_pqvae.native.scan.scan import Scan
from faiss_pqvae.native.store.changes import all_or_nothing, tidy, uninterrupted, without_direct_map
from faiss_pqvae.native.store.contents import add_entries, entries, flat_codes
from faiss_pqvae.native.store.ids import as_ids, id_map_changed, list_ids, places_of, view_ids
from faiss_pqvae.native.store.parameters import native_parameters, selector_of
from faiss_pqvae.native.walk import codebook_index
from faiss_pqvae.types import CodeArray, FloatArray, IdArray

Found = tuple[FloatArray, IdArray]
_SCANNED = (faiss.IndexPQ, faiss.IndexResidualQuantizer)  # by `Scan`


class Store:
    """The operations of faiss.Index on latents, the same for every native index.

    A `key` is what the index itself calls a vector: its place, counted from 0, or in an inverted
    file the id that was given to it. `ids` are the keys, or what an IDMap puts in their place.

    Args:
        index: an IndexPQ, IndexPQFastScan, IndexIVFPQ, IndexIVFPQFastScan or IndexHNSWPQ, or an
            IndexResidualQuantizer as `new_residual_index` makes it; or one of them inside an
            IDMap or IDMap2.

    Raises:
        TypeError: any other index.
        ValueError: another residual quantizer.

    Attributes:
        index: as it was given.
        bare: the index without its IDMap.
    """

    def __init__(self, index: Any) -> None:
        self.index = faiss.downcast_index(index) if type(index) is faiss.Index else index
        self.bare = codebook_index(self.index)
        self.has_id_map = isinstance(self.index, faiss.IndexIDMap)
        inner = self.index.index if self.has_id_map else self.index
        known = (*_SCANNED, faiss.IndexPQFastScan, faiss.IndexHNSWPQ)
        if not isinstance(self.bare, known) and not self.is_ivf:
            raise TypeError(
                "expected an IndexPQ, IndexPQFastScan, IndexIVFPQ, IndexIVFPQFastScan, "
                "IndexHNSWPQ or IndexResidualQuantizer, alone or in an IDMap, got "
                f"{type(self.bare).__name__}"
            )
        if int(inner.this) != int(self.bare.this):
            raise TypeError(
                f"expected the {type(self.bare).__name__} alone or in an IDMap, got it inside "
                f"{type(faiss.downcast_index(inner)).__name__}"
            )
        if self.is_residual:
            check_residual(self.bare)
        self._scan: Scan | None = None
        self._lock = threading.Lock()

    @property
    def is_ivf(self) -> bool:
        """Whether vectors lie in inverted lists, under ids of their own."""
        return isinstance(self.bare, faiss.IndexIVFPQ | faiss.IndexIVFPQFastScan)

    @property
    def is_hnsw(self) -> bool:
        """Whether vectors are linked by a graph."""
        return isinstance(self.bare, faiss.IndexHNSWPQ)

    @property
    def is_residual(self) -> bool:
        """Whether a vector is the sum of its codewords."""
        return isinstance(self.bare, faiss.IndexResidualQuantizer)

    @property
    def is_fast_scan(self) -> bool:
        """Whether codes lie in blocks, and are scanned with quantized tables."""
        return isinstance(self.bare, faiss.IndexPQFastScan | faiss.IndexIVFPQFastScan)

    @property
    def pq(self) -> Any:
        """The native product quantizer; of a residual quantizer there is none."""
        storage = faiss.downcast_index(self.bare.storage) if self.is_hnsw else self.bare
        return storage.pq

    @property
    def scan_name(self) -> str:
        """Which scan a search without a selector uses."""
        if isinstance(self.bare, _SCANNED):
            return self._exact().name
        return type(self.bare).__name__

    # -- searching: latents to keys

    def search(self, z: FloatArray, k: int, *, params: Any = None, sdc: bool = False) -> Found:
        """The k nearest keys of every latent.

        Args:
            z: (n, d) float32.
            k: results per query.
            params: faiss.SearchParameters of the index's kind, or None.
            sdc: quantize the queries too.

        Returns:
            D (n, k) float32 and keys (n, k) int64, -1 where there is nothing left.

        Raises:
            TypeError: parameters of another kind of index.
            ValueError: parameters that FAISS does not take for this index.
        """
        sel = selector_of(params, self.bare, self.over_keys)
        if isinstance(self.bare, _SCANNED):
            how = getattr(params, "search_type", faiss.IndexPQ.ST_PQ)
            if how in (faiss.IndexPQ.ST_PQ, faiss.IndexPQ.ST_SDC):
                sdc = sdc or how == faiss.IndexPQ.ST_SDC
                return self._exact().search(z, k, sdc=sdc, sel=sel)
            if sel is not None:
                raise ValueError("expected search_type ST_PQ or ST_SDC with a selector")
        if sdc:
            z = self.quantize(z)
        if isinstance(self.bare, faiss.IndexPQFastScan) and sel is not None:
            return Scan(self.flat()).search(z, k, sel=sel)
        # A fast scan begins with what lies in D, and finds nothing if that is a largest distance:
        # FAISS itself takes memory as it comes, from an earlier search that found too little.
        D = np.zeros((len(z), k), np.float32)
        native = native_parameters(params, self.bare, sel)
        try:
            D, I = self.bare.search(z, k, params=native, D=D)  # noqa: E741
        except RuntimeError as error:
            if params is None:
                raise
            raise ValueError(f"FAISS cannot search with these parameters: {error}") from error
        return D, I

    def range_search(
        self, z: FloatArray, thresh: float, *, params: Any = None, sdc: bool = False
    ) -> tuple[IdArray, FloatArray, IdArray]:
        """All keys closer than `thresh` (larger inner product than it).

        Returns:
            lims (n + 1,) int64, D (lims[n],) float32 and keys (lims[n],) int64: query i has the
            results lims[i] to lims[i + 1], in no order.
        """
        sel = selector_of(params, self.bare, self.over_keys)
        if not self.bare.ntotal:  # FAISS aborts the process in an empty graph
            return np.zeros(len(z) + 1, np.int64), np.empty(0, np.float32), np.empty(0, np.int64)
        z = self.quantize(z) if sdc else z
        # FAISS has none for the one fast scan, and that of the other is wrong: thresholds beyond
        # its 16 bits wrap around.
        index = self.flat() if self.is_fast_scan else self.bare
        params = native_parameters(params, self.bare, sel)
        lims, D, I = index.range_search(z, thresh, params=params)  # noqa: E741
        return lims.astype(np.int64), D, I

    def flat(self) -> Any:
        """A copy of an index with fast scan as IndexPQ or IndexIVFPQ, which are exact."""
        bare, codebooks = self.bare, extract_codebooks(self.bare)
        if not self.is_ivf:
            flat = new_index_pq(codebooks, bare.metric_type)
            if bare.ntotal:
                flat.add_sa_codes(np.ascontiguousarray(flat_codes(bare)))
            return flat
        sizes = (bare.nlist, bare.pq.M, bare.pq.nbits)
        flat = faiss.IndexIVFPQ(bare.quantizer, bare.d, *sizes, bare.metric_type)
        flat.by_residual, flat.nprobe = bare.by_residual, bare.nprobe
        inject_codebooks(flat, codebooks)
        for number in range(bare.nlist):
            add_entries(flat, number, *entries(bare, number))
        flat.ntotal = bare.ntotal
        return flat

    def quantize(self, z: FloatArray) -> FloatArray:
        """Every latent's own codewords: (n, d) float32 to (n, d) float32."""
        if self.is_residual or (self.is_ivf and self.bare.by_residual):
            return self.sa_decode(self.sa_encode(z))
        quantized: FloatArray = self.pq.decode(self.pq.compute_codes(z))
        return quantized

    # -- keys and ids

    def ids(self, keys: IdArray) -> IdArray:
        """What users call the keys, any shape; -1 stays -1."""
        if not self.has_id_map:
            return keys
        id_map = self._id_map()
        if not len(id_map):
            return keys
        return np.where(keys < 0, -1, id_map[keys])

    def keys(self, ids: IdArray) -> IdArray:
        """The keys of ids: (n,) int64 to (n,) int64.

        Looks through all ids of an IDMap. Of vectors under one id, any may be meant.

        Raises:
            ValueError: no such id.
        """
        if self.has_id_map:
            return places_of(self._id_map(), ids)
        if not self.is_ivf:
            bad = ids[(ids < 0) | (ids >= self.bare.ntotal)]
            if len(bad):
                raise ValueError(f"expected ids in [0, {self.bare.ntotal}), got {bad[0]}")
        return ids

    def over_keys(self, sel: Any) -> Any:
        """A selector of ids as one of keys; it is good until the ids change."""
        return faiss.IDSelectorTranslated(self.index.id_map, sel) if self.has_id_map else sel

    def _id_map(self) -> IdArray:
        """The ids of an IDMap by place: a view, valid until the next change."""
        id_map = self.index.id_map
        return view_ids(id_map.data(), id_map.size())

    # -- stored vectors

    def reconstruct_ids(self, ids: IdArray) -> FloatArray:
        """The quantized latents of ids: (n,) int64 to (n, d) float32.

        An IDMap2 knows where its ids are; an IDMap is looked through.

        Raises:
            ValueError: no such id.
        """
        if not isinstance(self.index, faiss.IndexIDMap2) or self.is_ivf:
            return self.reconstruct(self.keys(ids))
        try:
            latents: FloatArray = self.index.reconstruct_batch(ids)
        except RuntimeError as error:
            raise ValueError(f"expected ids that are stored: {error}") from error
        return latents

    def reconstruct(self, keys: IdArray) -> FloatArray:
        """The quantized latents of keys: (n,) int64 to (n, d) float32.

        Looks through all lists of an inverted file, unless it has a direct map.

        Raises:
            ValueError: no such key.
        """
        if not self.is_ivf or self.bare.direct_map.type != faiss.DirectMap.NoMap:
            try:
                latents: FloatArray = self.bare.reconstruct_batch(keys)
            except RuntimeError as error:  # not in the direct map
                raise ValueError(f"expected ids that are stored: {error}") from error
            return latents
        lists = [list_ids(self.bare, i) for i in range(self.bare.nlist)]
        starts = np.concatenate([[0], np.cumsum([len(ids) for ids in lists])])
        places = places_of(np.concatenate(lists), keys)
        latents = np.empty((len(keys), self.bare.d), np.float32)
        numbers = np.searchsorted(starts, places, side="right") - 1
        for row, (number, place) in enumerate(zip(numbers, places, strict=True)):
            out = faiss.swig_ptr(latents[row])
            self.bare.reconstruct_from_offset(int(number), int(place - starts[number]), out)
        return latents

    def search_and_reconstruct(
        self, z: FloatArray, k: int, *, params: Any = None, sdc: bool = False
    ) -> tuple[FloatArray, IdArray, FloatArray]:
        """As `search`, with the quantized latents R (n, k, d) float32, NaN where there is none."""
        sel = selector_of(params, self.bare, self.over_keys)
        if not isinstance(self.bare, faiss.IndexIVFPQ) or sel is not None:
            D, I = self.search(z, k, params=params, sdc=sdc)  # noqa: E741
            return D, I, self.reconstruct_found(I)
        # While it searches (without a selector), an inverted file knows where its results lie.
        z = self.quantize(z) if sdc else z
        params = native_parameters(params, self.bare, None)
        D, I, R = self.bare.search_and_reconstruct(z, k, params=params)  # noqa: E741
        return D, I, R

    def reconstruct_found(self, keys: IdArray) -> FloatArray:
        """Keys of any shape to quantized latents, float32, NaN where the key is -1."""
        found = np.full((*keys.shape, self.bare.d), np.nan, np.float32)
        if (keys >= 0).any():
            found[keys >= 0] = self.reconstruct(keys[keys >= 0])
        return found

    # -- codes

    def sa_code_size(self) -> int:
        """Bytes of a code, the number of its inverted list included."""
        return int(self.pq.code_size if self.is_hnsw else self.bare.sa_code_size())

    def sa_encode(self, z: FloatArray) -> CodeArray:
        """Codes of latents: (n, d) float32 to (n, sa_code_size()) uint8."""
        codes: CodeArray = self.pq.compute_codes(z) if self.is_hnsw else self.bare.sa_encode(z)
        return codes

    def sa_decode(self, codes: CodeArray) -> FloatArray:
        """Codes (n, sa_code_size()) uint8 to quantized latents (n, d) float32.

        Raises:
            ValueError: the number of an inverted list that does not exist.
        """
        self._check_lists(codes)
        latents: FloatArray = self.pq.decode(codes) if self.is_hnsw else self.bare.sa_decode(codes)
        return latents

    def _check_lists(self, codes: CodeArray) -> None:
        if not self.is_ivf:
            return
        numbers = self._list_numbers(codes)
        if len(codes) and numbers.max() >= self.bare.nlist:
            raise ValueError(
                f"expected codes of inverted lists in [0, {self.bare.nlist}), got "
                f"{numbers.max()} in row {numbers.argmax()}"
            )

    def _list_numbers(self, codes: CodeArray) -> IdArray:
        """Which inverted list every code belongs to: its first bytes, little-endian."""
        numbers = np.zeros(len(codes), np.int64)
        for byte in range(self.bare.coarse_code_size()):
            numbers |= codes[:, byte].astype(np.int64) << (8 * byte)
        return numbers

    # -- changes

    def check_ids(self, ids: Any, n: int) -> IdArray | None:
        """The ids for n vectors as (n,) int64; None where the index numbers them itself.

        Raises:
            TypeError: ids that are not integers.
            ValueError: another number of ids; ids for an index that numbers its vectors itself,
                or none for an IDMap.
        """
        if ids is None and self.has_id_map:
            raise ValueError("an IDMap needs an id for every item: use add_with_ids")
        if ids is None:
            return None
        if not self.has_id_map and not self.is_ivf:
            raise ValueError(
                f"{type(self.bare).__name__} numbers its vectors itself: write 'IDMap2,' in front "
                "of the description for ids of your own"
            )
        return as_ids(ids, n)

    def add(self, batches: Iterable[FloatArray], ids: IdArray | None = None) -> None:
        """Stores latents, batch by batch, under the next ids or under the given ones.

        Raises:
            Whatever reading a batch raises; nothing is added then.
        """
        if self.is_hnsw:
            batches = [np.concatenate(list(batches))]
        start = 0
        with all_or_nothing(self.index):
            for z in batches:
                given = None if ids is None else ids[start : start + len(z)]
                with uninterrupted() if self.is_hnsw else nullcontext():
                    if given is None:
                        self.index.add(z)
                    else:
                        self.index.add_with_ids(z, given)
                start += len(z)

    def add_sa_codes(self, codes: CodeArray, ids: IdArray | None) -> None:
        """Stores codes (n, sa_code_size()) uint8, under the next ids or under the given ones.

        Raises:
            ValueError: the number of an inverted list that does not exist.
        """
        self._check_lists(codes)
        takes_codes = isinstance(self.bare, _SCANNED) or self.is_ivf
        if not takes_codes:
            # The code of its own codewords is the code itself.
            self.add([self.sa_decode(codes)], ids)
            return
        with all_or_nothing(self.index):
            if self.is_fast_scan:
                with without_direct_map(self.bare):
                    self._add_blocks(codes, ids)
            else:
                self.index.add_sa_codes(codes, ids)

    def _add_blocks(self, codes: CodeArray, ids: IdArray | None) -> None:
        """Codes to the lists of an IndexIVFPQFastScan, whose own `add_sa_codes` garbles them."""
        keys = np.arange(self.bare.ntotal, self.bare.ntotal + len(codes))
        keys = keys if ids is None or self.has_id_map else ids
        numbers = self._list_numbers(codes)
        for number in np.unique(numbers):
            rows = numbers == number
            own = codes[rows, self.bare.coarse_code_size() :]
            add_entries(self.bare, int(number), own, keys[rows])
        self.bare.ntotal += len(codes)
        if self.has_id_map and ids is not None:
            ids = np.concatenate([self._id_map(), ids])
            faiss.copy_array_to_vector(ids, self.index.id_map)
            id_map_changed(self.index)

    def reset(self) -> None:
        """Forgets the vectors."""
        self.index.reset()
        if self.has_id_map:
            id_map_changed(self.index)  # an IDMap2 still finds the old ids
        tidy(self.bare)

    def remove(self, sel: Any) -> tuple[int, IdArray | None]:
        """Removes the vectors that a selector of ids names.

        Returns:
            How many; and for an inverted file in an IDMap, whose keys are places, the new key of
            every old one, -1 for those that are gone.

        Raises:
            ValueError: an index whose graph cannot lose vectors.
        """
        if self.is_hnsw:
            raise ValueError(
                "an HNSW index cannot remove vectors, its graph runs through them: search with a "
                "selector that leaves them out, or build the index anew"
            )
        with without_direct_map(self.bare):
            if not (self.has_id_map and self.is_ivf):
                removed = int(self.index.remove_ids(sel))
                tidy(self.bare)
                return removed, None
            # FAISS's IDMap moves the ids up and an inverted file leaves its own where they are.
            id_map = self._id_map().copy()
            kept = np.array([not sel.is_member(int(i)) for i in id_map], bool)
            self.bare.remove_ids(self.over_keys(sel))
            tidy(self.bare)
            keys = np.where(kept, np.cumsum(kept) - 1, -1)
            for number in range(self.bare.nlist):
                ids = list_ids(self.bare, number)
                ids[:] = keys[ids]
            faiss.copy_array_to_vector(id_map[kept], self.index.id_map)
            id_map_changed(self.index)
        return int(len(kept) - kept.sum()), keys

    def check_compatible(self, other: Store) -> None:
        """Whether `merge` can take the vectors of another index.

        Raises:
            ValueError: another kind, other codebooks or coarse centroids, or a graph.
        """
        if self.is_hnsw or other.is_hnsw:
            raise ValueError("HNSW indexes cannot be merged: add the vectors to one of them")
        kinds = [(type(s.index).__name__, type(s.bare).__name__) for s in (self, other)]
        if kinds[0] != kinds[1]:
            raise ValueError(f"expected an index of {kinds[0]} to merge, got {kinds[1]}")
        if extract_codebooks(self.bare) != extract_codebooks(other.bare):
            raise ValueError("expected an index with the same codebooks, got other ones")
        # FAISS compares the number of lists only.
        if self.is_ivf and not np.array_equal(self._coarse_centroids(), other._coarse_centroids()):
            raise ValueError("expected an index with the same coarse centroids, got other ones")
        try:
            self.index.check_compatible_for_merge(other.index)
        except RuntimeError as error:
            raise ValueError(f"FAISS cannot merge these indexes: {error}") from error

    def merge(self, other: Store, add_id: int) -> None:
        """Takes the vectors of another index over, which is empty then.

        Args:
            other: what `check_compatible` accepts.
            add_id: added to its ids.
        """
        if not (self.has_id_map and self.is_ivf):
            self.index.merge_from(other.index, add_id)
            tidy(self.bare)
            tidy(other.bare)
            return
        # FAISS's IDMap would give the keys of the inverted lists twice.
        ids = np.concatenate([self._id_map(), other._id_map() + add_id])
        self.bare.merge_from(other.bare, self.bare.ntotal)
        tidy(self.bare)
        for index, id_map in ((self.index, ids), (other.index, ids[:0])):
            faiss.copy_array_to_vector(id_map, index.id_map)
            id_map_changed(index)

    def _coarse_centroids(self) -> FloatArray:
        quantizer = faiss.downcast_index(self.bare.quantizer)
        centroids: FloatArray = quantizer.reconstruct_n(0, quantizer.ntotal)
        return centroids

    def _exact(self) -> Scan:
        with self._lock:
            if self._scan is None:
                self._scan = Scan(self.bare)
            return self._scan
