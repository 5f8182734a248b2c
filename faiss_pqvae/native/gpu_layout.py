"""The codes of a native index, dealt to the lists of an IVFPQ that a GPU can take, and back.

FAISS has no IndexPQ on the GPU. An IVFPQ whose coarse centroids are all zero is the same index:
a residual is then the vector itself. Its GPU version gives a block of threads to every list of
every query, so the codes are dealt to many lists, and all of them are probed. Codes of an inverted
file stay in their lists: those of residuals behind their own centroids, those of vectors behind
zeros, and a flat index of the centroids says which are probed. It knows codes of 8 bits and certain
M only: smaller codes are merged into bytes or widened to one, and sub-quantizers of zeros, which
add nothing to a distance, fill up M.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from faiss_pqvae.arguments import integer
from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.native import faiss
from faiss_pqvae.native.faiss_method import faiss_method
from faiss_pqvae.native.inject import extract_codebooks
from faiss_pqvae.native.kinds import kind_of
from faiss_pqvae.native.kinds.ivf_pq import add_entries, entries
from faiss_pqvae.native.kinds.lists import coarse_centroids
from faiss_pqvae.native.packing import merge_codebooks
from faiss_pqvae.native.store.contents import Stored, read
from faiss_pqvae.native.walk import codebook_index
from faiss_pqvae.types import CodeArray, FloatArray, IdArray

MAX_BYTES, MAX_NBITS = 96, 8  # of a code, and of a codeword's name
MAX_SELECTION = 2048  # of k and of the lists probed: what a GPU's k-selection takes

_SUPPORTED_M = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96)


class Lists(NamedTuple):
    """The lists of an inverted file, which keep their codes.

    Attributes:
        centroids: (nlist, d) float32, the coarse ones.
        numbers: (n,) int64, the list of every code, rising.
        nprobe: how many of them a search visits.
        of_residuals: whether the codes are of what the centroids leave over, not of vectors.
        metric_type: by which the nearest centroids are found.
    """

    centroids: FloatArray
    numbers: IdArray
    nprobe: int
    of_residuals: bool
    metric_type: int

    def of(self, rows: slice) -> Lists:
        """Those of some of the codes."""
        return self._replace(numbers=self.numbers[rows])


def lists_of(index: Any, stored: Stored, nlist: int | None = None) -> Lists | None:
    """The lists of an inverted file; None of codes that may be dealt to any.

    Args:
        index: see `gpu_layout`.
        stored: what it holds.
        nlist: as `gpu_layout` was given it.

    Raises:
        ValueError: an inverted file, and an nlist; an nprobe beyond what a GPU takes.
    """
    ivf = codebook_index(index)
    if not kind_of(ivf).has_lists:
        return None
    if nlist is not None:
        raise ValueError(
            f"expected nlist=None for an inverted file, whose {ivf.nlist} lists stay as they are, "
            f"got {nlist}"
        )
    if ivf.nprobe > MAX_SELECTION:
        raise ValueError(f"expected nprobe up to {MAX_SELECTION} on a GPU, got {ivf.nprobe}")
    assert stored.list_sizes is not None  # an inverted file's
    return Lists(
        coarse_centroids(ivf),
        np.repeat(np.arange(ivf.nlist), stored.list_sizes),
        min(int(ivf.nprobe), ivf.nlist),
        bool(ivf.by_residual),
        int(ivf.quantizer.metric_type),
    )


def coarse_of(lists: Lists | None, d: int) -> Any:
    """What says which lists of codes of vectors a query visits: a flat index of d dimensions.

    None where nothing has to be said: the lists of residuals have their own centroids, and codes
    that were dealt are in all lists that are visited.
    """
    if lists is None or lists.of_residuals:
        return None
    coarse = faiss.IndexFlat(d, lists.metric_type)
    faiss_method(coarse, "add")(_filled_up(lists.centroids, d))
    return coarse


def gpu_layout(index: Any, *, nlist: int | None = None) -> Any:
    """Deals the codes of a native index to the lists of an IVFPQ that a GPU can take.

    Its vectors have more dimensions where sub-quantizers were added: fill up with zeros.

    Args:
        index: a trained IndexPQ, IndexPQFastScan, IndexIVFPQ or IndexIVFPQFastScan, which an
            IDMap may be around. An inverted file keeps its lists and nprobe.
        nlist: number of lists; None takes sqrt(ntotal) / 16. A block of threads makes a
            sub-quantizer's tables for one list after another, then a block a list scans the
            codes, so that a query alone takes a * nlist + b * ntotal / nlist. The factor is an
            estimate, not a measurement.

    Returns:
        A faiss.IndexIVFPQ on the CPU that finds what `index` finds; with the lists of an inverted
        file of codes of vectors it does by `search_preassigned`, from what `coarse_of` finds.

    Raises:
        TypeError: another kind of index, or codes that are added.
        ValueError: an untrained index; more than 8 bits a code; codes of more than 96 bytes;
            an nlist out of [1, 2048], or one for an inverted file.
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
        none, numbers = np.zeros((nlist, 0), np.float32), np.arange(len(codes)) % nlist
        lists = Lists(none, numbers, nlist, of_residuals=False, metric_type=metric_type)
    nlist = len(lists.centroids)
    # Residuals to zero are the vectors.
    taken_off = lists.centroids if lists.of_residuals else lists.centroids[:, :0]
    quantizer = faiss.IndexFlat(M * dsub, lists.metric_type)
    faiss_method(quantizer, "add")(_filled_up(taken_off, M * dsub))
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


