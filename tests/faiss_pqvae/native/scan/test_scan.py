"""A scan finds what the index finds: ids and distances, whatever way it takes."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.native import faiss
from faiss_pqvae.native.inject import new_index_pq
from faiss_pqvae.native.scan import kernels, scan
from faiss_pqvae.native.scan.plan import Sizes
from faiss_pqvae.native.scan.scan import Scan
from faiss_pqvae.native.store.contents import flat_codes

METRICS = [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT]
SEARCHES = {"ADC": faiss.IndexPQ.ST_PQ, "SDC": faiss.IndexPQ.ST_SDC}


# Chunks and blocks that a few codes and queries fill, and nothing is left to the index.
NONE_LEFT = Sizes(few_codes=0, few_distances=0, few_padded=0)
SMALL = replace(NONE_LEFT, chunk_bytes=64, block_queries=3, select_rows=50)


@pytest.fixture(autouse=True, scope="module")
def no_measurement(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """None of this machine's is read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv(kernels.VARIABLE, raising=False)
        patch.setattr(kernels, "_measured", None)
        yield


def _index(
    M: int,
    nbits: int,
    dsub: int = 3,
    metric: int = faiss.METRIC_L2,
    *,
    n: int = 200,
    seed: int = 0,
    integers: bool = False,
) -> Any:
    """An IndexPQ of n random codes; integers are few and small, so that sums are exact and tie."""
    rng = np.random.default_rng(seed)
    shape = (M, 2**nbits, dsub)
    values = rng.integers(-2, 3, shape) if integers else rng.standard_normal(shape)
    index = new_index_pq(Codebooks(values.astype(np.float32)), metric)
    if n:
        index.add(_queries(index, n, seed + 1, integers=integers))
    return index


def _queries(index: Any, n: int, seed: int = 2, *, integers: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (n, index.d)
    values = rng.integers(-2, 3, shape) if integers else rng.standard_normal(shape)
    return values.astype(np.float32)


def _search(
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    index: Any,
    z: np.ndarray,
    k: int,
    sizes: Sizes = SMALL,
    **more: Any,
) -> tuple[np.ndarray, np.ndarray]:
    with monkeypatch.context() as patch:
        patch.setenv(kernels.VARIABLE, mode)
        return Scan(index, sizes).search(z, k, **more)


def _assert_same(found: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...]) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def _table_sums(index: Any, z: np.ndarray) -> np.ndarray:
    """(nq, n) float64 distances of queries to the codes of an index."""
    x = index.sa_decode(flat_codes(index)).astype(np.float64)
    if index.metric_type == faiss.METRIC_INNER_PRODUCT:
        return z.astype(np.float64) @ x.T
    return np.square(z[:, None].astype(np.float64) - x).sum(-1)


def _assert_close(
    found: tuple[np.ndarray, ...], index: Any, z: np.ndarray, expected: tuple[np.ndarray, ...]
) -> None:
    """Distances are right at the ids, and as good as those expected; so the same but for ties."""
    D, I = found  # noqa: E741
    sums = _table_sums(index, z)
    atol = 2e-6 * np.abs(sums).max()
    np.testing.assert_allclose(D, np.take_along_axis(sums, I, 1), rtol=2e-6, atol=atol)
    np.testing.assert_allclose(D, expected[0], rtol=2e-6, atol=atol)
    assert all(len(set(row)) == len(row) for row in I)
    swapped = np.not_equal(I, expected[1])
    gap = np.abs(np.take_along_axis(sums, I, 1) - np.take_along_axis(sums, expected[1], 1))
    assert gap[swapped].max(initial=0) <= 2 * atol


SIZES = st.tuples(
    st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 12, 17]), st.integers(1, 12), st.integers(1, 3)
).filter(lambda sizes: sizes[2] != 2 or sizes[1] > 2)
# 64 bytes a chunk: 16 codes of up to 4 bytes, 8 of 5 to 8, 5 of 9 to 12, 3 of 13 to 20.
COUNTS = st.one_of(
    st.sampled_from([0, 1, 3, 5, 6, 7, 8, 9, 15, 16, 17, 32, 33]), st.integers(0, 90)
)


