"""A second, finer look at what a search found: exact vectors, or the decoder's reconstructions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from faiss_pqvae.arguments import check_attribute, number
from faiss_pqvae.data.batches import read_sample
from faiss_pqvae.index.encoding import Batch, Encoding
from faiss_pqvae.index.short_list import ShortList
from faiss_pqvae.model.conditional import ConditionalCode
from faiss_pqvae.model.pqvae import PQVAE, to_float
from faiss_pqvae.native import faiss
from faiss_pqvae.native.faiss_method import faiss_method
from faiss_pqvae.native.ids import in_id_map, unwrapped
from faiss_pqvae.native.kinds.kind import Found
from faiss_pqvae.native.kinds.lists import coarse_centroids
from faiss_pqvae.native.store.changes import all_or_nothing
from faiss_pqvae.native.store.store import Store
from faiss_pqvae.types import CodeArray, FloatArray, IdArray

_CHUNK_BYTES = 2**26
_CENTROIDS_AT_A_TIME = 1024
_STORING = (
    faiss.IndexFlat,
    faiss.IndexFlatL2,
    faiss.IndexFlatIP,
    faiss.IndexScalarQuantizer,
    faiss.IndexPQ,
)


class Candidates(NamedTuple):
    """What a scan found, for a second look.

    Attributes:
        keys: (nq, n) int64, or one after another; -1 where there is none.
        codes: (nq, n, code_size) uint8, of the store; None for who does not look at them.
    """

    keys: IdArray
    codes: CodeArray | None = None

    def at(self, places: IdArray) -> Candidates:
        """Those at places of any shape, counted through all queries."""
        codes = self.codes
        if codes is not None:
            codes = codes.reshape(-1, codes.shape[-1])[places]
        return Candidates(self.keys.ravel()[places], codes)

    @property
    def names(self) -> npt.NDArray[Any]:
        """What tells one (nq, n) from another: codes, for two items may have one key, or keys."""
        if self.codes is None:
            return self.keys
        codes = np.ascontiguousarray(self.codes)
        return codes.view(np.dtype((np.void, codes.shape[-1])))[..., 0]

    def filled(self, there: npt.NDArray[np.bool_]) -> Candidates:
        """With one that is there (nq, n) in the place of each that is not."""
        first, places = there.argmax(), np.arange(there.size).reshape(there.shape)
        return self.at(np.where(there, places, first))


class StoredVectors:
    """Candidates as a second index stores them: `RFlat` and `Refine(...)`.

    Args:
        index: a native index over the flattened items, with the metric of the search: flat,
            scalar or product quantizer.
        unit: bring items to length 1, so that inner products are cosines.
        has_ids: the keys are no places, counted from 0: an IDMap2 is put around the index.
        chunk_bytes: of candidates looked at together.

    Raises:
        ValueError: another kind of index: it could not give single vectors back.
    """

    index: Any
    unit: bool
    chunk_bytes: int
    least_k: ClassVar[int] = 1  # results that candidates are taken for, at least

    def __init__(
        self,
        index: Any,
        *,
        unit: bool = False,
        has_ids: bool = False,
        chunk_bytes: int = _CHUNK_BYTES,
    ) -> None:
        has_map = has_ids and isinstance(index, faiss.IndexIDMap2)
        codes = unwrapped(index) if has_map else faiss.downcast_index(index)
        if type(codes) not in _STORING:  # no subclass: some keep their vectors in another order
            raise ValueError(
                "expected an index to refine with that gives single vectors back (Flat, SQfp16, "
                f"SQ8, PQ16, ...), got {type(codes).__name__}"
            )
        self.index = faiss.IndexIDMap2(index) if has_ids and not has_map else index
        self.unit, self.chunk_bytes = unit, chunk_bytes

    def __setattr__(self, name: str, value: Any) -> None:
        check_attribute(self, name)
        super().__setattr__(name, value)

    @property
    def is_trained(self) -> bool:
        """Whether vectors can be stored."""
        return bool(self.index.is_trained)

    def train(self, x: Any, what: str, *, n_max: int = 2**14) -> None:
        """Fits the second index, which is empty, to at most n_max of the items (n, *input_shape).

        Raises:
            ValueError: items that FAISS cannot fit it to, such as too few of them.
        """
        if isinstance(self._codes(), faiss.IndexFlat):
            return
        vectors = self._vectors(read_sample(x, n_max, what)).numpy()
        try:
            faiss_method(self.index, "train")(vectors)
        except RuntimeError as error:
            raise ValueError(
                f"FAISS cannot train the index to refine with on {len(x)} items: {error}"
            ) from error

    def check_new(self, keys: IdArray) -> None:
        """Refuses keys (n,) int64 under which another vector could be meant.

        Raises:
            ValueError: a key that is there already, or twice among these.
        """
        if not in_id_map(self.index):
            return
        unique, counts = np.unique(keys, return_counts=True)
        there = np.isin(unique, faiss.vector_to_array(self.index.id_map))
        if there.any() or (counts > 1).any():
            raise ValueError(
                "expected ids of which every item has its own, for they find the vector to refine "
                f"with, got {unique[there | (counts > 1)][0]} again: write 'IDMap2,' in front of "
                "the description to use ids twice"
            )

    def add(self, batch: Batch, keys: IdArray) -> None:
        """Stores the items of a batch under their keys (n,) int64."""
        vectors = self._vectors(batch.items).numpy()
        if in_id_map(self.index):
            faiss_method(self.index, "add_with_ids")(vectors, keys)
        else:
            faiss_method(self.index, "add")(vectors)

    def all_or_nothing(self) -> AbstractContextManager[None]:
        """Takes back what was added within, if an exception leaves the block."""
        return all_or_nothing(self.index)

    def reset(self) -> None:
        """Forgets the vectors."""
        self.index.reset()
        if isinstance(self.index, faiss.IndexIDMap2):
            self.index.construct_rev_map()  # which still finds the old ones

    def renumber(self, keys: IdArray) -> None:
        """Gives every vector the new key of its old one."""
        old = faiss.vector_to_array(self.index.id_map)
        faiss.copy_array_to_vector(keys[old], self.index.id_map)
        self.index.construct_rev_map()

    def check_compatible(self, other: StoredVectors) -> None:
        """Whether the codes of another one mean the same.

        Raises:
            ValueError: another kind of index, or one that was trained on other items.
        """
        if self._meaning() != other._meaning():
            raise ValueError("expected an index that refines by codes that mean the same")

    def merge(self, other: StoredVectors, add_to_keys: int) -> None:
        """Takes the vectors of another one over; their keys grow by `add_to_keys`.

        Raises:
            ValueError: keys that are there already; both are then as before.
        """
        has_ids = in_id_map(self.index)
        keys = faiss.vector_to_array(other.index.id_map) + add_to_keys if has_ids else None
        if keys is not None:
            self.check_new(keys)
        if type(self._codes()) is not type(other._codes()):
            # An IndexFlat and what FAISS reads it as, which it refuses to merge.
            vectors = faiss_method(other._codes(), "reconstruct_n")(0, other.index.ntotal)
            if keys is None:
                faiss_method(self.index, "add")(vectors)
            else:
                faiss_method(self.index, "add_with_ids")(vectors, keys)
            other.reset()
            return
        self.index.merge_from(other.index, 0 if keys is None else add_to_keys)

    def _codes(self) -> Any:
        """The index without its IDMap."""
        return unwrapped(self.index)

    @property
    def kind(self) -> str:
        """Name of the index's class; FAISS reads an IndexFlat as one of its subclasses."""
        index = self._codes()
        return "IndexFlat" if isinstance(index, faiss.IndexFlat) else type(index).__name__

    def _meaning(self) -> tuple[Any, ...]:
        """What makes vectors of codes."""
        index = self._codes()
        if isinstance(index, faiss.IndexScalarQuantizer):
            numbers, kind = index.sq.trained, index.sq.qtype
        elif isinstance(index, faiss.IndexPQ):
            numbers, kind = index.pq.centroids, (index.pq.M, index.pq.nbits)
        else:
            return (self.kind,)
        return self.kind, kind, faiss.vector_to_array(numbers).tobytes()

    def distances(self, batch: Batch, found: Candidates) -> FloatArray:
        """From the items of a batch to candidates (n, k): (n, k) float32."""
        return _distances(
            self._vectors(batch.items),
            found,
            lambda wanted: torch.from_numpy(self.index.reconstruct_batch(wanted.keys)),
            self.index.metric_type,
            self.chunk_bytes,
        )

    def _vectors(self, x: Tensor) -> Tensor:
        """Items (n, *input_shape) as (n, d) float32 on the CPU; uint8 images in [0, 1]."""
        vectors = to_float(x).flatten(1).cpu()
        return (functional.normalize(vectors) if self.unit else vectors).contiguous()


