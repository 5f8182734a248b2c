"""A scan of codes by torch, on any device: for what FAISS has no kernels for on a GPU.

Every code is a sum of look-ups in tables of the query's distances to all codewords: residual and
additive ones, and product codes of any size. In inverted lists of residuals every list that a query
visits has tables of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.native import faiss
from faiss_pqvae.native.gpu_layout import Lists
from faiss_pqvae.native.packing import merge_codebooks
from faiss_pqvae.types import CodeArray, IdArray

_CHUNK_BYTES = {"cpu": 2**22, "cuda": 2**28}  # of distances at a time; on a CPU in the cache
_LEAST_ROWS = 1024  # of codes at a time
_MOST = float(np.finfo(np.float32).max)


def nothing_at(metric_type: int) -> float:
    """FAISS's distance of nothing."""
    return _MOST if metric_type == faiss.METRIC_L2 else -_MOST


class Centroids:
    """Those of an inverted file, on a device.

    Args:
        lists: of it.
        device: where latents come from.
    """

    def __init__(self, lists: Lists, device: torch.device) -> None:
        self.vectors = torch.from_numpy(lists.centroids).to(device)  # (nlist, d)
        self.of_residuals = lists.of_residuals
        # As in `TorchScan`: by L2 both sides may move.
        self._by_l2 = lists.metric_type == faiss.METRIC_L2
        self._origin = self.vectors.mean(0) if self._by_l2 else self.vectors.new_zeros(())

    def nearest(self, z: Tensor, n: int) -> Tensor:
        """The n lists nearest to each of latents (nz, d): (nz, n) int64, the nearest first."""
        centroids = self.vectors - self._origin
        near = (z - self._origin) @ centroids.T
        if self._by_l2:
            near -= centroids.square().sum(1) / 2
        return near.topk(n, dim=1).indices