# -- the property


@settings(max_examples=150)
@given(
    sizes=SIZES,
    metric=st.sampled_from(METRICS),
    n=COUNTS,
    nq=st.integers(0, 7),
    k=st.integers(1, 40),
    mode=st.sampled_from(kernels.MODES),
    sdc=st.booleans(),
    seed=st.integers(0, 99),
)
def test_search__of_exact_sums_is_the_index_s_to_the_bit(
    sizes: tuple[int, int, int],
    metric: int,
    n: int,
    nq: int,
    k: int,
    mode: str,
    sdc: bool,
    seed: int,
) -> None:
    index = _index(*sizes, metric, n=n, seed=seed, integers=True)
    z = _queries(index, nq, seed, integers=True)
    found = _search(pytest.MonkeyPatch(), mode, index, z, k, sdc=sdc)
    if sdc:
        z = index.sa_decode(index.sa_encode(z))
    _assert_same(found, index.search(z, k))


@settings(max_examples=60)
@given(
    sizes=SIZES,
    metric=st.sampled_from(METRICS),
    n=st.integers(30, 90),
    mode=st.sampled_from(kernels.MODES),
    seed=st.integers(0, 99),
)
def test_search__is_the_table_sum(
    sizes: tuple[int, int, int], metric: int, n: int, mode: str, seed: int
) -> None:
    index = _index(*sizes, metric, n=n, seed=seed)
    z = _queries(index, 5, seed)
    _assert_close(_search(pytest.MonkeyPatch(), mode, index, z, 20), index, z, index.search(z, 20))


