"""Who makes shards: this process, or several beside it.

An engine only has to call `make_shard` for every part. What was done lies in files, and a call
that is repeated changes nothing: so whatever dies, the same command goes on.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from faiss_pqvae.messages import listed
from faiss_pqvae.progress import Progress
from faiss_pqvae.scale.job import Job
from faiss_pqvae.scale.shard import make_shard

_TRIES = 2  # of a part alone, after a worker died


class PartsFailedError(ValueError):
    """Some parts have no shard; the others have."""


def make_shards(job: Job, parts: Sequence[int], *, workers: int = 1) -> None:
    """Makes the shards of some parts, and goes on where one fails.

    Args:
        job: the job.
        parts: counted from 0.
        workers: processes; 1 works in this one. They share the processors.

    Raises:
        PartsFailedError: parts that failed, each with its error; all others are done.
        OSError: the disk is full or failing.
    """
    if workers < 1:
        raise ValueError(f"expected workers >= 1, got {workers}")
    with Progress("shards", len(parts), unit="parts") as bar:
        work = _here if workers == 1 else _beside
        failed = work(job, deque(parts), workers, bar)
    if failed:
        said = (
            f"part {part + 1} (items {job.rows(part).start:,} to {job.rows(part).stop - 1:,}): "
            f"{reason}"
            for part, reason in sorted(failed.items())
        )
        raise PartsFailedError(
            f"{len(failed):,} of {job.n_parts:,} parts failed, all others that were asked for are "
            f"done: {listed(said, between='; ')}"
        )


def _here(job: Job, parts: deque[int], workers: int, bar: Progress) -> dict[int, str]:
    failed = {}
    for part in parts:
        try:
            make_shard(job, part)
        except (ValueError, TypeError) as error:
            failed[part] = str(error)
        bar.update(1)
    return failed


def _beside(job: Job, parts: deque[int], workers: int, bar: Progress) -> dict[int, str]:
    """By processes. With one that dies all end; which part killed it is found out alone."""
    failed: dict[int, str] = {}
    while parts:
        for part in _until_one_dies(job, parts, workers, bar, failed):
            if all(_until_one_dies(job, deque([part]), 1, bar, failed) for _ in range(_TRIES)):
                failed[part] = f"its worker died {_TRIES} times, killed or out of memory"
                bar.update(1)
    return failed


def _until_one_dies(
    job: Job, parts: deque[int], workers: int, bar: Progress, failed: dict[int, str]
) -> list[int]:
    """Takes parts off the queue as long as all processes live; what they had when one died."""
    running: dict[Future[None], int] = {}
    pool = _pool(workers)
    try:
        while parts or running:
            while parts and len(running) < 2 * workers:  # one that waits for each
                running[pool.submit(make_shard, job, parts[0])] = parts[0]
                parts.popleft()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                try:
                    future.result()
                except (ValueError, TypeError) as error:
                    failed[running[future]] = str(error)
                del running[future]
                bar.update(1)
    except BrokenProcessPool:
        return sorted(running.values())
    except BaseException:
        _kill(pool)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return []


def _pool(workers: int) -> ProcessPoolExecutor:
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    context = multiprocessing.get_context("spawn")  # FAISS and torch have threads: no fork
    return ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(threads,))


def _begin(threads: int) -> None:
    """What a worker does first."""
    import torch

    from faiss_pqvae.native import faiss

    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when the one that began it is gone, killed perhaps."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _kill(pool: ProcessPoolExecutor) -> None:
    """Ends the processes of a pool at once: what they have not finished counts for nothing."""
    for process in (getattr(pool, "_processes", None) or {}).values():
        process.kill()
