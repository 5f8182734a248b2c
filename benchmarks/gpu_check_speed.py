"""Queries a second on a device, beside FAISS on the CPU, and what memory would allow."""

from __future__ import annotations

import functools
import math
import time
from typing import Any

import numpy as np
import torch
from gpu_check_indexes import copied, filled_index, vectors
from gpu_check_machine import bandwidth, seconds_of
from gpu_check_part import Check, DiffersError

from faiss_pqvae.index import gpu
from faiss_pqvae.index.latent_index import LatentIndex
from faiss_pqvae.native import faiss
from faiss_pqvae.types import FloatArray

K = 100
_BATCH_S = 15  # that a batch may take with the call before it, which is not timed


def speed(check: Check) -> None:
    """Queries a second, beside FAISS on the CPU, and what memory would allow."""
    reads = bandwidth(check.device)
    n, *larger = (10**6, 10**7, 10**8) if check.on_card else (10**5,)
    cases = [(n, 8, False), (n, 16, False), (n, 8, True)]
    cases += [(n, M, False) for n in larger for M in (8, 16)]
    per_byte_s = 0.0  # to make and to copy an index, as the one before took
    for n, M, sums in cases:
        name = f"{n:,} sums of {M} codewords" if sums else f"{n:,} codes of {M} bytes"
        if 1.2 * n * M * per_byte_s + 8 > check.left_s:
            check.note(name, not_measured=f"{check.left_s:.0f} s left")
            continue
        with check.trying(name):
            began = time.monotonic()
            index = filled_index(n, M, sums=sums)
            made_s = time.monotonic() - began
            per_byte_s = (made_s + speed_of(check, index, name, reads)) / (n * M)


def speed_of(check: Check, index: LatentIndex, name: str, reads: float) -> float:
    """Notes queries a second of an index by every scan, for batches of several sizes.

    Args:
        check: of the part.
        index: on the CPU.
        name: of the index.
        reads: GB/s of the device's memory, read and written.

    Returns:
        Seconds that copies of the index took.
    """
    nbytes, copies_s = index.ntotal * index.sa_code_size(), 0.0
    one = vectors(1, index.d, seed=2)
    nearest = index.search(one, K)[0]
    takes_all: tuple[gpu.Scan, ...] = ("torch",)
    sums = index.model.spec.is_additive
    for scan in takes_all if sums or not check.on_card else ("faiss", *takes_all):
        with check.trying(f"{name}, {scan}"):
            began = time.monotonic()
            copy = copied(check, index, scan)
            upload_s = time.monotonic() - began
            copies_s += upload_s
            demand_near(copy.search(one, K)[0], nearest)
            found = rates(check, copy, index.d, check.device)
            check.note(
                f"{name}, {scan}",
                scan=copy.scan,
                upload_s=round(upload_s, 2),
                queries_per_s=found,
                scanned_gb_per_s={b: round(q * nbytes / 1e9, 1) for b, q in found.items()},
                # A query alone reads every code once; in batches a code that was read serves many.
                memory_limit_queries_per_s=round(reads * 1e9 / nbytes, 1),
            )
            del copy  # its memory is wanted
    found = rates(check, index, index.d, "cpu")
    threads = faiss.omp_get_max_threads()
    check.note(f"{name}, FAISS on the CPU", queries_per_s=found, threads=threads)
    return copies_s


def demand_near(D: Any, reference: FloatArray) -> None:
    """Raises a DiffersError unless results are as near as they are on the CPU."""
    if not np.allclose(D, reference, rtol=1e-4):
        raise DiffersError(f"distances up to {float(np.abs(D - reference).max()):.1e} apart")


def rates(check: Check, index: Any, d: int, device: str) -> dict[str, float]:
    """Queries a second by the size of a batch; sizes for which there is no time are left out."""
    found: dict[str, float] = {}
    per_query_s = 0.0
    for batch in (1, 100, 10_000) if check.on_card else (1, 100):
        if 2 * batch * per_query_s > min(check.left_s / 4, _BATCH_S):
            break
        x: Any = torch.from_numpy(vectors(batch, d, seed=2)).to(device)
        index.batch_size = batch
        work = functools.partial(index.search, x if device == "cuda" else x.numpy(), K)
        took_s = seconds_of(work, device)
        found[str(batch)] = round(batch / took_s, 2)
        per_query_s = took_s / batch
    return found


def lists(check: Check) -> None:
    """To how many lists codes are dealt best: what `gpu_layout` takes is an estimate."""
    batches, several = (1, 100), (1, 8, 32, 62, 128, 197, 512, 1024, 2048)
    for n in (10**6, 10**7):
        index, took_s = filled_index(n, 8), 0.0
        took_ms: dict[int, dict[int, float]] = {batch: {} for batch in batches}
        for nlist in several:
            began = time.monotonic()
            if took_s + 1 > check.left_s:
                break
            with check.trying(f"{n:,} codes, nlist {nlist}"):
                copy = copied(check, index, "faiss", nlist=nlist)
                for batch in batches:
                    x = torch.from_numpy(vectors(batch, index.d, seed=2)).to(check.device)
                    each_s = seconds_of(functools.partial(copy.search, x, K), check.device)
                    took_ms[batch][nlist] = round(1000 * each_s, 4)
                del copy
            took_s = time.monotonic() - began
        for batch, found in took_ms.items():
            name = f"{n:,} codes of 8 bytes, batches of {batch}"
            if left := [nlist for nlist in several if nlist not in found]:
                check.note(name, ms_by_nlist=found, not_measured=left)
                continue
            best = min(found, key=lambda nlist: found[nlist])
            # The layout takes sqrt(n) / 16.
            factor = round(math.sqrt(n) / best, 2)
            check.note(name, ms_by_nlist=found, best=best, sqrt_n_over_best=factor)
