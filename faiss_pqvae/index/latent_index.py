"""LatentIndex: a model that encodes and a native FAISS index that stores and searches."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from faiss_pqvae.arguments import at_least_1, check_attribute, instance, integer, output
from faiss_pqvae.data.batches import check_items
from faiss_pqvae.foreign import as_ids
from faiss_pqvae.index.encoding import Batch, Encoding
from faiss_pqvae.index.export import export
from faiss_pqvae.index.following import after_adding, after_merging, after_removing
from faiss_pqvae.index.front import Front
from faiss_pqvae.index.items import Items, check_items_fit
from faiss_pqvae.index.refine import Refiner, check_k_factor, refine_parameters
from faiss_pqvae.index.residual_codes import residual_codes
from faiss_pqvae.index.searching import Search, check_k
from faiss_pqvae.index.storing import Stock, new_stock
from faiss_pqvae.index.training import Fit, Parts, trained
from faiss_pqvae.index.transforms import Transforms
from faiss_pqvae.model.pqvae import EFFORT, PQVAE
from faiss_pqvae.native.coarse import clustering_of, set_clustering
from faiss_pqvae.native.files.io import is_mapped
from faiss_pqvae.native.kinds.graph import MAX_EF
from faiss_pqvae.native.store.contents import first_levels
from faiss_pqvae.native.store.store import Store
from faiss_pqvae.types import CodeArray, FloatArray, IdArray

SearchType = Literal["adc", "sdc"]

_SEARCH_TYPES = ("adc", "sdc")
# What is set is checked at once, and not by the next search.
SETTINGS: dict[str, Callable[[Any], Any]] = {
    "batch_size": partial(at_least_1, "batch_size"),
    "effort": lambda effort: integer("effort", effort, 0),
    "k_factor": check_k_factor,
}
_MAPPED = "the index is a memory-mapped file and cannot change: read it with mmap=False"


class LatentIndex:
    """Searches images or vectors by the codes that a PQ-VAE learned for them.

    The methods and their names are faiss.Index's, for every native index that holds the codes.
    Items are (n, c, h, w) or (n, d), uint8 or float (images of floats in [0, 1]): arrays, memory
    maps, tensors or sources. They are read, encoded and stored batch by batch, so that more than
    memory holds can be added (except to an HNSW index, which gets one call's latents at once).

    Args:
        model: the PQ-VAE; it decides about shapes, M and nbits.
        metric_type: "l2", "inner_product" or "ip", FAISS's METRIC_L2 or METRIC_INNER_PRODUCT,
            between latents, or "cosine" between those of length 1; None takes what the model's
            codes are made for.
        fit: how `train` trains a model; None for an index that only serves.
        faiss_index: a native index over the latents: IndexPQ, IndexPQFastScan, IndexIVFPQ,
            IndexIVFPQFastScan or IndexHNSWPQ, or for residual codes an IndexResidualQuantizer,
            alone or in an IDMap; it gets the codebooks of a trained model. None makes the one that
            scans all codes.
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
        batch_size: items encoded at a time, 1 or more.
        refiner: what looks at results a second time, or None.
        k_factor: candidates per result that it looks at, FAISS's 1 by default, and 10 where the
            decoder refines, which looks at candidates for at least 10 results.
        effort: of the choice of codes in `add`, of an additive code: as many beginnings of codes
            are kept at every step; where a deep decoder gives items back, of twice as many that are
            decoded. 0 takes the codewords that seem nearest one by one, and is the fastest.
        history: of the training, see `faiss_pqvae.training.fit`.
        description: the factory string that makes such an index.
    """

    model: PQVAE
    fit: Fit | None
    transforms: Transforms | None
    front: Front | None
    read_only: bool
    batch_size: int
    k_factor: float
    effort: int
    history: list[dict[str, Any]]
    description: str
    refiner: Refiner | None

    def __init__(
        self,
        model: PQVAE,
        metric_type: int | str | None = None,
        *,
        fit: Fit | None = None,
        faiss_index: Any | None = None,
        transforms: Transforms | None = None,
        refine_index: Any | None = None,
        read_only: bool = False,
        front: Front | None = None,
    ) -> None:
        instance("model", model, PQVAE, "index_factory makes one of a description")
        if transforms is not None:
            instance("transforms", transforms, Transforms, "Transforms.from_description makes them")
        self.model, self.fit = model.eval(), fit
        self.transforms, self.front = transforms, front
        self.read_only = read_only
        self.batch_size, self.effort = 1024, EFFORT
        self.k_factor = 10.0 if refine_index == "decoder" else 1.0
        self.history = []
        self.description = f"{model.spec.name}{model.M}x{model.nbits}"
        self._search_type: SearchType = "adc"
        self._items: Items | None = None
        stock = new_stock(
            self._encoding,
            metric_type,
            faiss_index,
            refine_index,
            takes_coarse=fit is not None and fit.takes_coarse,
        )
        self._store: Store = stock.store
        self.refiner = stock.refiner

    def __setattr__(self, name: str, value: Any) -> None:
        check_attribute(self, name)
        check = SETTINGS.get(name)
        super().__setattr__(name, value if check is None else check(value))

    def __len__(self) -> int:
        return self.ntotal

    def __getstate__(self) -> dict[str, Any]:
        native, refine_index = self._stock.state()
        parts = {"_store": native, "refiner": refine_index}
        return {**self.__dict__, **parts, "clustering": clustering_of(native)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        set_clustering(state["_store"], state.pop("clustering", {}))
        self.__dict__.update(state)
        stock = Stock.over(state["_store"], state["refiner"], self._encoding)
        self._store, self.refiner = stock.store, stock.refiner
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
    def takes_ids(self) -> bool:
        """Whether items have ids of one's own, as in an IDMap or inverted lists."""
        return self._store.has_id_map or self._store.has_lists

    @property
    def items(self) -> Items | None:
        """What the items are called, `items.names(I)`; None where nobody knows any.

        It follows every change: what is added has no name until this is set again, an id that is
        there twice loses it, and `reset` forgets all. A ValueError for names of more items than
        there are, or of ids that an index which counts its items does not have.
        """
        return self._items

    @items.setter
    def items(self, items: Items | None) -> None:
        if items is not None:
            instance("items", items, Items, "as in Items.of_names(names)")
            check_items_fit(items, self.ntotal, counted=not self.takes_ids)
        self._items = items

    @property
    def scan(self) -> str:
        """Which scan over the codes a search without a selector uses, in words."""
        self._check_trained()
        return self._store.scan_name

    @property
    def nprobe(self) -> int:
        """Inverted lists that a search visits, 1 to all; a ValueError where there are none."""
        return int(self._stock.ivf(self.description).nprobe)

    @nprobe.setter
    def nprobe(self, n: int) -> None:
        ivf = self._stock.ivf(self.description)
        ivf.nprobe = min(at_least_1("nprobe", n), ivf.nlist)

    @property
    def efSearch(self) -> int:  # noqa: N802 - FAISS's name
        """Candidates that a search of the graph keeps, >= 1; a ValueError where there is none."""
        return int(self._stock.hnsw(self.description).efSearch)

    @efSearch.setter
    def efSearch(self, n: int) -> None:  # noqa: N802 - FAISS's name
        graph = self._stock.hnsw(self.description)
        graph.efSearch = integer("efSearch", n, 1, MAX_EF)

    @property
    def crops(self) -> bool:
        """Whether its encoder wants the middle of photographs, see `Backbone.crop`."""
        backbone = self.model.backbone if self.front is None else self.front.backbone
        return backbone is not None and backbone.size is not None and backbone.crop

    @property
    def train_s(self) -> float:
        """Seconds that the training took, those before an interruption included."""
        return float(self.history[-1]["elapsed_s"]) if self.history else 0.0

    def sa_code_size(self) -> int:
        """Bytes of a stored item's code, the number of its inverted list included."""
        return self._store.sa_code_size()

    def train(
        self,
        x: Any,
        labels: Any = None,
        *,
        word_vectors: Any = None,
        queries: Any = None,
        views: Any = None,
        folder: Any = None,
        progress: bool = True,
    ) -> None:
        """Trains encoder, decoder and codebooks end to end and injects the codebooks.

        Transforms are fitted before, and so are the coarse centroids of an inverted file with
        `by_residual`, whose codebooks are those of what the centroids leave over; of another one
        the coarse quantizer is fitted to the latents afterwards. A model that is trained already,
        in an index that is not, stays as it is.

        Args:
            x: (n, *input_shape) uint8 or float, n >= 4; all of it is read once before the
                training, so that NaN is found early.
            labels: for DQN and DPQ: (n,) integers, one class an item, -1 where it is not known; or
                (n, C) bool, several.
            word_vectors: for DPQ: (C, e) floats, one a class in the order of their numbers; None
                learns what stands for a class.
            queries: for PQVAE over vectors with a linear encoder: (nq, *input_shape) like x, real
                ones, nq >= 40, where queries are not like the items: titles for paragraphs, text
                for images. Codes are learned as without them. A part is held out; if these find
                more by a map of queries that is learned from the others, every search maps its
                queries (`model.query_map`), items among them too: `faiss_index` finds what is like
                `encode(x)`. What was gained is in `history`.
            views: for an objective that compares views: (n, K, *input_shape) like x, or n * K rows,
                what else every item looks like, `fpq.PictureViews(x, 4)` for example; a front sees
                each of them once. The training makes none of its own then; None lets it.
            folder: where log and checkpoints go, coarse centroids, the features of a front,
                computed once, and images of a folder or of Parquet, decoded once, as long as the
                training takes; the same call continues an interrupted training.
            progress: draw a bar, where standard error is a terminal.

        Raises:
            TypeError, ValueError: wrong items or queries, NaN or infinity; wrong labels, none for
                DQN or DPQ, or some for PQVAE; queries for what does not learn from them; an index
                that holds items, which would lose their meaning; an index without a `fit`. The
                index is then as before.
        """
        self._check_writable()
        new = trained(
            Parts(self._encoding, self._stock, self.history),
            x,
            self.fit,
            ready=self.model.is_trained and not self.is_trained,
            given={
                "labels": labels,
                "word_vectors": word_vectors,
                "queries": queries,
                "views": views,
            },
            folder=folder,
            progress=progress,
            batch_size=self.batch_size,
        )
        # One call, so that Ctrl-C comes before or after all of it.
        self.__dict__.update(
            model=new.encoding.model,
            transforms=new.encoding.transforms,
            _store=new.stock.store,
            refiner=new.stock.refiner,
            history=new.history,
        )

    # -- changes

    def add(self, x: Any) -> None:
        """Encodes and stores items; they get the ids ntotal, ntotal + 1 and so on.

        In inverted lists from which items were removed, one of these may be there already, as in
        FAISS: give ids of your own then.

        Args:
            x: (n, *input_shape) uint8 or float.

        Raises:
            TypeError, ValueError: wrong items, NaN or infinity, an untrained index, an IDMap
                (`add_with_ids`). Nothing is added then, nor when the reading of `x` fails half way.
        """
        self._add(x, None)

    def add_with_ids(self, x: Any, ids: Any) -> None:
        """As `add`, under ids of one's own: (n,) int64, of an IDMap or inverted lists.

        Any int64 but -1, which stands for "nothing found" in results. An array as FAISS's direct
        map cannot hold them: it is given up then, and `reconstruct` looks through the lists.

        Raises:
            TypeError, ValueError: as `add`; other ids than integers; another number of them; the
                id -1; an index that numbers its items itself.
        """
        if ids is None:
            raise TypeError("expected ids of dtype int64, got None")
        self._add(x, ids)

    def _add(self, x: Any, ids: Any) -> None:
        self._check_writable()
        x = self._check_items(x, "items to add")
        before = self.ntotal
        self._stock.add(self._batches(x, "items to add"), len(x), ids)
        self._items = after_adding(self._items, ids, before, self.ntotal)

    def add_sa_codes(self, codes: CodeArray, ids: Any = None) -> None:
        """Stores codes that `sa_encode` made.

        Args:
            codes: (n, sa_code_size()) uint8.
            ids: as in `add_with_ids` where the index takes ids, None otherwise.

        Raises:
            TypeError, ValueError: wrong codes or ids; an untrained index; one that refines with
                the items themselves, which codes do not hold.
        """
        self._check_writable()
        self._check_trained()
        before = self.ntotal
        self._stock.add_sa_codes(codes, ids)
        self._items = after_adding(self._items, ids, before, self.ntotal)

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
        items = after_removing(self._items, sel, self.ntotal, takes_ids=self.takes_ids)
        removed = self._stock.remove(sel)
        self._items = items
        return removed

    def merge_from(self, other: LatentIndex, add_id: int = 0) -> None:
        """Takes the items of another index over; it is empty afterwards.

        Args:
            other: an index with the same model and of the same kind.
            add_id: added to its ids, where an index keeps ids; it must not make -1 of one.

        Raises:
            TypeError, ValueError: an index that cannot be merged; both are then as before.
        """
        self.check_compatible_for_merge(other)
        add_id, natives = integer("add_id", add_id), (self.faiss_index, other.faiss_index)
        names = (self._items, other._items)
        items = after_merging(*names, *natives, add_id, takes_ids=self.takes_ids)
        self._stock.merge(other._stock, add_id)
        self._items, other._items = items, None

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
        self._encoding.check_same(other._encoding)
        self._stock.check_compatible(other._stock)

    def reset(self) -> None:
        """Forgets the items, keeps the training."""
        self._check_writable()
        self._stock.reset()
        self._items = None

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
            x: (n, *input_shape) uint8 or float.
            k: results per query, k >= 1. Beyond ntotal the ids are -1, as in FAISS.
            params: faiss.SearchParameters with a selector of ids, or the parameters of the index's
                kind (SearchParametersIVF, SearchParametersHNSW, IndexRefineSearchParameters).
            D: (n, k) float32 to write distances to.
            I: (n, k) int64 to write ids to.

        Returns:
            D (n, k) float32, squared L2 distances or inner products between latents (between
            items, where the search is refined), best first; I (n, k) int64, ids.

        Raises:
            TypeError, ValueError: wrong queries, NaN or infinity, k < 1, results that do not fit
                into memory, an untrained index, parameters of another kind of index, outputs of
                another shape.
        """
        return self._search(x, k, params, D, I)[:2]

    def encoded_queries(self, x: Any) -> Iterator[Batch]:
        """Queries on their way into a search, batch by batch, for `search_encoded`.

        Args:
            x: (n, *input_shape) uint8 or float.

        Raises:
            TypeError, ValueError: as `search`.
        """
        yield from self._queries(self._check_items(x, "queries"))

    def search_encoded(self, batch: Batch, k: int) -> tuple[FloatArray, IdArray]:
        """`search` of queries that an index of the same model encoded: shards need that once.

        Args:
            batch: of `encoded_queries`.
            k: results per query, k >= 1.

        Returns:
            D (n, k) float32 and I (n, k) int64, as `search`.
        """
        k_factor, params = refine_parameters(None, self.k_factor, self.refiner)
        shape = len(batch.z), check_k(k)
        return self._how(params, k_factor).nearest(iter([batch]), shape, None, None)[:2]

    def _search(
        self, x: Any, k: int, params: Any, *outputs: Any
    ) -> tuple[FloatArray, IdArray, FloatArray | None]:
        """Fills D, I and, where a third output is asked for, R."""
        k = check_k(k)
        x = self._check_items(x, "queries")
        k_factor, params = refine_parameters(params, self.k_factor, self.refiner)
        how = self._how(params, k_factor)
        return how.nearest(self._queries(x), (len(x), k), *outputs)

    def _how(self, params: Any, k_factor: float = 1.0) -> Search:
        decoder = self.model.code_decoder
        return Search(
            self._store,
            self.refiner,
            k_factor,
            params,
            sdc=self.search_type == "sdc" and decoder is None,
            offset=0.0 if decoder is None else float(decoder.offset),
        )

    def range_search(
        self, x: Any, thresh: float, *, params: Any = None
    ) -> tuple[npt.NDArray[np.uint64], FloatArray, IdArray]:
        """Finds all stored items closer than a threshold, between latents.

        Args:
            x: (n, *input_shape) uint8 or float.
            thresh: squared L2 distance that results stay below, or inner product they exceed.
            params: as in `search`.

        Returns:
            lims (n + 1,) uint64, D (lims[n],) float32 and I (lims[n],) int64: the results of
            query i are those from lims[i] to lims[i + 1], in no order.

        Raises:
            TypeError, ValueError: as `search`; a threshold that is no finite number; an index
                that refines, whose distances and thresholds would be in two spaces.
        """
        return self._how(params).within(self._queries(x), thresh)

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
        parts = [batch.z for batch in self._batches(x, "items to encode")]
        return np.concatenate(parts or [np.empty((0, self.faiss_index.d), np.float32)])

    def encode_queries(self, x: Any) -> FloatArray:
        """As `encode`: what queries are compared with codes by.

        It differs from the latents of items after a training with queries, see `train`, and where
        codes are additive, whose items have the latents of the codes that were chosen for them; of
        additive codes of residuals these codes are known to `sa_encode` and `add` alone.
        """
        parts = [batch.z for batch in self._queries(x)]
        return np.concatenate(parts or [np.empty((0, self.faiss_index.d), np.float32)])

    def decode(self, z: FloatArray) -> FloatArray:
        """Latents (n, faiss_index.d) float32 back to items (n, *input_shape) float32.

        Behind a front to its features (n, front.d_out), which nothing turns into items.

        Raises:
            ValueError: a wrong shape, NaN or infinity, an untrained index, a transform before the
                encoder that cannot be undone.
        """
        self._check_trained()
        return self._encoding.decode(z, self.batch_size)

    def reconstruct(self, key: int, x: FloatArray | None = None) -> FloatArray:
        """As `reconstruct_batch`, of one id: (faiss_index.d,) float32."""
        out = None if x is None else output(x, (self.model.latent_dim,), np.float32, "x")[None]
        latent: FloatArray = self.reconstruct_batch([integer("key", key)], out)[0]
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
        return self._stock.reconstruct(key, x)

    def reconstruct_n(self, n0: int = 0, ni: int = -1, x: FloatArray | None = None) -> FloatArray:
        """The quantized latents (ni, faiss_index.d) float32 of the ids n0 to n0 + ni.

        Args:
            n0: the first id.
            ni: how many; -1 for all from n0 to ntotal.
            x: (ni, faiss_index.d) float32 to write to.

        Raises:
            ValueError: an id that is not there, a negative number of them, an untrained index.
        """
        n0, ni = integer("n0", n0), integer("ni", ni)
        ni = self.ntotal - n0 if ni == -1 else ni
        if not 0 <= ni <= self.ntotal:
            raise ValueError(
                f"expected ni from 0 to ntotal, {self.ntotal}, or -1 for all from n0 to it, got "
                f"n0={n0}, ni={ni}"
            )
        integer("n0 + ni", n0 + ni)
        return self.reconstruct_batch(np.arange(n0, n0 + ni), x)

    def compute_residual(self, x: Any, key: int) -> FloatArray:
        """The latent of one item (*input_shape) less that of a stored one: (faiss_index.d,)."""
        residual: FloatArray = self.compute_residual_n([x], [integer("key", key)])[0]
        return residual

    def compute_residual_n(self, x: Any, keys: Any) -> FloatArray:
        """Latents of items (n, *input_shape) less those of stored ones, ids (n,) int64.

        Raises:
            TypeError, ValueError: wrong items or ids, another number of ids, no such id.
        """
        x = self._check_items(x, "items")
        ids = as_ids(keys, len(x))
        return self.encode(x) - self.reconstruct_batch(ids)

    def sa_encode(self, x: Any, codes: CodeArray | None = None) -> CodeArray:
        """Codes of items: (n, *input_shape) to (n, sa_code_size()) uint8; stores nothing."""
        x = self._check_items(x, "items to encode")
        return self._stock.sa_encode(self._batches(x, "items to encode"), len(x), codes)

    def sa_decode(self, codes: CodeArray, x: FloatArray | None = None) -> FloatArray:
        """Codes (n, sa_code_size()) uint8 to quantized latents (n, faiss_index.d) float32.

        Raises:
            TypeError: codes of another dtype.
            ValueError: a wrong shape, an untrained index, a code of no inverted list.
        """
        self._check_trained()
        return self._stock.sa_decode(codes, x)

    def prefix(self, n_levels: int) -> LatentIndex:
        """The index of the first blocks of residual codes, such as DPQ's.

        It is made of the codes that are stored here: nothing is trained or encoded again. The copy
        shares nothing with this index but the front.

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
        before, _, _ = self.description.partition(model.spec.name)
        prefix.description = f"{before}{model.spec.name}{n_levels}x{model.nbits}"
        prefix.search_type, prefix.batch_size = self.search_type, self.batch_size
        prefix.history, prefix.items = copy.deepcopy(self.history), self.items
        return prefix

    def to_faiss(self) -> Any:
        """A pure FAISS index, a copy, that C++ can read and search without torch.

        With a linear encoder (of "reconstruction" or "dqn") it takes the items themselves,
        flattened: an IndexPreTransform of the transforms, the encoder and the latent index, in an
        IndexRefine where the search is refined; behind a front their features. With any other no
        FAISS index can do that: it takes latents then, what `encode` gives, and `encode_queries`
        for what is searched.

        No FAISS index can run the decoder that refines one: without it look-up tables alone rank,
        of which a warning tells. Of an additive code (of "additive" or "synthesis") the exported
        index takes queries: what its own `add` stored would get codewords that seem nearest, and
        not the code that `add` here chooses. Its squared distances are too large by
        `model.decoder.offset`.

        After a training with queries that gave these a map of their own (`model.query_map`), the
        exported index takes queries: it is there to be searched. What its own `add` stored would
        have gone through the map of queries, and be found at a wrong place: add to this index, and
        export it again.

        Raises:
            ValueError: an untrained index.
        """
        self._check_trained()
        return export(self.model, self.faiss_index, self.transforms, self.refiner, self.k_factor)

    @property
    def _encoding(self) -> Encoding:
        return Encoding(self.model, self.transforms, self.front, self.effort)

    @property
    def _stock(self) -> Stock:
        codes = residual_codes(self._store, self.model, self.effort)
        return Stock(self._store, self.refiner, codes)

    def _batches(self, x: Any, what: str) -> Iterator[Batch]:
        self._check_trained()
        yield from self._encoding.batches(x, self.batch_size, what)

    def _queries(self, x: Any) -> Iterator[Batch]:
        self._check_trained()
        sdc, codes = self.search_type == "sdc", self._stock.residual_codes
        for batch in self._encoding.batches(x, self.batch_size, "queries", queries=True, sdc=sdc):
            if sdc and codes is not None:
                batch = batch._replace(z=codes.symmetric(batch.z))
            yield batch

    def _check_items(self, x: Any, what: str) -> Any:
        self._check_trained()
        return check_items(x, self.input_shape, what, may_be_empty=True)

    def _check_trained(self) -> None:
        if not self.is_trained:
            raise ValueError("the index is not trained yet: call train(x) first")

    def _check_writable(self) -> None:
        if self.read_only:
            raise ValueError(_MAPPED)


def with_native(index: LatentIndex, native: Any) -> LatentIndex:
    """A copy of an index, over another native one; they share all the rest."""
    other = LatentIndex(
        index.model,
        index.metric_type,
        fit=index.fit,
        faiss_index=native,
        transforms=index.transforms,
        refine_index=index._stock.state()[1],
        front=index.front,
    )
    for name in (
        "search_type",
        "batch_size",
        "k_factor",
        "effort",
        "history",
        "description",
        "_items",
    ):
        setattr(other, name, getattr(index, name))
    return other
