"""A billion codes of 8 bytes on one machine: made, opened, searched, and compared with the truth.

The vectors are those of a data set by small seeded changes, see many.py. They are never stored: a
part is made, encoded and compared exactly with some queries at once, by several processes, and what
is there is not made again. The codes are product codes (the objective "ranking"), chosen one by
one; sums of codewords would take ten times as long. The index is flat, and mapped into memory.

    python benchmarks/billion.py --base bsds_sift_base.bvecs --queries bsds_sift_query.bvecs \
        --folder runs/billion --out results/billion.json
"""

from __future__ import annotations

import functools
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from bench_search import read_bandwidth
from many import CHUNK, Many
from tqdm import tqdm

import faiss_pqvae as fpq
from faiss_pqvae.data.open import open_source
from faiss_pqvae.data.row_range import rows_of_part
from faiss_pqvae.eval.measure.environment import environment
from faiss_pqvae.files import replace_bytes
from faiss_pqvae.native import faiss
from faiss_pqvae.scale.engines import make_parts
from faiss_pqvae.types import FloatArray

CODE_BYTES, K = 8, 100
LEARNED = 200_000  # vectors, none of which is stored
RANKS = (1, 10, 100)


@dataclass(frozen=True)
class Parts:
    """What a worker needs to make a part.

    Attributes:
        base: file of the real vectors.
        queries: file of queries.
        folder: for parts; the model lies in it.
        n: vectors.
        n_parts: of them.
        n_queries: that are compared exactly.
    """

    base: Path
    queries: Path
    folder: Path
    n: int
    n_parts: int
    n_queries: int

    def rows(self, part: int) -> slice:
        """The vectors of a part, whole chunks."""
        chunks = rows_of_part(self.n // CHUNK, part, self.n_parts)
        return slice(chunks.start * CHUNK, chunks.stop * CHUNK)

    def path(self, part: int) -> Path:
        """Codes, and the nearest of this part."""
        return self.folder / f"part-{part + 1:05}.npz"

    def asked(self) -> FloatArray:
        """(n_queries, d) float32."""
        return np.asarray(open_source(self.queries)[: self.n_queries], np.float32)

    def __call__(self, part: int) -> None:
        """Makes a part, if it is not there."""
        if self.path(part).exists():
            return
        many, index, asked = many_of(self.base), model_in(self.folder), self.asked()
        rows = self.rows(part)
        codes = np.empty((rows.stop - rows.start, CODE_BYTES), np.uint8)
        best = np.full((self.n_queries, 1), np.inf, np.float32)
        ids = np.full((self.n_queries, 1), -1)
        seconds = dict.fromkeys(("vectors", "codes", "exact"), 0.0)
        for start in range(rows.start, rows.stop, CHUNK):
            at = time.perf_counter()
            x = many.chunk(start // CHUNK)
            made = time.perf_counter()
            codes[start - rows.start :][:CHUNK] = index.sa_encode(x)
            coded = time.perf_counter()
            best, ids = nearest_so_far(asked, x, start, best, ids)
            for name, begun, done in (
                ("vectors", at, made),
                ("codes", made, coded),
                ("exact", coded, time.perf_counter()),
            ):
                seconds[name] += done - begun
        new = self.path(part).with_suffix(".new")
        with new.open("wb") as file:
            np.savez(file, codes=codes, D=best, I=ids, seconds=[*seconds.values()])
        new.replace(self.path(part))


@functools.lru_cache(1)
def many_of(base: Path) -> Many:
    """The vectors, once in every process."""
    return Many.of(base)


@functools.lru_cache(1)
def model_in(folder: Path) -> fpq.LatentIndex:
    """The model, likewise."""
    return fpq.read_index(folder / "model")


def nearest_so_far(
    asked: FloatArray, x: FloatArray, start: int, best: FloatArray, ids: np.ndarray
) -> tuple[FloatArray, np.ndarray]:
    """The nearest vector of every query, of those before and of some more: D and I (nq, 1)."""
    D = asked @ x.T
    D *= -2
    D += np.einsum("nd,nd->n", x, x)
    nearest = D.argmin(1)[:, None]
    found = np.take_along_axis(D, nearest, 1)
    nearer = found < best
    return np.where(nearer, found, best), np.where(nearer, nearest + start, ids)


def trained(parts: Parts, factory: str, minutes: float) -> dict[str, Any]:
    """Learns codes of vectors that are not stored."""
    path, about = parts.folder / "model", parts.folder / "model.json"
    if not about.exists():
        first = -(-parts.n // CHUNK)
        chunks = range(first, first + LEARNED // CHUNK)
        x = np.concatenate([many_of(parts.base).chunk(number) for number in chunks])
        training = fpq.TrainingConfig(budget_minutes=minutes)
        index = fpq.index_factory(x.shape[1], factory, objective="ranking", training=training)
        started = time.perf_counter()
        index.train(x)
        fpq.write_index(index, path)
        said = {"factory": factory, "learned from": len(x)}
        seconds = round(time.perf_counter() - started, 1)
        replace_bytes(about, _as_json(said | {"seconds": seconds}))
    found: dict[str, Any] = json.loads(about.read_bytes())
    return found


def _as_json(content: Any) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def joined(parts: Parts, out: Path) -> float:
    """Stores all codes in one index and writes it; seconds."""
    started = time.perf_counter()
    index = model_in(parts.folder)
    for part in tqdm(range(parts.n_parts), "joining", disable=not sys.stderr.isatty()):
        with np.load(parts.path(part)) as found:
            index.add_sa_codes(found["codes"])
    fpq.write_index(index, out)
    index.reset()
    return round(time.perf_counter() - started, 1)


def truth(parts: Parts) -> tuple[np.ndarray, list[float]]:
    """The exact nearest (nq,) of all, and seconds of vectors, codes and comparisons, all added."""
    found = [dict(np.load(parts.path(part))) for part in range(parts.n_parts)]
    D, I = (np.concatenate([each[name] for each in found], 1) for name in "DI")  # noqa: E741
    seconds = np.sum([each["seconds"] for each in found], 0)
    nearest = np.take_along_axis(I, D.argmin(1)[:, None], 1)[:, 0]
    return nearest, np.round(seconds, 1).tolist()


def timed(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """The median seconds of several calls, and what the last one gave."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        found = work()
        times.append(time.perf_counter() - started)
    return statistics.median(times), found


def searched(parts: Parts, out: Path, repeats: int) -> dict[str, Any]:
    """How fast the index is opened and searched, and what it finds."""
    asked = parts.asked()
    opening_s, index = timed(lambda: fpq.read_index(out, mmap=True), 1)
    first_s, _ = timed(lambda: index.search(asked[:1], K), 1)
    one_s, _ = timed(lambda: index.search(asked[:1], K), repeats)
    batch_s, (_, I) = timed(lambda: index.search(asked, K), repeats)  # noqa: E741
    nearest, _ = truth(parts)
    hits = nearest[:, None] == I
    n_bytes = index.ntotal * CODE_BYTES
    bandwidth = read_bandwidth()
    return {
        "scan": index.scan,
        "threads": faiss.omp_get_max_threads(),
        "opened_s": round(opening_s, 2),
        "first_query_s": round(first_s, 2),
        "one_query_s": round(one_s, 3),
        "queries_per_s": round(len(asked) / batch_s, 3),
        "codes_gb_per_s": round(n_bytes * len(asked) / batch_s / 1e9, 2),
        "one_query_gb_per_s": round(n_bytes / one_s / 1e9, 2),
        "memory_gb_per_s": round(bandwidth, 2),
        **{f"1-recall@{k}": round(float(hits[:, :k].any(1).mean()), 4) for k in RANKS},
    }


def main(
    base: Path,
    queries: Path,
    folder: Path,
    out: Path,
    n: int = 1_000_000_000,
    factory: str = "PQVAE16x4",
    n_parts: int = 200,
    n_queries: int = 100,
    workers: int = 2,
    train_minutes: float = 2,
    repeats: int = 3,
) -> None:
    """Makes what is missing and writes what came of it.

    Args:
        base: real vectors.
        queries: of the same kind.
        folder: for parts and index: 17 bytes a vector in the end.
        out: JSON file.
        n: vectors, whole chunks of them.
        factory: of codes of 8 bytes: 16 of 4 bits are chosen five times as fast as 8 of 8.
        n_parts: in which they are made.
        n_queries: that are compared exactly.
        workers: processes that make them.
        train_minutes: of the codes.
        repeats: of every search.
    """
    if n % CHUNK:
        raise ValueError(f"expected n as a multiple of {CHUNK:,}, got {n:,}")
    folder.mkdir(parents=True, exist_ok=True)
    parts = Parts(base.absolute(), queries.absolute(), folder.absolute(), n, n_parts, n_queries)
    model = trained(parts, factory, train_minutes)
    missing = [part for part in range(n_parts) if not parts.path(part).exists()]
    make_parts(parts, missing, parts.rows, n_parts, "parts", workers=workers)
    index = folder / "index"
    about = folder / "joined.json"
    if not about.exists():
        replace_bytes(about, json.dumps(joined(parts, index)).encode())
    spent = dict(zip(("vectors", "codes", "exact neighbours"), truth(parts)[1], strict=True))
    content = {
        "command": shlex.join(["python", *sys.argv]),
        "environment": environment(),
        "n": n,
        "code_bytes": CODE_BYTES,
        "index_bytes": sum(path.stat().st_size for path in index.iterdir() if path.is_file()),
        "queries": n_queries,
        "model": model,
        "core_seconds": spent,
        "us_a_vector": {name: round(1e6 * s / n, 3) for name, s in spent.items()},
        "joined_s": json.loads(about.read_bytes()),
        **searched(parts, index, repeats),
    }
    replace_bytes(out, _as_json(content))
    print(json.dumps(content, indent=1))


if __name__ == "__main__":
    tyro.cli(main)
