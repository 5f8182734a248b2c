"""Time of `Scan.search` over that of FAISS's own IndexPQ, of the same codes and on one thread.

The codes are random: how long a scan takes does not depend on what they say. Symmetric search is
compared with the index's asymmetric one: it has a symmetric search at 8 bits only (information).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from bench_search import read_bandwidth
from common import Figure, Options, run_script, timed_pairs

from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.native import faiss
from faiss_pqvae.native.inject import new_index_pq
from faiss_pqvae.native.scan import kernels
from faiss_pqvae.native.scan.scan import Scan

K = 100
M, DSUB = 8, 4
# Ours over the index's own: a third at 4 bits, two thirds at 6, half at 8 where the scalar kernels
# are the faster ones.
ADC_TARGETS = {4: 1 / 3, 6: 1 / 1.5, 8: 1 / 2}
SDC_TARGETS = {4: 1 / 3, 6: 1 / 1.5, 8: 1 / 1.6}

Queries = npt.NDArray[np.float32]
Results = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
# What is compared, ours, the other, the target.
Side = tuple[str, Callable[[], Results], Callable[[], Results], float | None]


def measure(options: Options) -> list[Figure]:
    """Figures for every size of codes and number of them."""
    sizes = ((20_000, 10), (50_000, 5)) if options.quick else ((1_000_000, 20), (10_000_000, 10))
    with one_thread() as bandwidth:
        return [
            figure
            for n, nq in sizes
            for nbits in ADC_TARGETS
            for figure in _figures(options, n, nq, nbits, bandwidth)
        ]


@contextmanager
def one_thread() -> Iterator[float]:
    """One thread of FAISS's, after what is measured once; gives memory's bandwidth in GB/s."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        kernels.fastest()  # before, and not within, what is timed
        yield read_bandwidth()
    finally:
        faiss.omp_set_num_threads(threads)


def _figures(options: Options, n: int, nq: int, nbits: int, bandwidth: float) -> list[Figure]:
    rng = np.random.default_rng(nbits)
    centroids = rng.standard_normal((M, 2**nbits, DSUB), dtype=np.float32)
    index = new_index_pq(Codebooks(centroids))
    index.add_sa_codes(rng.integers(0, 256, (n, index.code_size), dtype=np.uint8))
    z = rng.standard_normal((nq, index.d), dtype=np.float32)
    one, scan = z[:1], Scan(index)
    symmetric = faiss.SearchParametersPQ()
    symmetric.search_type = faiss.IndexPQ.ST_SDC

    def adc(queries: Queries = z) -> Results:
        return scan.search(queries, K)

    def sdc() -> Results:
        return scan.search(z, K, sdc=True)

    def own(queries: Queries = z, **params: Any) -> Results:
        D, I = index.search(queries, K, **params)  # noqa: E741
        return D, I

    quantized = index.sa_decode(index.sa_encode(z))
    for found, expected in ((adc(), own()), (sdc(), own(quantized))):
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)

    scalar = kernels.fastest().scalar or nbits != 8
    sides: list[Side] = [
        ("ADC", adc, own, ADC_TARGETS[nbits] if scalar else 1.0),
        ("SDC / IndexPQ's ADC", sdc, own, SDC_TARGETS[nbits]),
        ("1 query, ADC", lambda: adc(one), lambda: own(one), None),
    ]
    if nbits == 8:
        sides.append(("SDC / IndexPQ's SDC", sdc, lambda: own(params=symmetric), None))
    if nbits == 4:  # another kind of index: quantized tables, so not the same results
        approximate = faiss.IndexPQFastScan(index)
        sides.append(("ADC / FastScan", adc, lambda: approximate.search(z, K), None))
    codes = f"codes of {M} x {nbits} bits"
    return [scan_figure(options, index, codes, scan.name, bandwidth, nq, side) for side in sides]


def scan_figure(
    options: Options, index: Any, codes: str, scan: str, bandwidth: float, nq: int, side: Side
) -> Figure:
    """How long a scan takes relative to FAISS's own search of the same index.

    Args:
        options: of the run.
        index: filled.
        codes: what it holds, in words.
        scan: which scan it is, in words.
        bandwidth: of memory, GB/s.
        nq: queries of both, unless the side is of 1.
        side: both, and what the ratio should be below.
    """
    what, ours, other, target = side
    n = 1 if what.startswith("1 ") else nq
    repeats = options.repeats or (3 if options.quick else 7)
    pairs = timed_pairs(ours, other, repeats=repeats)
    speeds = [index.ntotal * n / seconds / 1e6 for seconds in pairs.medians_s]
    read = speeds[0] * index.code_size / 1e3
    return Figure(
        name=f"{index.ntotal / 1e6:g}M {codes}, {what}",
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
            "scan": scan,
            "million_codes_per_s": speeds[0],
            "other_million_codes_per_s": speeds[1],
            "codes_gb_per_s": read,
            "memory_gb_per_s": bandwidth,
        },
    )


if __name__ == "__main__":
    run_script("scan", [measure], __doc__)
