"""Time of `Scan.search` over that of FAISS's own IndexResidualQuantizer, on one thread.

Both sum look-ups of inner products over the same random codes: how long that takes does not depend
on what they say. FAISS reads every code bit by bit.
"""

from __future__ import annotations

import numpy as np
from bench_scan import Side, one_thread, scan_figure
from common import Figure, Options, run_script

from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.native.inject import inject_codebooks, new_residual_index
from faiss_pqvae.native.scan.scan import Scan

K = 100
D = 128
SIZES = ((4, 8), (8, 8), (8, 4))  # M, nbits
TARGET = 1 / 2  # ours over the index's own


def measure(options: Options) -> list[Figure]:
    """Figures for every size of codes."""
    n, nq = (20_000, 10) if options.quick else (1_000_000, 20)
    with one_thread() as bandwidth:
        return [
            figure for M, nbits in SIZES for figure in _figures(options, n, nq, M, nbits, bandwidth)
        ]


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
    codes = f"residual codes of {M} x {nbits} bits, d = {D}"
    return [scan_figure(options, index, codes, scan.name, bandwidth, nq, side) for side in sides]


if __name__ == "__main__":
    run_script("residual", [measure], __doc__)
