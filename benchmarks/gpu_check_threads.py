"""Streams and threads: what is searched on several at a time is what one finds alone."""

from __future__ import annotations

import contextlib
import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from gpu_check_indexes import D_IN, copied, product_index, vectors
from gpu_check_part import Check, DiffersError

from faiss_pqvae.index.gpu import GpuLatentIndex
from faiss_pqvae.types import FloatArray


def streams(check: Check) -> None:
    """A search waits for what the caller's stream does before, and what follows waits for it."""
    for scan in ("faiss", "torch"):
        with check.trying(scan):
            copy = copied(check, product_index(8, 8, n=50_000), scan)
            queries = vectors(3000, D_IN, seed=1)
            alone = copy.search(queries, 10)
            several = (torch.cuda.default_stream(), new_stream(), new_stream())
            late_ms = [searched_late(copy, queries, alone, stream) for stream in several]
            check.note(f"streams, {scan}", queries=len(queries), written_after_ms=late_ms)


def searched_late(copy: Any, queries: FloatArray, alone: Any, stream: Any) -> float:
    """Searches for queries that a stream writes late, and that it overwrites at once.

    Returns:
        Milliseconds between the call that writes them and the writing.

    Raises:
        DiffersError: other results than those found alone.
    """
    there, x = torch.from_numpy(queries).cuda(), torch.zeros(queries.shape, device="cuda")
    busy, began, wrote = torch.rand(8192, 8192, device="cuda"), new_event(), new_event()
    busy @ busy  # what loads, loads here
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        began.record()
        for _ in range(8):
            busy @ busy
        x.copy_(there)
        wrote.record()
        D, I = copy.search(x, 10)  # noqa: E741
        x.zero_()
        total, ids = D.double().sum(), I.clone()
        D.zero_()
        I.zero_()
    torch.cuda.synchronize()
    apart = abs(float(total) / float(alone[0].sum(dtype=np.float64)) - 1)
    same = float((ids.cpu().numpy() == alone[1]).mean())
    if not (apart <= 1e-4 and same >= 0.99):
        raise DiffersError(f"sums are {apart:.1e} apart, {same:.4f} of ids the same")
    return round(float(began.elapsed_time(wrote)), 2)


def new_stream() -> Any:
    """A stream of its own."""
    make: Any = torch.cuda.Stream
    return make()


def new_event() -> Any:
    """An event that has a time."""
    make: Any = torch.cuda.Event
    return make(enable_timing=True)


def threads(check: Check) -> None:
    """Several threads in one index find what one finds."""
    for scan in ("faiss", "torch") if check.on_card else ("torch",):
        with check.trying(scan):
            n, rounds = (50_000, 20) if check.on_card else (3000, 5)
            copy = copied(check, product_index(8, 8, n=n), scan)
            asked = [vectors(40 + 10 * i, D_IN, seed=i) for i in range(4)]
            alone = [copy.search(queries, 10) for queries in asked]
            together = threading.Barrier(len(asked))
            work = functools.partial(_again, check, copy, together, rounds)
            with ThreadPoolExecutor(len(asked)) as pool:
                list(pool.map(work, asked, alone))
            check.note(f"threads, {scan}", threads=len(asked), searches=rounds)


def _again(
    check: Check,
    copy: GpuLatentIndex,
    together: threading.Barrier,
    rounds: int,
    queries: FloatArray,
    alone: Any,
) -> None:
    """One thread's searches, on its own stream, each compared with what was found alone."""
    together.wait()
    for _ in range(rounds):
        with torch.cuda.stream(new_stream()) if check.on_card else contextlib.nullcontext():
            x: Any = torch.from_numpy(queries).to(check.device)
            D, I = (torch.as_tensor(each).cpu().numpy() for each in copy.search(x, 10))  # noqa: E741
        same = float((alone[1] == I).mean())
        if not (np.allclose(D, alone[0], rtol=1e-4, atol=1e-4) and same >= 0.99):
            raise DiffersError(f"{len(queries)} queries: {same:.4f} of ids are those found alone")
