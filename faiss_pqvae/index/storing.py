"""Codes in a native index and, in step with them, the vectors that a search is refined with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from faiss_pqvae.index.encoding import Batch
from faiss_pqvae.index.refine import Refiner, StoredVectors
from faiss_pqvae.native.store.ids import as_selector
from faiss_pqvae.native.store.store import Store
from faiss_pqvae.types import CodeArray, FloatArray, IdArray


@dataclass(frozen=True)
class Stock:
    """What an index holds; every change is one of both parts.

    Attributes:
        store: codes.
        vectors: what a search is refined with under the same keys, or None.
    """

    store: Store
    vectors: StoredVectors | None

    @classmethod
    def of(cls, store: Store, refiner: Refiner | None) -> Stock:
        """Of an index whose refiner may store nothing."""
        return cls(store, refiner if isinstance(refiner, StoredVectors) else None)

    def add(self, batches: Iterator[Batch], n: int, ids: Any) -> None:
        """Stores n items, batch by batch, under the next ids or under ids (n,) int64.

        Raises:
            TypeError, ValueError: wrong ids, or whatever reading a batch raises; nothing is added
                then.
        """
        given = self.store.check_ids(ids, n)
        if self.vectors is None:
            self.store.add((batch.z for batch in batches), given)
            return
        # What the native index will call the new items.
        ntotal = int(self.store.index.ntotal)
        keys = np.arange(ntotal, ntotal + n)
        if given is not None and not self.store.has_id_map:
            keys = given
        self.vectors.check_new(keys)
        with self.vectors.all_or_nothing():
            self.store.add(_stored_on_the_way(batches, self.vectors, keys), given)

    def add_sa_codes(self, codes: CodeArray, ids: Any) -> None:
        """Stores codes (n, sa_code_size()) uint8.

        Raises:
            TypeError, ValueError: wrong ids; vectors to refine with, which codes do not hold.
        """
        if self.vectors is not None:
            raise ValueError(
                "this index refines with the items themselves, and codes do not hold them: use add"
            )
        self.store.add_sa_codes(codes, self.store.check_ids(ids, len(codes)))

    def remove(self, sel: Any) -> int:
        """Removes what a selector or ids (n,) int64 name; returns how many."""
        sel = as_selector(sel)
        if self.vectors is not None and not self.store.is_hnsw:
            self.vectors.index.remove_ids(self.store.over_keys(sel))
        removed, renumbered = self.store.remove(sel)
        if self.vectors is not None and renumbered is not None:
            self.vectors.renumber(renumbered)
        return removed

    def check_compatible(self, other: Stock) -> None:
        """Whether `merge` can take another one.

        Raises:
            ValueError: other kinds, or codes that mean something else.
        """
        if self.vectors is not None and other.vectors is not None:
            self.vectors.check_compatible(other.vectors)
        self.store.check_compatible(other.store)

    def merge(self, other: Stock, add_id: int) -> None:
        """Takes over what another one holds; its ids grow by `add_id`.

        Raises:
            ValueError: an `add_id` for an index that numbers its items itself; ids to refine with
                that are there already. Both are then as before.
        """
        if add_id and not (self.store.has_id_map or self.store.is_ivf):
            raise ValueError(
                f"expected add_id=0 for an index that numbers its items itself, got {add_id}"
            )
        if self.vectors is not None and other.vectors is not None:
            places = self.store.has_id_map
            self.vectors.merge(other.vectors, self.store.index.ntotal if places else add_id)
        self.store.merge(other.store, add_id)

    def reset(self) -> None:
        """Forgets everything."""
        self.store.reset()
        if self.vectors is not None:
            self.vectors.reset()


def _stored_on_the_way(
    batches: Iterator[Batch], vectors: StoredVectors, keys: IdArray
) -> Iterator[FloatArray]:
    """Latents of items that, batch by batch, are stored under their keys on the way."""
    start = 0
    for batch in batches:
        vectors.add(batch, keys[start : start + len(batch.z)])
        yield batch.z
        start += len(batch.z)
