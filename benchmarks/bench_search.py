"""Time of `index.search` over the encoder's forward pass and FAISS's own search.

The database is of random codes: how long a scan takes does not depend on what they say.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from common import Figure, Options, Pairs, make_index, random_items, run_script, timed_pairs

from faiss_pqvae.index.latent_index import LatentIndex
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.native import faiss

TARGET = 1.05
K = 100
SHAPE = (3, 32, 32)

Results = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
Search = Callable[[npt.NDArray[np.uint8]], Results]


def searches(index: LatentIndex, search_type: str) -> tuple[Search, Search]:
    """The two sides: ours, and the encoder followed by the native index."""
    params: Any = faiss.SearchParametersPQ()
    params.search_type = faiss.IndexPQ.ST_SDC if search_type == "sdc" else faiss.IndexPQ.ST_PQ

    def ours(x: npt.NDArray[np.uint8]) -> Results:
        return index.search(x, K)

    def bare(x: npt.NDArray[np.uint8]) -> Results:
        with torch.inference_mode():
            z = index.model.encode_queries(torch.from_numpy(x)).numpy()
        D, I = index.faiss_index.search(z, K, params=params)  # noqa: E741 - FAISS's names
        return D, I

    return ours, bare


def measure(options: Options) -> list[Figure]:
    """A figure per search type and number of queries at a time."""
    n, nq = (50_000, 100) if options.quick else (1_000_000, 1000)
    index = make_index(SHAPE, ModelConfig(dsub=32))
    codes = np.random.default_rng(1).integers(0, 256, (n, index.sa_code_size()), dtype=np.uint8)
    index.faiss_index.add_sa_codes(codes)
    xq = random_items(nq, SHAPE, seed=2)
    bandwidth = read_bandwidth()
    figures = []
    for search_type in ("adc", "sdc"):
        index.search_type = "sdc" if search_type == "sdc" else "adc"
        ours, bare = searches(index, search_type)
        # Sums of look-ups in another order differ in the last bits.
        np.testing.assert_allclose(ours(xq[:10])[0], bare(xq[:10])[0], rtol=1e-5)
        repeats = options.repeats or (3 if options.quick else 7)
        pairs = timed_pairs(lambda: ours(xq), lambda: bare(xq), repeats=repeats)  # noqa: B023
        figures.append(_figure(f"{nq} queries, {search_type}", pairs, codes.nbytes, nq, bandwidth))
        # Both sides take the same query in turns; one measurement is one query.
        repeats = options.repeats or (20 if options.quick else 201)
        pairs = timed_pairs(_one_by_one(ours, xq), _one_by_one(bare, xq), repeats=repeats)
        name = f"1 query at a time, {search_type}"
        figures.append(_figure(name, pairs, codes.nbytes, 1, bandwidth))
    return figures


def _one_by_one(search: Search, xq: npt.NDArray[np.uint8]) -> Callable[[], None]:
    rows = itertools.cycle(range(len(xq)))

    def run() -> None:
        i = next(rows)
        search(xq[i : i + 1])

    return run


def _figure(name: str, pairs: Pairs, codes_bytes: int, nq: int, bandwidth: float) -> Figure:
    scanned = nq * codes_bytes / min(pairs.b_s) / 1e9
    return Figure(
        name=f"search, {name}",
        values=pairs.ratios,
        target=TARGET,
        # A code's byte is a look-up, so GB/s are also 1e9 look-ups a second.
        limit=(
            f"scan of {codes_bytes / 1e6:.1f} MB of codes a query at {scanned:.2f} GB/s, encoder "
            f"included; this machine reads memory at {bandwidth:.0f} GB/s: the table look-ups, "
            "one a byte, bound it"
        ),
        details={
            "codes_bytes": codes_bytes,
            "k": K,
            "queries": nq,
            "median_search_s": pairs.medians_s[0],
            "median_bare_s": pairs.medians_s[1],
            "scan_gb_per_s": scanned,
            "memory_gb_per_s": bandwidth,
        },
    )


def read_bandwidth() -> float:
    """GB/s at which a sum over 256 MB reads memory, the best of five."""
    x = torch.ones(2**25, dtype=torch.float64)
    pairs = timed_pairs(x.sum, lambda: None, repeats=5)
    return x.nbytes / min(pairs.a_s) / 1e9


if __name__ == "__main__":
    run_script("search", [measure], __doc__)
