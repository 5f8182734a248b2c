"""What one device holds of an index, and how it is searched there: by FAISS or by torch."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from faiss_pqvae.index.gpu_decoder import CodeDecoder
from faiss_pqvae.native import faiss
from faiss_pqvae.native.faiss_method import faiss_method
from faiss_pqvae.native.gpu_layout import MAX_SELECTION
from faiss_pqvae.native.ids import selected, taken_of
from faiss_pqvae.native.scan.torch_scan import TorchScan, nothing_at
from faiss_pqvae.types import CodeArray, IdArray

FLOAT16_M = 56  # from here on only tables of float16 fit the shared memory of a block
_FIRST_TRIED = 64  # results among which selected ones are looked for
_MORE = 4  # times as many, where these were not enough


class Asked(NamedTuple):
    """Queries.

    Attributes:
        z: (n, latent_dim) float32, what codes are compared with.
        vectors: (n, d) float32, what decoded items are compared with; None where none is decoded.
    """

    z: Tensor
    vectors: Tensor | None = None

    def to(self, device: torch.device) -> Asked:
        """On another device."""
        return Asked(self.z.to(device), None if self.vectors is None else self.vectors.to(device))

    def split(self, n: int) -> list[Asked]:
        """In n parts of about the same size."""
        vectors = [None] * n if self.vectors is None else self.vectors.tensor_split(n)
        return [Asked(*part) for part in zip(self.z.tensor_split(n), vectors, strict=True)]


class Wanted(NamedTuple):
    """What is asked for.

    Attributes:
        k: results of every query.
        candidates: of these that the decoder looks at.
        sel: a faiss.IDSelector of ids, or None.
    """

    k: int
    candidates: int
    sel: Any = None


class Held(NamedTuple):
    """What a part holds, in the order of its codes.

    Attributes:
        codes: (n, code_size) uint8, as they are in the layout or as FAISS packs them.
        ids: (n,) int64.
        inner_ids: (n,) int64, positions in an IDMap around inverted lists; None without.
        list_sizes: (nlist,) int64; None without lists.
    """

    codes: CodeArray
    ids: IdArray
    inner_ids: IdArray | None
    list_sizes: IdArray | None


class FaissPart:
    """A native index of `gpu_layout`'s form, or its copy on a device.

    Args:
        index: native.
        coarse: native and flat, which says what lists of codes of vectors a query visits; None
            where the index does.
        inner_ids: see `Held`.
        takes_more: whether FAISS itself finds list and code of what is added.

    Attributes:
        max_k: results that a query can have; None for any number.
    """

    max_k: int | None = MAX_SELECTION

    def __init__(
        self, index: Any, coarse: Any, inner_ids: IdArray | None, *, takes_more: bool
    ) -> None:
        self.index, self.coarse = index, coarse
        self.inner_ids, self.takes_more = inner_ids, takes_more

    @property
    def scan(self) -> str:
        """What scans the codes, in words."""
        tables = "float16" if _code_size(self.index) >= FLOAT16_M else "float32"
        return f"{type(self.index).__name__}, tables of {tables}"

    @property
    def ntotal(self) -> int:
        """Items."""
        return int(self.index.ntotal)

    @property
    def nlist(self) -> int:
        """Inverted lists; codes that were dealt to lists have some, too."""
        return int(self.index.nlist)

    @property
    def nprobe(self) -> int:
        """How many of them a search visits."""
        return int(self.index.nprobe)

    @nprobe.setter
    def nprobe(self, n: int) -> None:
        self.index.nprobe = n

    def find(self, asked: Asked, wanted: Wanted) -> tuple[Tensor, Tensor]:
        """D (n, k) float32 and ids (n, k) int64, where the queries are.

        Raises:
            ValueError: less than k of the items that a selector takes among the 2,048 nearest.
        """
        z = functional.pad(asked.z, (0, self.index.d - asked.z.shape[1])).contiguous()
        if wanted.sel is None:
            return self._search(z, wanted.k)
        return self._oversampled(z, wanted.k, wanted.sel)

    def _search(self, z: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Of queries in the memory of the host, or of the device that the index is on."""
        if z.is_cuda:
            follow_stream(self.index, z.device)
        return by_pointers(self.index, self.coarse, z, k)

    def _oversampled(self, z: Tensor, k: int, sel: Any) -> tuple[Tensor, Tensor]:
        """The best of those that a selector takes, which FAISS's kernels do not ask.

        More and more results are looked at, of queries for which these were not enough.
        """
        D = np.full((len(z), k), nothing_at(self.index.metric_type), np.float32)
        I, rows = np.full((len(z), k), -1), np.arange(len(z))  # noqa: E741
        tried = min(MAX_SELECTION, max(_MORE * k, _FIRST_TRIED))
        while len(rows):
            found = self._search(z[torch.from_numpy(rows).to(z.device)], tried)
            d, i = (part.cpu().numpy() for part in found)
            taken = np.isin(i, taken_of(sel, np.unique(i[i != -1])))
            # A query has all that there are, once it gets less than it asked for.
            done = (taken.sum(1) >= k) | (i == -1).any(1) | (tried >= self.ntotal)
            order = np.argsort(~taken, axis=1, kind="stable")[:, :k]
            kept = np.take_along_axis(taken, order, 1) & done[:, None]
            row, column = np.nonzero(kept)
            D[rows[row], column] = np.take_along_axis(d, order, 1)[kept]
            I[rows[row], column] = np.take_along_axis(i, order, 1)[kept]
            rows = rows[~done]
            if len(rows) and tried == MAX_SELECTION:
                raise ValueError(
                    f"expected a selector that takes k={k} of the {MAX_SELECTION} nearest items of "
                    f"every query, as FAISS's kernels on a GPU find no more, got {len(rows)} "
                    "queries of which it takes less: copy the index with scan='torch', which looks "
                    "at the selected items alone"
                )
            tried = min(MAX_SELECTION, _MORE * tried)
        return torch.from_numpy(D).to(z.device), torch.from_numpy(I).to(z.device)

    def add(self, z: Tensor, ids: IdArray) -> None:
        """Stores latents (n, latent_dim) float32 under ids (n,) int64."""
        padded = functional.pad(z, (0, self.index.d - z.shape[1])).cpu().contiguous().numpy()
        faiss_method(self.index, "add_with_ids")(padded, ids)


