"""Methods whose search can be made faster or better: recall against queries per second."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence

from faiss_pqvae.registry import methods

from ..data.brute_force import FAISS_METRICS, Metric
from ..faiss_library import faiss
from .build import RQ_SETTINGS, from_factory, padded
from .flat import FlatPixels, check_size
from .method import Method, Request, Shape

NPROBES = (1, 4, 16, 64)
POINTS_PER_LIST = 39  # FAISS's k-means warns below


def list_count(n: int) -> int:
    """How many inverted lists n vectors get: the power of two nearest to 2 sqrt(n).

    Never more than n / 39, for k-means to have enough to train on.

    Raises:
        ValueError: n is not positive.
    """
    if n < 1:
        raise ValueError(f"expected n >= 1 vectors, got {n}")
    wanted = round(math.log2(2 * math.sqrt(n)))
    allowed = max(0, math.floor(math.log2(max(1, n / POINTS_PER_LIST))))
    return int(2 ** min(wanted, allowed))


def list_bytes(nlist: int) -> int:
    """Bytes that FAISS counts for the number of an inverted list: ceil(log256(nlist)).

    Raises:
        ValueError: nlist is not positive.
    """
    if nlist < 1:
        raise ValueError(f"expected nlist >= 1, got {nlist}")
    return ((nlist - 1).bit_length() + 7) // 8


def inverted_files(
    M: int,
    d: int,
    nlist: int,
    *,
    nprobes: Sequence[int] = NPROBES,
    seed: int = 0,
    metric: Metric = "l2",
) -> list[Method]:
    """`IVF{nlist}` over `PQ{M}np`, the same behind an OPQ, and RQ, searched with several nprobe.

    All of them code what coarse centroids leave over. RQ is what a scan can serve: M - 1 bytes are
    codewords, and one is the norm of what is decoded.

    Equal bytes mean equal `sa_code_size`, which for an inverted file is M plus the bytes of the
    list's number: that number is a part of what the code says about the vector (10 bytes with
    M = 8 and nlist = 1024, where flat PQ8 has 8). An index in memory stores it once a list, and
    an id of 8 bytes with every code instead, which no size here counts. `LatentIndex` counts in the
    same way, so `IVF{nlist},PQVAE{M}x8` stands beside these rows; flat codes do not.

    Args:
        M: sub-quantizers of 8 bits.
        d: values per item.
        nlist: inverted lists.
        nprobes: lists to visit; those above nlist are left out, each once.
        seed: of the choice of training vectors.
        metric: of distances; for inner products RQ needs no norm.

    Raises:
        ValueError: M, d or nlist is below 1, or no nprobe from 1 to nlist is left.
    """
    if M < 1 or d < 1:
        raise ValueError(f"expected M >= 1 and d >= 1, got M = {M} and d = {d}")
    bits = 8 * (M + list_bytes(nlist))
    visited = sorted({value for value in nprobes if value <= nlist})
    if not visited or visited[0] < 1:
        raise ValueError(f"expected values of nprobe from 1 to {nlist}, got {list(nprobes)}")
    code = f"IVF{nlist},PQ{M}np"
    whole = padded(d, M)
    rows = (
        (f"IVF{nlist},PQ{M}", code if whole == d else f"Pad{whole},{code}"),
        (f"OPQ{M},IVF{nlist},PQ{M}", f"OPQ{M}_{whole},{code}"),
    )
    searches = tuple(f"nprobe={value}" for value in visited)
    found = [
        from_factory(name, bits, d, factory, seed=seed, metric=metric) for name, factory in rows
    ]
    if M > 2:  # of one codeword RQ would be PQ
        found.append(_scanned_rq(M, d, nlist, bits, seed, metric))
    return [dataclasses.replace(method, searches=searches) for method in found]


def _scanned_rq(M: int, d: int, nlist: int, bits: int, seed: int, metric: Metric) -> Method:
    """RQ by tables, with the norm that distances need."""
    needs_norm = metric == "l2"
    factory = f"IVF{nlist},RQ{M - 1}x8_Nqint8" if needs_norm else f"IVF{nlist},RQ{M}x8"
    name = f"IVF{nlist},RQ{M}{', norm inside' if needs_norm else ''}"
    row = from_factory(name, bits, d, factory, seed=seed, metric=metric)
    return dataclasses.replace(row, build=functools.partial(_build_rq, d, factory, seed, metric))


def _build_rq(d: int, factory: str, seed: int, metric: Metric, item_shape: Shape) -> FlatPixels:
    check_size(item_shape, d)
    index = faiss.index_factory(d, factory, FAISS_METRICS[metric])
    rq = faiss.downcast_index(index).rq
    rq.use_beam_LUT = RQ_SETTINGS["use_beam_LUT"]
    if seed:  # as in other rows, 0 is what FAISS's users get
        index.cp.seed = rq.cp.seed = seed
    return FlatPixels(index, d=d, seed=seed)


@methods.register("IVF")
def rows(request: Request) -> Iterator[Method]:
    """PQ, OPQ and RQ behind inverted lists, where lists are asked for."""
    if request.nlist is not None:
        yield from inverted_files(
            request.M, request.d, request.nlist, seed=request.seed, metric=request.metric
        )
