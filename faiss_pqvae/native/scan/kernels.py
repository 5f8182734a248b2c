"""Which of FAISS's loops scans codes of 8 bits fastest on this machine: measured once.

FAISS takes its vector kernels (AVX gathers) for tables of exactly 256 entries, and a plain loop for
tables of any other size, see ProductQuantizer.cpp. On some processors the gathers are two to
three times slower than that loop. A table with entries that no code names is therefore a choice
of the loop, made per quantizer: nothing of FAISS's global SIMD level has to be switched.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from faiss_pqvae.files import replace_bytes
from faiss_pqvae.native import faiss
from faiss_pqvae.types import FloatArray

VARIABLE = "FAISS_PQVAE_SCAN"
MODES = ("auto", "scalar", "simd", "plain")

VECTOR_KSUB = 256  # the size of table that FAISS has vector kernels for, and its default
SCALAR_KSUB = 272  # the next whole cache line

# A scan of fewer look-ups takes a few milliseconds at most: not worth a measurement.
WORTH_MEASURING = 4_000_000
FASTER = 0.95  # of the vector kernels' time: less of a gain is noise
FORMAT = 1

Side = Literal["simd", "scalar", "sdc"]
SIDES: tuple[Side, ...] = ("simd", "scalar", "sdc")

_logger = logging.getLogger(__name__)
_measuring = threading.Lock()
_measured: Kernels | None = None


@dataclass(frozen=True)
class Kernels:
    """Choices of a scan.

    Attributes:
        scalar: the plain loop instead of the vector kernels.
        sdc: FAISS's symmetric search instead of the scan of a quantized query, where it exists.
    """

    scalar: bool
    sdc: bool


SIMD = Kernels(scalar=False, sdc=True)
SCALAR = Kernels(scalar=True, sdc=False)


def scan_mode() -> str:
    """What the environment variable FAISS_PQVAE_SCAN asks for: "auto" unless it is set.

    Raises:
        ValueError: it is set to something else than auto, scalar, simd or plain.
    """
    mode = os.environ.get(VARIABLE) or "auto"
    if mode not in MODES:
        raise ValueError(f"expected {VARIABLE} to be one of {', '.join(MODES)}, got {mode!r}")
    return mode


def choose(mode: str, lookups: int, worth_measuring: int = WORTH_MEASURING) -> Kernels:
    """The kernels for a scan; the first large one measures them, unless that was done before.

    Args:
        mode: "auto", "scalar" or "simd".
        lookups: table look-ups of the scan, over all queries.
        worth_measuring: how many of them make a scan a large one.
    """
    if mode != "auto":
        return SCALAR if mode == "scalar" else SIMD
    if _measured is None and lookups < worth_measuring:
        return SIMD
    return fastest()


def fastest() -> Kernels:
    """The kernels that were fastest on this machine: measured once, and then read from a file."""
    global _measured
    with _measuring:
        if _measured is None:
            key = machine()
            speeds = _read_cache().get(key)
            if speeds is None:
                speeds = measure()
                _write_cache({**_read_cache(), key: speeds})
            _measured = _fastest_of(speeds)
        return _measured


def byte_quantizer(centroids: FloatArray, *, scalar: bool) -> Any:
    """A quantizer whose `search` scans one byte per sub-quantizer.

    Args:
        centroids: (M, ksub, dsub) float32, ksub at most 256.
        scalar: whether FAISS takes the plain loop for it instead of the vector kernels.

    Returns:
        A faiss.ProductQuantizer to search with; it is not fit to encode or decode.
    """
    M, ksub, dsub = centroids.shape
    pq = faiss.ProductQuantizer(M * dsub, M, 8)
    if scalar:
        pq.ksub = SCALAR_KSUB if ksub == VECTOR_KSUB else ksub
    padded = np.zeros((M, pq.ksub, dsub), np.float32)
    padded[:, :ksub] = centroids
    faiss.copy_array_to_vector(padded.ravel(), pq.centroids)
    return pq


def measure(n: int = 100_000, rounds: int = 15) -> dict[Side, float]:
    """Million codes a second of 8 x 8 bits, by side, of one query on one thread.

    The sides take turns, so that a busy machine hits them alike. It takes less than 0.1 s.

    Args:
        n: codes that are scanned.
        rounds: turns; the best of each side counts.
    """
    rng = np.random.default_rng(0)
    centroids = rng.integers(-4, 5, (8, 256, 2)).astype(np.float32)  # whose sums are exact
    codes = rng.integers(0, 256, (n, 8), dtype=np.uint8)
    queries = codes[:1].copy(), centroids[np.arange(8), codes[0]].reshape(1, 16)
    best: dict[Side, float] = dict.fromkeys(SIDES, float("inf"))
    results = {}
    searches = {side: _search(side, centroids, queries, codes) for side in SIDES}
    for _ in range(rounds):
        for side, search in searches.items():
            started = time.perf_counter()
            results[side] = search()
            best[side] = min(best[side], time.perf_counter() - started)
    if results["scalar"] != results["simd"]:
        _logger.warning("faiss %s gives other results without vector kernels", faiss.__version__)
        best["scalar"] = float("inf")
    return {side: round(n / seconds / 1e6, 1) for side, seconds in best.items()}


def machine() -> str:
    """What a measurement holds for: processor, faiss version and SIMD level."""
    simd = getattr(faiss, "SIMDConfig", None)  # older versions have none
    level = faiss.get_compile_options() if simd is None else simd.get_level_name()
    return f"{_processor()}, faiss {faiss.__version__}, {level.strip()}"


def cache_path() -> Path:
    """The file with the measurements: in the user's cache folder, XDG_CACHE_HOME or ~/.cache."""
    folder = os.environ.get("XDG_CACHE_HOME")
    return (Path(folder) if folder else Path.home() / ".cache") / "faiss-pqvae" / "kernels.json"


