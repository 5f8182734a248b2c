"""Who does the work of parts: this process, or several beside it.

An engine only has to call a function for every part, such as `make_shard`. What was done lies in
files, and a call that is repeated changes nothing: so whatever dies, the same command goes on.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from faiss_pqvae.extras import import_extra
from faiss_pqvae.messages import listed
from faiss_pqvae.progress import Progress
from faiss_pqvae.scale.job import Job
from faiss_pqvae.scale.shard import make_shard

_TRIES = 2  # of a part alone, after a worker died
_STORE_BYTES = 100 << 20  # of a Ray of our own, for objects: parts are read by workers themselves

# What goes wrong with one part, and not with all of them.
OF_A_PART = (ValueError, TypeError, RuntimeError, MemoryError)

Make = Callable[[int], None]  # of a part, counted from 0; to be sent to other processes
Engine = Callable[[Make, deque[int], int, Progress], dict[int, str]]


class PartsFailedError(ValueError):
    """Some parts are not done; the others are."""


def make_shards(job: Job, parts: Sequence[int], *, workers: int = 1, engine: str = "local") -> None:
    """Makes the shards of some parts, and goes on where one fails; for the rest see `make_parts`.

    Args:
        job: the job.
        parts: counted from 0.
        workers: parts that are made at a time.
        engine: who makes them.
    """
    make = functools.partial(make_shard, job)
    make_parts(make, parts, job.rows, job.n_parts, "shards", workers=workers, engine=engine)


def make_parts(
    make: Make,
    parts: Sequence[int],
    rows: Callable[[int], slice],
    n_parts: int,
    what: str,
    *,
    workers: int = 1,
    engine: str = "local",
) -> None:
    """Calls a function for some parts, and goes on where one fails.

    Args:
        make: the function, which leaves what it made in files, and does nothing where it is done.
        parts: counted from 0.
        rows: the items of a part.
        n_parts: of all items.
        what: they are, in words.
        workers: parts that are made at a time. "local": processes, which share the processors; 1
            works in this one.
        engine: "local"; "ray": tasks of Ray Core, in the cluster that RAY_ADDRESS names, or one
            of its own on this machine, whose workers need the package, folders and data under the
            same paths; or "torchrun": only every so many parts, of a process that torchrun or Slurm
            began as one of many.

    Raises:
        ImportError: Ray is not installed.
        PartsFailedError: parts that failed, each with its error; all others are done.
        OSError: the disk is full or failing; Ray ended.
    """
    if workers < 1:
        raise ValueError(f"expected workers >= 1, got {workers}")
    if engine not in ENGINES:
        raise ValueError(f"expected an engine of {', '.join(ENGINES)}, got {engine!r}")
    try:
        with Progress(what, len(parts), unit="parts") as bar:
            failed = ENGINES[engine](make, deque(parts), workers, bar)
    except KeyboardInterrupt as stop:
        stop.add_note("parts that were done are there")
        raise
    if failed:
        said = (
            f"part {part + 1} (items {rows(part).start:,} to {rows(part).stop - 1:,}, rows "
            f"counted from the first of them): {reason}"
            for part, reason in sorted(failed.items())
        )
        raise PartsFailedError(
            f"{len(failed):,} of {n_parts:,} parts failed, all others that were asked for are "
            f"done: {listed(said, between='; ')}"
        )


def _here(make: Make, parts: deque[int], workers: int, bar: Progress) -> dict[int, str]:
    failed = {}
    for part in parts:
        try:
            make(part)
        except OF_A_PART as error:
            failed[part] = _said(error)
        bar.update(1)
    return failed


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _local(make: Make, parts: deque[int], workers: int, bar: Progress) -> dict[int, str]:
    return (_here if workers == 1 else _beside)(make, parts, workers, bar)


def _beside(make: Make, parts: deque[int], workers: int, bar: Progress) -> dict[int, str]:
    """By processes. With one that dies all end; which part killed it is found out alone."""
    failed: dict[int, str] = {}
    while parts:
        for part in _until_one_dies(make, parts, workers, bar, failed):
            if all(_until_one_dies(make, deque([part]), 1, bar, failed) for _ in range(_TRIES)):
                failed[part] = f"its worker died {_TRIES} times, killed or out of memory"
                bar.update(1)
    return failed


def _until_one_dies(
    make: Make, parts: deque[int], workers: int, bar: Progress, failed: dict[int, str]
) -> list[int]:
    """Takes parts off the queue as long as all processes live; what they had when one died."""
    running: dict[Future[None], int] = {}
    pool = _pool(workers)
    try:
        while parts or running:
            while parts and len(running) < 2 * workers:  # one that waits for each
                running[pool.submit(make, parts[0])] = parts[0]
                parts.popleft()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                try:
                    future.result()
                except BrokenProcessPool:
                    raise
                except OF_A_PART as error:
                    failed[running[future]] = _said(error)
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
    threads = _threads(workers)
    context = multiprocessing.get_context("spawn")  # FAISS and torch have threads: no fork
    return ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(threads,))


def _threads(workers: int) -> int:
    """Of each worker, where they share this machine."""
    return max(1, len(os.sched_getaffinity(0)) // workers)


def _begin(threads: int) -> None:
    """What a worker does first."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    from faiss_pqvae.native import faiss

    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)


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


