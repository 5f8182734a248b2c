"""A native index over the latent space, with every operation that its codes allow.

FAISS's index types differ in what they implement. What one of them lacks and its codes can give is
built out of what FAISS has, see `kinds`; what they cannot give raises an error that says why.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np

from faiss_pqvae.native.faiss_method import faiss_method
from faiss_pqvae.native.kinds.kind import Coded, Found, Reconstructed, Request
from faiss_pqvae.native.kinds.lists import list_numbers
from faiss_pqvae.native.packing import unpacked
from faiss_pqvae.native.scan.scan import Scan
from faiss_pqvae.native.store import changes, id_map
from faiss_pqvae.native.store.held import Held
from faiss_pqvae.native.store.parameters import native_parameters, selector_of
from faiss_pqvae.types import CodeArray, FloatArray, IdArray


class Store:
    """The operations of faiss.Index on latents, the same for every native index.

    A `key` is what the index itself calls a vector: its place, counted from 0, or in an inverted
    file the id that was given to it. `ids` are the keys, or what an IDMap puts in their place.

    Args:
        index: of one of the `KINDS` that store, alone or inside an IDMap or IDMap2.

    Raises:
        TypeError: any other index.
        ValueError: a residual quantizer that `new_residual_index` does not make; a vector with the
            id -1.

    Attributes:
        index: as it was given.
        bare: the index without its IDMap.
        kind: of that.
        has_id_map: whether there is an IDMap.
        held: the three of them together.
    """

    def __init__(self, index: Any) -> None:
        self.held = Held.of(index)
        self.index, self.bare, self.kind = self.held
        self.has_id_map = self.held.in_id_map
        self._scan: Scan | None = None
        self._lock = threading.Lock()

    @property
    def has_lists(self) -> bool:
        """Whether vectors lie in inverted lists, under ids of their own."""
        return self.kind.has_lists

    @property
    def scan_name(self) -> str:
        """Which scan a search without a selector uses."""
        return self._exact(self.bare).name if self.kind.scanned else self.kind.name

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
        sel = selector_of(params, self.kind, self.over_keys)
        own_params = partial(native_parameters, params, self.held, sel)
        request = Request(z, k, sdc, params, sel, own_params, self.quantize, self._exact)
        return self.kind.search(self.bare, request)

    def range_search(
        self, z: FloatArray, thresh: float, *, params: Any = None, sdc: bool = False
    ) -> tuple[IdArray, FloatArray, IdArray]:
        """All keys closer than `thresh` (larger inner product than it).

        Returns:
            lims (n + 1,) int64, D (lims[n],) float32 and keys (lims[n],) int64, as FAISS has them.
        """
        sel = selector_of(params, self.kind, self.over_keys)
        if not self.bare.ntotal:  # FAISS aborts the process in an empty graph
            return np.zeros(len(z) + 1, np.int64), np.empty(0, np.float32), np.empty(0, np.int64)
        z = self.quantize(z) if sdc else z
        params = native_parameters(params, self.held, sel)
        exact = self.kind.exact(self.bare)
        lims, D, I = faiss_method(exact, "range_search")(z, thresh, params=params)  # noqa: E741
        return lims.astype(np.int64), D, I

    def search_and_reconstruct(
        self, z: FloatArray, k: int, *, params: Any = None, sdc: bool = False
    ) -> Reconstructed:
        """As `search`, with the quantized latents R (n, k, d) float32, NaN where there is none."""
        sel = selector_of(params, self.kind, self.over_keys)
        own = self.kind.search_and_reconstruct
        if own is None or sel is not None:
            D, I = self.search(z, k, params=params, sdc=sdc)  # noqa: E741
            return D, I, self.reconstruct_found(I)
        z = self.quantize(z) if sdc else z
        return own(self.bare, z, k, native_parameters(params, self.held, None))

    def search_and_return_codes(
        self, z: FloatArray, k: int, *, params: Any = None, sdc: bool = False
    ) -> Coded:
        """As `search`, with codes (n, k, sa_code_size()) uint8, any where there is no result."""
        sel = selector_of(params, self.kind, self.over_keys)
        own = self.kind.search_and_return_codes
        if own is None or sel is not None:
            D, I = self.search(z, k, params=params, sdc=sdc)  # noqa: E741
            codes, there = np.zeros((*I.shape, self.sa_code_size()), np.uint8), I != -1
            if there.any():
                codes[there] = self.codes(I[there])
            return D, I, codes
        z = self.quantize(z) if sdc else z
        return own(self.bare, z, k, native_parameters(params, self.held, None))

    def quantize(self, z: FloatArray) -> FloatArray:
        """Every latent's own codewords: (n, d) float32 to (n, d) float32."""
        return self.kind.quantize(self.bare, z)

    # -- keys and ids

    def ids(self, keys: IdArray) -> IdArray:
        """What users call the keys, any shape; -1 stays -1."""
        return id_map.ids_of(self.index, keys)

    def over_keys(self, sel: Any) -> Any:
        """A selector of ids as one of keys; it is good until the ids change."""
        return id_map.over_keys(self.index, sel)

    # -- stored vectors

    def reconstruct_ids(self, ids: IdArray) -> FloatArray:
        """The quantized latents of ids: (n,) int64 to (n, d); ValueError: no such id."""
        return id_map.reconstruct(self.index, self.bare, self.kind, ids)

    def reconstruct(self, keys: IdArray) -> FloatArray:
        """The quantized latents of keys: (n,) int64 to (n, d) float32; ValueError: no such key."""
        return self.kind.reconstruct(self.bare, keys)

    def reconstruct_found(self, keys: IdArray) -> FloatArray:
        """Keys of any shape to quantized latents, float32, NaN where the key is -1."""
        found = np.full((*keys.shape, self.bare.d), np.nan, np.float32)
        there = keys != -1  # others below 0 are ids that users gave
        if there.any():
            found[there] = self.reconstruct(keys[there])
        return found

    # -- codes

    def sa_code_size(self) -> int:
        """Bytes of a code, the number of its inverted list included."""
        return self.kind.code_size(self.bare)

    @property
    def has_codes(self) -> bool:
        """Whether `codes` knows any."""
        return self.kind.codes_at is not None

    def codes(self, keys: IdArray) -> CodeArray:
        """The codes (n, sa_code_size()) uint8 of keys (n,); ValueError: no such key."""
        assert self.kind.codes_at is not None
        return self.kind.codes_at(self.bare, keys)

    def split_codes(self, codes: CodeArray) -> tuple[IdArray | None, CodeArray]:
        """Codes (n, sa_code_size()) uint8, of at most 8 bits a codeword, in their parts.

        Returns:
            The inverted lists (n,) int64, or None; and codewords (n, M) uint8, a byte each.
        """
        pq, numbers = self.bare.pq, None
        if self.has_lists:
            numbers = list_numbers(self.bare, codes)
            codes = codes[:, self.bare.coarse_code_size() :]
        return numbers, unpacked(np.ascontiguousarray(codes), pq.M, pq.nbits)

    def sa_encode(self, z: FloatArray) -> CodeArray:
        """Codes of latents: (n, d) float32 to (n, sa_code_size()) uint8."""
        return self.kind.encode(self.bare, z)

    def sa_decode(self, codes: CodeArray) -> FloatArray:
        """Codes (n, sa_code_size()) uint8 to latents (n, d); ValueError: of no inverted list."""
        self.kind.check_codes(self.bare, codes)
        return self.kind.decode(self.bare, codes)

    # -- changes

    def check_ids(self, ids: Any, n: int) -> IdArray | None:
        """The ids for n vectors, or None; see `changes.check_ids`."""
        return changes.check_ids(self.held, ids, n)

    def add(self, batches: Iterable[FloatArray], ids: IdArray | None = None) -> None:
        """Stores latents, batch by batch; nothing, if reading a batch raises."""
        with changes.all_or_nothing(self.index):
            self.kind.add(self.index, batches, ids)

    def add_sa_codes(self, batches: Iterable[CodeArray], ids: IdArray | None) -> None:
        """Stores codes (n, sa_code_size()) uint8, batch by batch, as `add`.

        Raises:
            ValueError: a code of no inverted list; nothing is stored then.
        """
        start = 0
        with changes.all_or_nothing(self.index):
            for codes in batches:
                if not len(codes):  # FAISS's fast scan crashes on none
                    continue
                self.kind.check_codes(self.bare, codes)
                own = None if ids is None else ids[start : start + len(codes)]
                self.kind.add_codes(self.index, self.bare, codes, own)
                start += len(codes)

    def reset(self) -> None:
        """Forgets the vectors."""
        changes.reset(self.held)

    def remove(self, sel: Any) -> tuple[int, IdArray | None]:
        """Removes the vectors that a selector of ids names; see `changes.remove`."""
        return changes.remove(self.held, sel)

    def check_compatible(self, other: Store) -> None:
        """Refuses what `merge` cannot take, with a ValueError."""
        changes.check_compatible(self.held, other.held)

    def check_add_id(self, other: Store, add_id: int) -> None:
        """Refuses what would make of ids others than users may give, with a ValueError."""
        changes.check_add_id(other.held, add_id)

    def merge(self, other: Store, add_id: int) -> None:
        """Takes the vectors of another index over, `add_id` added to their ids."""
        changes.merge(self.held, other.held, add_id)

    def _exact(self, index: Any) -> Scan:
        """The exact scan over an index; of the store's own it is kept."""
        if index is not self.bare:
            return Scan(index)
        with self._lock:
            self._scan = self._scan or Scan(index)
            return self._scan
