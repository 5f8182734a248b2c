"""The codes of a native index, dealt to the lists of an IVFPQ that a GPU can take, and back.

FAISS has no IndexPQ on the GPU. An IVFPQ whose coarse centroids are all zero is the same index:
a residual is then the vector itself. Its GPU version gives a block of threads to every list of
every query, so the codes are dealt to many lists, and all of them are probed. Codes of residuals
stay in their own lists, behind their own centroids. It knows codes of 8 bits and certain M only:
smaller codes are merged into bytes or widened to one, and sub-quantizers of zeros, which add
nothing to a distance, fill up M.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from faiss_pqvae.arguments import integer
from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.native import faiss
from faiss_pqvae.native.coarse import has_residuals
from faiss_pqvae.native.faiss_method import faiss_method
from faiss_pqvae.native.inject import extract_codebooks
from faiss_pqvae.native.kinds.ivf_pq import add_entries, entries
from faiss_pqvae.native.kinds.lists import coarse_centroids
from faiss_pqvae.native.packing import merge_codebooks
from faiss_pqvae.native.store.contents import Stored, read
from faiss_pqvae.native.walk import codebook_index
from faiss_pqvae.types import CodeArray, FloatArray, IdArray

MAX_SELECTION = 2048  # of k and of the lists probed: what a GPU's k-selection takes

_SUPPORTED_M = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96)


class Lists(NamedTuple):
    """The inverted lists of codes of residuals, which keep their places.

    Attributes:
        centroids: (nlist, d) float32, the coarse ones.
        numbers: (n,) int64, the list of every code, rising.
        nprobe: how many of them a search visits.
    """

    centroids: FloatArray
    numbers: IdArray
    nprobe: int

    def of(self, rows: slice) -> Lists:
        """Those of some of the codes."""
        return self._replace(numbers=self.numbers[rows])


def lists_of(index: Any, stored: Stored, nlist: int | None = None) -> Lists | None:
    """The lists that an index's codes have to stay in; None where they may be dealt to any.

    Args:
        index: see `gpu_layout`.
        stored: what it holds.
        nlist: as `gpu_layout` was given it.

    Raises:
        ValueError: codes of residuals, and an nlist; an nprobe beyond what a GPU takes.
    """
    if not has_residuals(index):
        return None
    ivf = codebook_index(index)
    if nlist is not None:
        raise ValueError(
            f"expected nlist=None for codes of residuals, whose {ivf.nlist} lists stay as they "
            f"are, got {nlist}"
        )
    if ivf.nprobe > MAX_SELECTION:
        raise ValueError(f"expected nprobe up to {MAX_SELECTION} on a GPU, got {ivf.nprobe}")
    assert stored.list_sizes is not None  # an inverted file's
    numbers = np.repeat(np.arange(ivf.nlist), stored.list_sizes)
    return Lists(coarse_centroids(ivf), numbers, int(ivf.nprobe))


def gpu_layout(index: Any, *, nlist: int | None = None) -> Any:
    """Deals the codes of a native index to the lists of an IVFPQ that a GPU can take.

    Its vectors have more dimensions where sub-quantizers were added: fill up with zeros.

    Args:
        index: a trained IndexPQ, IndexPQFastScan, IndexIVFPQ or IndexIVFPQFastScan, which an
            IDMap may be around. Of an inverted file of codes of vectors all lists are searched from
            now on; codes of residuals keep their lists and nprobe.
        nlist: number of lists; None takes sqrt(ntotal) / 16. A block of threads makes a
            sub-quantizer's tables for one list after another, then a block a list scans the
            codes, so that a query alone takes a * nlist + b * ntotal / nlist. The factor is an
            estimate, not a measurement.

    Returns:
        A faiss.IndexIVFPQ on the CPU that finds what `index` finds.

    Raises:
        TypeError: another kind of index.
        ValueError: an untrained index; more than 8 bits a code; codes of more than 96 bytes;
            an nlist out of [1, 2048], or one for codes of residuals.
    """
    stored, codebooks = read(index), extract_codebooks(index)
    lists = lists_of(index, stored, nlist)
    return deal(stored.codes, stored.ids, codebooks, index.metric_type, nlist, lists)


def deal(
    codes: CodeArray,
    ids: IdArray,
    codebooks: Codebooks,
    metric_type: int,
    nlist: int | None,
    lists: Lists | None = None,
) -> Any:
    """As `gpu_layout`; without lists, list l has the rows l, l + nlist, l + 2 * nlist and so on."""
    centroids = _byte_centroids(codebooks)
    M, _, dsub = centroids.shape
    codes = to_bytes(codes, codebooks, M)
    if lists is None:
        if nlist is None:
            nlist = min(max(math.isqrt(len(codes)) // 16, 1), MAX_SELECTION)
        nlist = integer("nlist", nlist, 1, MAX_SELECTION)
        # Residuals to zero are the vectors.
        lists = Lists(np.zeros((nlist, 0), np.float32), np.arange(len(codes)) % nlist, nlist)
    nlist, d = lists.centroids.shape
    quantizer = faiss.IndexFlat(M * dsub, metric_type)
    faiss_method(quantizer, "add")(np.pad(lists.centroids, ((0, 0), (0, M * dsub - d))))
    layout = faiss.IndexIVFPQ(quantizer, M * dsub, nlist, M, 8, metric_type)
    faiss.copy_array_to_vector(centroids.ravel(), layout.pq.centroids)
    layout.is_trained, layout.by_residual, layout.nprobe = True, True, lists.nprobe  # no others
    order = np.argsort(lists.numbers, kind="stable")
    ends = np.cumsum(np.bincount(lists.numbers, minlength=nlist))
    for list_no, rows in enumerate(np.split(order, ends[:-1])):
        # Not `add`: it would put all of them in the nearest list.
        add_entries(layout, list_no, codes[rows], ids[rows])
    layout.ntotal = len(codes)
    return layout


def collect(layouts: list[Any], *, in_lists: bool = False) -> tuple[CodeArray, IdArray]:
    """Undoes `deal`, of rows that were dealt to several layouts in turn before.

    Args:
        layouts: one or more.
        in_lists: the codes have kept their lists, see `Lists`.

    Returns:
        Codes as bytes (n, M) uint8, and ids (n,) int64.
    """
    n, M = sum(layout.ntotal for layout in layouts), layouts[0].pq.M
    codes, ids = np.empty((n, M), np.uint8), np.empty(n, np.int64)
    for g, layout in enumerate(layouts):
        rows = slice(g, None, len(layouts))
        found = [entries(layout, list_no) for list_no in range(layout.nlist)]
        own_codes, own_ids = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.arange(layout.ntotal)
        if not in_lists:
            order = np.argsort(order % layout.nlist, kind="stable")
        codes[rows][order], ids[rows][order] = own_codes, own_ids
    return codes, ids


# -- codes as bytes


def _byte_centroids(codebooks: Codebooks) -> FloatArray:
    """Codebooks for the bytes of `to_bytes`: (M, 256, dsub) float32, with M as a GPU takes it.

    Raises:
        ValueError: more than 8 bits a code; codes of more than 96 bytes.
    """
    nbits = codebooks.nbits
    if nbits > 8:
        raise ValueError(f"expected at most 8 bits a code on a GPU, got {nbits}")
    group = 1 if 8 % nbits else 8 // nbits  # codes in a byte
    needed = -(-codebooks.M // group)
    if needed > _SUPPORTED_M[-1]:
        raise ValueError(
            f"expected codes of at most {_SUPPORTED_M[-1]} bytes on a GPU, got {needed}"
        )
    M = next(m for m in _SUPPORTED_M if m >= needed)
    merged = merge_codebooks(codebooks.centroids, group)
    filled = np.zeros((M, 256, merged.shape[2]), np.float32)
    # Of a widened code, the bytes from ksub on never occur.
    filled[: len(merged), : merged.shape[1]] = merged
    return filled


def to_bytes(codes: CodeArray, codebooks: Codebooks, M: int) -> CodeArray:
    """FAISS's codes (n, code_size) uint8 to (n, M) uint8, filled up with zeros."""
    if 8 % codebooks.nbits:
        codes = np.ascontiguousarray(codes)
        codes = faiss.unpack_bitstrings(codes, codebooks.M, codebooks.nbits)
    filled = np.zeros((len(codes), M), np.uint8)
    filled[:, : codes.shape[1]] = codes
    return filled


def from_bytes(codes: CodeArray, codebooks: Codebooks) -> CodeArray:
    """Undoes `to_bytes`."""
    if 8 % codebooks.nbits:
        names = codes[:, : codebooks.M].astype(np.int32)
        packed: CodeArray = faiss.pack_bitstrings(names, codebooks.nbits)
        return packed
    return codes[:, : -(-codebooks.M * codebooks.nbits // 8)]