class TorchPart:
    """Codes that torch scans.

    Args:
        codes: the scan.
        ids: (n,) int64, what they are called.
        inner_ids: see `Held`.
        decoder: what looks at results again, or None.
    """

    max_k: int | None = None

    def __init__(
        self,
        codes: TorchScan,
        ids: IdArray,
        inner_ids: IdArray | None,
        decoder: CodeDecoder | None,
    ) -> None:
        self.codes, self.ids, self.inner_ids, self.decoder = codes, ids, inner_ids, decoder
        self._ids = torch.from_numpy(np.ascontiguousarray(ids)).to(codes.device)

    @property
    def scan(self) -> str:
        """See `FaissPart`."""
        again = "" if self.decoder is None else ", then the decoder"
        return f"look-ups by torch on {self.codes.device}{again}"

    @property
    def ntotal(self) -> int:
        """See `FaissPart`."""
        return len(self.codes)

    @property
    def nlist(self) -> int:
        """See `FaissPart`."""
        return self.codes.nlist

    @property
    def nprobe(self) -> int:
        """See `FaissPart`."""
        return self.codes.nprobe or 1

    @nprobe.setter
    def nprobe(self, n: int) -> None:
        self.codes.nprobe = n

    def find(self, asked: Asked, wanted: Wanted) -> tuple[Tensor, Tensor]:
        """See `FaissPart`."""
        here, k = asked.to(self.codes.device), wanted.k
        chosen = None if wanted.sel is None else self._chosen(wanted.sel)
        if self.decoder is None:
            D, places = self.codes.search(here.z, k, chosen)
        else:
            assert here.vectors is not None
            listed = max(k, min(wanted.candidates * self.decoder.listed, self.ntotal))
            D, places = self.codes.search(here.z, listed, chosen)
            n = min(wanted.candidates, listed)
            D, places = self.decoder.refined(here.vectors, D, places, n, k)
        I = self._ids[places.clamp(min=0)].masked_fill_(places < 0, -1)  # noqa: E741
        return D.to(asked.z.device), I.to(asked.z.device)

    def _chosen(self, sel: Any) -> Tensor:
        """The places (m,) int64 of what a selector of ids takes."""
        id_map = faiss.Int64Vector()
        faiss.copy_array_to_vector(np.ascontiguousarray(self.ids), id_map)
        places = selected(faiss.IDSelectorTranslated(id_map, sel), len(self.ids))
        return torch.from_numpy(places).to(self.codes.device)

    def with_more(self, ids: Tensor, numbers: Tensor | None, names: IdArray) -> TorchPart:
        """A part of more codes; this one stays as it is.

        Args:
            ids: see `TorchScan.with_more`.
            numbers: likewise.
            names: (m,) int64, what they are called.
        """
        codes, order = self.codes.with_more(ids.to(self.codes.device), numbers)
        places = order.cpu().numpy()
        inner = self.inner_ids
        if inner is not None:
            more = np.arange(self.ntotal, self.ntotal + len(names))
            inner = np.concatenate([inner, more])[places]
        names = np.concatenate([self.ids, names])[places]
        decoder = None if self.decoder is None else CodeDecoder(self.decoder.model, codes)
        return TorchPart(codes, names, inner, decoder)

    def held(self) -> Held:
        """What it holds."""
        return Held(self.codes.packed(), self.ids, self.inner_ids, self.codes.list_sizes())


Part = FaissPart | TorchPart


def _code_size(index: Any) -> int:
    """Bytes of a code of a layout, whose copies on a GPU have no `pq`."""
    return int(index.getNumSubQuantizers() if hasattr(index, "getNumSubQuantizers") else index.pq.M)


# -- what touches a GPU


def follow_stream(index: Any, device: torch.device) -> None:
    """Lets an index, and a coarse one beside it, wait for and go on in PyTorch's own stream."""
    stream = torch.cuda.current_stream(device).cuda_stream
    resources = index.getResources()  # those of the coarse index, too
    with torch.cuda.device(device):  # it waits for the stream before, on the current device
        resources.setDefaultStream(device.index, faiss.cast_integer_to_cudastream_t(stream))


def by_pointers(index: Any, coarse: Any, z: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """D and I of a native index, without a copy of queries z (n, d) float32 or of results."""
    D, I = _results(z, k)  # noqa: E741
    to_float, to_id = faiss.cast_integer_to_float_ptr, faiss.cast_integer_to_idx_t_ptr
    queries, found = to_float(z.data_ptr()), (to_float(D.data_ptr()), to_id(I.data_ptr()))
    if coarse is None:
        index.search_c(len(z), queries, k, *found)
        return D, I
    nprobe = int(index.nprobe)
    distances, probes = _results(z, nprobe)
    near = to_float(distances.data_ptr()), to_id(probes.data_ptr())
    coarse.search_c(len(z), queries, nprobe, *near)
    distances.zero_()  # of inner products they would be added to the codes'
    index.search_preassigned_c(len(z), queries, k, near[1], near[0], *found, False)
    return D, I


def _results(z: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Room for distances and ids (n, k) where z (n, d) is."""
    return z.new_empty(len(z), k), z.new_empty(len(z), k, dtype=torch.int64)
