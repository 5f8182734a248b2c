"""Time of `Scan.search` over that of FAISS's own IndexResidualQuantizer, on one thread.

Both sum look-ups of inner products over the same random codes: how long that takes does not depend
on what they say. FAISS reads every code bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from bench_search import read_bandwidth
from common import Figure, Options, run_script, timed_pairs

from faiss_pqvae import kernels
from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.native import faiss, inject_codebooks, new_residual_index
from faiss_pqvae.scan import Results, Scan

K = 100
D = 128
SIZES = ((4, 8), (8, 8), (8, 4))  # M, nbits
TARGET = 1 / 2  # ours over the index's own
# What is compared, ours, the other, the target.
Side = tuple[str, Callable[[], Results], Callable[[], Results], float | None]


def measure(options: Options) -> list[Figure]:
    """Figures for every size of codes."""
    n, nq = (20_000, 10) if options.quick else (1_000_000, 20)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        kernels.fastest()  # measured before, and not within, what is timed
        bandwidth = read_bandwidth()
        return [
            figure for M, nbits in SIZES for figure in _figures(options, n, nq, M, nbits, bandwidth)
        ]
    finally:
        faiss.omp_set_num_threads(threads)


def _figures(
    options: Options, n: int, nq: int, M: int, nbits: int, bandwidth: float
) -> list[Figure]:
    rng = np.random.default_rng(nbits)
    index = new_residual_index(D, M, nbits)
    centroids = rng.standard_normal((M, 2**nbits, D), dtype=np.float32)
    inject_codebooks(index, Codebooks(centroids, structure="residual"))
    index.add_sa_codes(rng.integers(0, 256, (n, index.code_size), dtype=np.uint8))
    z = rng.standard_normal((nq, D), dtype=np.float32)
    one, scan = z[:1], Scan(index)
    np.testing.assert_allclose(scan.search(z, K)[0], index.search(z, K)[0], rtol=1e-4)
    sides: list[Side] = [
        ("ADC", lambda: scan.search(z, K), lambda: index.search(z, K), TARGET),
        ("1 query, ADC", lambda: scan.search(one, K), lambda: index.search(one, K), None),
    ]
    return [_figure(options, index, scan.name, bandwidth, nq, side) for side in sides]


def _figure(
    options: Options, index: Any, scan: str, bandwidth: float, nq: int, side: Side
) -> Figure:
    what, ours, other, target = side
    n = 1 if what.startswith("1 ") else nq
    repeats = options.repeats or (3 if options.quick else 7)
    pairs = timed_pairs(ours, other, repeats=repeats)
    speeds = [index.ntotal * n / seconds / 1e6 for seconds in pairs.medians_s]
    read = speeds[0] * index.code_size / 1e3
    return Figure(
        name=(
            f"{index.ntotal / 1e6:g}M residual codes of {index.rq.M} x "
            f"{index.rq.nbits.at(0)} bits, {what}"
        ),
        values=pairs.ratios,
        target=target,
        limit=(
            f"{speeds[0]:.0f} against {speeds[1]:.0f} million codes/s; ours reads codes at "
            f"{read:.2f} GB/s, memory gives {bandwidth:.0f}: bound by look-ups"
        ),
        details={
            "codes": index.ntotal,
            "queries": n,
            "k": K,
            "d": D,
            "scan": scan,
            "million_codes_per_s": speeds[0],
            "other_million_codes_per_s": speeds[1],
            "codes_gb_per_s": read,
            "memory_gb_per_s": bandwidth,
        },
    )


if __name__ == "__main__":
    run_script("residual", [measure], __doc__)
