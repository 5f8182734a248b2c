"""Recall and speed by nprobe of inverted files at equal bytes: FAISS's OPQ and RQ, and ours.

Every row has the same number of lists, which are visited in the same way, and codes of M bytes:
FAISS's RQ keeps a byte of them for the norm that its scan needs. "additive" and "ranking" are
objectives of ours. A row is compared with the first one, FAISS's OPQ, query by query: the gain,
and its standard error. Queries are timed in one thread, all in one call: the median of three,
after one that is not.
"""

from __future__ import annotations

import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import tyro

import faiss_pqvae as fpq
from faiss_pqvae.data.open import open_source
from faiss_pqvae.eval.measure.environment import environment
from faiss_pqvae.files import replace_bytes
from faiss_pqvae.native import faiss

K = 10
NPROBES = (1, 2, 4, 8, 16, 32, 64)
REPEATS = 3

Search = Callable[[npt.NDArray[np.float32], int], npt.NDArray[np.int64]]


def of_faiss(description: str, learn: Any, base: Any) -> Search:
    """FAISS's own inverted file."""
    index = faiss.index_factory(base.shape[1], description)
    index.train(learn)
    index.add(base)
    ivf = faiss.extract_index_ivf(index)

    def search(queries: npt.NDArray[np.float32], nprobe: int) -> npt.NDArray[np.int64]:
        ivf.nprobe = nprobe
        found: npt.NDArray[np.int64] = index.search(queries, K)[1]
        return found

    return search


def of_ours(description: str, objective: str, learn: Any, base: Any) -> Search:
    """An inverted file of ours, of codes that an objective learns."""
    index = fpq.index_factory(base.shape[1], description, objective=objective)
    index.train(learn)
    index.add(base)

    def search(queries: npt.NDArray[np.float32], nprobe: int) -> npt.NDArray[np.int64]:
        index.nprobe = nprobe
        return index.search(queries, K)[1]

    return search


def queries_per_s(search: Search, queries: npt.NDArray[np.float32], nprobe: int) -> float:
    """In one thread."""
    n_threads = faiss.omp_get_max_threads(), torch.get_num_threads()
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    try:
        search(queries, nprobe)
        elapsed_s = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            search(queries, nprobe)
            elapsed_s.append(time.perf_counter() - started)
    finally:
        faiss.omp_set_num_threads(n_threads[0])
        torch.set_num_threads(n_threads[1])
    return len(queries) / statistics.median(elapsed_s)


def main(
    base: str,
    queries: str,
    out: Path,
    learn: str | None = None,
    nlist: int = 1024,
    M: int = 8,
    limit: int | None = None,
) -> None:
    """Measures all rows and writes them.

    Args:
        base: file of the vectors that are searched.
        queries: likewise.
        out: JSON file.
        learn: likewise, to train with; the base by default.
        nlist: inverted lists.
        M: bytes of a code.
        limit: vectors of base and learn that are read, to try the script; all by default.
    """
    files = (learn or base, base, queries)
    limits = (limit, limit, None)
    xt, xb, xq = (
        np.ascontiguousarray(open_source(file)[:most], np.float32)
        for file, most in zip(files, limits, strict=True)
    )
    exact = faiss.IndexFlatL2(xb.shape[1])
    exact.add(xb)
    nearest = exact.search(xq, 1)[1]
    native = f"OPQ{M},IVF{nlist},PQ{M}np", f"IVF{nlist},RQ{M - 1}x8_Nqint8"
    ours = f"IVF{nlist},PQVAE{M}"
    rows: dict[str, Callable[[], Search]] = {
        native[0]: lambda: of_faiss(native[0], xt, xb),
        native[1]: lambda: of_faiss(native[1], xt, xb),
        f"{ours} ranking": lambda: of_ours(ours, "ranking", xt, xb),
        f"{ours} additive": lambda: of_ours(ours, "additive", xt, xb),
    }
    result: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "environment": environment(),
    }
    first: dict[str, npt.NDArray[np.float64]] = {}
    for name, make in rows.items():
        started = time.perf_counter()
        search = make()
        result[name] = {"build_s": round(time.perf_counter() - started, 1)}
        for nprobe in NPROBES:
            found = search(xq, nprobe) == nearest
            for n in (1, K):
                key = f"1-recall@{n}, nprobe={nprobe}"
                hits = found[:, :n].any(1).astype(np.float64)
                gain = hits - first.setdefault(key, hits)
                error = gain.std() / np.sqrt(len(gain))
                result[name][key] = [round(float(x), 4) for x in (hits.mean(), gain.mean(), error)]
            speed = queries_per_s(search, xq, nprobe)
            result[name][f"queries per second, nprobe={nprobe}"] = round(speed)
        print(json.dumps({name: result[name]}, indent=1), flush=True)
    replace_bytes(out, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    tyro.cli(main)