def bytes_needed(index: Any) -> int:
    """Memory of a device that a layout, or a flat index of centroids, takes at least.

    Codes, ids of 64 bits and tables; FAISS's temporary memory (1.5 GiB on most cards) and what its
    lists round up come on top.
    """
    if isinstance(index, faiss.IndexIVFPQ):
        tables = 4 * (index.pq.centroids.size() + index.nlist * index.d)
        return int(index.ntotal * (index.code_size + 8) + tables)
    return int(4 * index.ntotal * index.d)


def collect(layout: Any, *, in_lists: bool) -> tuple[CodeArray, IdArray, IdArray | None]:
    """Undoes `deal`.

    Args:
        layout: a faiss.IndexIVFPQ.
        in_lists: the codes have kept their lists, see `Lists`.

    Returns:
        Codes as bytes (n, M) uint8, ids (n,) int64, and how many each list has (nlist,) int64, or
        None where codes were dealt.
    """
    found = [entries(layout, list_no) for list_no in range(layout.nlist)]
    codes, ids = (np.concatenate(parts) for parts in zip(*found, strict=True))
    if in_lists:
        return codes, ids, np.array([len(part) for _, part in found])
    order = np.argsort(np.arange(layout.ntotal) % layout.nlist, kind="stable")
    back = np.argsort(order)
    return codes[back], ids[back], None


def _filled_up(centroids: FloatArray, d: int) -> FloatArray:
    """Centroids (nlist, d) with zeros behind theirs."""
    return np.pad(centroids, ((0, 0), (0, d - centroids.shape[1])))


# -- codes as bytes


def bytes_of_codes(codebooks: Codebooks) -> int:
    """What a code takes on a GPU, filling up left out: a byte for 5 bits, too."""
    return -(-codebooks.M // (1 if 8 % codebooks.nbits else 8 // codebooks.nbits))


def _byte_centroids(codebooks: Codebooks) -> FloatArray:
    """Codebooks for the bytes of `to_bytes`: (M, 256, dsub) float32, with M as a GPU takes it.

    Raises:
        TypeError: codewords that are added.
        ValueError: more than 8 bits a code; codes of more than 96 bytes.
    """
    nbits = codebooks.nbits
    if codebooks.structure == "residual":
        raise TypeError("expected codes of a product quantizer, got codewords that are added")
    if nbits > 8:
        raise ValueError(f"expected at most 8 bits a code on a GPU, got {nbits}")
    group = 1 if 8 % nbits else 8 // nbits  # codes in a byte
    needed = bytes_of_codes(codebooks)
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
