"""The same index on one or more GPUs: encoding and search on the card, with the same results."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, NoReturn, get_args

import numpy as np
import torch
from torch import Tensor

from faiss_pqvae.arguments import check_attribute, check_fits, integer
from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.data.batches import check_items
from faiss_pqvae.index.encoding import Encoding
from faiss_pqvae.index.following import after_adding
from faiss_pqvae.index.gpu_decoder import CodeDecoder
from faiss_pqvae.index.gpu_parts import (
    FLOAT16_M,
    Asked,
    FaissPart,
    Held,
    Part,
    TorchPart,
    Wanted,
)
from faiss_pqvae.index.items import Items
from faiss_pqvae.index.latent_index import SETTINGS, LatentIndex, SearchType, with_native
from faiss_pqvae.index.refine import Decoder
from faiss_pqvae.index.searching import check_k
from faiss_pqvae.model.clustering import assign, split
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.model.residual import ResidualQuantizer
from faiss_pqvae.model.spec import repeated
from faiss_pqvae.native import faiss
from faiss_pqvae.native.gpu_layout import (
    MAX_BYTES,
    MAX_NBITS,
    MAX_SELECTION,
    bytes_needed,
    bytes_of_codes,
    coarse_of,
    collect,
    deal,
    from_bytes,
    lists_of,
)
from faiss_pqvae.native.ids import as_selector
from faiss_pqvae.native.inject import extract_codebooks
from faiss_pqvae.native.kinds import kind_of
from faiss_pqvae.native.scan.torch_scan import Centroids, TorchScan, scan_bytes
from faiss_pqvae.native.store.contents import Stored, empty_like, read, write
from faiss_pqvae.native.store.parameters import given_selector
from faiss_pqvae.native.walk import codebook_index
from faiss_pqvae.types import FloatArray, IdArray

Scan = Literal["auto", "faiss", "torch"]
Results = tuple[FloatArray, IdArray] | tuple[Tensor, Tensor]
# From a native index on the CPU to one of a device, or back.
Copy = Callable[[Any], Any]


def index_cpu_to_gpu(
    index: LatentIndex,
    device: int | Sequence[int] = 0,
    *,
    shard: bool = False,
    nlist: int | None = None,
    scan: Scan = "auto",
) -> GpuLatentIndex:
    """Copies an index to one or more GPUs; the original stays as it is.

    An inverted file keeps its lists and its `nprobe`, which can be set there, too. Which lists are
    visited is decided by distances to all coarse centroids, whatever finds them on the CPU.

    FAISS's kernels take product codes of at most 8 bits and 96 bytes; codes of 49 bytes or more are
    searched with tables of float16. Torch takes every code that is no graph's: those of DPQ,
    additive ones, with more bits or bytes; it looks at what a selector takes alone, and the decoder
    looks at its results again, where the index has one (`RDecoder`). It needs no FAISS for GPUs.

    Args:
        index: trained and not empty, over an index of codes that is no graph, which an IDMap may be
            around.
        device: number of the GPU, or of several; the first of them encodes.
        shard: of several GPUs, each gets a part of the items; without it each gets all items, and
            a part of the queries.
        nlist: see `faiss_pqvae.native.gpu_layout.gpu_layout`; None of an inverted file, and where
            torch scans.
        scan: "faiss" or "torch"; "auto" takes FAISS's kernels where they take the codes. The copy's
            `scan` says what became of it.

    Raises:
        RuntimeError: no GPU, or a FAISS or PyTorch without GPU support.
        MemoryError: less memory free on a GPU than the codes take there.
        TypeError, ValueError: no such device, an index that a GPU cannot take, another scan.
    """
    if not isinstance(index, LatentIndex):
        raise TypeError(
            f"expected a LatentIndex, got {type(index).__name__}: faiss.index_cpu_to_gpu copies "
            "indexes of FAISS's own"
        )
    by_torch = scan_of(index, scan) == "torch"
    devices = _check_devices(device, by_torch=by_torch)
    cards = [torch.device("cuda", number) for number in devices]
    if by_torch:
        return scanned_by_torch(index, cards, shard=shard, nlist=nlist)
    # Resources are temporary memory and streams: a part's own.
    uploads = [
        partial(_upload, device=number, resources=faiss.StandardGpuResources())
        for number in devices
    ]
    return distribute(index, cards[0], uploads, shard=shard, nlist=nlist)


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
    return index.gather(lambda part: faiss.index_gpu_to_cpu(part))  # which a FAISS for CPUs lacks


class GpuLatentIndex:
    """A `LatentIndex` on one or more GPUs; `index_cpu_to_gpu` makes it.

    It encodes, searches, and where `takes_more` stores. Queries that are CUDA tensors give CUDA
    tensors, all others arrays. For other changes, change the index on the CPU and copy it again.

    Args:
        origin: the index on the CPU, its native index emptied.
        encoding: of items, on the first device.
        parts: what each device searches: several are replicas or shards.
        coarse: centroids of an inverted file, on the first device, or None.
        shard: whether several parts are shards.

    Attributes:
        model: the PQ-VAE, on the first device.
        batch_size: items encoded and searched at a time.
        k_factor: see `LatentIndex`.
    """

    model: PQVAE
    batch_size: int
    k_factor: float

    def __init__(
        self,
        origin: LatentIndex,
        encoding: Encoding,
        parts: Sequence[Part],
        *,
        coarse: Centroids | None,
        shard: bool,
    ) -> None:
        self.model = encoding.model
        self.batch_size, self.k_factor = origin.batch_size, origin.k_factor
        self._encoding, self._origin, self._shard = encoding, origin, shard
        self._parts: list[Part] = list(parts)
        self._coarse = coarse
        self._lock = threading.Lock()

    def __setattr__(self, name: str, value: Any) -> None:
        check_attribute(self, name)
        check = SETTINGS.get(name)
        super().__setattr__(name, value if check is None else check(value))

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Raises a TypeError: what is on a card is not copied or pickled."""
        raise TypeError(
            "an index on a GPU cannot be copied or pickled: index_gpu_to_cpu(index) can be"
        )

    def __len__(self) -> int:
        return self.ntotal

    def __repr__(self) -> str:
        joined = "shards" if self._shard else "replicas"
        several = f", {len(self._parts)} {joined}" if len(self._parts) > 1 else ""
        return f"GpuLatentIndex({self.scan!r}{several}, ntotal={self.ntotal})"

    @property
    def scan(self) -> str:
        """What scans the codes, in words."""
        return self._parts[0].scan

    @property
    def faiss_index(self) -> Any:
        """The native index of the first device; None where torch scans."""
        part = self._parts[0]
        return part.index if isinstance(part, FaissPart) else None

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
        return sum(part.ntotal for part in self._shares)

    @property
    def _shares(self) -> list[Part]:
        """The parts that together hold every item once."""
        return self._parts if self._shard else self._parts[:1]

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
        return self._parts[0].nprobe

    @nprobe.setter
    def nprobe(self, n: int) -> None:
        self._check_lists()
        n = integer("nprobe", n, 1, MAX_SELECTION)
        with self._lock:  # of a search that is under way
            for part in self._parts:
                part.nprobe = min(n, part.nlist)

    def _check_lists(self) -> None:
        if self._coarse is None:
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

    # -- searching

    def search(self, x: Any, k: int, *, params: Any = None) -> Results:
        """Finds the k nearest stored items of every query.

        Args:
            x: (n, *input_shape) uint8 or float: an array, a tensor or a source.
            k: results per query, with FAISS's kernels up to 2,048. Beyond ntotal the ids are -1.
            params: faiss.SearchParameters with a selector of ids, or None. FAISS's kernels ask no
                selector: more results are taken until k are selected ones, up to 2,048 of them.

        Returns:
            D (n, k) float32, squared L2 distances or inner products between latents (between
            items, where the decoder refines), best first; I (n, k) int64, ids.

        Raises:
            TypeError, ValueError: wrong queries, NaN or infinity in them or in their latents, a k
                out of range, other parameters, a selector of too few items for FAISS's kernels.
        """
        sel, as_tensors = _selector_of(params), _is_cuda(x)
        k, most = check_k(k), self._parts[0].max_k
        if most is not None and k > most:
            raise ValueError(f"expected k from 1 to {most} on a GPU, got {k}")
        refiner, candidates = self._refines, k
        if refiner is not None:
            wanted = max(k, refiner.least_k) * self.k_factor
            candidates = max(k, int(min(wanted, self.ntotal)))
        x = check_items(x, self.input_shape, "queries", may_be_empty=True)
        check_fits(4 * len(x) * k * 12, f"k={k} of {len(x)} queries")
        sdc = self.search_type == "sdc"
        latents = self._encoding.latents(x, self.batch_size, "queries", queries=True, sdc=sdc)
        results = [
            self._search(inputs, z, Wanted(k, candidates, sel)) for inputs, z in latents
        ] or [self._nothing(k)]
        D, I = (torch.cat(parts) for parts in zip(*results, strict=True))  # noqa: E741
        return (D, I) if as_tensors else (D.cpu().numpy(), I.cpu().numpy())

    @property
    def _refines(self) -> CodeDecoder | None:
        part = self._parts[0]
        return part.decoder if isinstance(part, TorchPart) else None

    def assign(self, x: Any, k: int = 1) -> IdArray | Tensor:
        """The ids (n, k) int64 of `search`."""
        return self.search(x, k)[1]

    @torch.inference_mode()
    def _search(self, inputs: Tensor, z: Tensor, wanted: Wanted) -> tuple[Tensor, Tensor]:
        """D and I (n, k), on the device of the latents z (n, latent_dim) of queries."""
        if self.search_type == "sdc":
            z = self._quantized(z)
        refiner = self._refines
        asked = Asked(z, None if refiner is None else refiner.queries_of(inputs))
        with self._lock:  # FAISS's GPU resources serve one thread at a time
            if len(self._parts) == 1:
                D, I = self._parts[0].find(asked, wanted)  # noqa: E741
            else:
                # What reaches several devices comes by the host's memory.
                there = asked.to(torch.device("cpu"))
                together = self._of_shards if self._shard else self._of_replicas
                D, I = together(there, wanted)  # noqa: E741
        D, I = D.to(z.device), I.to(z.device)  # noqa: E741
        code = self.model.code_decoder
        if refiner is None and code is not None:
            D = torch.where(I == -1, D, D - code.offset)
        return D, I

    def _of_replicas(self, asked: Asked, wanted: Wanted) -> tuple[Tensor, Tensor]:
        """Each part is asked for a share of the queries, a thread each."""
        shares = asked.split(min(len(self._parts), len(asked.z)))
        with ThreadPoolExecutor(len(shares)) as pool:
            found = list(pool.map(lambda part, own: part.find(own, wanted), self._parts, shares))
        D, I = (torch.cat(parts) for parts in zip(*found, strict=True))  # noqa: E741
        return D, I

    def _of_shards(self, asked: Asked, wanted: Wanted) -> tuple[Tensor, Tensor]:
        """The best of what every part finds, a thread each.

        IndexShards would lose items: it takes every id below 0 for "nothing found".
        """
        with ThreadPoolExecutor(len(self._parts)) as pool:
            found = list(pool.map(lambda part: part.find(asked, wanted), self._parts))
        D, I = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))  # noqa: E741
        largest = self.metric_type == faiss.METRIC_INNER_PRODUCT
        D, best = D.topk(wanted.k, largest=largest)
        return D, I.gather(1, best)

    def _nothing(self, k: int) -> tuple[Tensor, Tensor]:
        """D and I of no queries."""
        device = self.model.device
        return torch.empty(0, k, device=device), torch.empty(0, k, dtype=torch.int64, device=device)

    # -- latents and codes

    def encode(self, x: Any) -> FloatArray | Tensor:
        """Latents of items: (n, *input_shape) to (n, latent_dim) float32."""
        parts = [z for _, z in self._encoding.latents(x, self.batch_size, "items to encode")]
        device, d = self.model.device, self.model.latent_dim
        z = torch.cat(parts or [torch.empty(0, d, device=device)])
        return z if _is_cuda(x) else np.asarray(z.cpu().numpy(), np.float32)

    def _quantized(self, z: Tensor) -> Tensor:
        """The latents (n, latent_dim) that codes of z stand for, of queries."""
        additive, by_residual = self.model.spec.is_additive, self.model.spec.by_residual
        if additive and not by_residual:
            return z  # the encoding has chosen codes
        ids, numbers = self._codes_of(z)
        quantized = self.model.quantized(ids)
        if self._coarse is not None and self._coarse.of_residuals:
            quantized = quantized + self._coarse.vectors[numbers]
        return repeated(self.model.summed(quantized), self.model.M) if additive else quantized

    def _codes_of(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """The codewords (n, M) int64 of latents (n, latent_dim), and their lists (n,)."""
        quantizer, spec, numbers = self.model.quantizer, self.model.spec, None
        if self._coarse is not None:
            numbers = self._coarse.nearest(z, 1)[:, 0]
            if self._coarse.of_residuals:
                z = z - self._coarse.vectors[numbers]
        if spec.is_additive and spec.by_residual:
            code = self.model.code_decoder
            assert code is not None
            return code.choose(self.model.summed(z), self._origin.effort), numbers
        if isinstance(quantizer, ResidualQuantizer):
            return quantizer.choose(z), numbers
        # Where both sides move, what is near stays so, and near the origin less is rounded.
        origin = quantizer.codewords.mean(1, keepdim=True)
        parts = split(z, self.model.M)
        return assign(parts - origin, quantizer.codewords - origin), numbers

    # -- changes

    @property
    def takes_more(self) -> bool:
        """Whether `add` is possible.

        Not of shards; with FAISS's kernels only where the codes are those of residuals in inverted
        lists: FAISS would put what is added into the list of the nearest centroid, and those of
        other layouts are all zero.
        """
        if self._shard:
            return False
        parts = self._parts
        return isinstance(parts[0], TorchPart) or (len(parts) == 1 and parts[0].takes_more)

    def add(self, x: Any) -> None:
        """Encodes and stores items, as `LatentIndex.add`, on the card.

        Raises:
            TypeError, ValueError: as there; an index that does not take more. Nothing is stored
                then.
        """
        self._add(x, None)

    def add_with_ids(self, x: Any, ids: Any) -> None:
        """As `add`, under ids of one's own: (n,) int64, of an IDMap or inverted lists.

        Raises:
            TypeError, ValueError: as `LatentIndex.add_with_ids`, and as `add`.
        """
        if ids is None:
            raise TypeError("expected ids of dtype int64, got None")
        self._add(x, ids)

    @torch.inference_mode()
    def _add(self, x: Any, ids: Any) -> None:
        if not self.takes_more:
            self._refuse()
        x = check_items(x, self.input_shape, "items to add", may_be_empty=True)
        given = self._origin._store.check_ids(ids, len(x))
        batches = (z for _, z in self._encoding.latents(x, self.batch_size, "items to add"))
        first = self._parts[0]
        # All are encoded before the first is stored.
        if isinstance(first, FaissPart):
            latents = [z.cpu() for z in batches]
        else:
            coded = [self._in_short(*self._codes_of(z)) for z in batches]
        if not len(x):
            return
        with self._lock:
            before = self.ntotal
            names = np.arange(before, before + len(x)) if given is None else given
            if isinstance(first, FaissPart):
                first.add(torch.cat(latents), names)
            else:
                codes = torch.cat([ids for ids, _ in coded])
                numbers = [number for _, number in coded if number is not None]
                lists = torch.cat(numbers) if numbers else None
                # Of several parts each gets them, or, where memory ends, none.
                self._parts = [
                    part.with_more(codes, lists, names)
                    for part in self._parts
                    if isinstance(part, TorchPart)
                ]
            items = after_adding(self._origin._items, given, before, self.ntotal)
            self._origin._items = items

    @staticmethod
    def _in_short(ids: Tensor, numbers: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Codewords, of which there are 4,096 at most, and lists, in fewer bytes."""
        return ids.short(), None if numbers is None else numbers.int()

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises a TypeError: this index does not change so."""
        raise TypeError(
            "an index on a GPU does not change: change the one on the CPU and copy it again"
        )

    train = remove_ids = reset = _refuse

    def gather(self, download: Copy) -> LatentIndex:
        """The index on the CPU; `download` makes a CPU IVFPQ of what FAISS has on a device."""
        native = empty_like(self._origin.faiss_index)
        codebooks = extract_codebooks(native)
        held = [self._held(part, download, codebooks) for part in self._shares]
        codes, ids, inner = (_dealt_back(parts) for parts in list(zip(*held, strict=True))[:3])
        in_lists = [each.list_sizes for each in held if each.list_sizes is not None]
        sizes = np.sum(in_lists, axis=0) if in_lists else None
        write(native, Stored(codes, ids, sizes, inner))
        index = with_native(self._origin, native)
        index.batch_size, index.k_factor = self.batch_size, self.k_factor
        if self._coarse is not None:
            index.nprobe = self.nprobe
        return index

    def _held(self, part: Part, download: Copy, codebooks: Codebooks) -> Held:
        if isinstance(part, TorchPart):
            return part.held()
        assert isinstance(part, FaissPart)
        codes, ids, sizes = collect(download(part.index), in_lists=self._coarse is not None)
        return Held(from_bytes(codes, codebooks), ids, part.inner_ids, sizes)


def scan_of(index: LatentIndex, scan: Scan) -> Literal["faiss", "torch"]:
    """Who scans the codes of an index, "auto" settled.

    Raises:
        TypeError, ValueError: another name; codes that FAISS's kernels do not take, or none do.
    """
    if scan not in get_args(Scan):
        raise ValueError(f"expected scan 'auto', 'faiss' or 'torch', got {scan!r}")
    if index.refiner is not None and not isinstance(index.refiner, Decoder):
        raise ValueError(
            "expected an index that does not refine its results, or whose decoder does, got one "
            "that refines by stored vectors: a GPU index holds codes only"
        )
    why = _not_faiss(index)
    if scan == "faiss" and why:
        raise TypeError(
            f"expected codes that FAISS has kernels for on a GPU, got {why}: torch scans them, "
            "with scan='auto'"
        )
    return "torch" if scan == "torch" or why else "faiss"


def _not_faiss(index: LatentIndex) -> str:
    """Why FAISS's kernels do not take an index; "" where they do."""
    spec, codebooks = index.model.spec, extract_codebooks(index.faiss_index)
    if spec.structure == "residual":
        return "those of a residual quantizer, of which it has none there"
    if spec.is_additive:
        return f"additive ones, with codewords of all {index.model.input_shape[0]} dimensions"
    if codebooks.nbits > MAX_NBITS:
        return f"codewords of {codebooks.nbits} bits, and it takes {MAX_NBITS} at most"
    if bytes_of_codes(codebooks) > MAX_BYTES:
        return f"{bytes_of_codes(codebooks)} bytes, and it takes {MAX_BYTES} at most"
    ivf = codebook_index(index.faiss_index)
    has_residuals = kind_of(ivf).has_lists and ivf.by_residual
    if has_residuals and ivf.quantizer.metric_type != ivf.metric_type:
        return "those of residuals behind a coarse quantizer of another metric"
    return "" if index.refiner is None else "a decoder behind them"


def scanned_by_torch(
    index: LatentIndex,
    devices: Sequence[torch.device],
    *,
    shard: bool = False,
    nlist: int | None = None,
) -> GpuLatentIndex:
    """The index on devices of PyTorch's, of which the CPU is one; see `index_cpu_to_gpu`.

    Raises:
        TypeError, ValueError: an index that cannot be copied, or an nlist.
        MemoryError: see there.
    """
    if nlist is not None:
        raise ValueError(f"expected nlist=None where torch scans all codes, got {nlist}")
    scan_of(index, "torch")
    _check_copied(index, len(devices) if shard else 1)
    stored, codebooks = read(index.faiss_index), extract_codebooks(index.faiss_index)
    lists = lists_of(index.faiss_index, stored)
    models: dict[torch.device, PQVAE] = {}
    parts = []
    for rows, device in zip(_rows(len(devices), shard=shard), devices, strict=True):
        own = None if lists is None else lists.of(rows)
        codes = stored.codes[rows]
        _check_fits(scan_bytes(codebooks, len(codes), own), device, len(codes))
        if device not in models:
            models[device] = copy.deepcopy(index.model).to(device)
        codes_there = TorchScan(codebooks, codes, index.metric_type, own, device)
        decoder = None if index.refiner is None else CodeDecoder(models[device], codes_there)
        parts.append(TorchPart(codes_there, stored.ids[rows], _inner(stored, rows), decoder))
    return _joined(index, models[devices[0]], parts, parts[0].codes.coarse, shard=shard)


def distribute(
    index: LatentIndex,
    device: torch.device,
    uploads: Sequence[Copy],
    *,
    shard: bool,
    nlist: int | None,
) -> GpuLatentIndex:
    """Deals an index to as many parts of FAISS's as there are `uploads`.

    Args:
        index: see `index_cpu_to_gpu`.
        device: where the encoder goes, and a copy of the front.
        uploads: each makes the native index of a part from a CPU IVFPQ.
        shard: see `index_cpu_to_gpu`.
        nlist: see `faiss_pqvae.native.gpu_layout.gpu_layout`.
    """
    scan_of(index, "faiss")
    _check_copied(index, len(uploads) if shard else 1)
    stored, codebooks = read(index.faiss_index), extract_codebooks(index.faiss_index)
    lists = lists_of(index.faiss_index, stored, nlist)
    # Widened codes have names of no codeword, which FAISS would choose.
    chooses = lists is not None and lists.of_residuals and 8 % codebooks.nbits == 0
    parts: list[Part] = []
    for rows, upload in zip(_rows(len(uploads), shard=shard), uploads, strict=True):
        if shard or not parts:  # replicas are copies of one layout
            own = None if lists is None else lists.of(rows)
            layout = deal(
                stored.codes[rows], stored.ids[rows], codebooks, index.metric_type, nlist, own
            )
            coarse = coarse_of(lists, layout.d)
        inner = _inner(stored, rows)
        parts.append(
            FaissPart(
                upload(layout),
                None if coarse is None else upload(coarse),
                inner,
                takes_more=chooses and inner is None,
            )
        )
    centroids = None if lists is None else Centroids(lists, device)
    return _joined(index, copy.deepcopy(index.model).to(device), parts, centroids, shard=shard)


def _check_copied(index: LatentIndex, least: int) -> None:
    """Refuses an index of too few items."""
    if index.ntotal < least:
        raise ValueError(f"expected an index of at least {least} items, got {index.ntotal}")


def _rows(n_parts: int, *, shard: bool) -> list[slice]:
    """Which of the items each part has."""
    return [slice(g, None, n_parts) if shard else slice(None) for g in range(n_parts)]


def _inner(stored: Stored, rows: slice) -> IdArray | None:
    return None if stored.inner_ids is None else stored.inner_ids[rows]


def _dealt_back(parts: Sequence[Any]) -> Any:
    """Arrays of rows that were dealt to several parts in turn, as one; None of none."""
    if parts[0] is None:
        return None
    whole = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype)
    for g, part in enumerate(parts):
        whole[g :: len(parts)] = part
    return whole


def _joined(
    index: LatentIndex,
    model: PQVAE,
    parts: Sequence[Part],
    coarse: Centroids | None,
    *,
    shard: bool,
) -> GpuLatentIndex:
    """The parts of an index, behind a model on the first device."""
    front = None if index.front is None else index.front.to(model.device)
    origin = with_native(index, empty_like(index.faiss_index))
    encoding = Encoding(model, index.transforms, front, index.effort)
    return GpuLatentIndex(origin, encoding, parts, coarse=coarse, shard=shard)


def _selector_of(params: Any) -> Any:
    """The selector of search parameters; None without.

    Raises:
        TypeError: other parameters than a selector.
    """
    if params is None:
        return None
    if type(params) is not faiss.SearchParameters:
        raise TypeError(
            "expected faiss.SearchParameters(sel=selector) or None on a GPU, got "
            f"{type(params).__name__}: lists to visit are set by `nprobe`"
        )
    sel = given_selector(params)
    return None if sel is None else as_selector(sel)


def _is_cuda(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_cuda


# -- what touches a GPU


def _check_devices(device: int | Sequence[int], *, by_torch: bool) -> list[int]:
    """Numbers of GPUs that PyTorch, and FAISS, see; raises as `index_cpu_to_gpu` does."""
    if by_torch:
        count = torch.cuda.device_count()
        if not count:
            raise RuntimeError("PyTorch finds no GPU on this host: does nvidia-smi list one?")
        return _numbers(device, count)
    if not hasattr(faiss, "StandardGpuResources"):
        raise RuntimeError(
            "this FAISS is built for the CPU only: pip uninstall faiss-cpu, then pip install "
            "\"faiss-pqvae[gpu]\" (never both, they own the same files); or scan='torch', which "
            "needs none"
        )
    # Not left to FAISS, whose index_cpu_to_all_gpus gives an empty set of replicas then.
    count = int(faiss.get_num_gpus())
    if not count:
        raise RuntimeError("FAISS finds no GPU on this host: does nvidia-smi list one?")
    if not torch.cuda.is_available():
        raise RuntimeError("FAISS finds a GPU, PyTorch does not: install a PyTorch with CUDA")
    return _numbers(device, count)


def _numbers(device: int | Sequence[int], count: int) -> list[int]:
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
    _check_fits(bytes_needed(index), torch.device("cuda", device), index.ntotal)
    options = faiss.GpuClonerOptions()
    options.useFloat16 = isinstance(index, faiss.IndexIVFPQ) and index.pq.M >= FLOAT16_M
    options.use_cuvs = False  # the limits of this module are those of FAISS's own kernels
    return faiss.index_cpu_to_gpu(resources, device, index, options)


def _check_fits(needed: int, device: torch.device, n: int) -> None:
    """Raises a MemoryError where n items need more bytes than are free on a GPU."""
    if device.type != "cuda":
        return
    free = torch.cuda.mem_get_info(device)[0]
    if needed > free:
        raise MemoryError(
            f"expected {needed / 1e9:,.2f} GB free on GPU {device.index} for {n:,} items, got "
            f"{free / 1e9:,.2f} GB: several GPUs with shard=True hold a part each"
        )