@pytest.mark.parametrize("mode", ["scalar", "simd"])
@pytest.mark.parametrize(("M", "nbits"), [(8, 8), (6, 8), (8, 4), (8, 6), (5, 3)])
def test_search__at_the_real_sizes(
    M: int, nbits: int, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = _index(M, nbits, n=1, integers=True)
    codes = np.random.default_rng(0).integers(0, 256, (70_000, index.code_size), dtype=np.uint8)
    if nbits == 3:
        codes[:, -1] &= 0x7F  # the bit that no code of 5 x 3 bits has
    index.add_sa_codes(codes)
    z = _queries(index, 5, integers=True)
    found = _search(monkeypatch, mode, index, z, 100, NONE_LEFT)
    _assert_same(found, index.search(z, 100))


# -- symmetric distances


@pytest.mark.parametrize("mode", kernels.MODES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("nbits", [1, 3, 4, 6, 8, 11])
def test_search__sdc_is_adc_of_the_quantized_query(
    nbits: int, metric: int, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = _index(6, nbits, metric=metric)
    z = _queries(index, 5)
    quantized = index.sa_decode(index.sa_encode(z))
    assert not np.allclose(z, quantized)
    found = _search(monkeypatch, mode, index, z, 20, sdc=True)
    _assert_close(found, index, quantized, index.search(quantized, 20))


@pytest.mark.parametrize("mode", kernels.MODES)
@pytest.mark.parametrize("M", [3, 8])
def test_search__sdc_is_the_index_s_own(M: int, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    index = _index(M, 8)
    z = _queries(index, 5)
    params = faiss.SearchParametersPQ()
    params.search_type = faiss.IndexPQ.ST_SDC
    found = _search(monkeypatch, mode, index, z, 20, sdc=True)
    quantized = index.sa_decode(index.sa_encode(z))
    _assert_close(found, index, quantized, index.search(z, 20, params=params))


@pytest.mark.parametrize("mode", kernels.MODES)
def test_search__sdc_without_a_table(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    index = _index(4, 8, integers=True)
    z = _queries(index, 5, integers=True)
    expected = _search(monkeypatch, mode, index, z, 20, sdc=True)
    index.pq.sdc_table.resize(0)  # as after read_index
    _assert_same(_search(monkeypatch, mode, index, z, 20, sdc=True), expected)


@pytest.mark.parametrize("chosen", [kernels.SIMD, kernels.SCALAR])
@pytest.mark.parametrize("search_type", list(SEARCHES))
def test_search__asks_for_the_search_that_was_faster(
    search_type: str, chosen: kernels.Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    search = scan._index_search
    monkeypatch.setattr(scan, "_index_search", lambda *a: calls.append(a[-1]) or search(*a))
    monkeypatch.setattr(kernels, "choose", lambda *a: chosen)
    index = _index(4, 8)
    Scan(index, SMALL).search(_queries(index, 5), 3, sdc=search_type == "SDC")
    native = search_type == "SDC" and chosen.sdc
    assert calls == ([faiss.IndexPQ.ST_SDC] if native else [])


@pytest.mark.parametrize("search_type", SEARCHES.values())
def test_search__does_not_depend_on_the_index_s_search_type(
    search_type: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = _index(4, 8, integers=True)
    z = _queries(index, 5, integers=True)
    expected = index.search(z, 7)
    index.search_type = search_type
    for mode in kernels.MODES:
        _assert_same(_search(monkeypatch, mode, index, z, 7), expected)


# -- selectors


class _Third:
    """Every third position; keeps what the native selector refers to."""

    def __init__(self, n: int) -> None:
        self.ids = np.arange(0, n, 3)
        self.bits = np.packbits(np.arange(n) % 3 == 0, bitorder="little")
        self.others = faiss.IDSelectorBatch(np.setdiff1d(np.arange(n), self.ids))

    def selectors(self) -> dict[str, Any]:
        return {
            "batch": faiss.IDSelectorBatch(self.ids),
            "array": faiss.IDSelectorArray(self.ids),
            "bitmap": faiss.IDSelectorBitmap(self.bits),
            "not": faiss.IDSelectorNot(self.others),
            "callback": faiss.PyCallbackIDSelector(lambda i: i % 3 == 0),
        }


def _brute_force(
    index: Any, z: np.ndarray, k: int, allowed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """All codes in order, and of those that are allowed the first k."""
    D, I = index.search(z, index.ntotal)  # noqa: E741
    rows = [np.isin(row, allowed) for row in I]
    return (
        np.stack([D[i][row][:k] for i, row in enumerate(rows)]),
        np.stack([I[i][row][:k] for i, row in enumerate(rows)]),
    )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", list(_Third(9).selectors()))
@pytest.mark.parametrize(("M", "nbits"), [(4, 8), (3, 8), (5, 4), (6, 6), (2, 10)])
def test_search__with_a_selector_is_brute_force(
    M: int, nbits: int, name: str, metric: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = _index(M, nbits, metric=metric)
    z = _queries(index, 5)
    third = _Third(index.ntotal)
    expected = _brute_force(index, z, 10, third.ids)
    for mode in kernels.MODES:
        found = _search(monkeypatch, mode, index, z, 10, sel=third.selectors()[name])
        assert not (found[1] % 3).any()
        _assert_close(found, index, z, expected)


@pytest.mark.parametrize("mode", kernels.MODES)
@pytest.mark.parametrize(("low", "high"), [(0, 200), (49, 51), (50, 150), (180, 300), (13, 14)])
def test_search__of_a_range(
    low: int, high: int, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = _index(4, 8, integers=True)
    z = _queries(index, 4, integers=True)
    few = _index(4, 8, integers=True, n=0)
    few.add_sa_codes(flat_codes(index)[low:high])
    D, I = few.search(z, 20)  # noqa: E741
    found = _search(monkeypatch, mode, index, z, 20, sel=faiss.IDSelectorRange(low, high))
    _assert_same(found, (D, np.where(I < 0, I, I + low)))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n", [0, 30])
def test_search__of_a_selector_that_takes_nothing(n: int, metric: int) -> None:
    index = _index(4, 8, metric=metric, n=n)
    z = _queries(index, 3)
    found = Scan(index, SMALL).search(z, 4, sel=faiss.IDSelectorRange(30, 40))
    _assert_same(found, _index(4, 8, metric=metric, n=0).search(z, 4))
    assert (found[1] == -1).all()


def test_search__sdc_with_a_selector(monkeypatch: pytest.MonkeyPatch) -> None:
    index = _index(4, 8)
    z = _queries(index, 5)
    quantized = index.sa_decode(index.sa_encode(z))
    third = _Third(index.ntotal)
    expected = _brute_force(index, quantized, 10, third.ids)
    for mode in kernels.MODES:
        sel = third.selectors()["batch"]
        found = _search(monkeypatch, mode, index, z, 10, sdc=True, sel=sel)
        _assert_close(found, index, quantized, expected)


# -- which way it takes


@pytest.mark.parametrize(
    ("M", "nbits", "mode", "name"),
    [
        (8, 4, "scalar", "4-bit codes in pairs, scalar kernels"),
        (8, 2, "simd", "2-bit codes in groups of 4, vector kernels"),
        (8, 8, "scalar", "8-bit codes, scalar kernels"),
        (6, 8, "simd", "8-bit codes, vector kernels"),
        (6, 8, "scalar", "8-bit codes, unpacked, scalar kernels"),
        (8, 6, "scalar", "6-bit codes, unpacked, scalar kernels"),
        (8, 3, "simd", "3-bit codes in pairs, unpacked, vector kernels"),
        (1, 6, "scalar", "6-bit codes, scalar kernels"),
        (8, 12, "scalar", "12-bit codes, FAISS's own search"),
        (8, 4, "plain", "4-bit codes, FAISS's own search"),
    ],
)
def test_name__says_which(
    M: int, nbits: int, mode: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(kernels.VARIABLE, mode)
    assert Scan(_index(M, nbits, 1, n=0)).name == name


def test_search__leaves_few_codes_to_the_index(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = []
    search, own = Scan._scan, scan._index_search
    monkeypatch.setattr(Scan, "_scan", lambda *a: ways.append("scan") or search(*a))
    monkeypatch.setattr(scan, "_index_search", lambda *a: ways.append("index") or own(*a))
    sizes = replace(SMALL, few_codes=100, few_distances=600)
    for n, nq in ((99, 50), (100, 5), (100, 6)):
        index = _index(4, 4, n=n)
        Scan(index, sizes).search(_queries(index, nq), 3)
    assert ways == ["index", "index", "scan"]


def test_search__measures_when_it_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    monkeypatch.setattr(kernels, "fastest", lambda: measured.append(1) or kernels.SCALAR)
    sizes = replace(SMALL, worth_measuring=100 * 4 * 6)
    index = _index(4, 8, n=100)
    Scan(index, sizes).search(_queries(index, 5), 3)
    assert not measured
    Scan(index, sizes).search(_queries(index, 6), 3)
    assert measured


# -- a changing index, and one from a file


@pytest.mark.parametrize("nbits", [4, 6, 8])
def test_search__sees_codes_added_and_removed(nbits: int) -> None:
    index = _index(4, nbits, n=0, integers=True)
    z = _queries(index, 5, integers=True)
    searching = Scan(index, SMALL)
    for n in (10, 300, 1):
        index.add(_queries(index, n, seed=n, integers=True))
        _assert_same(searching.search(z, 20), index.search(z, 20))
    index.remove_ids(faiss.IDSelectorRange(0, 200))
    _assert_same(searching.search(z, 20), index.search(z, 20))
    index.reset()
    _assert_same(searching.search(z, 20), index.search(z, 20))


@pytest.mark.parametrize("nbits", [4, 6, 8])
def test_search__of_a_mapped_file(nbits: int, tmp_path: Path) -> None:
    index = _index(4, nbits, integers=True)
    z = _queries(index, 5, integers=True)
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    mapped = faiss.read_index(str(tmp_path / "index.faiss"), faiss.IO_FLAG_MMAP_IFC)
    _assert_same(Scan(mapped, SMALL).search(z, 20), index.search(z, 20))
    np.testing.assert_array_equal(flat_codes(mapped), flat_codes(index))


def test_search__changes_nothing_of_the_caller_s() -> None:
    index = _index(3, 6)
    z = _queries(index, 5)
    before = z.copy(), flat_codes(index)
    z.flags.writeable = False
    Scan(index, SMALL).search(z, 20, sdc=True)
    _assert_same((z, flat_codes(index)), before)


# -- threads


def _level() -> Any:
    simd = getattr(faiss, "SIMDConfig", None)
    return simd and simd.get_level()


def test_search__from_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernels.VARIABLE, "scalar")
    level = _level()
    indexes = [_index(M, nbits, n=2000) for M, nbits in ((8, 8), (8, 4), (6, 6), (3, 8))]
    expected = [Scan(index, SMALL).search(_queries(index, 9), 10) for index in indexes]
    searches: list[Callable[[], tuple[np.ndarray, ...]]] = [
        # Fresh ones: that they prepare themselves in several threads at once is tested, too.
        partial(Scan(index, SMALL).search, _queries(index, 9), 10)
        for index in indexes
    ]
    fast = faiss.IndexPQFastScan(24, 8, 4)
    fast.train(_queries(fast, 1000))
    fast.add(_queries(fast, 2000))
    expected.append(fast.search(_queries(fast, 9), 10))

    def fast_scan() -> tuple[np.ndarray, ...]:
        assert _level() == level  # no scan switches FAISS's kernels for others
        D, I = fast.search(_queries(fast, 9), 10)  # noqa: E741
        return D, I

    searches.append(fast_scan)
    with ThreadPoolExecutor(8) as pool:
        jobs = [(i, pool.submit(searches[i])) for _ in range(20) for i in range(len(searches))]
        for i, job in jobs:
            _assert_same(job.result(), expected[i])
    assert _level() == level


def test_search__with_several_threads_of_faiss() -> None:
    index = _index(8, 6, integers=True)
    z = _queries(index, 50, integers=True)
    expected = index.search(z, 10)
    before = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(3)
        _assert_same(Scan(index, SMALL).search(z, 10), expected)
    finally:
        faiss.omp_set_num_threads(before)


# -- what is refused


@pytest.mark.parametrize(
    ("z", "k", "error", "match"),
    [
        (np.zeros((2, 12)), 3, TypeError, "float32, got float64"),
        ([[0.0] * 12], 3, TypeError, "float32, got list"),
        (np.zeros(12, np.float32), 3, ValueError, r"\(n, 12\), got \(12,\)"),
        (np.zeros((2, 11), np.float32), 3, ValueError, r"\(n, 12\), got \(2, 11\)"),
        (np.zeros((12, 2), np.float32).T, 3, ValueError, "z to be C-contiguous"),
        (np.zeros((2, 24), np.float32)[:, ::2], 3, ValueError, "z to be C-contiguous"),
        (np.zeros((2, 12), np.float32), 0, ValueError, "k >= 1, got 0"),
        (np.zeros((2, 12), np.float32), 1.5, TypeError, "integer"),
    ],
)
def test_search__refuses(z: Any, k: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        Scan(_index(4, 8)).search(z, k)


def test_scan__refuses_other_indexes() -> None:
    with pytest.raises(TypeError, match="IndexResidualQuantizer, got IndexFlatL2"):
        Scan(faiss.IndexFlatL2(8))
    with pytest.raises(ValueError, match="trained"):
        Scan(faiss.IndexPQ(8, 2, 8))
    index = _index(2, 8)
    index.metric_type = faiss.METRIC_L1
    with pytest.raises(ValueError, match="metric_type"):
        Scan(index, SMALL)


def test_search__refuses_an_unknown_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    searching = Scan(index := _index(4, 8))
    monkeypatch.setenv(kernels.VARIABLE, "fastest")
    with pytest.raises(ValueError, match=r"one of auto, scalar, simd, plain, got 'fastest'"):
        searching.search(_queries(index, 1), 3)
    assert os.environ[kernels.VARIABLE] == "fastest"
