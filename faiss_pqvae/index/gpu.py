"""The same index on one or more GPUs: encoding and search on the card, with the same results."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from faiss_pqvae.arguments import at_least_1, check_attribute, integer
from faiss_pqvae.index.encoding import Encoding
from faiss_pqvae.index.items import Items
from faiss_pqvae.index.latent_index import LatentIndex, SearchType, with_native
from faiss_pqvae.index.searching import check_k
from faiss_pqvae.model.clustering import assign, look_up, split
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.native import faiss
from faiss_pqvae.native.coarse import has_residuals
from faiss_pqvae.native.faiss_method import faiss_method
from faiss_pqvae.native.gpu_layout import (
    MAX_SELECTION,
    bytes_needed,
    coarse_of,
    collect,
    deal,
    from_bytes,
    lists_of,
)
from faiss_pqvae.native.inject import extract_codebooks
from faiss_pqvae.native.kinds.lists import coarse_centroids
from faiss_pqvae.native.store.contents import Stored, empty_like, read, write
from faiss_pqvae.native.walk import codebook_index
from faiss_pqvae.types import FloatArray, IdArray

_FLOAT16_M = 56  # from here on only tables of float16 fit the shared memory of a block

Results = tuple[FloatArray, IdArray] | tuple[Tensor, Tensor]
# From a native index on the CPU to one of a device, or back.
Copy = Callable[[Any], Any]


class Part(NamedTuple):
    """What one device searches.

    Attributes:
        index: native, of `gpu_layout`'s form.
        coarse: native and flat, which says what lists of codes of vectors a query visits; None
            where the index does.
    """

    index: Any
    coarse: Any


def index_cpu_to_gpu(
    index: LatentIndex,
    device: int | Sequence[int] = 0,
    *,
    shard: bool = False,
    nlist: int | None = None,
) -> GpuLatentIndex:
    """Copies an index to one or more GPUs; the original stays as it is.

    An inverted file keeps its lists and its `nprobe`, which can be set there, too. Which lists are
    visited is decided by distances to all coarse centroids, whatever finds them on the CPU.

    Args:
        index: trained and not empty, at most 8 bits a code and 96 bytes in all, over an IndexPQ,
            IndexPQFastScan, IndexIVFPQ or IndexIVFPQFastScan, which an IDMap may be around. Codes
            of 49 bytes or more are searched with tables of float16.
        device: number of the GPU, or of several; the first of them encodes.
        shard: of several GPUs, each gets a part of the items; without it each gets all items, and
            a part of the queries.
        nlist: see `faiss_pqvae.native.gpu_layout.gpu_layout`; of an inverted file None.

    Raises:
        RuntimeError: no GPU, or a FAISS or PyTorch without GPU support.
        MemoryError: less memory free on a GPU than the codes take there.
        TypeError, ValueError: no such device, or an index that a GPU cannot take, as DPQ's.
    """
    if not isinstance(index, LatentIndex):
        raise TypeError(
            f"expected a LatentIndex, got {type(index).__name__}: faiss.index_cpu_to_gpu copies "
            "indexes of FAISS's own"
        )
    devices = _check_devices(device)
    # Resources are temporary memory and streams: a part's own.
    uploads = [
        partial(_upload, device=number, resources=faiss.StandardGpuResources())
        for number in devices
    ]
    return distribute(index, torch.device("cuda", devices[0]), uploads, shard=shard, nlist=nlist)


def index_gpu_to_cpu(index: GpuLatentIndex) -> LatentIndex:
    """Copies an index back: the one that was copied to the GPU, code for code.

    Raises:
        TypeError: an index that `index_cpu_to_gpu` did not make.
    """
    if not isinstance(index, GpuLatentIndex):
        raise TypeError(
            f"expected a GpuLatentIndex, got {type(index).__name__}: a LatentIndex is on the CPU "
            "already, and faiss.index_gpu_to_cpu copies indexes of FAISS's own"
        )
    return index.gather(faiss.index_gpu_to_cpu)


class GpuLatentIndex:
    """A `LatentIndex` on one or more GPUs; `index_cpu_to_gpu` makes it.

    It encodes and searches. Queries that are CUDA tensors give CUDA tensors, all others arrays.
    To add or to remove, change the index on the CPU and copy it again.

    Args:
        origin: the index on the CPU, its native index emptied.
        encoding: of items, on the first device.
        parts: what each device searches: several are replicas or shards.
        stored: what the origin held.
        shard: whether several parts are shards.

    Attributes:
        model: the PQ-VAE, on the first device.
        batch_size: items encoded and searched at a time.
    """

    model: PQVAE
    batch_size: int

    def __init__(
        self,
        origin: LatentIndex,
        encoding: Encoding,
        parts: list[Part],
        stored: Stored,
        *,
        shard: bool,
    ) -> None:
        self.model = encoding.model
        self.batch_size = origin.batch_size
        self._encoding, self._origin, self._parts, self._shard = encoding, origin, parts, shard
        self._list_sizes, self._inner_ids = stored.list_sizes, stored.inner_ids
        self._centroids: Tensor | None = None  # of what codes of residuals leave over
        if has_residuals(origin.faiss_index):
            centroids = torch.from_numpy(coarse_centroids(codebook_index(origin.faiss_index)))
            self._centroids = centroids.to(self.model.device)
        self._lock = threading.Lock()

    def __setattr__(self, name: str, value: Any) -> None:
        check_attribute(self, name)
        super().__setattr__(name, at_least_1(name, value) if name == "batch_size" else value)

    def __len__(self) -> int:
        return self.ntotal

    def __repr__(self) -> str:
        of = type(self._parts[0].index).__name__
        joined = "shards" if self._shard else "replicas"
        several = f", {len(self._parts)} {joined}" if len(self._parts) > 1 else ""
        return f"GpuLatentIndex({of}{several}, ntotal={self.ntotal})"

    @property
    def faiss_index(self) -> Any:
        """The native index of the first device."""
        return self._parts[0].index

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one item: (c, h, w) or (d,)."""
        return self._origin.input_shape

    @property
    def d(self) -> int:
        """Components of one item."""
        return self._origin.d

    @property
    def ntotal(self) -> int:
        """Number of items stored."""
        parts = self._parts if self._shard else self._parts[:1]
        return sum(int(part.index.ntotal) for part in parts)

    @property
    def items(self) -> Items | None:
        """What the items are called; see `LatentIndex.items`."""
        return self._origin._items

    @property
    def is_trained(self) -> bool:
        """Whether it can be searched: always."""
        return self._origin.is_trained

    @property
    def metric_type(self) -> int:
        """faiss.METRIC_L2 or faiss.METRIC_INNER_PRODUCT."""
        return self._origin.metric_type

    @property
    def nprobe(self) -> int:
        """Inverted lists that a search visits, 1 to 2,048; a ValueError where there are none."""
        self._check_lists()
        return int(self._parts[0].index.nprobe)

    @nprobe.setter
    def nprobe(self, n: int) -> None:
        self._check_lists()
        n = integer("nprobe", n, 1, MAX_SELECTION)
        for part in self._parts:
            part.index.nprobe = min(n, part.index.nlist)

    def _check_lists(self) -> None:
        if self._list_sizes is None:
            raise ValueError(
                f"{self._origin.description} has no inverted lists, and so no nprobe: every search "
                "looks at all codes"
            )

    @property
    def search_type(self) -> SearchType:
        """How queries are compared: "adc" or "sdc"; nothing else can be set."""
        return self._origin.search_type

    @search_type.setter
    def search_type(self, name: SearchType) -> None:
        self._origin.search_type = name

    def search(self, x: Any, k: int, *, params: None = None) -> Results:
        """Finds the k nearest stored items of every query.

        Args:
            x: (n, *input_shape) uint8 or float: an array, a tensor or a source.
            k: results per query, 1 to 2,048. Beyond ntotal the ids are -1.
            params: None: a GPU would ignore a selector without a word.

        Returns:
            D (n, k) float32, squared L2 distances or inner products between latents, best
            first; I (n, k) int64, ids.

        Raises:
            TypeError, ValueError: wrong queries, NaN or infinity in them or in their latents, a k
                out of range, parameters.
        """
        if params is not None:
            raise ValueError(
                "expected params=None, a GPU index ignores selectors: search the index on the "
                "CPU, or copy one of the selected items"
            )
        k = check_k(k)
        if k > MAX_SELECTION:
            raise ValueError(f"expected k from 1 to {MAX_SELECTION} on a GPU, got {k}")
        latents = self._encoding.latents(x, self.batch_size, "queries", queries=True)
        results = [self._search(z, k) for z in latents] or [self._nothing(k)]
        D, I = (torch.cat(parts) for parts in zip(*results, strict=True))  # noqa: E741
        return (D, I) if _is_cuda(x) else (D.cpu().numpy(), I.cpu().numpy())

    def assign(self, x: Any, k: int = 1) -> IdArray | Tensor:
        """The ids (n, k) int64 of `search`."""
        return self.search(x, k)[1]

    def encode(self, x: Any) -> FloatArray | Tensor:
        """Latents of items: (n, *input_shape) to (n, latent_dim) float32."""
        parts = list(self._encoding.latents(x, self.batch_size, "items to encode"))
        device, d = self.model.device, self.model.latent_dim
        z = torch.cat(parts or [torch.empty(0, d, device=device)])
        return z if _is_cuda(x) else np.asarray(z.cpu().numpy(), np.float32)

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises a TypeError: this index does not change."""
        raise TypeError(
            "an index on a GPU does not change: change the one on the CPU and copy it again"
        )

    train = add = remove_ids = reset = _refuse

    def gather(self, download: Copy) -> LatentIndex:
        """The index on the CPU; `download` makes a CPU IVFPQ of a part."""
        codes, ids = collect(
            [download(p.index) for p in (self._parts if self._shard else self._parts[:1])],
            in_lists=self._list_sizes is not None,
        )
        native = empty_like(self._origin.faiss_index)
        codes = from_bytes(codes, extract_codebooks(native))
        write(native, Stored(codes, ids, self._list_sizes, self._inner_ids))
        index = with_native(self._origin, native)
        index.batch_size = self.batch_size
        return index

    @torch.inference_mode()
    def _search(self, z: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """D and I (n, k), on the device of the latents (n, latent_dim)."""
        if self.search_type == "sdc":
            z = self._quantized(z)
        z = F.pad(z, (0, self._parts[0].index.d - z.shape[1])).contiguous()
        with self._lock:  # FAISS's GPU resources serve one thread at a time
            if len(self._parts) == 1:
                return _search_on_device(self._parts[0], z, k)
            queries = z.cpu().numpy()  # what reaches several devices comes by the host's memory
            if self._shard:
                found = _search_shards(self._parts, queries, k, self.metric_type)
            else:
                found = _search_replicas(self._parts, queries, k)
        D, I = (torch.from_numpy(array).to(z.device) for array in found)  # noqa: E741
        return D, I

    def _quantized(self, z: Tensor) -> Tensor:
        """The latents (n, latent_dim) that codes of z stand for."""
        codewords, centroids = self.model.quantizer.codewords, self._centroids
        taken_off = torch.zeros_like(z)
        if centroids is not None:
            products = z @ centroids.T
            if self.metric_type == faiss.METRIC_L2:
                products -= centroids.square().sum(1) / 2
            taken_off = centroids[products.argmax(1)]
        nearest = look_up(codewords, assign(split(z - taken_off, self.model.M), codewords))
        return nearest.transpose(0, 1).reshape(z.shape) + taken_off  # from (M, n, dsub)

    def _nothing(self, k: int) -> tuple[Tensor, Tensor]:
        """D and I of no queries."""
        device = self.model.device
        return torch.empty(0, k, device=device), torch.empty(0, k, dtype=torch.int64, device=device)


def distribute(
    index: LatentIndex,
    device: torch.device,
    uploads: Sequence[Copy],
    *,
    shard: bool,
    nlist: int | None,
) -> GpuLatentIndex:
    """Deals an index to as many parts as there are `uploads`.

    Args:
        index: see `index_cpu_to_gpu`.
        device: where the encoder goes, and a copy of the front.
        uploads: each makes the native index of a part from a CPU IVFPQ.
        shard: see `index_cpu_to_gpu`.
        nlist: see `faiss_pqvae.native.gpu_layout.gpu_layout`.
    """
    if index.refiner is not None:
        raise ValueError(
            "expected an index that does not refine its results, got one that does: a GPU index "
            "holds codes only"
        )
    least = len(uploads) if shard else 1
    if index.ntotal < least:
        raise ValueError(f"expected an index of at least {least} items, got {index.ntotal}")
    if index.model.spec.structure == "residual":
        raise TypeError(
            "expected codes of a product quantizer, got those of an IndexResidualQuantizer: FAISS "
            "has none on a GPU, so DPQ's codes are searched on the CPU"
        )
    if index.model.spec.is_additive:
        raise TypeError(
            "expected codes of sub-vectors, got additive ones, with codewords of all "
            f"{index.model.input_shape[0]} dimensions: FAISS's tables on a GPU take 32 at most, so "
            "these codes are searched on the CPU; for a GPU train product codes, with "
            "index_factory(..., objective='ranking')"
        )
    stored, codebooks = read(index.faiss_index), extract_codebooks(index.faiss_index)
    lists = lists_of(index.faiss_index, stored, nlist)
    parts: list[Part] = []
    for g, upload in enumerate(uploads):
        if shard or not parts:  # replicas are copies of one layout
            rows = slice(g, None, len(uploads) if shard else 1)
            codes, ids = stored.codes[rows], stored.ids[rows]
            own = None if lists is None else lists.of(rows)
            layout = deal(codes, ids, codebooks, index.metric_type, nlist, own)
            coarse = coarse_of(lists, layout.d)
        parts.append(Part(upload(layout), None if coarse is None else upload(coarse)))
    origin = with_native(index, empty_like(index.faiss_index))
    encoding = Encoding(
        copy.deepcopy(index.model).to(device),
        index.transforms,
        None if index.front is None else index.front.to(device),
    )
    return GpuLatentIndex(origin, encoding, parts, stored, shard=shard)


def _search_on_host(part: Part, queries: FloatArray, k: int) -> tuple[FloatArray, IdArray]:
    """D and I of what one device holds, of queries (n, d) float32 in the host's memory."""
    index, coarse = part
    found: tuple[FloatArray, IdArray]
    if coarse is None:
        found = faiss_method(index, "search")(queries, k)
    else:
        probes = faiss_method(coarse, "search")(queries, index.nprobe)[1]
        # Without distances to centroids: of inner products they would be added to the codes'.
        found = faiss_method(index, "search_preassigned")(queries, k, probes, None)
    return found