def _fastest_of(speeds: dict[Side, float]) -> Kernels:
    scalar = speeds["simd"] < FASTER * speeds["scalar"]
    return Kernels(scalar, sdc=speeds["sdc"] > speeds["scalar" if scalar else "simd"])


def _search(
    side: Side, centroids: FloatArray, queries: tuple[Any, Any], codes: Any
) -> Callable[[], bytes]:
    """The search of one side; what it returns are the bytes of distances and ids."""
    pq = byte_quantizer(centroids, scalar=side == "scalar")
    if side == "sdc":
        pq.compute_sdc_table()
    D, I = np.empty((1, 100), np.float32), np.empty((1, 100), np.int64)  # noqa: E741
    heap = faiss.float_maxheap_array_t()
    heap.nh, heap.k, heap.val, heap.ids = 1, 100, faiss.swig_ptr(D), faiss.swig_ptr(I)
    query, scan = (queries[0], pq.search_sdc) if side == "sdc" else (queries[1], pq.search)

    def search() -> bytes:
        scan(faiss.swig_ptr(query), 1, faiss.swig_ptr(codes), len(codes), heap, True)
        return D.tobytes() + I.tobytes()

    return search


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []  # another system than Linux
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _read_cache() -> dict[str, dict[Side, float]]:
    """Speeds by machine; none where the file is missing or not usable."""
    try:
        content = json.loads(cache_path().read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            return {}
        return {
            key: {side: float(speeds[side]) for side in SIDES}
            for key, speeds in content["machines"].items()
        }
    except FileNotFoundError:
        return {}
    # RuntimeError: no home folder; the rest: no file of ours, or half of one.
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        _logger.warning("cannot use the measured speeds of scans, measuring again: %r", error)
        return {}


def _write_cache(machines: dict[str, dict[Side, float]]) -> None:
    content = {"format": FORMAT, "machines": machines}
    try:
        path = cache_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_bytes(path, json.dumps(content, indent=1).encode() + b"\n")
    except (OSError, RuntimeError) as error:
        _logger.warning(
            "cannot keep the measured speeds of scans, every process will measure: %r", error
        )