def _by_ray(make: Make, parts: deque[int], workers: int, bar: Progress) -> dict[int, str]:
    """By tasks of Ray's, at most two for each worker at a time; Ray repeats one that dies."""
    ray = import_extra("ray", "for --engine ray")
    failed: dict[int, str] = {}
    own = not ray.is_initialized()
    if own:
        begin_ray(ray, workers)
    try:
        task = ray.remote(num_cpus=1, max_retries=_TRIES)(make_part)
        running: dict[Any, int] = {}
        while parts or running:
            while parts and len(running) < 2 * workers:
                part = parts.popleft()
                running[task.remote(make, part)] = part
            for done in ray.wait([*running], num_returns=1)[0]:
                part = running.pop(done)
                try:
                    ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    if not isinstance(error.cause, OF_A_PART):
                        raise error.cause from error
                    failed[part] = _said(error.cause)
                except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
                    failed[part] = f"its worker died {_TRIES + 1} times, killed or out of memory"
                bar.update(1)
    except ray.exceptions.RayError as error:
        first = str(error).strip().splitlines()[0]
        raise ConnectionError(f"Ray ended: {first}; the same command goes on") from error
    finally:
        if own:
            ray.shutdown()
    return failed


def make_part(make: Make, part: int) -> None:
    """The task of Ray's, which shows this name."""
    make(part)


def begin_ray(ray: Any, workers: int) -> None:
    """Begins a Ray of our own for so many workers, or joins the cluster that RAY_ADDRESS names."""
    quiet = {"log_to_driver": False, "configure_logging": False}
    if "RAY_ADDRESS" in os.environ:
        ray.init(**quiet)
        return
    ray.init(
        address="local",
        num_cpus=workers,
        include_dashboard=False,
        object_store_memory=_STORE_BYTES,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": str(_threads(workers))}},
        **quiet,
    )


def own_place() -> tuple[int, int]:
    """Which of how many processes this one is, as torchrun or Slurm tell it.

    Raises:
        ValueError: they do not.
    """
    for rank, size in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        if rank in os.environ and size in os.environ:
            found = os.environ[rank], os.environ[size]
            if not all(text.isdecimal() for text in found) or int(found[0]) >= int(found[1]):
                raise ValueError(f"expected {rank} below {size}, got {found[0]!r} and {found[1]!r}")
            return int(found[0]), int(found[1])
    raise ValueError(
        "expected RANK and WORLD_SIZE of torchrun, or SLURM_PROCID and SLURM_NTASKS, for --engine "
        "torchrun, got neither"
    )


def _of_own_place(make: Make, parts: deque[int], workers: int, bar: Progress) -> dict[int, str]:
    """Every so many parts, the others being those of other processes that were begun likewise."""
    rank, size = own_place()
    own = deque(
        part for part in parts if part % size == rank
    )  # whoever looked when at what is there
    bar.update(len(parts) - len(own))
    return _local(make, own, workers, bar)


ENGINES: dict[str, Engine] = {"local": _local, "ray": _by_ray, "torchrun": _of_own_place}