def _search_replicas(parts: list[Part], queries: FloatArray, k: int) -> tuple[FloatArray, IdArray]:
    """D and I (n, k): each part is asked for a share of the queries, a thread each."""
    shares = np.array_split(queries, min(len(parts), len(queries)))
    with ThreadPoolExecutor(len(shares)) as pool:
        found = list(pool.map(partial(_search_on_host, k=k), parts, shares))  # as many parts
    D, I = (np.concatenate(arrays) for arrays in zip(*found, strict=True))  # noqa: E741
    return D, I


def _search_shards(
    parts: list[Part], queries: FloatArray, k: int, metric_type: int
) -> tuple[FloatArray, IdArray]:
    """D and I (n, k): the best of what every part finds, a thread each.

    IndexShards would lose items: it takes every id below 0 for "nothing found".
    """
    with ThreadPoolExecutor(len(parts)) as pool:
        found = list(pool.map(lambda part: _search_on_host(part, queries, k), parts))
    D, I = (  # noqa: E741
        torch.from_numpy(np.concatenate(arrays, axis=1)) for arrays in zip(*found, strict=True)
    )
    D, best = D.topk(k, largest=metric_type == faiss.METRIC_INNER_PRODUCT)
    return D.numpy(), I.gather(1, best).numpy()