class Decoder:
    """Candidates as the decoder sees their codes: `RDecoder`, which stores nothing more.

    Distances are those of the training's reconstruction error: between the query as the model
    normalises it and the decoder's output.

    Args:
        model: of the index.
        store: of the codes.
        chunk_bytes: of candidates looked at together.

    Raises:
        ValueError: additive codes in an index that does not give them back.
    """

    model: PQVAE
    store: Store
    chunk_bytes: int
    least_k: ClassVar[int] = 10  # fewer results would cost as much, and be worse

    def __init__(self, model: PQVAE, store: Store, *, chunk_bytes: int = _CHUNK_BYTES) -> None:
        if model.spec.is_additive and not store.has_codes:
            raise ValueError(
                "expected an index that gives codes back, as IndexPQ and inverted files do, for a "
                f"decoder of additive codes, got {store.kind.name}"
            )
        self.model, self.store, self.chunk_bytes = model, store, chunk_bytes
        self._short_list: ShortList | None = None
        self._centroids: Tensor | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        check_attribute(self, name)
        super().__setattr__(name, value)

    @property
    def _metric_type(self) -> int:
        return int(self.store.index.metric_type)

    @property
    def by_codes(self) -> bool:
        """Whether it looks at the codes of candidates."""
        return self.model.spec.is_additive

    @property
    def short_list(self) -> ShortList | None:
        """What ranks the tables' candidates, of which there are more than are decoded, for these.

        None where tables rank as the sums of codewords do.
        """
        decoder = self.model.code_decoder
        if not isinstance(decoder, ConditionalCode) or self._metric_type != faiss.METRIC_L2:
            return None
        if self._short_list is None:
            self._short_list = ShortList(self.model.quantizer.codewords, decoder)
        return self._short_list

    @property
    def listed(self) -> int:
        """Results of the codes for each candidate."""
        return 1 if self.short_list is None else self.short_list.per_candidate

    def shortened(self, D: FloatArray, found: Candidates, n: int) -> Candidates:
        """The n best of every query's candidates (nq, k), by their sums of codewords.

        Args:
            D: (nq, k) float32, distances by look-up tables.
            found: likewise in order.
            n: of them, at most k.
        """
        (nq, k), codes = D.shape, found.codes
        assert codes is not None
        best = np.broadcast_to(np.arange(n), (nq, n))
        if self.short_list is not None and n < k:
            _, ids = self.store.split_codes(codes.reshape(nq * k, -1))
            best = self.short_list(D, found.keys, ids.reshape(nq, k, -1), n)
        return found.at(best + k * np.arange(nq)[:, None])

    def distances(self, batch: Batch, found: Candidates) -> FloatArray:
        """From the items of a batch to candidates (n, k): (n, k) float32."""
        with torch.inference_mode():
            queries = self._unit(self.model.normalize(batch.inputs).flatten(1))
            return _distances(queries, found, self._decode, self._metric_type, self.chunk_bytes)

    def _decode(self, found: Candidates) -> Tensor:
        """The items (n, d) of candidates (n,), as queries are compared with them."""
        model, decoder = self.model, self.model.code_decoder
        if decoder is None:
            z = torch.from_numpy(self.store.reconstruct(found.keys)).to(model.device)
            return self._unit(model.decoder(z).float().flatten(1))
        assert found.codes is not None
        numbers, ids = self.store.split_codes(found.codes)
        decoded = decoder.compared(torch.from_numpy(ids).to(model.device).long())
        if model.spec.by_residual:
            decoded = decoded + self._coarse()[torch.from_numpy(numbers).to(model.device)]
        return self._unit(decoded)

    def _coarse(self) -> Tensor:
        """The centroids (nlist, d) of the inverted lists, as vectors."""
        if self._centroids is None:
            model, latents = self.model, coarse_centroids(self.store.bare)
            parts = np.array_split(latents, -(-len(latents) // _CENTROIDS_AT_A_TIME))
            vectors = [model.summed(torch.from_numpy(part).to(model.device)) for part in parts]
            self._centroids = torch.cat(vectors)
        return self._centroids

    def _unit(self, x: Tensor) -> Tensor:
        return functional.normalize(x) if self.model.spec.is_unit else x


Refiner = StoredVectors | Decoder


def make_refiner(refine_index: Any, encoding: Encoding, store: Store) -> Refiner | None:
    """What looks at results a second time.

    Args:
        refine_index: a native index of flat codes over the flattened items (behind a front: over
            their features), "decoder", or None.
        encoding: of the items.
        store: what the search finds its candidates in.

    Raises:
        ValueError: another kind of index, another dimension or metric, or as many items as the
            store has not.
    """
    metric_type, ntotal = int(store.index.metric_type), int(store.index.ntotal)
    if refine_index is None:
        return None
    if refine_index == "decoder":
        return Decoder(encoding.model, store)
    if not isinstance(refine_index, faiss.Index):
        raise TypeError(
            f"expected a FAISS index to refine with, 'decoder' or None, got {refine_index!r}"
        )
    if (refine_index.d, refine_index.metric_type) != (encoding.seen_d, metric_type):
        raise ValueError(
            f"expected an index to refine with of d={encoding.seen_d} and metric_type="
            f"{metric_type}, got d={refine_index.d} and {refine_index.metric_type}"
        )
    if refine_index.ntotal != ntotal:
        raise ValueError(
            f"expected an index to refine with of {ntotal} items, got {refine_index.ntotal}"
        )
    unit = encoding.model.spec.is_unit
    return StoredVectors(refine_index, unit=unit, has_ids=store.has_lists)


def made_of(refiner: Refiner | None) -> Any:
    """What `make_refiner` made it of."""
    return refiner.index if isinstance(refiner, StoredVectors) else refiner and "decoder"


def refines_by(refiner: Refiner | None) -> str:
    """The kind of refinement, in words."""
    if isinstance(refiner, StoredVectors):
        return refiner.kind
    return "nothing" if refiner is None else "the decoder"


def refine_parameters(params: Any, k_factor: float, refiner: Refiner | None) -> tuple[float, Any]:
    """Takes the parameters of a search apart.

    Args:
        params: faiss.SearchParameters of the native index's kind, None, or an
            IndexRefineSearchParameters with such ones in it.
        k_factor: candidates per result, where the parameters say nothing of it.
        refiner: of the index.

    Returns:
        Candidates per result, and the native index's own parameters.

    Raises:
        TypeError: an IndexRefineSearchParameters without a refiner.
        ValueError: a k_factor below 1; a selector where FAISS ignores it.
    """
    if not isinstance(params, faiss.IndexRefineSearchParameters):
        return check_k_factor(k_factor), params
    if refiner is None:
        raise TypeError("got IndexRefineSearchParameters for an index that does not refine")
    if params.sel is not None:
        raise ValueError(
            "expected the selector of IndexRefineSearchParameters in its base_index_params: "
            "FAISS ignores it elsewhere"
        )
    # FAISS hands the inner parameters out as their base class; the object that went in is
    # kept beside.
    kept = getattr(params, "_sp_field_refs", {})
    inner = kept.get("base_index_params", params.base_index_params)
    return check_k_factor(params.k_factor), inner


def check_k_factor(k_factor: Any) -> float:
    """Candidates per result as a float of 1 or more; raises as `arguments.number` does."""
    return number("k_factor", k_factor, 1)


def refine(refiner: Refiner, batch: Batch, found: Candidates, k: int, metric_type: int) -> Found:
    """The k best of every query's candidates by their finer distances.

    Args:
        refiner: gives the distances.
        batch: the queries.
        found: candidates (n, k_base).
        k: results per query, at most k_base.
        metric_type: of the distances.

    Returns:
        D (n, k) float32 and keys (n, k) int64, as a search gives them.
    """
    sign, keys = 1 if metric_type == faiss.METRIC_L2 else -1, found.keys
    D = np.full(keys.shape, sign * np.finfo(np.float32).max)  # FAISS's own filling
    there = keys != -1  # others below 0 are ids that users gave
    if there.any():
        # A missing one is looked up as one that is there, and then forgotten.
        D[there] = refiner.distances(batch, found.filled(there))[there]
    order = np.argsort(sign * D, axis=1, kind="stable")[:, :k]
    D = np.take_along_axis(D, order, 1).astype(np.float32)
    return D, np.take_along_axis(keys, order, 1)


def _distances(
    queries: Tensor,
    found: Candidates,
    look_up: Callable[[Candidates], Tensor],
    metric_type: int,
    chunk_bytes: int,
) -> FloatArray:
    """Distances (n, k) float32 from queries (n, d) to what candidates (n, k) stand for."""
    names = found.names
    D = torch.empty(names.shape)
    step = max(1, chunk_bytes // (4 * names.shape[1] * queries.shape[1]))
    for start in range(0, len(names), step):
        rows = slice(start, start + step)
        # Queries share candidates: each is looked up once.
        _, first, places = np.unique(names[rows], return_index=True, return_inverse=True)
        wanted = look_up(found.at(first + start * names.shape[1]))
        vectors = wanted[torch.from_numpy(places.reshape(names[rows].shape))]
        if metric_type == faiss.METRIC_L2:
            distances = (queries[rows, None] - vectors).square().sum(-1)
        else:
            distances = (queries[rows, None] * vectors).sum(-1)
        D[rows] = distances.cpu()
    array: FloatArray = D.numpy()
    return array
