"""Whether an index on a device finds what the CPU finds, ids up to ties."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gpu_check_indexes import D_IN, vectors
from gpu_check_part import Check, DiffersError

import faiss_pqvae as fpq
from faiss_pqvae.index.gpu import GpuLatentIndex
from faiss_pqvae.index.latent_index import LatentIndex
from faiss_pqvae.native import faiss
from faiss_pqvae.native.inject import extract_codebooks
from faiss_pqvae.types import BoolArray, FloatArray, IdArray

Found = tuple[FloatArray, IdArray]

SIZES = ((1, 1), (10, 3), (100, 33), (2048, 7))  # k, queries
_ROUNDING = 2e-6  # of the largest codeword's square: what two ways to a distance may be apart


def compare(
    check: Check,
    index: LatentIndex,
    copy: GpuLatentIndex,
    search_type: Any = "adc",
    *,
    sizes: tuple[tuple[int, int], ...] = SIZES,
    tolerance: float = 1e-5,
) -> None:
    """Searches with arrays, and with tensors on a card, for several k and numbers of queries.

    Args:
        check: of the part.
        index: on the CPU.
        copy: on the device.
        search_type: "adc" or "sdc".
        sizes: of k and queries.
        tolerance: of distances, relative to the largest.

    Raises:
        DiffersError: a query found something else.
    """
    copy.search_type = search_type
    most = max(n for _, n in sizes)
    queries = vectors(most if search_type == "adc" else 2 * most, D_IN, seed=1)
    # Of latents as the device encodes them: what is compared is the scan.
    z = np.asarray(copy.encode(queries))
    if search_type == "sdc":
        clear = clearly_quantized(index, z)
        if clear.sum() < most:
            raise DiffersError(f"{clear.sum()} of {len(z)} queries are near one codeword alone")
        queries, z = queries[clear][:most], z[clear][:most]
    reference = everything(index, z, search_type)
    for k, n in sizes:
        first = reference[0][:n], reference[1][:n]
        demand_same(copy.search(queries[:n], k), first, tolerance)
        if check.on_card:
            found = copy.search(torch.from_numpy(queries[:n]).cuda(), k)
            if not all(isinstance(each, torch.Tensor) and each.is_cuda for each in found):
                raise DiffersError("expected tensors on the card for tensors on the card")
            demand_same(found, first, tolerance)


def everything(index: LatentIndex, z: FloatArray, search_type: str = "adc") -> Found:
    """All that the CPU's native index finds for latents of queries, best first."""
    native = index.faiss_index
    if search_type == "sdc":
        z = native.sa_decode(native.sa_encode(z))
    D, I = native.search(z, index.ntotal)  # noqa: E741 - FAISS's names
    return D, I


def clearly_quantized(index: LatentIndex, z: FloatArray) -> BoolArray:
    """Latents (n,) that lie in between no two codewords, of which rounding could choose either."""
    centroids = extract_codebooks(index.faiss_index).centroids  # (M, ksub, dsub)
    clear = np.ones(len(z), bool)
    for m, codewords in enumerate(centroids.astype(np.float64)):
        z_m = z.reshape(len(z), len(centroids), 1, -1)[:, m]  # (n, 1, dsub)
        distances = np.square(z_m - codewords).sum(-1)  # (n, ksub)
        nearest, second = np.partition(distances, 1, axis=1)[:, :2].T
        clear &= second - nearest > _ROUNDING * np.square(codewords).sum(-1).max()
    return clear


def differing(found: Found, reference: Found, tolerance: float) -> BoolArray:
    """Queries (nq,) whose results are not the first of the reference's, ids up to ties.

    Args:
        found: D and I, (nq, k).
        reference: everything there is to find, best first; -1 stands for nothing.
        tolerance: of distances, relative to the largest.
    """
    (D, I), (D_all, I_all) = found, reference  # noqa: E741 - FAISS's names
    k = min(D.shape[1], D_all.shape[1])
    there = I_all[:, :k] != -1
    largest = np.abs(np.where(I_all == -1, 0, D_all)).max(initial=1)
    atol = tolerance * float(largest)
    wrong = ((I[:, :k] != -1) != there).any(1) | (I[:, k:] != -1).any(1)
    D, I, D_first = D[:, :k], I[:, :k], D_all[:, :k]  # noqa: E741
    wrong |= (there & ~(np.abs(D - D_first) <= atol)).any(1)
    # Every id has the distance that the reference has for it.
    names = np.unique(I_all)
    distances = np.full((len(I_all), len(names)), np.nan)
    np.put_along_axis(distances, np.searchsorted(names, I_all), D_all, 1)
    places = np.minimum(np.searchsorted(names, I), len(names) - 1)
    close = np.abs(np.take_along_axis(distances, places, 1) - D) <= atol
    wrong |= (there & ~(close & (names[places] == I))).any(1)
    ordered = np.sort(I, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != -1)
    return np.asarray(wrong | twice.any(1))


def demand_same(found: Any, reference: Found, tolerance: float = 1e-5) -> None:
    """Raises a DiffersError where a query found something else; see `differing`."""
    D, I = (x.cpu().numpy() if isinstance(x, torch.Tensor) else x for x in found)  # noqa: E741
    wrong = differing((D, I), reference, tolerance)
    if wrong.any():
        raise DiffersError(
            f"{wrong.sum()} of {len(wrong)} queries found something else, such as query "
            f"{int(wrong.argmax())}: k={D.shape[1]}"
        )


def demand_undamaged(copy: GpuLatentIndex, index: LatentIndex) -> None:
    """Raises a DiffersError unless an index comes back as it went, byte for byte."""
    back, origin = (
        faiss.serialize_index(each.faiss_index) for each in (fpq.index_gpu_to_cpu(copy), index)
    )
    if not np.array_equal(back, origin):
        raise DiffersError("another index came back than the one that was copied")
