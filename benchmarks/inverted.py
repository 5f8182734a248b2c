"""Recall by nprobe of inverted files at equal bytes: FAISS's OPQ, ours, and ours of whole vectors.

Every row has the same number of lists, which are visited in the same way; "of vectors" codes the
vectors themselves, as this package did before it coded residuals. A row is compared with FAISS's
query by query: the gain, and its standard error.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tyro

import faiss_pqvae as fpq
from faiss_pqvae.data.open import open_source
from faiss_pqvae.eval.measure.environment import environment
from faiss_pqvae.files import replace_bytes
from faiss_pqvae.native import faiss

K = 10
NPROBES = (1, 2, 4, 8, 16, 32, 64)

Search = Callable[[npt.NDArray[np.float32], int], npt.NDArray[np.int64]]


def of_faiss(nlist: int, M: int, learn: Any, base: Any) -> Search:
    """FAISS's own OPQ before an inverted file."""
    index = faiss.index_factory(base.shape[1], f"OPQ{M},IVF{nlist},PQ{M}np")
    index.train(learn)
    index.add(base)
    ivf = faiss.extract_index_ivf(index)

    def search(queries: npt.NDArray[np.float32], nprobe: int) -> npt.NDArray[np.int64]:
        ivf.nprobe = nprobe
        found: npt.NDArray[np.int64] = index.search(queries, K)[1]
        return found

    return search


def of_ours(nlist: int, M: int, learn: Any, base: Any, *, by_residual: bool) -> Search:
    """An inverted file of ours, of residuals or of the vectors themselves."""
    index = fpq.index_factory(base.shape[1], f"IVF{nlist},PQVAE{M}")
    index.faiss_index.by_residual = by_residual
    index.train(learn)
    index.add(base)

    def search(queries: npt.NDArray[np.float32], nprobe: int) -> npt.NDArray[np.int64]:
        index.nprobe = nprobe
        return index.search(queries, K)[1]

    return search


def main(
    base: str, queries: str, out: Path, learn: str | None = None, nlist: int = 1024, M: int = 8
) -> None:
    """Measures all rows and writes them.

    Args:
        base: file of the vectors that are searched.
        queries: likewise.
        out: JSON file.
        learn: likewise, to train with; the base by default.
        nlist: inverted lists.
        M: bytes of a code.
    """
    files = (learn or base, base, queries)
    xt, xb, xq = (np.ascontiguousarray(open_source(file)[:], np.float32) for file in files)
    exact = faiss.IndexFlatL2(xb.shape[1])
    exact.add(xb)
    nearest = exact.search(xq, 1)[1]
    rows: dict[str, Callable[[], Search]] = {
        f"OPQ{M},IVF{nlist},PQ{M}": lambda: of_faiss(nlist, M, xt, xb),
        f"IVF{nlist},PQVAE{M}": lambda: of_ours(nlist, M, xt, xb, by_residual=True),
        f"IVF{nlist},PQVAE{M} of vectors": lambda: of_ours(nlist, M, xt, xb, by_residual=False),
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
        print(json.dumps({name: result[name]}, indent=1), flush=True)
    replace_bytes(out, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    tyro.cli(main)