def _is_cuda(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_cuda


# -- what touches a GPU


def _check_devices(device: int | Sequence[int]) -> list[int]:
    """Numbers of GPUs that FAISS and PyTorch see; raises as `index_cpu_to_gpu` does."""
    if not hasattr(faiss, "StandardGpuResources"):
        raise RuntimeError(
            "this FAISS is built for the CPU only: pip uninstall faiss-cpu, then pip install "
            '"faiss-pqvae[gpu]" (never both, they own the same files)'
        )
    # Not left to FAISS, whose index_cpu_to_all_gpus gives an empty set of replicas then.
    count = int(faiss.get_num_gpus())
    if not count:
        raise RuntimeError("FAISS finds no GPU on this host: does nvidia-smi list one?")
    if not torch.cuda.is_available():
        raise RuntimeError("FAISS finds a GPU, PyTorch does not: install a PyTorch with CUDA")
    given = device if isinstance(device, Sequence) else [device]
    devices = [integer("device", number) for number in given]
    if not devices or not all(0 <= number < count for number in devices):
        raise ValueError(f"expected numbers of GPUs from 0 to {count - 1}, got {device!r}")
    return devices


def _upload(index: Any, device: int, resources: Any) -> Any:
    """A GpuIndexIVFPQ or GpuIndexFlat, with memory and streams of the device's resources.

    Raises:
        MemoryError: it takes more than is free; FAISS would end in an error of CUDA's.
    """
    needed, free = bytes_needed(index), torch.cuda.mem_get_info(device)[0]
    if needed > free:
        raise MemoryError(
            f"expected {needed / 1e9:,.2f} GB free on GPU {device} for {index.ntotal:,} items, got "
            f"{free / 1e9:,.2f} GB: several GPUs with shard=True hold a part each"
        )
    options = faiss.GpuClonerOptions()
    options.useFloat16 = isinstance(index, faiss.IndexIVFPQ) and index.pq.M >= _FLOAT16_M
    options.use_cuvs = False  # the limits of this module are those of FAISS's own kernels
    return faiss.index_cpu_to_gpu(resources, device, index, options)


def _search_on_device(part: Part, z: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """D and I of a part, by pointers into the device of z (n, d) float32: no copies."""
    index, coarse = part
    if z.is_cuda:
        # FAISS computes on a stream of its own, unless it is told to follow PyTorch's.
        stream = torch.cuda.current_stream(z.device).cuda_stream
        resources = index.getResources()  # those of the coarse index, too
        with torch.cuda.device(z.device):  # it waits for the stream before, on the current device
            resources.setDefaultStream(z.device.index, faiss.cast_integer_to_cudastream_t(stream))
    D, I = _results(z, k)  # noqa: E741
    to_float, to_id = faiss.cast_integer_to_float_ptr, faiss.cast_integer_to_idx_t_ptr
    queries, found = to_float(z.data_ptr()), (to_float(D.data_ptr()), to_id(I.data_ptr()))
    if coarse is None:
        index.search_c(len(z), queries, k, *found)
        return D, I
    distances, probes = _results(z, index.nprobe)
    near = to_float(distances.data_ptr()), to_id(probes.data_ptr())
    coarse.search_c(len(z), queries, index.nprobe, *near)
    distances.zero_()  # of inner products they would be added to the codes'
    index.search_preassigned_c(len(z), queries, k, near[1], near[0], *found, False)
    return D, I


def _results(z: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Room for distances and ids (n, k) where z (n, d) is."""
    return z.new_empty(len(z), k), z.new_empty(len(z), k, dtype=torch.int64)
