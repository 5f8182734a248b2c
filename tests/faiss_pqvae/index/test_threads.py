"""Searches from many threads at once: each gets what it would get alone, to the bit."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from faiss_pqvae import LatentIndex
from faiss_pqvae.native import faiss
from faiss_pqvae.native.scan import kernels
from faiss_pqvae.native.scan.kernels import SCALAR, SIMD

D, N, THREADS = 8, 200_000, 8
LEVEL = faiss.SIMDConfig.get_level()  # of vector instructions, as FAISS chose it
L2, IP = faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT
KINDS = {
    "PQ8": ("PQ", 8, L2, ""),
    "PQ4": ("PQ", 4, IP, ""),
    "PQ6 in an IDMap2": ("PQ", 6, L2, "IDMap2"),
    "PQfs": ("PQfs", 4, L2, ""),
    "IVF": ("IVF", 8, L2, ""),
    "IVFfs in an IDMap": ("IVFfs", 4, IP, "IDMap"),
    "HNSW": ("HNSW", 8, L2, ""),
}


@pytest.fixture(scope="module", params=["scalar", "simd"])
def indexes(request, make_identity) -> Iterator[dict[str, LatentIndex]]:
    """One index of every kind, with so many codes that searches overlap."""
    chosen = {"scalar": SCALAR, "simd": SIMD}[request.param]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(kernels.VARIABLE, raising=False)
        patch.setattr(kernels, "_measured", chosen)  # as a measurement would have
        yield {name: _filled(make_identity(*kind)) for name, kind in KINDS.items()}


def _filled(index: LatentIndex) -> LatentIndex:
    native = index.faiss_index
    has_id_map = isinstance(native, faiss.IndexIDMap)
    bare = faiss.downcast_index(native.index) if has_id_map else native
    n = 2000 if isinstance(bare, faiss.IndexHNSW) else N  # linking a graph takes its time
    codes = np.random.default_rng(0).integers(0, 256, (n, index.sa_code_size()), dtype=np.uint8)
    if isinstance(bare, faiss.IndexIVF):
        codes[:, 0] %= bare.nlist  # the number of the list
    index.add_sa_codes(codes, 3 * np.arange(n) + 2**40 if has_id_map else None)
    return index


@dataclass(frozen=True)
class Job:
    """One call and what it has to give: results, or an error."""

    name: str
    call: Callable[[], tuple[np.ndarray, ...]]
    error: type[Exception] | None = None

    def run(self) -> list[bytes]:
        if self.error is not None:
            with pytest.raises(self.error):
                self.call()
            return []
        return [part.tobytes() for part in self.call()]


def _jobs(name: str, index: LatentIndex) -> list[Job]:
    rng = np.random.default_rng(len(name))
    first = 2**40 if isinstance(index.faiss_index, faiss.IndexIDMap) else 0

    def queries(n: int) -> np.ndarray:
        return rng.standard_normal((n, D), dtype=np.float32)

    def selected(sel: Any) -> Any:
        return faiss.SearchParameters(sel=sel)

    q1, q3, q20, nan = queries(1), queries(3), queries(20), np.full((2, D), np.nan, np.float32)
    some = selected(faiss.IDSelectorRange(first + 500, first + 90_000))
    few = selected(faiss.IDSelectorBatch(first + np.arange(0, 60_000, 30)))
    jobs = [
        Job("one query", lambda: index.search(q1, 10)),
        Job("queries", lambda: index.search(q20, 10)),
        Job("the nearest", lambda: index.search(q20, 1)),
        Job("many results", lambda: index.search(q3, 300)),
        Job("a range of ids", lambda: index.search(q3, 10, params=some)),
        Job("a set of ids", lambda: index.search(q3, 10, params=few)),
        Job("reconstruct", lambda: index.search_and_reconstruct(q3, 3)),
        Job("NaN", lambda: index.search(nan, 3), ValueError),
        Job("other parameters", lambda: index.search(q1, 3, params=q3), TypeError),
        Job("no results", lambda: index.search(q1, 0), ValueError),
    ]
    return [Job(f"{name}: {job.name}", job.call, job.error) for job in jobs]


def _together(jobs: list[Job], expected: dict[str, list[bytes]]) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(Job.run, jobs))
    wrong = {
        job.name for job, result in zip(jobs, found, strict=True) if result != expected[job.name]
    }
    assert not wrong


@pytest.fixture
def simd_level() -> Iterator[Callable[[], set[int]]]:
    """A watcher in its own thread: all levels of FAISS's vector instructions that it saw."""
    seen, done = [], threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.append(faiss.SIMDConfig.get_level())
            time.sleep(1e-4)

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield lambda: {*seen, faiss.SIMDConfig.get_level()}
    done.set()
    watcher.join()


