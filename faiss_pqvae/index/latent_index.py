"""LatentIndex: a model that encodes and a native FAISS index that stores and searches."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from faiss_pqvae.arguments import at_least_1, output
from faiss_pqvae.data.batches import check_items, read_batches
from faiss_pqvae.index.encoding import Batch, Encoding
from faiss_pqvae.index.export import export
from faiss_pqvae.index.front import Front
from faiss_pqvae.index.refine import made_of, make_refiner, refine_parameters, refines_by
from faiss_pqvae.index.searching import Search
from faiss_pqvae.index.storing import Stock
from faiss_pqvae.index.training import WHAT, Fit, Parts, checked_fit, read_training, train_parts
from faiss_pqvae.index.transforms import Transforms
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.native import faiss
from faiss_pqvae.native.files.io import is_mapped
from faiss_pqvae.native.inject import (
    check_metric,
    inject_codebooks,
    new_residual_index,
    prepare_search,
)
from faiss_pqvae.native.product import check_searchable
from faiss_pqvae.native.store.contents import first_levels
from faiss_pqvae.native.store.ids import as_ids
from faiss_pqvae.native.store.store import Store
from faiss_pqvae.types import CodeArray, FloatArray, IdArray

SearchType = Literal["adc", "sdc"]

_SEARCH_TYPES = ("adc", "sdc")


class LatentIndex:
    """Searches images or vectors by the codes that a PQ-VAE learned for them.

    The methods and their names are faiss.Index's, for every native index that holds the codes.
    Items are (n, c, h, w) or (n, d), uint8 or float (images of floats in [0, 1]): arrays, memory
    maps, tensors or sources. They are read, encoded and stored batch by batch, so that more than
    memory holds can be added (except to an HNSW index, which gets one call's latents at once).

    Args:
        model: the PQ-VAE; it decides about shapes, M and nbits.
        metric_type: faiss.METRIC_L2 or faiss.METRIC_INNER_PRODUCT, between latents.
        fit: how `train` trains a model; None for an index that only serves.
        faiss_index: a native index over the latents: IndexPQ, IndexPQFastScan, IndexIVFPQ,
            IndexIVFPQFastScan or IndexHNSWPQ, or for "dpq" an IndexResidualQuantizer, alone or in
            an IDMap; it gets the codebooks of a trained model. None makes an IndexPQ.
        transforms: what happens to vectors before the model sees them.
        refine_index: a second look at what a search finds: a native index of flat codes over the
            flattened items (their features, behind a front), or "decoder" for the decoder's
            reconstructions.
        read_only: nothing may change, because the codes are a file mapped into memory.
        front: a frozen network of somebody else at the very edge: all that follows, transforms,
            refinement, model and `decode`, treats the features that it gives as the items.

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
        front: Front | None = None,
    ) -> None:
        if model.structure == "product":
            check_searchable(model.quantizer.dsub, model.nbits)
        check_metric(metric_type)
        self.model = model.eval()
        self.fit = fit
        self.transforms = transforms
        self.front = front
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
        self._encoding.check()
        self._store = Store(faiss_index)
        if self._store.is_ivf and self._store.bare.by_residual and not faiss_index.is_trained:
            raise ValueError(
                "expected an inverted file with by_residual=False: a model's codebooks are those "
                "of latents, not of what a coarse centroid leaves over of them"
            )
        self.refiner = make_refiner(refine_index, self._encoding, self._store)
        if faiss_index.is_trained:
            prepare_search(faiss_index)  # it may just have been read
        elif model.is_trained and not faiss_index.ntotal:
            inject_codebooks(faiss_index, model.codebooks())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_store": self.faiss_index, "refiner": made_of(self.refiner)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if state["_store"].is_trained:
            prepare_search(state["_store"])
        self._store = Store(state["_store"])
        self.refiner = make_refiner(state["refiner"], self._encoding, self._store)
        self.read_only = self.read_only and is_mapped(state["_store"])  # copies are in memory

    def __repr__(self) -> str:
        front = "" if self.front is None else f", front={self.front}"
        return (
            f"LatentIndex({self.description!r}, input_shape={self.input_shape}, "
            f"ntotal={self.ntotal}, is_trained={self.is_trained}, "
            f"search_type={self.search_type!r}{front})"
        )

    # -- what faiss.Index tells about itself

    @property
    def faiss_index(self) -> Any:
        """The native index over the latent space, for everything else that FAISS does."""
        return self._store.index

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one item: (c, h, w) or (d,)."""
        return self._encoding.input_shape

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
        parts = (self.faiss_index, self.transforms, self._stock.vectors)
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
        check_items(x, self.input_shape, WHAT)
        folder, fit = None if folder is None else Path(folder), None
        if self.fit is not None and not ready:  # wrong labels are found before anything is trained
            given = {"labels": labels, "word_vectors": word_vectors}
            how = {"folder": folder, "progress": progress}
            fit = checked_fit(self.fit, self.model, len(x), **given, **how)
        nlist = self._store.bare.nlist if self._store.is_ivf else None
        how = {"batch_size": self.batch_size, "progress": progress}
        seen = read_training(x, self.front, nlist, folder, **how)
        parts = Parts(self._encoding.behind_front(), self._store, self.refiner, self.history)
        new = train_parts(parts, seen, fit, batch_size=self.batch_size)
        self.model, self.transforms = new.encoding.model, new.encoding.transforms
        self._store, self.refiner, self.history = new.store, new.refiner, new.history

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
        self._stock.add(self._batches(x, "items to add"), len(x), ids)

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
        self._stock.add_sa_codes(self._check_codes(codes), ids)

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
        return self._stock.remove(sel)

    def merge_from(self, other: LatentIndex, add_id: int = 0) -> None:
        """Takes the items of another index over; it is empty afterwards.

        Args:
            other: an index with the same model and of the same kind.
            add_id: added to its ids, where an index keeps ids.

        Raises:
            TypeError, ValueError: an index that cannot be merged; both are then as before.
        """
        self.check_compatible_for_merge(other)
        self._stock.merge(other._stock, operator.index(add_id))

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
        if self.front != other.front:
            raise ValueError(f"expected an index behind {self.front}, got one behind {other.front}")
        kinds = [refines_by(index.refiner) for index in (self, other)]
        if kinds[0] != kinds[1]:
            raise ValueError(f"expected an index that refines by {kinds[0]}, got {kinds[1]}")
        self._stock.check_compatible(other._stock)

    def reset(self) -> None:
        """Forgets the items, keeps the training."""
        self._check_writable()
        self._stock.reset()

    # -- searching

    def search(
        self,
        x: Any,
        k: int,
        *,
        params: Any = None,
        D: FloatArray | None = None,
        I: IdArray | None = None,  # noqa: E741
    ) -> tuple[FloatArray, IdArray]:
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
        k_factor, params = refine_parameters(params, self.k_factor, self.refiner)
        D = output(outputs[0], (len(x), k), np.float32, "D")
        I = output(outputs[1], (len(x), k), np.int64, "I")  # noqa: E741
        R = None
        if len(outputs) == 3:
            R = output(outputs[2], (len(x), k, self.model.latent_dim), np.float32, "R")
        self._how(params, k_factor).nearest(self._batches(x, "queries"), D, I, R)
        return D, I, R

    def _how(self, params: Any, k_factor: float = 1.0) -> Search:
        return Search(self._store, self.refiner, k_factor, params, sdc=self.search_type == "sdc")

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
        return self._how(params).within(self._batches(x, "queries"), thresh)

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

    # -- latents and codes

    def encode(self, x: Any) -> FloatArray:
        """Latents of items: (n, *input_shape) to (n, faiss_index.d) float32."""
        return np.concatenate([batch.z for batch in self._batches(x, "items to encode")])

    def decode(self, z: FloatArray) -> FloatArray:
        """Latents (n, faiss_index.d) float32 back to items (n, *input_shape) float32.

        Behind a front to its features (n, front.d_out), which nothing turns into items.

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
            front=self.front,
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
        IndexRefine where the search is refined; behind a front their features. With any other no
        FAISS index can do that: it takes latents then, what `encode` gives.

        Raises:
            ValueError: an untrained index.
        """
        self._check_trained()
        return export(self.model, self.faiss_index, self.transforms, self.refiner, self.k_factor)

    # -- checks and batches

    @property
    def _encoding(self) -> Encoding:
        return Encoding(self.model, self.transforms, self.front)

    @property
    def _stock(self) -> Stock:
        return Stock.of(self._store, self.refiner)

    def _batches(self, x: Any, what: str) -> Iterator[Batch]:
        self._check_trained()
        yield from self._encoding.batches(x, self.batch_size, what)

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


def _same_weights(a: PQVAE, b: PQVAE) -> bool:
    states = a.state_dict(), b.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(value.cpu(), states[1][name].cpu()) for name, value in states[0].items()
    )