class TorchScan:
    """Codes on a device, and the search among them.

    Args:
        codebooks: of the codes.
        codes: (n, code_size) uint8 as FAISS packs them, list after list where there are lists.
        metric_type: faiss.METRIC_L2 or faiss.METRIC_INNER_PRODUCT.
        lists: of an inverted file, or None.
        device: where they are, and where queries come from.

    Attributes:
        coarse: the centroids of the lists; None without lists.
        nprobe: lists that a search visits; None without lists.
    """

    coarse: Centroids | None
    nprobe: int | None

    def __init__(
        self,
        codebooks: Codebooks,
        codes: CodeArray,
        metric_type: int,
        lists: Lists | None,
        device: torch.device,
    ) -> None:
        self.codebooks, self.metric_type, self.device = codebooks, metric_type, device
        nbits, M = codebooks.nbits, codebooks.M
        self._group = 8 // nbits if 8 % nbits == 0 else 1  # codes in a look-up: a byte's
        if 8 % nbits:
            unpacked = faiss.unpack_bitstrings(np.ascontiguousarray(codes), M, nbits)
            codes = unpacked.astype(np.uint8 if nbits < 8 else np.int16)
        merged = merge_codebooks(codebooks.centroids, self._group, codebooks.structure)
        codewords = torch.from_numpy(merged).to(device)
        # Distances do not change where both sides move, and near the origin they are rounded less.
        self._origin = codewords.mean(1, keepdim=True)
        if metric_type != faiss.METRIC_L2:
            self._origin = torch.zeros_like(self._origin)
        self._codewords = codewords - self._origin  # (fields, ksub, dsub)
        self._codes = torch.from_numpy(np.ascontiguousarray(codes)).to(device)
        fields, ksub, _ = merged.shape
        self._offsets = ksub * torch.arange(fields, dtype=torch.int32, device=device)
        self.coarse, self.nprobe = None, None
        if lists is not None:
            self.coarse, self.nprobe = Centroids(lists, device), lists.nprobe
            self._set_bounds(torch.from_numpy(lists.numbers).to(device))

    def _set_bounds(self, numbers: Tensor) -> None:
        """Takes the list (n,) of every code, rising."""
        self._numbers = numbers
        counts = torch.bincount(numbers, minlength=self.nlist)
        self._bounds = [0, *counts.cumsum(0).tolist()]

    def __len__(self) -> int:
        return len(self._codes)

    @property
    def nlist(self) -> int:
        """How many lists there are."""
        return 1 if self.coarse is None else len(self.coarse.vectors)

    # -- searching

    @torch.inference_mode()
    def search(self, z: Tensor, k: int, chosen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The k best codes of every query.

        Args:
            z: (n, d) float32, on the device.
            k: results of each, k >= 1.
            chosen: (m,) int64, places of the codes that are looked at, rising; None for all.

        Returns:
            D (n, k) float32, best first; and places (n, k) int64, -1 where there is nothing left.
        """
        least = self.metric_type == faiss.METRIC_L2
        worst = torch.inf if least else -torch.inf
        D = torch.full((k, len(z)), worst, device=self.device)
        places = torch.full((k, len(z)), -1, device=self.device)
        for visit in self._visits(z):
            start, stop = visit.start, visit.stop
            if chosen is not None:
                at = torch.searchsorted(chosen, torch.tensor([start, stop], device=self.device))
                start, stop = at.tolist()
            table, rows = visit.table, visit.rows
            n = max(_LEAST_ROWS, self._chunk_bytes // (4 * table.shape[1]))
            for first in range(start, stop, n):
                part = slice(first, min(first + n, stop))
                taken = part if chosen is None else chosen[part]
                names = self._codes[taken].int() + self._offsets
                found = functional.embedding_bag(names, table, mode="sum")  # (rows, queries)
                if visit.added is not None:
                    found += visit.added
                found, best = found.topk(min(k, len(found)), dim=0, largest=not least)
                best = best + first if chosen is None else chosen[first + best]
                both = torch.cat([D[:, rows], found]), torch.cat([places[:, rows], best])
                D[:, rows], order = both[0].topk(k, dim=0, largest=not least)
                places[:, rows] = both[1].gather(0, order)
        D.clamp_(-_MOST, _MOST)
        return D.T.contiguous(), places.T.contiguous()

    @property
    def _chunk_bytes(self) -> int:
        return _CHUNK_BYTES[self.device.type]

    def _visits(self, z: Tensor) -> Iterator[_Visit]:
        """The codes that each query is compared with, and its tables: list by list."""
        coarse = self.coarse
        if coarse is None:
            yield _Visit(0, len(self), slice(None), self._tables(z))
            return
        everywhere = None if coarse.of_residuals else self._tables(z)
        nprobe = self.nprobe
        assert nprobe is not None
        nearest = coarse.nearest(z, nprobe).cpu().numpy().ravel()
        order = np.argsort(nearest, kind="stable")
        visited, firsts = np.unique(nearest[order], return_index=True)
        queries = np.split(order // nprobe, firsts[1:])
        for number, asking in zip(visited.tolist(), queries, strict=True):
            start, stop = self._bounds[number : number + 2]
            if start == stop:
                continue
            rows, added = torch.from_numpy(asking).to(self.device), None
            if everywhere is not None:
                table = everywhere.index_select(1, rows)
            elif self.metric_type == faiss.METRIC_L2:
                table = self._tables(z[rows] - coarse.vectors[number])
            else:
                table, added = self._tables(z[rows]), z[rows] @ coarse.vectors[number]
            yield _Visit(start, stop, rows, table, added)

    def _tables(self, z: Tensor) -> Tensor:
        """What codewords add to distances to queries (n, d): (M * ksub, n), of merged ones."""
        codewords, (fields, ksub, dsub) = self._codewords, self._codewords.shape
        if self.codebooks.structure == "residual":
            return codewords.flatten(0, 1) @ z.T
        parts = functional.pad(z, (0, fields * dsub - z.shape[1])).view(len(z), fields, dsub)
        parts = parts.transpose(0, 1) - self._origin  # (fields, n, dsub)
        if self.metric_type == faiss.METRIC_L2:
            own = parts.square().sum(-1).unsqueeze(1) + codewords.square().sum(-1, keepdim=True)
            tables = own.baddbmm_(codewords, parts.mT, alpha=-2).clamp_(min=0)
        else:
            tables = codewords @ parts.mT
        return tables.reshape(fields * ksub, len(z))

    # -- what it holds

    def with_more(self, ids: Tensor, numbers: Tensor | None) -> tuple[TorchScan, Tensor]:
        """A scan of more codes; this one stays as it is.

        Args:
            ids: (m, M) of any integers, their codewords.
            numbers: (m,) likewise, their lists; None without lists.

        Returns:
            It, and the order (n + m,) int64 in which it has the codes of this one and the new ones.
        """
        new = self._in_bytes(ids.long())
        grown = copy.copy(self)
        grown._codes = torch.cat([self._codes, new])
        order = torch.arange(len(grown), device=self.device)
        if self.coarse is not None:
            assert numbers is not None
            numbers = torch.cat([self._numbers, numbers.to(self._numbers)])
            order = numbers.argsort(stable=True)
            grown._codes = grown._codes[order]
            grown._set_bounds(numbers[order])
        return grown, order

    def _in_bytes(self, ids: Tensor) -> Tensor:
        """Codewords (m, M) int64 as codes are held."""
        if self._group > 1:
            width = self._codes.shape[1] * self._group
            ids = functional.pad(ids, (0, width - ids.shape[1])).view(len(ids), -1, self._group)
            ids = (ids << self.codebooks.nbits * torch.arange(self._group, device=ids.device)).sum(
                -1
            )
        return ids.to(self._codes.dtype)

    def codewords_of(self, places: Tensor) -> Tensor:
        """The codewords (n, M) int64 that the codes at places (n,) name."""
        codes, nbits = self._codes[places].long(), self.codebooks.nbits
        if self._group > 1:
            shifts = nbits * torch.arange(self._group, device=self.device)
            codes = (codes.unsqueeze(-1) >> shifts).bitwise_and_(self.codebooks.ksub - 1).flatten(1)
        return codes[:, : self.codebooks.M]

    def centroids_of(self, places: Tensor) -> Tensor | None:
        """The centroids (n, d) of what codes at places (n,) are residuals to, if they are any."""
        if self.coarse is None or not self.coarse.of_residuals:
            return None
        return self.coarse.vectors[self._numbers[places]]

    def packed(self) -> CodeArray:
        """The codes as FAISS packs them: (n, code_size) uint8, in their order."""
        codes: CodeArray = self._codes.cpu().numpy()
        if 8 % self.codebooks.nbits:
            codes = faiss.pack_bitstrings(codes.astype(np.int32), self.codebooks.nbits)
        return codes

    def list_sizes(self) -> IdArray | None:
        """How many codes each list has: (nlist,) int64; None without lists."""
        return None if self.coarse is None else np.diff(self._bounds).astype(np.int64)


def scan_bytes(codebooks: Codebooks, n: int, lists: Lists | None) -> int:
    """Memory of a device that the scan of n codes takes at least: codes, ids of 64 bits, tables."""
    nbits, M = codebooks.nbits, codebooks.M
    code = -(-M * nbits // 8) if 8 % nbits == 0 else M * (1 if nbits < 8 else 2)
    tables = 4 * codebooks.centroids.size
    if lists is not None:
        code, tables = code + 8, tables + 4 * lists.centroids.size  # the number of a list
    return int(n * (code + 8) + tables)


class _Visit(NamedTuple):
    """Codes that some queries are compared with.

    Attributes:
        start: place of the first code.
        stop: behind the last one.
        rows: of the queries.
        table: (M * ksub, queries) float32.
        added: (queries,) float32, to every sum; None for nothing.
    """

    start: int
    stop: int
    rows: slice | Tensor
    table: Tensor
    added: Tensor | None = None