@pytest.mark.parametrize("name", KINDS)
def test_search__of_one_index(indexes, simd_level, name):
    jobs = _jobs(name, indexes[name])
    expected = {job.name: job.run() for job in jobs}
    assert sum(map(bool, expected.values())) == 7
    _together(random.Random(0).sample(2 * jobs, 2 * len(jobs)), expected)
    assert simd_level() == {LEVEL}


def test_search__of_all_kinds_at_once(indexes, simd_level):
    # An exact scan beside FastScan, which is ten times slower without vector instructions.
    jobs = [job for name, index in indexes.items() for job in _jobs(name, index)]
    expected = {job.name: job.run() for job in jobs}
    _together(random.Random(1).sample(jobs, len(jobs)), expected)
    assert simd_level() == {LEVEL}


@pytest.mark.parametrize("name", ["IVF", "PQfs", "IVFfs in an IDMap", "HNSW"])
def test_search__never_loses_vector_instructions_to_another_thread(indexes, name, make_identity):
    # Seen from inside of a native search: by a selector that it asks.
    kind = KINDS[name]
    index = make_identity(*kind[:3])
    rng = np.random.default_rng(2)
    index.add(rng.standard_normal((300, D), dtype=np.float32))
    levels = []
    sel = faiss.PyCallbackIDSelector(lambda i: levels.append(faiss.SIMDConfig.get_level()) or True)
    params = faiss.SearchParameters(sel=sel)
    q = rng.standard_normal((20, D), dtype=np.float32)
    done = threading.Event()

    def scan() -> int:
        scans = 0
        while not done.is_set() or not scans:
            indexes["PQ8"].search(q, 10)
            scans += 1
        return scans

    with ThreadPoolExecutor(2) as pool:
        scanning = [pool.submit(scan) for _ in range(2)]
        time.sleep(0.02)
        for _ in range(5):
            index.search(q, 10, params=params)
        done.set()
        assert all(future.result() for future in scanning)
    assert len(levels) >= 1000
    assert set(levels) == {LEVEL}


def test_first_search__from_all_threads_measures_once(make_identity, tmp_path, monkeypatch):
    measured = []
    measure = kernels.measure
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    monkeypatch.setattr(kernels, "_measured", None)
    monkeypatch.setattr(kernels, "measure", lambda: measured.append(1) or measure(20_000, 2))
    index = _filled(make_identity("PQ", 8, L2))
    q = np.random.default_rng(0).standard_normal((20, D), dtype=np.float32)
    barrier = threading.Barrier(THREADS)

    def search(_: int) -> tuple[np.ndarray, ...]:
        barrier.wait()
        return index.search(q, 10)

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(search, range(THREADS)))
    assert measured == [1]
    expected = [part.tobytes() for part in index.search(q, 10)]
    assert all([part.tobytes() for part in parts] == expected for parts in found)


def test_threads__do_overlap(indexes, monkeypatch):
    # Else the tests above would test nothing.
    index = indexes["PQ8"]
    inside, most, lock = 0, 0, threading.Lock()
    search = type(index._store).search

    def counted(self: Any, *args: Any, **options: Any) -> Any:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        try:
            return search(self, *args, **options)
        finally:
            with lock:
                inside -= 1

    monkeypatch.setattr(type(index._store), "search", counted)
    q = np.zeros((10, D), np.float32)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda _: index.search(q, 5), range(16)))
    assert most >= 2
