"""What an evaluation costs beside its searches and trainings, mAP@1000 alone, and peak memory.

10,000 queries in 50,000 images by 12 methods (CIFAR-10 JPEG: FAISS_PQVAE_DATA names its folder),
and in 1,000,000 vectors (bsds-sift, changed a little, until there are so many), whose exact
neighbours are found before.
The methods are four of the cheapest baselines at three code lengths: against trainings of networks
the rest would hardly show. A child process runs what `faiss-pqvae evaluate` does. The rest of its
time, beside trainings, additions and searches, is metrics, intervals, the timing of single queries,
and the report with its gallery; and the care for raw results: checked, ties put in order, stored.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_add_memory import MB, status_bytes
from common import Figure, Options, run_script

from faiss_pqvae.eval.data.labelled import LabelledData
from faiss_pqvae.eval.data.load import load
from faiss_pqvae.eval.data.neighbours import VectorData
from faiss_pqvae.eval.data.sets.bsds_sift import bsds_sift
from faiss_pqvae.eval.data.vectors import with_neighbours
from faiss_pqvae.eval.measure import runner
from faiss_pqvae.eval.measure.raw import read_raw
from faiss_pqvae.eval.methods.baselines import baselines
from faiss_pqvae.eval.methods.choice import rows_of
from faiss_pqvae.eval.methods.method import Method
from faiss_pqvae.eval.metrics.precision import map_at_k, relevance
from faiss_pqvae.eval.report.page import write_report
from faiss_pqvae.native import faiss
from faiss_pqvae.types import FloatArray

DATASET = "cifar10-jpeg"
BITS = (32, 48, 64)
CHEAP = ("PCA+LSH", "PCA+ITQ", "PQ", "PCA+PQ")
K = 1000
OF_VECTORS = ("PQ", "OPQ", "LSH", "ITQ", "FastScan")  # the last are two
WORK = ("train", "add", "search")
TARGET_SHARE = 0.10
TARGET_MAP_MS = 3000.0
TARGET_MB = 4000.0


class Clocked:
    """Another object, with the wall-clock seconds of some of its methods added up.

    Rows of results would not do: baselines share a PCA, whose seconds are in the row of each.
    """

    def __init__(self, inner: Any, seconds: dict[str, float], names: tuple[str, ...]) -> None:
        self.__dict__.update(_inner=inner, _seconds=seconds, _names=names)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._names:
            return found
        return partial(_clocked_call, found, self._seconds, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._inner, name, value)


def vectors(n: int, n_queries: int) -> VectorData:
    """So many SIFT vectors, 300,000 in turn, changed a little (seed 0), and their neighbours."""
    parts = bsds_sift()
    generator = np.random.default_rng(0)

    def changed(source: Any, size: int) -> FloatArray:
        x = np.asarray(source[:], np.float32)
        x = x[np.arange(size) % len(x)]
        x += generator.normal(scale=8, size=x.shape).astype(np.float32)
        return x

    found = replace(
        parts,
        database=changed(parts.database, n),
        queries=changed(parts.queries, n_queries),
        train=np.asarray(parts.train[:], np.float32),
        shipped=None,
    )
    return with_neighbours(found)


def methods(data: LabelledData | VectorData, seconds: dict[str, float]) -> list[Method]:
    """Twelve cheap rows, whose indexes add up what they take."""
    shape = tuple(data.database.shape[1:])
    if isinstance(data, VectorData):
        rows = rows_of(data, names=OF_VECTORS, lengths=(64, 128))
    else:
        rows = [row for bits in BITS for row in baselines(bits, shape) if row.name in CHEAP]
    assert len(rows) == 12, [row.name for row in rows]
    return [replace(row, build=partial(_clocked_build, row, seconds)) for row in rows]


def _clocked_build(method: Method, seconds: dict[str, float], shape: tuple[int, ...]) -> Any:
    return Clocked(method.build(shape), seconds, WORK)


def evaluate_in_child(of_vectors: bool, quick: bool, threads: int, pipe: Any) -> None:
    """Runs the evaluation and sends what it took; in a process of its own."""
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    sizes = {"n_database": 3000, "n_queries": 300} if quick else {}
    found: Any = load(DATASET, **sizes) if not of_vectors else None
    if found is None:
        found = vectors(*(20_000, 300) if quick else (1_000_000, 10_000))
    seconds = dict.fromkeys((*WORK, "scores", "intervals", "speed"), 0.0)
    data = Clocked(found, seconds, ("scores",))
    runner.measured_speed = partial(_clocked_call, runner.measured_speed, seconds, "speed")
    runner.with_rows = partial(_clocked_call, runner.with_rows, seconds, "intervals")
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        k = 100 if of_vectors else K
        results = runner.run(data, methods(found, seconds), out, k=k)
        ran = time.perf_counter()
        write_report(results, data, out)
        reported = time.perf_counter()
        peak_mb = status_bytes("VmHWM") / MB
        map_ms = [] if of_vectors else [_map_ms(found, out) for _ in range(5)]
    seconds["search"] -= seconds["speed"]  # whose searches no result comes from
    rest_s = reported - started - sum(seconds[name] for name in WORK)
    judging_s = seconds["scores"] + seconds["intervals"] + seconds["speed"] + reported - ran
    work_s = seconds["train"] + seconds["search"]
    pipe.send(
        {
            "share": judging_s / work_s,
            "rest_share": rest_s / work_s,
            "map_ms": map_ms,
            "peak_mb": peak_mb,
            "n_queries": results.n_queries,
            "n_database": results.n_database,
            "methods": len(results.rows),
            **{f"{name}_s": taken for name, taken in seconds.items()},
            "rest_s": rest_s,
            "report_s": reported - ran,
            "raw_s": rest_s - judging_s,
        }
    )


def _clocked_call(inner: Any, seconds: dict[str, float], name: str, *args: Any) -> Any:
    started = time.perf_counter()
    result = inner(*args)
    seconds[name] += time.perf_counter() - started
    return result


def _map_ms(data: LabelledData, out: str) -> float:
    """mAP@1000 of a stored search, from ids and labels."""
    path = next((Path(out) / "raw").glob("*.npz"))
    found = read_raw(Path(out), path.name.split(".")[0]).I
    started = time.perf_counter()
    map_at_k(relevance(found, data.database_labels, data.query_labels), K)
    return (time.perf_counter() - started) * 1000


def measure(options: Options) -> list[Figure]:
    """The figures of images, and those of vectors."""
    return [*_figures(options, of_vectors=False), *_figures(options, of_vectors=True)]


def _figures(options: Options, *, of_vectors: bool) -> list[Figure]:
    runs = [_evaluate(of_vectors, options.quick) for _ in range(options.repeats or 1)]
    last = runs[-1]
    size = f"{last['n_queries']:,} queries x {last['n_database']:,} items"
    beside = f"over searches and trainings, {last['methods']} methods, {size}"
    of_map = Figure(
        name=f"mAP@{K}, {size}",
        values=[ms for run in runs for ms in run["map_ms"]],
        target=TARGET_MAP_MS,
        unit="ms",
        limit="labels of the returned ids are looked up, and ranks added up",
    )
    return [
        Figure(
            name=f"metrics, intervals, single queries and report {beside}",
            values=[run["share"] for run in runs],
            target=TARGET_SHARE,
            limit=(
                f"{last['train_s']:.0f} s of training, {last['search_s']:.0f} s of searches and "
                f"{last['add_s']:.0f} s of additions; beside them {last['scores_s']:.1f} s of "
                f"metrics, {last['intervals_s']:.1f} s of intervals, {last['speed_s']:.1f} s of "
                f"single queries, {last['report_s']:.1f} s of report"
            ),
            details={"runs": runs},
        ),
        Figure(
            name=f"the same and the care for raw results {beside}",
            values=[run["rest_share"] for run in runs],
            limit=(
                f"{last['raw_s']:.1f} s: ids and distances checked, ties put in order, 80 MB a "
                "search written and synced"
            ),
        ),
        *([] if of_vectors else [of_map]),
        Figure(
            name=f"peak resident memory of the evaluation, {size}",
            values=[run["peak_mb"] for run in runs],
            target=TARGET_MB,
            unit="MB",
            limit="all that the process ever held at once, data and libraries included",
        ),
    ]


def _evaluate(of_vectors: bool, quick: bool) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    args = (of_vectors, quick, torch.get_num_threads(), sender)
    child = context.Process(target=evaluate_in_child, args=args)
    child.start()
    sender.close()  # so that a child that died is an EOFError here
    try:
        result: dict[str, Any] = receiver.recv()
    except EOFError:
        child.join()
        raise RuntimeError(f"the child that evaluates ended with {child.exitcode}") from None
    child.join()
    return result


if __name__ == "__main__":
    run_script("evaluate", [measure], __doc__)
