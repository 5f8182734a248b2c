"""Recall and speed by nprobe of inverted files at equal bytes: FAISS's OPQ and RQ, and ours.

Every row has the same number of lists, which are visited in the same way, and codes of M bytes:
FAISS's RQ keeps a byte of them for the norm that its scan needs. "additive" and "ranking" are
objectives of ours; with RDecoder ("synthesis") a deep decoder ranks so many candidates of ten
results, or tables alone answer. A row is compared with the first one, FAISS's OPQ, query by query:
the gain, and its standard error. Queries are timed in one thread, in one call: the median of three,
after one that is not. What is measured already is in the file, and stays when it is called again.
"""

from __future__ import annotations

import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import tyro
from parts import packed, stored_rows, unpacked

import faiss_pqvae as fpq
from faiss_pqvae.data.open import open_source
from faiss_pqvae.eval.measure.environment import environment
from faiss_pqvae.files import replace_bytes
from faiss_pqvae.native import faiss

K = 10
NPROBES = (1, 2, 4, 8, 16, 32, 64)
CANDIDATES = (0, 30, 100)  # that a decoder ranks, of ten results
REPEATS, TIMED = 3, 1000  # queries

Search = Callable[[npt.NDArray[np.float32], int], npt.NDArray[np.int64]]


def of_faiss(description: str, learn: Any, base: Any) -> dict[str, Search]:
    """FAISS's own inverted file."""
    index = faiss.index_factory(base.shape[1], description)
    index.train(learn)
    index.add(base)
    ivf = faiss.extract_index_ivf(index)

    def search(queries: npt.NDArray[np.float32], nprobe: int) -> npt.NDArray[np.int64]:
        ivf.nprobe = nprobe
        found: npt.NDArray[np.int64] = index.search(queries, K)[1]
        return found

    return {description: search}


def of_ours(
    description: str, objective: Any, learn: Any, base: Any, folder: Path
) -> dict[str, Search]:
    """An inverted file of ours, of codes that an objective learns.

    Args:
        description: of the index.
        objective: a name, or with its settings.
        learn: (nt, d) float32.
        base: (nb, d) float32.
        folder: for the training, which goes on there.
    """
    index = fpq.index_factory(base.shape[1], description, objective=objective)
    index.train(learn, folder=folder)
    index.add(base)
    decoder = index.refiner
    if decoder is None:
        return {f"{description} {objective}": partial(_searched, index, None, 1.0)}
    return {
        f"{description}, {n} candidates" if n else f"{description}, tables alone": partial(
            _searched, index, decoder if n else None, max(1.0, n / K)
        )
        for n in CANDIDATES
    }


def _searched(
    index: Any, refiner: Any, k_factor: float, queries: npt.NDArray[np.float32], nprobe: int
) -> npt.NDArray[np.int64]:
    index.refiner, index.k_factor, index.nprobe = refiner, k_factor, nprobe
    found: npt.NDArray[np.int64] = index.search(queries, K)[1]
    return found


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
    epochs: int = fpq.Synthesis().epochs,
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
        epochs: of the decoder.
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
    kept = out.with_name(f"{out.stem}-trainings")
    deep = fpq.Synthesis(epochs=epochs)
    made: dict[str, Callable[[], dict[str, Search]]] = {
        native[0]: lambda: of_faiss(native[0], xt, xb),
        native[1]: lambda: of_faiss(native[1], xt, xb),
        f"{ours} ranking": lambda: of_ours(ours, "ranking", xt, xb, kept / "ranking"),
        f"{ours} additive": lambda: of_ours(ours, "additive", xt, xb, kept / "additive"),
        f"{ours},RDecoder": lambda: of_ours(f"{ours},RDecoder", deep, xt, xb, kept / "synthesis"),
    }
    setting = {"base": base, "queries": queries, "learn": learn, "nlist": nlist, "M": M}
    setting |= {"limit": limit, "epochs": epochs}
    rows = stored_rows(out, setting)
    for name, make in made.items():
        if any(row.startswith(name) for row in rows):
            continue
        started = time.perf_counter()
        searches = make()
        build_s = round(time.perf_counter() - started, 1)
        for row, search in searches.items():
            first = rows[native[0]] if rows else None
            rows[row] = {"build_s": build_s, **measured(search, xq, nearest, first)}
            print(json.dumps({row: without_hits(rows[row])}, indent=1), flush=True)
        about = {"command": shlex.join(["python", *sys.argv]), "environment": environment()}
        kept_rows = {
            row: found if row == native[0] else without_hits(found) for row, found in rows.items()
        }
        content = {**about, "setting": setting, "rows": kept_rows}
        replace_bytes(out, (json.dumps(content, indent=1) + "\n").encode())


def measured(
    search: Search,
    queries: npt.NDArray[np.float32],
    nearest: npt.NDArray[np.int64],
    first: dict[str, Any] | None,
) -> dict[str, Any]:
    """Recalls, what they gain over the first row, and speed.

    Args:
        search: of an index.
        queries: (nq, d) float32.
        nearest: (nq, 1) int64.
        first: the first row, with its hits; None for that one itself.
    """
    row: dict[str, Any] = {"hits": {}}
    for nprobe in NPROBES:
        found = search(queries, nprobe) == nearest
        for n in (1, K):
            key = f"1-recall@{n}, nprobe={nprobe}"
            hits = found[:, :n].any(1)
            row["hits"][key] = packed(hits)
            others = hits if first is None else unpacked(first["hits"][key], hits.shape)
            gain = hits.astype(np.float64) - others
            figures = hits.mean(), gain.mean(), gain.std() / np.sqrt(len(gain))
            row[key] = [round(float(x), 4) for x in figures]
        speed = queries_per_s(search, queries[:TIMED], nprobe)
        row[f"queries per second, nprobe={nprobe}"] = round(speed)
    return row


def without_hits(row: dict[str, Any]) -> dict[str, Any]:
    """A row as it is shown: of the first one alone hits are kept, for who is compared with it."""
    return {name: value for name, value in row.items() if name != "hits"}


if __name__ == "__main__":
    tyro.cli(main)
