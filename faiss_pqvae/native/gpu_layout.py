"""The codes of a native index, dealt to the lists of an IVFPQ that a GPU can take, and back.

FAISS has no IndexPQ on the GPU. An IVFPQ whose coarse centroids are all zero is the same index:
a residual is then the vector itself. Its GPU version gives a block of threads to every list of
every query, so the codes are dealt to many lists, and all of them are probed. It knows codes of
8 bits and certain M only: smaller codes are merged into bytes or widened to one, and sub-quantizers
of zeros, which add nothing to a distance, fill up M.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from faiss_pqvae.arguments import integer
from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.native import faiss
from faiss_pqvae.native.faiss_method import faiss_method
from faiss_pqvae.native.inject import extract_codebooks
from faiss_pqvae.native.kinds.ivf_pq import add_entries, entries
from faiss_pqvae.native.packing import merge_codebooks
from faiss_pqvae.native.store.contents import read
from faiss_pqvae.types import CodeArray, FloatArray, IdArray

MAX_SELECTION = 2048  # of k and of the lists probed: what a GPU's k-selection takes

_SUPPORTED_M = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96)


def gpu_layout(index: Any, *, nlist: int | None = None) -> Any:
    """Deals the codes of a native index to the lists of an IVFPQ that a GPU can take.

    Its vectors have more dimensions where sub-quantizers were added: fill up with zeros.

    Args:
        index: a trained IndexPQ, IndexPQFastScan, IndexIVFPQ or IndexIVFPQFastScan, which an
            IDMap may be around. Of an inverted file all lists are searched from now on.
        nlist: number of lists; None takes sqrt(ntotal) / 16. A block of threads makes a
            sub-quantizer's tables for one list after another, then a block a list scans the
            codes, so that a query alone takes a * nlist + b * ntotal / nlist. The factor is an
            estimate, not a measurement.

    Returns:
        A faiss.IndexIVFPQ on the CPU that finds what `index` finds.

    Raises:
        TypeError: another kind of index.
        ValueError: an untrained index; more than 8 bits a code; codes of more than 96 bytes;
            codes of residuals; an nlist out of [1, 2048].
    """
    stored = read(index)
    return deal(stored.codes, stored.ids, extract_codebooks(index), index.metric_type, nlist)


def deal(
    codes: CodeArray, ids: IdArray, codebooks: Codebooks, metric_type: int, nlist: int | None
) -> Any:
    """As `gpu_layout`; list l has the rows l, l + nlist, l + 2 * nlist and so on."""
    centroids = _byte_centroids(codebooks)
    M, _, dsub = centroids.shape
    codes = to_bytes(codes, codebooks, M)
    if nlist is None:
        nlist = min(max(math.isqrt(len(codes)) // 16, 1), MAX_SELECTION)
    nlist = integer("nlist", nlist, 1, MAX_SELECTION)
    quantizer = faiss.IndexFlat(M * dsub, metric_type)
    faiss_method(quantizer, "add")(np.zeros((nlist, M * dsub), np.float32))
    layout = faiss.IndexIVFPQ(quantizer, M * dsub, nlist, M, 8, metric_type)
    faiss.copy_array_to_vector(centroids.ravel(), layout.pq.centroids)
    # A GPU takes residuals only: those to zero are the vectors.
    layout.is_trained, layout.by_residual, layout.nprobe = True, True, nlist
    for list_no in range(nlist):
        # Not `add`: it would put all of them in list 0.
        add_entries(layout, list_no, codes[list_no::nlist], ids[list_no::nlist])
    layout.ntotal = len(codes)
    return layout


def collect(layouts: list[Any]) -> tuple[CodeArray, IdArray]:
    """Undoes `deal`, of rows that were dealt to several layouts in turn before.

    Returns:
        Codes as bytes (n, M) uint8, and ids (n,) int64.
    """
    n, M = sum(layout.ntotal for layout in layouts), layouts[0].pq.M
    codes, ids = np.empty((n, M), np.uint8), np.empty(n, np.int64)
    for g, layout in enumerate(layouts):
        rows = slice(g, None, len(layouts))
        for list_no in range(layout.nlist):
            dealt = slice(list_no, None, layout.nlist)
            codes[rows][dealt], ids[rows][dealt] = entries(layout, list_no)
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
