"""LatentIndex: a model that encodes and a native FAISS index that stores and searches."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from faiss_pqvae.arguments import at_least_1, output
from faiss_pqvae.data.batches import check_items, read_batches, read_rows, sample_rows
from faiss_pqvae.data.labels import check_supervision
from faiss_pqvae.index.export import export
from faiss_pqvae.index.refine import Batch, Decoder, StoredVectors, refine
from faiss_pqvae.index.transforms import Transformed, Transforms
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.native import faiss
from faiss_pqvae.native.files.io import is_mapped
from faiss_pqvae.native.inject import (
    check_metric,
    inject_codebooks,
    new_residual_index,
    prepare_search,
    train_coarse,
)
from faiss_pqvae.native.product import check_searchable
from faiss_pqvae.native.store.contents import first_levels
from faiss_pqvae.native.store.ids import as_ids, as_selector
from faiss_pqvae.native.store.store import Found, Store
from faiss_pqvae.types import CodeArray, FloatArray, IdArray

SearchType = Literal["adc", "sdc"]
Fit = Callable[..., list[dict[str, Any]]]

_SEARCH_TYPES = ("adc", "sdc")
_COARSE_POINTS = 256  # training vectors per inverted list, as many as FAISS's k-means takes


class LatentIndex:
    """Searches images or vectors by the codes that a PQ-VAE learned for them.

    The methods and their names are faiss.Index's, for every native index that holds the codes.
    Items are (n, c, h, w) or (n, d), uint8 or float (images of floats in [0, 1]): arrays, memory
    maps, tensors or sources. They are read, encoded and stored batch by batch, so that more than
    memory holds can be added (except to an HNSW index, which gets one call's latents at once).

    Args:
        model: the PQ-VAE; it decides about shapes, M and nbits.
        metric_type: faiss.METRIC_L2 or faiss.METRIC_INNER_PRODUCT, between latents.
        fit: how `train` trains a model: `fit(model, x, progress=..., folder=..., labels=...,
            word_vectors=...)`, the last three only where there are any, returning the history. None
            for an index that only serves.
        faiss_index: a native index over the latents: IndexPQ, IndexPQFastScan, IndexIVFPQ,
            IndexIVFPQFastScan or IndexHNSWPQ, or for "dpq" an IndexResidualQuantizer, alone or in
            an IDMap; it gets the codebooks of a trained model. None makes an IndexPQ.
        transforms: what happens to vectors before the model sees them.
        refine_index: a second look at what a search finds: a native index of flat codes over the
            flattened items, or "decoder" for the decoder's reconstructions.
        read_only: nothing may change, because the codes are a file mapped into memory.

    Raises:
        TypeError: a native index of another kind.
        ValueError: another metric; sizes that FAISS cannot search; parts whose sizes do not fit.

    Attributes:
        search_type: "adc" compares the query's latent with the codes; "sdc" quantizes the query
            too, the paper's symmetric tables, eq. (27 to 29). On a shared index set it once:
            it is no argument of a search.
        batch_size: items encoded at a time.
        refiner: what looks at results a second time, or None.
        k_factor: candidates per result that it looks at, FAISS's 1 by default.
        history: of the training, see `faiss_pqvae.training.fit`.
        description: the factory string that makes such an index.
    """

    def __init__(
        self,
        model: PQVAE,
        metric_type: int = faiss.METRIC_L2,
        *,
        fit: Fit | None = None,
        faiss_index: Any | None = None,
        transforms: Transforms | None = None,
        refine_index: Any | None = None,
        read_only: bool = False,
    ) -> None:
        if model.structure == "product":
            check_searchable(model.quantizer.dsub, model.nbits)
        check_metric(metric_type)
        self.model = model.eval()
        self.fit = fit
        self.transforms = transforms
        self.read_only = read_only
        self.batch_size = 1024
        self.k_factor = 1.0
        self.history: list[dict[str, Any]] = []
        code = {"dqn": "DQN", "dpq": "DPQ"}.get(model.config.objective, "PQVAE")
        self.description = f"{code}{model.M}x{model.nbits}"
        self._search_type: SearchType = "adc"
        if faiss_index is None:
            faiss_index = _new_native(model, metric_type)
        if (faiss_index.d, faiss_index.metric_type) != (model.latent_dim, metric_type):
            raise ValueError(
                f"expected a native index with d={model.latent_dim} and metric_type="
                f"{metric_type}, got d={faiss_index.d} and {faiss_index.metric_type}"
            )
        if transforms is not None and (transforms.d_out,) != model.input_shape:
            raise ValueError(
                f"expected transforms that give vectors of {model.input_shape}, got "
                f"{transforms.d_out} dimensions"
            )
        if transforms is not None and model.is_trained and not transforms.is_trained:
            raise ValueError("expected the transforms that the model was trained behind, trained")
        self._store = Store(faiss_index)
        if self._store.is_ivf and self._store.bare.by_residual and not faiss_index.is_trained:
            raise ValueError(
                "expected an inverted file with by_residual=False: a model's codebooks are those "
                "of latents, not of what a coarse centroid leaves over of them"
            )
        self.refiner = self._make_refiner(refine_index)
        if faiss_index.is_trained:
            prepare_search(faiss_index)  # it may just have been read
        elif model.is_trained and not faiss_index.ntotal:
            inject_codebooks(faiss_index, model.codebooks())

    def _make_refiner(self, index: Any) -> StoredVectors | Decoder | None:
        if index is None:
            return None
        if index == "decoder":
            return Decoder(self.model, lambda keys: self._store.reconstruct(keys), self.metric_type)
        if (index.d, index.metric_type) != (self.d, self.metric_type):
            raise ValueError(
                f"expected an index to refine with of d={self.d} and metric_type="
                f"{self.metric_type}, got d={index.d} and {index.metric_type}"
            )
        if index.ntotal != self.ntotal:
            raise ValueError(
                f"expected an index to refine with of {self.ntotal} items, got {index.ntotal}"
            )
        return StoredVectors(index, unit=self.model.config.unit_latents, has_ids=self._store.is_ivf)

    def __getstate__(self) -> dict[str, Any]:
        refiner = self.refiner
        how = refiner and "decoder"
        if isinstance(refiner, StoredVectors):
            how = refiner.index
        return {**self.__dict__, "_store": self.faiss_index, "refiner": how}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if state["_store"].is_trained:
            prepare_search(state["_store"])
        self._store = Store(state["_store"])
        self.refiner = self._make_refiner(state["refiner"])
        self.read_only = self.read_only and is_mapped(state["_store"])  # copies are in memory

    def __repr__(self) -> str:
        return (
            f"LatentIndex({self.description!r}, input_shape={self.input_shape}, "
            f"ntotal={self.ntotal}, is_trained={self.is_trained}, "
            f"search_type={self.search_type!r})"
        )

    # -- what faiss.Index tells about itself

    @property
    def faiss_index(self) -> Any:
        """The native index over the latent space, for everything else that FAISS does."""
        return self._store.index

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one item: (c, h, w) or (d,)."""
        return self.model.input_shape if self.transforms is None else (self.transforms.d_in,)

    @property
    def d(self) -> int:
        """Components of one item; the latents have `faiss_index.d`."""
        return math.prod(self.input_shape)

    @property
    def ntotal(self) -> int:
        """Number of items stored."""
        return int(self.faiss_index.ntotal)

    @property
    def is_trained(self) -> bool:
        """Whether items can be added and searched."""
        parts = (self.faiss_index, self.transforms, self._stored)
        return all(part.is_trained for part in parts if part is not None)

    @property
    def metric_type(self) -> int:
        """faiss.METRIC_L2 or faiss.METRIC_INNER_PRODUCT."""
        return int(self.faiss_index.metric_type)

    @property
    def search_type(self) -> SearchType:
        """How queries are compared: "adc" or "sdc"; nothing else can be set."""
        return self._search_type

    @search_type.setter
    def search_type(self, name: SearchType) -> None:
        if name not in _SEARCH_TYPES:
            raise ValueError(f"expected search_type 'adc' or 'sdc', got {name!r}")
        self._search_type = name

    @property
    def scan(self) -> str:
        """Which scan over the codes a search without a selector uses, in words."""
        self._check_trained()
        return self._store.scan_name

    @property
    def nprobe(self) -> int:
        """Inverted lists that a search visits, at most all; IVF only.

        Raises:
            ValueError: another kind of index, or a number below 1.
        """
        return int(self._ivf().nprobe)

    @nprobe.setter
    def nprobe(self, n: int) -> None:
        self._ivf().nprobe = min(at_least_1("nprobe", n), self._ivf().nlist)

    @property
    def efSearch(self) -> int:  # noqa: N802 - FAISS's name
        """Candidates that a search of the graph keeps; HNSW only.

        Raises:
            ValueError: another kind of index, or a number below 1.
        """
        return int(self._hnsw().efSearch)

    @efSearch.setter
    def efSearch(self, n: int) -> None:  # noqa: N802 - FAISS's name
        self._hnsw().efSearch = at_least_1("efSearch", n)

    def _ivf(self) -> Any:
        if not self._store.is_ivf:
            raise ValueError(f"{self.description} has no inverted lists, and so no nprobe")
        return self._store.bare

    def _hnsw(self) -> Any:
        if not self._store.is_hnsw:
            raise ValueError(f"{self.description} has no HNSW graph, and so no efSearch")
        return self._store.bare.hnsw

    @property
    def train_s(self) -> float:
        """Seconds that the training took, those before an interruption included."""
        return float(self.history[-1]["elapsed_s"]) if self.history else 0.0

    def sa_code_size(self) -> int:
        """Bytes of a stored item's code, the number of its inverted list included."""
        return self._store.sa_code_size()

    # -- training

    def train(
        self,
        x: Any,
        labels: Any = None,
        *,
        word_vectors: Any = None,
        folder: Any = None,
        progress: bool = True,
    ) -> None:
        """Trains encoder, decoder and codebooks end to end and injects the codebooks.

        Transforms are fitted before, a coarse quantizer to the latents afterwards. A model that
        is trained already, in an index that is not, stays as it is.

        Args:
            x: (n, *input_shape) uint8 or float, n >= 4; all of it is read once before the
                training, so that NaN is found early.
            labels: for DQN and DPQ: (n,) integers, one class an item, -1 where it is not known; or
                (n, C) bool, several.
            word_vectors: for DPQ: (C, e) floats, one a class in the order of their numbers; None
                learns what stands for a class.
            folder: where log and checkpoints go; the same call continues an interrupted training.
            progress: draw a bar, where standard error is a terminal.

        Raises:
            TypeError, ValueError: wrong items, NaN or infinity; wrong labels, none for DQN or DPQ,
                or some for PQVAE; an index that holds items, which would lose their meaning; an
                index without a `fit`. The index is then as before.
        """
        self._check_writable()
        if self.ntotal:
            raise ValueError(
                f"expected an empty index, got {self.ntotal} items, whose codes would lose their "
                "meaning: call reset() first"
            )
        ready = self.model.is_trained and not self.is_trained
        if self.fit is None and not ready:
            raise ValueError("this index only serves: make one that trains by index_factory")
        check_items(x, self.input_shape, "training data")
        given = {"labels": labels, "word_vectors": word_vectors}
        if not ready:  # wrong labels are found before anything is trained
            check_supervision(self.model.config, labels, word_vectors, len(x))
        if x.dtype not in (np.dtype(np.uint8), torch.uint8):
            for _ in read_batches(x, self.batch_size, "training data"):
                pass
        if self._store.is_ivf and len(x) < self._store.bare.nlist:  # before hours, not after
            raise ValueError(
                f"expected at least as many items as inverted lists, {self._store.bare.nlist}, to "
                f"train with, got {len(x)}"
            )
        # Everything is made beside what there is: an interruption leaves the index as it was.
        new = copy.deepcopy(self)
        if new._stored is not None:
            new._stored.train(x, "training data")
        if not ready:
            if new.transforms is not None:
                new.transforms = new.transforms.trained(x, "training data")
            given["folder"] = folder
            options = {name: value for name, value in given.items() if value is not None}
            inputs = new._inputs_of(x)
            assert self.fit is not None
            new.history = self.fit(new.model, inputs, progress=progress, **options)
            new.model.eval()
        inject_codebooks(new.faiss_index, new.model.codebooks())
        new._train_coarse(x)
        self.__setstate__(new.__getstate__())

    def _inputs_of(self, x: Any) -> Any:
        if self.transforms is None:
            return x
        return Transformed(x, self.transforms, "training data")

    def _train_coarse(self, x: Any) -> None:
        if not self._store.is_ivf:
            return
        rows = sample_rows(len(x), _COARSE_POINTS * self._store.bare.nlist)
        latents = [
            self._batch(read_rows(x, rows[start : start + self.batch_size], "training data")).z
            for start in range(0, len(rows), self.batch_size)
        ]
        self._store.bare.quantizer.reset()  # of a training before
        try:
            train_coarse(self.faiss_index, np.concatenate(latents))
        except RuntimeError as error:
            raise ValueError(f"FAISS cannot train the coarse quantizer: {error}") from error

    # -- storing

    def add(self, x: Any) -> None:
        """Encodes and stores items; they get the ids ntotal, ntotal + 1 and so on.

        In inverted lists from which items were removed, one of these may be there already, as in
        FAISS: give ids of your own then.

        Args:
            x: (n, *input_shape) uint8 or float, n >= 1.

        Raises:
            TypeError, ValueError: wrong items, NaN or infinity, an untrained index, an IDMap
                (`add_with_ids`). Nothing is added then, nor when the reading of `x` fails half way.
        """
        self._add(x, None)

    def add_with_ids(self, x: Any, ids: Any) -> None:
        """As `add`, under ids of one's own: (n,) int64, of an IDMap or inverted lists.

        Raises:
            TypeError, ValueError: as `add`; other ids than integers; another number of them; an
                index that numbers its items itself.
        """
        if ids is None:
            raise TypeError("expected ids of dtype int64, got None")
        self._add(x, ids)

    def _add(self, x: Any, ids: Any) -> None:
        self._check_writable()
        self._check_items(x, "items to add")
        given = self._store.check_ids(ids, len(x))

        if self._stored is None:
            self._store.add((batch.z for batch in self._batches(x, "items to add")), given)
            return
        # What the native index will call the new items.
        keys = np.arange(self.ntotal, self.ntotal + len(x))
        if given is not None and not self._store.has_id_map:
            keys = given
        self._stored.check_new(keys)
        with self._stored.all_or_nothing():
            self._store.add(self._latents_stored(x, self._stored, keys), given)

    def _latents_stored(self, x: Any, stored: StoredVectors, keys: IdArray) -> Iterator[FloatArray]:
        """Latents of items that, batch by batch, are stored under their keys on the way."""
        start = 0
        for batch in self._batches(x, "items to add"):
            stored.add(batch, keys[start : start + len(batch.z)])
            yield batch.z
            start += len(batch.z)

    @property
    def _stored(self) -> StoredVectors | None:
        return self.refiner if isinstance(self.refiner, StoredVectors) else None

    def add_sa_codes(self, codes: CodeArray, ids: Any = None) -> None:
        """Stores codes that `sa_encode` made.

        Args:
            codes: (n, sa_code_size()) uint8.
            ids: (n,) int64 where the index takes ids, None otherwise.

        Raises:
            TypeError, ValueError: wrong codes or ids; an untrained index; one that refines with
                the items themselves, which codes do not hold.
        """
        self._check_writable()
        self._check_trained()
        if self._stored is not None:
            raise ValueError(
                "this index refines with the items themselves, and codes do not hold them: use add"
            )
        codes = self._check_codes(codes)
        self._store.add_sa_codes(codes, self._store.check_ids(ids, len(codes)))

    def remove_ids(self, sel: Any) -> int:
        """Removes items. Without inverted lists or an IDMap later ones move up, as in FAISS.

        Args:
            sel: a faiss.IDSelector, or ids (n,) int64; ids that are not there do no harm.

        Returns:
            How many were removed.

        Raises:
            TypeError: ids that are not integers.
            ValueError: an HNSW index, whose graph cannot lose items.
        """
        self._check_writable()
        sel = as_selector(sel)
        if self._stored is not None and not self._store.is_hnsw:
            self._stored.index.remove_ids(self._store.over_keys(sel))
        removed, renumbered = self._store.remove(sel)
        if self._stored is not None and renumbered is not None:
            self._stored.renumber(renumbered)
        return removed

    def merge_from(self, other: LatentIndex, add_id: int = 0) -> None:
        """Takes the items of another index over; it is empty afterwards.

        Args:
            other: an index with the same model and of the same kind.
            add_id: added to its ids, where an index keeps ids.

        Raises:
            TypeError, ValueError: an index that cannot be merged; both are then as before.
        """
        self.check_compatible_for_merge(other)
        add_id = operator.index(add_id)
        if add_id and not (self._store.has_id_map or self._store.is_ivf):
            raise ValueError(
                f"expected add_id=0 for an index that numbers its items itself, got {add_id}"
            )
        if self._stored is not None and other._stored is not None:
            places = self._store.has_id_map
            self._stored.merge(other._stored, self.ntotal if places else add_id)
        self._store.merge(other._store, add_id)

    def check_compatible_for_merge(self, other: LatentIndex) -> None:
        """Whether `merge_from` can take another index.

        Raises:
            TypeError: no LatentIndex.
            ValueError: another model, another kind of index, or one that cannot be merged.
        """
        if not isinstance(other, LatentIndex):
            raise TypeError(f"expected a LatentIndex, got {type(other).__name__}")
        self._check_writable()
        other._check_writable()
        if self is other:
            raise ValueError("expected another index, got the index itself")
        if not _same_weights(self.model, other.model):
            raise ValueError("expected an index with the same model, got one with other weights")
        if self.transforms != other.transforms:
            raise ValueError("expected an index with the same transforms, got other ones")
        kinds = [_refines_by(index.refiner) for index in (self, other)]
        if kinds[0] != kinds[1]:
            raise ValueError(f"expected an index that refines by {kinds[0]}, got {kinds[1]}")
        if self._stored is not None and other._stored is not None:
            self._stored.check_compatible(other._stored)
        self._store.check_compatible(other._store)

    def reset(self) -> None:
        """Forgets the items, keeps the training."""
        self._check_writable()
        self._store.reset()
        if self._stored is not None:
            self._stored.reset()

    # -- searching

    def search(
        self,
        x: Any,
        k: int,
        *,
        params: Any = None,
        D: FloatArray | None = None,
        I: IdArray | None = None,  # noqa: E741
    ) -> Found:
        """Finds the k nearest stored items of every query.

        Args:
            x: (n, *input_shape) uint8 or float, n >= 1.
            k: results per query, k >= 1. Beyond ntotal the ids are -1, as in FAISS.
            params: faiss.SearchParameters with a selector of ids, or the parameters of the index's
                kind (SearchParametersIVF, SearchParametersHNSW, IndexRefineSearchParameters).
            D: (n, k) float32 to write distances to.
            I: (n, k) int64 to write ids to.

        Returns:
            D (n, k) float32, squared L2 distances or inner products between latents (between
            items, where the search is refined), best first; I (n, k) int64, ids.

        Raises:
            TypeError, ValueError: wrong queries, NaN or infinity, k < 1, an untrained index,
                parameters of another kind of index, outputs of another shape.
        """
        return self._search(x, k, params, D, I)[:2]

    def _search(
        self, x: Any, k: int, params: Any, *outputs: Any
    ) -> tuple[FloatArray, IdArray, FloatArray | None]:
        """Fills D, I and, where a third output is asked for, R."""
        k = check_k(k)
        self._check_items(x, "queries")
        k_factor, params = self._refine_parameters(params)
        D = output(outputs[0], (len(x), k), np.float32, "D")
        I = output(outputs[1], (len(x), k), np.int64, "I")  # noqa: E741
        R = None
        if len(outputs) == 3:
            R = output(outputs[2], (len(x), k, self.model.latent_dim), np.float32, "R")
        start = 0
        for batch in self._batches(x, "queries"):
            rows = slice(start, start + len(batch.z))
            how = {"params": params, "sdc": self.search_type == "sdc"}
            if self.refiner is not None:
                candidates = max(k, min(int(k * k_factor), self.ntotal))
                _, keys = self._store.search(batch.z, candidates, **how)
                D[rows], keys = refine(self.refiner, batch, keys, k, self.metric_type)
                if R is not None:
                    R[rows] = self._store.reconstruct_found(keys)
            elif R is not None:
                D[rows], keys, R[rows] = self._store.search_and_reconstruct(batch.z, k, **how)
            else:
                D[rows], keys = self._store.search(batch.z, k, **how)
            I[rows] = self._store.ids(keys)
            start = rows.stop
        return D, I, R

    def range_search(
        self, x: Any, thresh: float, *, params: Any = None
    ) -> tuple[npt.NDArray[np.uint64], FloatArray, IdArray]:
        """Finds all stored items closer than a threshold, between latents.

        Args:
            x: (n, *input_shape) uint8 or float, n >= 1.
            thresh: squared L2 distance that results stay below, or inner product they exceed.
            params: as in `search`.

        Returns:
            lims (n + 1,) uint64, D (lims[n],) float32 and I (lims[n],) int64: the results of
            query i are those from lims[i] to lims[i + 1], in no order.

        Raises:
            TypeError, ValueError: as `search`; a threshold that is no finite number; an index
                that refines, whose distances and thresholds would be in two spaces.
        """
        if self.refiner is not None:
            raise ValueError(
                "a refined index has no range_search: the threshold would be between latents and "
                "the distances between items; search with k, or make the index without refinement"
            )
        thresh = float(thresh)
        if not math.isfinite(thresh):
            raise ValueError(f"expected a finite threshold, got {thresh}")
        found = [
            self._store.range_search(batch.z, thresh, params=params, sdc=self.search_type == "sdc")
            for batch in self._batches(x, "queries")
        ]
        counts = np.concatenate([np.diff(lims) for lims, _, _ in found])
        lims = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
        D = np.concatenate([distances for _, distances, _ in found])
        return lims, D, self._store.ids(np.concatenate([keys for _, _, keys in found]))

    def search_and_reconstruct(
        self,
        x: Any,
        k: int,
        *,
        params: Any = None,
        D: FloatArray | None = None,
        I: IdArray | None = None,  # noqa: E741
        R: FloatArray | None = None,
    ) -> tuple[FloatArray, IdArray, FloatArray]:
        """As `search`, with the quantized latents of the results.

        Returns:
            D, I, and R (n, k, faiss_index.d) float32, NaN where the id is -1.

        Raises:
            TypeError, ValueError: as `search`.
        """
        D, I, found = self._search(x, k, params, D, I, R)  # noqa: E741
        assert found is not None
        return D, I, found

    def assign(self, x: Any, k: int = 1, labels: IdArray | None = None) -> IdArray:
        """The ids (n, k) int64 that `search` finds."""
        return self.search(x, k, I=labels)[1]

    def _refine_parameters(self, params: Any) -> tuple[float, Any]:
        if not isinstance(params, faiss.IndexRefineSearchParameters):
            return _check_k_factor(self.k_factor), params
        if self.refiner is None:
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
        return _check_k_factor(params.k_factor), inner

    # -- latents and codes

    def encode(self, x: Any) -> FloatArray:
        """Latents of items: (n, *input_shape) to (n, faiss_index.d) float32."""
        return np.concatenate([batch.z for batch in self._batches(x, "items to encode")])

    def decode(self, z: FloatArray) -> FloatArray:
        """Latents (n, faiss_index.d) float32 back to items (n, *input_shape) float32.

        Raises:
            ValueError: a wrong shape, NaN or infinity, an untrained index, a transform before the
                encoder that cannot be undone.
        """
        self._check_trained()
        check_items(z, (self.model.latent_dim,), "latents")
        device = self.model.device
        with torch.inference_mode():
            items = np.concatenate(
                [
                    self.model.decode(batch.to(device)).cpu().numpy()
                    for batch in read_batches(z, self.batch_size, "latents")
                ]
            )
        return items if self.transforms is None else self.transforms.reverse(items)

    def reconstruct(self, key: int, x: FloatArray | None = None) -> FloatArray:
        """The quantized latent (faiss_index.d,) float32 of a stored item.

        Args:
            key: its id.
            x: (faiss_index.d,) float32 to write to.

        Raises:
            ValueError: no such id.
        """
        out = None if x is None else output(x, (self.model.latent_dim,), np.float32, "x")[None]
        latent: FloatArray = self.reconstruct_batch([operator.index(key)], out)[0]
        return latent

    def reconstruct_batch(self, key: Any, x: FloatArray | None = None) -> FloatArray:
        """The quantized latents (n, faiss_index.d) float32 of stored items.

        The ids of an IDMap (not of an IDMap2), and those of inverted lists without a direct map,
        are looked through.

        Args:
            key: (n,) int64 ids.
            x: (n, faiss_index.d) float32 to write to.

        Raises:
            TypeError: ids that are not integers.
            ValueError: no such id, an untrained index.
        """
        self._check_trained()
        ids = as_ids(key)
        latents = self._store.reconstruct_ids(ids)
        x = output(x, latents.shape, np.float32, "x")
        x[:] = latents
        return x

    def reconstruct_n(self, n0: int = 0, ni: int = -1, x: FloatArray | None = None) -> FloatArray:
        """The quantized latents (ni, faiss_index.d) float32 of the ids n0 to n0 + ni.

        Args:
            n0: the first id.
            ni: how many; -1 for all from n0 to ntotal.
            x: (ni, faiss_index.d) float32 to write to.

        Raises:
            ValueError: an id that is not there, an untrained index.
        """
        n0, ni = operator.index(n0), operator.index(ni)
        ni = self.ntotal - n0 if ni == -1 else ni
        if n0 < 0 or ni < 0:
            raise ValueError(f"expected n0 in [0, {self.ntotal}] and ni >= 0, got {n0} and {ni}")
        return self.reconstruct_batch(np.arange(n0, n0 + ni), x)

    def compute_residual(self, x: Any, key: int) -> FloatArray:
        """The latent of one item (*input_shape) less that of a stored one: (faiss_index.d,)."""
        residual: FloatArray = self.compute_residual_n(x[None], [operator.index(key)])[0]
        return residual

    def compute_residual_n(self, x: Any, keys: Any) -> FloatArray:
        """Latents of items (n, *input_shape) less those of stored ones, ids (n,) int64.

        Raises:
            TypeError, ValueError: wrong items or ids, another number of ids, no such id.
        """
        self._check_items(x, "items")
        ids = as_ids(keys, len(x))
        return self.encode(x) - self.reconstruct_batch(ids)

    def sa_encode(self, x: Any, codes: CodeArray | None = None) -> CodeArray:
        """Codes of items: (n, *input_shape) to (n, sa_code_size()) uint8; stores nothing."""
        self._check_items(x, "items to encode")
        codes = output(codes, (len(x), self.sa_code_size()), np.uint8, "codes")
        start = 0
        for batch in self._batches(x, "items to encode"):
            codes[start : start + len(batch.z)] = self._store.sa_encode(batch.z)
            start += len(batch.z)
        return codes

    def sa_decode(self, codes: CodeArray, x: FloatArray | None = None) -> FloatArray:
        """Codes (n, sa_code_size()) uint8 to quantized latents (n, faiss_index.d) float32.

        Raises:
            TypeError: codes of another dtype.
            ValueError: a wrong shape, an untrained index, a code of no inverted list.
        """
        self._check_trained()
        codes = self._check_codes(codes)
        x = output(x, (len(codes), self.model.latent_dim), np.float32, "x")
        x[:] = self._store.sa_decode(codes)
        return x

    def prefix(self, n_levels: int) -> LatentIndex:
        """The index of the first blocks of DPQ, from the codes that are stored here.

        Nothing is trained or encoded again. The copy shares nothing with this index.

        Args:
            n_levels: blocks, from 1 to M.

        Returns:
            An index of the same items and ids with codes of n_levels * nbits bits, which serves
            and can be added to; what refines the search stays away.

        Raises:
            ValueError: an untrained index; another number of blocks; codes that have no prefixes.
        """
        self._check_trained()
        model = self.model.prefix(n_levels)
        prefix = LatentIndex(
            model,
            self.metric_type,
            faiss_index=first_levels(self.faiss_index, n_levels),
            transforms=copy.deepcopy(self.transforms),
        )
        before, _, _ = self.description.partition("DPQ")
        prefix.description = f"{before}DPQ{n_levels}x{model.nbits}"
        prefix.search_type, prefix.batch_size = self.search_type, self.batch_size
        prefix.history = copy.deepcopy(self.history)
        return prefix

    def to_faiss(self) -> Any:
        """A pure FAISS index, a copy, that C++ can read and search without torch.

        With a linear encoder (of "reconstruction" or "dqn") it takes the items themselves,
        flattened: an IndexPreTransform of the transforms, the encoder and the latent index, in an
        IndexRefine where the search is refined. With any other no FAISS index can do that: it takes
        latents then, what `encode` gives.

        Raises:
            ValueError: an untrained index.
        """
        self._check_trained()
        return export(self.model, self.faiss_index, self.transforms, self.refiner, self.k_factor)

    # -- checks and batches

    def _batches(self, x: Any, what: str) -> Iterator[Batch]:
        self._check_items(x, what)
        for items in read_batches(x, self.batch_size, what):
            yield self._batch(items)

    def _batch(self, items: torch.Tensor) -> Batch:
        inputs = items if self.transforms is None else self.transforms.apply(items)
        with torch.inference_mode():
            inputs = inputs.to(self.model.device)
            z = self.model.encode(inputs).cpu().contiguous()
        # FAISS counts an item without finite distances, but no inverted list gets it.
        if not (4 * z.square().sum(-1)).isfinite().all():
            raise ValueError("expected items with latents below 1e18, got larger ones or NaN")
        return Batch(items, inputs, z.numpy())

    def _check_items(self, x: Any, what: str) -> None:
        self._check_trained()
        check_items(x, self.input_shape, what)

    def _check_codes(self, codes: Any) -> CodeArray:
        codes = np.asarray(codes)
        if codes.dtype != np.uint8:
            raise TypeError(f"expected codes of dtype uint8, got {codes.dtype}")
        if codes.ndim != 2 or codes.shape[1] != self.sa_code_size():
            raise ValueError(
                f"expected codes of shape (n, {self.sa_code_size()}), got {codes.shape}"
            )
        return np.ascontiguousarray(codes)

    def _check_trained(self) -> None:
        if not self.is_trained:
            raise ValueError("the index is not trained yet: call train(x) first")

    def _check_writable(self) -> None:
        if self.read_only:
            raise ValueError(
                "the index is a memory-mapped file and cannot change: read it with mmap=False"
            )


def _new_native(model: PQVAE, metric_type: int) -> Any:
    """The native index that scans all codes of a model."""
    if model.structure == "residual":
        return new_residual_index(model.latent_dim, model.M, model.nbits)
    return faiss.IndexPQ(model.latent_dim, model.M, model.nbits, metric_type)


def check_k(k: int) -> int:
    """A number of results as an int.

    Raises:
        TypeError: no integer.
        ValueError: below 1.
    """
    return at_least_1("k", k)


def _check_k_factor(k_factor: float) -> float:
    if not (math.isfinite(k_factor) and k_factor >= 1):
        raise ValueError(f"expected k_factor >= 1, got {k_factor}")
    return float(k_factor)


def _refines_by(refiner: StoredVectors | Decoder | None) -> str:
    if isinstance(refiner, StoredVectors):
        return refiner.kind
    return "nothing" if refiner is None else "the decoder"


def _same_weights(a: PQVAE, b: PQVAE) -> bool:
    states = a.state_dict(), b.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(value.cpu(), states[1][name].cpu()) for name, value in states[0].items()
    )
