"""Codes in a native index and, in step with them, the vectors that a search is refined with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from faiss_pqvae.arguments import output
from faiss_pqvae.foreign import as_array, as_ids
from faiss_pqvae.index.encoding import Batch, Encoding
from faiss_pqvae.index.metrics import metric_number
from faiss_pqvae.index.refine import Refiner, StoredVectors, made_of, make_refiner, refines_by
from faiss_pqvae.index.residual_codes import ResidualCodes
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.native import faiss
from faiss_pqvae.native.coarse import has_residuals
from faiss_pqvae.native.faiss_method import faiss_method
from faiss_pqvae.native.ids import as_selector
from faiss_pqvae.native.inject import (
    inject_codebooks,
    new_residual_index,
    prepare_search,
)
from faiss_pqvae.native.kinds.lists import coarse_is_trained
from faiss_pqvae.native.kinds.product import check_searchable
from faiss_pqvae.native.store.store import Store
from faiss_pqvae.native.walk import codebook_index
from faiss_pqvae.types import CodeArray, FloatArray, IdArray


@dataclass(frozen=True)
class Stock:
    """What an index holds; every change is one of both parts.

    Attributes:
        store: codes.
        refiner: a second look at what is found, or None.
        residual_codes: chooses codes that the native index cannot choose itself, or None.
    """

    store: Store
    refiner: Refiner | None
    residual_codes: ResidualCodes | None = None

    @classmethod
    def over(cls, native: Any, refine_index: Any, encoding: Encoding) -> Stock:
        """Over indexes that there are, which may just have been read or copied.

        Args:
            native: the index over the latents.
            refine_index: as `make_refiner` takes it.
            encoding: of the items.
        """
        store = Store(native)
        refiner = make_refiner(refine_index, encoding, store)
        if native.is_trained:
            prepare_search(native)
        return cls(store, refiner)

    def state(self) -> tuple[Any, Any]:
        """What `over` makes it of, besides the encoding."""
        return self.store.index, made_of(self.refiner)

    @property
    def vectors(self) -> StoredVectors | None:
        """What is refined with under the keys of the codes, where the refiner stores anything."""
        return self.refiner if isinstance(self.refiner, StoredVectors) else None

    def ivf(self, description: str) -> Any:
        """The native inverted file.

        Raises:
            ValueError: another kind of index, which has this description.
        """
        if not self.store.has_lists:
            raise ValueError(f"{description} has no inverted lists, and so no nprobe")
        return self.store.bare

    def hnsw(self, description: str) -> Any:
        """The native graph; raises as `ivf`."""
        settings = self.store.kind.settings(self.store.bare)
        if not hasattr(settings, "efSearch"):
            raise ValueError(f"{description} has no HNSW graph, and so no efSearch")
        return settings

    def add(self, batches: Iterator[Batch], n: int, ids: Any) -> None:
        """Stores n items, batch by batch, under the next ids or under ids (n,) int64.

        Raises:
            TypeError, ValueError: wrong ids, or whatever reading a batch raises; nothing is added
                then.
        """
        given = self.store.check_ids(ids, n)
        if self.vectors is None:
            self._add((batch.z for batch in batches), given)
            return
        # What the native index will call the new items.
        ntotal = int(self.store.index.ntotal)
        keys = np.arange(ntotal, ntotal + n)
        if given is not None and not self.store.has_id_map:
            keys = given
        self.vectors.check_new(keys)
        with self.vectors.all_or_nothing():
            self._add(_stored_on_the_way(batches, self.vectors, keys), given)

    def _add(self, latents: Iterator[FloatArray], ids: IdArray | None) -> None:
        if self.residual_codes is None:
            self.store.add(latents, ids)
        else:
            self.store.add_sa_codes(map(self.residual_codes.sa_encode, latents), ids)

    def add_sa_codes(self, codes: CodeArray, ids: Any) -> None:
        """Stores codes (n, sa_code_size()) uint8.

        Raises:
            TypeError, ValueError: wrong codes or ids; vectors to refine with, which codes do not
                hold.
        """
        if self.vectors is not None:
            raise ValueError(
                "this index refines with the items themselves, and codes do not hold them: use add"
            )
        codes = self.check_codes(codes)
        self.store.add_sa_codes([codes], self.store.check_ids(ids, len(codes)))

    def reconstruct(self, ids: Any, x: Any) -> FloatArray:
        """Quantized latents (n, d) float32 of ids (n,), written to `x` where it is an array."""
        latents = self.store.reconstruct_ids(as_ids(ids))
        found: FloatArray = output(x, latents.shape, np.float32, "x")
        found[:] = latents
        return found

    def sa_encode(self, batches: Iterator[Batch], n: int, codes: Any) -> CodeArray:
        """Codes (n, sa_code_size()) uint8 of n items, written to `codes` where it is an array."""
        found: CodeArray = output(codes, (n, self.store.sa_code_size()), np.uint8, "codes")
        codes_of = self.store if self.residual_codes is None else self.residual_codes
        start = 0
        for batch in batches:
            found[start : start + len(batch.z)] = codes_of.sa_encode(batch.z)
            start += len(batch.z)
        return found

    def sa_decode(self, codes: Any, x: Any) -> FloatArray:
        """Quantized latents (n, d) float32 of codes, written to `x` where it is an array."""
        codes = self.check_codes(codes)
        found: FloatArray = output(x, (len(codes), self.store.index.d), np.float32, "x")
        found[:] = self.store.sa_decode(codes)
        return found

    def check_codes(self, codes: Any) -> CodeArray:
        """Codes (n, sa_code_size()) uint8, contiguous.

        Raises:
            TypeError: another dtype.
            ValueError: another shape.
        """
        codes, size = as_array(codes, "codes"), self.store.sa_code_size()
        if codes.dtype != np.uint8:
            raise TypeError(f"expected codes of dtype uint8, got {codes.dtype}")
        if codes.ndim != 2 or codes.shape[1] != size:
            raise ValueError(f"expected codes of shape (n, {size}), got {codes.shape}")
        return np.ascontiguousarray(codes)

    def remove(self, sel: Any) -> int:
        """Removes what a selector or ids (n,) int64 name; returns how many."""
        sel = as_selector(sel)
        if self.vectors is not None and not self.store.kind.grows_only:
            faiss_method(self.vectors.index, "remove_ids")(self.store.over_keys(sel))
        removed, renumbered = self.store.remove(sel)
        if self.vectors is not None and renumbered is not None:
            self.vectors.renumber(renumbered)
        return removed

    def check_compatible(self, other: Stock) -> None:
        """Whether `merge` can take another one.

        Raises:
            ValueError: other kinds, or codes that mean something else.
        """
        kinds = [refines_by(stock.refiner) for stock in (self, other)]
        if kinds[0] != kinds[1]:
            raise ValueError(f"expected an index that refines by {kinds[0]}, got {kinds[1]}")
        if self.vectors is not None and other.vectors is not None:
            self.vectors.check_compatible(other.vectors)
        self.store.check_compatible(other.store)

    def merge(self, other: Stock, add_id: int) -> None:
        """Takes over what another one holds; its ids grow by `add_id`.

        Raises:
            ValueError: an `add_id` for an index that numbers its items itself, or one that makes an
                id of -1 or beyond int64; ids to refine with that are there already. Both are then
                as before.
        """
        if add_id and not (self.store.has_id_map or self.store.has_lists):
            raise ValueError(
                f"expected add_id=0 for an index that numbers its items itself, got {add_id}"
            )
        self.store.check_add_id(other.store, add_id)
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


def new_stock(
    encoding: Encoding,
    metric_type: int | str | None,
    native: Any | None,
    refine_index: Any,
    *,
    takes_coarse: bool = False,
) -> Stock:
    """What a new index begins with, with the codebooks of a model that is trained.

    Args:
        encoding: of the items.
        metric_type: see `LatentIndex`.
        native: see `LatentIndex`.
        refine_index: likewise.
        takes_coarse: whether the model is going to be trained behind coarse centroids.

    Raises:
        TypeError: a native index of another kind.
        ValueError: another metric; codebooks of residuals where latents are coded, or the other
            way round; sizes that FAISS cannot search; parts whose sizes do not fit.
    """
    model = encoding.model
    if model.structure == "product":
        check_searchable(model.quantizer.dsub, model.nbits)
    metric_type = metric_number(metric_type, model.spec)
    if native is None:
        native = _new_native(model, metric_type)
    if (native.d, native.metric_type) != (model.latent_dim, metric_type):
        raise ValueError(
            f"expected a native index with d={model.latent_dim} and metric_type="
            f"{metric_type}, got d={native.d} and {native.metric_type}"
        )
    encoding.check()
    stock = Stock.over(native, refine_index, encoding)
    check_residuals(native, model, takes_coarse=takes_coarse)
    if not native.is_trained and model.is_trained and not native.ntotal:
        inject_codebooks(native, model.codebooks())
    return stock


def check_residuals(native: Any, model: PQVAE, *, takes_coarse: bool) -> None:
    """Refuses a native index that would code something else than a model's codebooks are of.

    Args:
        native: the index.
        model: trained, or going to be.
        takes_coarse: whether its training can be one behind coarse centroids.

    Raises:
        ValueError: residuals where the codebooks are those of latents, or the other way round.
    """
    residuals = has_residuals(native)
    if model.is_trained and model.spec.by_residual:
        if not residuals or not coarse_is_trained(codebook_index(native)):
            raise ValueError(
                "expected an inverted file with by_residual=True and the coarse centroids that the "
                "model was trained behind, whose codebooks are those of what they leave over: take "
                "a copy of the native index that it was trained in"
            )
    elif residuals and not native.is_trained and (model.is_trained or not takes_coarse):
        raise ValueError(
            "expected an inverted file with by_residual=False: a model's codebooks are those of "
            "latents, not of what a coarse centroid leaves over of them, unless an objective that "
            "learns these ('ranking', 'additive' or 'synthesis') trains it in this very index"
        )


def _new_native(model: PQVAE, metric_type: int) -> Any:
    """The native index that scans all codes of a model."""
    if model.structure == "residual":
        return new_residual_index(model.latent_dim, model.M, model.nbits)
    return faiss.IndexPQ(model.latent_dim, model.M, model.nbits, metric_type)
