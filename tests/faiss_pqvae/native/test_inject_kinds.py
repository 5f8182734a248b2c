"""Every kind of index that holds codebooks: what is injected is what it encodes and searches."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.native import faiss
from faiss_pqvae.native.inject import (
    extract_codebooks,
    inject_codebooks,
    prepare_search,
    train_coarse,
)
from faiss_pqvae.native.walk import codebook_index

pytestmark = pytest.mark.jury

L2, IP = faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT
AQ = faiss.AdditiveQuantizer
M, DSUB = 4, 4
D = M * DSUB  # of the products; additive quantizers have D, too
N = 60


# -- one row a kind. Numbers are multiples of 2**-16 below 128: every sum of them is exact in
# float32, so that equal means equal.


def product(nbits: int, seed: int) -> Codebooks:
    rng = np.random.default_rng(seed)
    return Codebooks(rng.integers(-256, 256, (M, 2**nbits, DSUB)) / 64.0)


def residual(nbits: int, seed: int) -> Codebooks:
    """Every level an eighth of the one above, so that encoders find each codeword."""
    rng = np.random.default_rng(seed)
    whole = rng.integers(-64, 64, (M, 2**nbits, D)) / 16.0
    return Codebooks(whole / (8.0 ** np.arange(M))[:, None, None], structure="residual")


def blocks(nbits: int, seed: int) -> Codebooks:
    """Two residual quantizers of two levels, side by side."""
    centroids = residual(nbits, seed).centroids.copy()
    centroids[2:] = centroids[:2, ::-1]
    centroids[:2, :, D // 2 :] = 0
    centroids[2:, :, : D // 2] = 0
    return Codebooks(centroids, structure="residual")


def coarse(metric: int) -> Any:
    """Two trained coarse centroids, further apart than all codewords."""
    quantizer = faiss.IndexFlat(D, metric)
    quantizer.add(np.stack([np.full(D, 32.0), np.full(D, -32.0)]).astype(np.float32))
    return quantizer


def ivf(make: Any, by_residual: bool) -> Callable[[int, int], Any]:
    def made(nbits: int, metric: int) -> Any:
        index = make(coarse(metric), D, 2, M, nbits, metric)
        index.by_residual, index.nprobe = by_residual, 2
        return index

    return made


def hnsw(nbits: int, metric: int) -> Any:
    index = faiss.IndexHNSWPQ(D, M, 8, nbits, metric)
    index.hnsw.efSearch = 4 * N
    return index


@dataclass(frozen=True)
class Kind:
    make: Callable[[int, int], Any]
    codebooks: Callable[[int, int], Codebooks]
    nbits: tuple[int, ...]

    @property
    def fast_scan(self) -> bool:
        return "FastScan" in type(self.make(self.nbits[0], L2)).__name__


def additive(make: Any, *sizes: int, search: int = AQ.ST_decompress) -> Callable[..., Any]:
    return lambda nbits, metric: make(D, *sizes, nbits, metric, search)


RQ, LSQ = faiss.IndexResidualQuantizer, faiss.IndexLocalSearchQuantizer
PRQ, PLSQ = faiss.IndexProductResidualQuantizer, faiss.IndexProductLocalSearchQuantizer
FLOAT, LUT = AQ.ST_norm_float, AQ.ST_norm_from_LUT

KINDS = {
    "PQ": Kind(lambda n, metric: faiss.IndexPQ(D, M, n, metric), product, (1, 4, 6, 8, 9, 12)),
    "PQFastScan": Kind(lambda n, metric: faiss.IndexPQFastScan(D, M, n, metric), product, (4,)),
    "IVFPQ": Kind(ivf(faiss.IndexIVFPQ, False), product, (1, 2, 3, 4, 6, 8, 9, 12)),
    "IVFPQ residual": Kind(ivf(faiss.IndexIVFPQ, True), product, (1, 2, 3, 4, 6, 8, 9, 12)),
    "IVFPQFastScan": Kind(ivf(faiss.IndexIVFPQFastScan, False), product, (4,)),
    "IVFPQFastScan residual": Kind(ivf(faiss.IndexIVFPQFastScan, True), product, (4,)),
    "HNSWPQ": Kind(hnsw, product, (3, 4, 6, 8, 9)),
    "RQ": Kind(additive(RQ, M), residual, (1, 4, 6)),
    "RQ norms": Kind(additive(RQ, M, search=FLOAT), residual, (4,)),
    "RQ tables": Kind(additive(RQ, M, search=LUT), residual, (4,)),
    "LSQ": Kind(additive(LSQ, M), residual, (1, 4, 6)),
    "LSQ norms": Kind(additive(LSQ, M, search=FLOAT), residual, (4,)),
    "LSQ tables": Kind(additive(LSQ, M, search=LUT), residual, (4,)),
    "PRQ": Kind(additive(PRQ, 2, M // 2), blocks, (1, 4, 6)),
    "PRQ norms": Kind(additive(PRQ, 2, M // 2, search=FLOAT), blocks, (4,)),
    "PLSQ": Kind(additive(PLSQ, 2, M // 2), blocks, (1, 4, 6)),
    "PLSQ norms": Kind(additive(PLSQ, 2, M // 2, search=FLOAT), blocks, (4,)),
}
SIZES = [(name, nbits) for name, kind in KINDS.items() for nbits in kind.nbits]
SMALL = [(name, 4) for name in KINDS]

every_size = pytest.mark.parametrize(("name", "nbits"), SIZES)
every_kind = pytest.mark.parametrize("name", KINDS)
both_metrics = pytest.mark.parametrize("metric", [L2, IP], ids=["L2", "IP"])


# -- what is expected, computed in float64 without FAISS


@dataclass(frozen=True)
class Items:
    """Vectors built from codes: (n, d) float32 x, their float64 tables' worth in `distances`."""

    codebooks: Codebooks
    ids: np.ndarray
    offset: np.ndarray  # (n, d) coarse centroids, or zeros

    @property
    def x(self) -> np.ndarray:
        x = self._exact()
        assert np.array_equal(x, x.astype(np.float32))
        return x.astype(np.float32)

    def _exact(self) -> np.ndarray:
        c = self.codebooks.centroids.astype(np.float64)
        words = [c[m, self.ids[:, m]] for m in range(len(c))]
        together = np.hstack(words) if self.codebooks.structure == "product" else sum(words)
        return together + self.offset

    def distances(self, xq: np.ndarray, metric: int) -> np.ndarray:
        """(nq, n) float64."""
        x, q = self._exact(), xq.astype(np.float64)
        return np.square(q[:, None] - x).sum(-1) if metric == L2 else q @ x.T

    def bound(self, xq: np.ndarray, metric: int) -> float:
        """By how much FastScan may be wrong: half a step for each 8-bit table and the bias."""
        c = self.codebooks.centroids.astype(np.float64)
        q = xq.astype(np.float64)[:, None] - np.unique(self.offset, axis=0) * (metric == L2)
        q = q.reshape(-1, len(c), 1, c.shape[2])
        tables = np.square(q - c).sum(-1) if metric == L2 else (q * c).sum(-1)
        span = np.ptp(tables, axis=-1).max()
        biases = np.ptp(xq @ self.offset.T, axis=-1).max() if metric == IP else 0
        return float((len(c) + 1) * 0.5 * max(span / 255, (span * len(c) + biases) / 65535))


def build(name: str, nbits: int, metric: int, seed: int = 0) -> tuple[Any, Items]:
    """An injected index, and items for it."""
    kind = KINDS[name]
    index, codebooks = kind.make(nbits, metric), kind.codebooks(nbits, seed)
    inject_codebooks(index, codebooks)
    assert index.is_trained
    return index, items(index, codebooks, seed)


def items(index: Any, codebooks: Codebooks, seed: int = 0, n: int = N) -> Items:
    ids = np.random.default_rng(seed + 1).integers(0, codebooks.ksub, (n, codebooks.M))
    offset = np.zeros((n, codebooks.d))
    index = codebook_index(index)
    if hasattr(index, "by_residual") and index.by_residual:
        offset[:] = np.where(np.arange(n) % 2, 32.0, -32.0)[:, None]
    return Items(codebooks, ids, offset)


def queries(n: int = 8, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, D), dtype=np.float32) * 3


def check_search(index: Any, expected: Items, k: int = 10) -> None:
    """Distances are right at the ids returned, best first, and none is better than these."""
    xq = queries()
    D_, I = index.search(xq, k)  # noqa: E741
    metric = index.metric_type
    exact = expected.distances(xq, metric)
    tolerance = 2e-6 * np.abs(exact).max()
    if "FastScan" in type(codebook_index(index)).__name__:
        tolerance += expected.bound(xq, metric)
    assert I.min() >= 0
    assert all(len(set(row)) == k for row in I)
    np.testing.assert_allclose(D_, np.take_along_axis(exact, I, 1), rtol=0, atol=tolerance)
    sign = 1 if metric == L2 else -1
    best = sign * np.sort(sign * exact, axis=1)[:, :k]
    np.testing.assert_allclose(D_, best, rtol=0, atol=tolerance)


def reread(index: Any, tmp_path: Path) -> Any:
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    again = faiss.read_index(str(tmp_path / "index.faiss"))
    prepare_search(again)
    return again


def encoded(index: Any, x: np.ndarray) -> np.ndarray:
    """Codes and back, by whichever way the index has."""
    holder = codebook_index(index)
    if hasattr(holder, "storage"):
        holder = faiss.downcast_index(holder.storage)
    return holder.sa_decode(holder.sa_encode(x))


# -- golden


@both_metrics
@every_size
def test_inject__vectors_built_from_codes_encode_and_decode_exactly(
    name: str, nbits: int, metric: int
) -> None:
    index, built = build(name, nbits, metric)
    assert extract_codebooks(index) == built.codebooks
    if "FastScan" in name:
        index.add(built.x)
        if "IVF" in name:
            index.make_direct_map()
        np.testing.assert_array_equal(index.reconstruct_n(0, N), built.x)
    else:
        np.testing.assert_array_equal(encoded(index, built.x), built.x)


@both_metrics
@every_size
def test_inject__search_is_the_table_sum_before_and_after_a_file(
    name: str, nbits: int, metric: int, tmp_path: Path
) -> None:
    index, built = build(name, nbits, metric)
    index.add(built.x)
    check_search(index, built)
    again = reread(index, tmp_path)
    assert extract_codebooks(again) == built.codebooks
    check_search(again, built)


@both_metrics
@every_kind
def test_inject__nothing_is_stale_after_a_second_injection(name: str, metric: int) -> None:
    index, first = build(name, 4, metric, seed=0)
    index.add(first.x)
    index.reset()
    codebooks = KINDS[name].codebooks(4, 7)
    inject_codebooks(index, codebooks)
    second = items(index, codebooks, seed=8)
    index.add(second.x)
    check_search(index, second)


def test_inject__an_encoder_that_asks_for_more_codes_than_there_are() -> None:
    """FAISS encodes wrongly with a beam of more codes than exist, and throws in local search."""
    rng = np.random.default_rng(0)
    for make in (RQ, LSQ):
        index = make(8, 2, 1)
        codebooks = Codebooks(
            rng.integers(-64, 64, (2, 2, 8)) / np.array([1, 64.0])[:, None, None],
            structure="residual",
        )
        inject_codebooks(index, codebooks)
        x = codebooks.decode(rng.integers(0, 2, (40, 2)))
        np.testing.assert_array_equal(encoded(index, x), x)


NORM_LEVELS = {
    AQ.ST_norm_qint8: 256,
    AQ.ST_norm_qint4: 16,
    AQ.ST_norm_cqint8: 256,
    AQ.ST_norm_cqint4: 16,
    AQ.ST_norm_lsq2x4: 256,
    AQ.ST_norm_rq2x4: 256,
}


@pytest.mark.parametrize("search", NORM_LEVELS)
@pytest.mark.parametrize(
    ("make", "sizes", "codebooks"), [(RQ, (M,), residual), (PRQ, (2, M // 2), blocks)]
)
def test_inject__quantized_norms(
    make: Any, sizes: tuple[int, ...], codebooks: Any, search: int, tmp_path: Path
) -> None:
    """Off by the quantization of the norm alone, which knows the range of these codebooks."""
    index = additive(make, *sizes, search=search)(4, L2)
    inject_codebooks(index, codebooks(4, 3))
    inject_codebooks(index, codebooks(4, 0))
    built = items(index, codebooks(4, 0))
    index.add(built.x)
    exact = built.distances(queries(), L2)
    norms = np.square(built.x.astype(np.float64)).sum(1)
    for searched in (index, reread(index, tmp_path)):
        D_, I = searched.search(queries(), 10)  # noqa: E741
        assert I.min() >= 0
        error = np.abs(D_ - np.take_along_axis(exact, I, 1))
        assert error.max() <= 4 * np.ptp(norms) / NORM_LEVELS[search]
        assert error.max() > 1e-4  # it is the norm that is stored


def test_inject__quantized_norms_are_the_same_each_time() -> None:
    make = additive(RQ, M, search=AQ.ST_norm_cqint8)
    tables = []
    for _ in range(2):
        index = make(4, L2)
        inject_codebooks(index, residual(4, 0))
        tables.append(faiss.serialize_index(index).tobytes())
    assert tables[0] == tables[1]


# -- any size


def check_distances(index: Any, expected: Items, xq: np.ndarray) -> None:
    """Distances are right at the ids returned, whichever these are."""
    D_, I = index.search(xq, 5)  # noqa: E741
    exact = expected.distances(xq, index.metric_type)
    tolerance = 2e-6 * np.abs(exact).max()
    if "FastScan" in type(index).__name__:
        tolerance += expected.bound(xq, index.metric_type)
    assert I[:, 0].min() >= 0
    found = np.take_along_axis(exact, np.maximum(I, 0), 1)
    np.testing.assert_allclose(np.where(I < 0, found, D_), found, rtol=0, atol=tolerance)


@settings(max_examples=60)
@given(
    kind=st.sampled_from(["PQFastScan", "IVFPQ", "IVFPQFastScan", "HNSWPQ"]),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 10), st.integers(1, 5)),
    metric=st.sampled_from([L2, IP]),
    by_residual=st.booleans(),
    seed=st.integers(0, 99),
)
def test_inject__products_of_any_size(
    kind: str, sizes: tuple[int, int, int], metric: int, by_residual: bool, seed: int
) -> None:
    levels, nbits, dsub = sizes
    nbits = 4 if "FastScan" in kind else nbits
    d = levels * dsub
    rng = np.random.default_rng(seed)
    codebooks = Codebooks(rng.integers(-256, 256, (levels, 2**nbits, dsub)) / 64.0)
    make = getattr(faiss, f"Index{kind}")
    if "IVF" in kind:
        index = make(faiss.IndexFlat(d, metric), d, 2, levels, nbits, metric)
        index.by_residual, index.nprobe = by_residual, 2
        index.quantizer.add(np.array([[32.0], [-32.0]], np.float32).repeat(d, axis=1))
    elif kind == "HNSWPQ":
        index = make(d, levels, 8, nbits, metric)
    else:
        index = make(d, levels, nbits, metric)
    inject_codebooks(index, codebooks)
    built = items(index, codebooks, seed)
    index.add(built.x)
    check_distances(index, built, rng.standard_normal((6, d), dtype=np.float32))


@settings(max_examples=60)
@given(
    make=st.sampled_from([RQ, LSQ, PRQ, PLSQ]),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 8), st.integers(1, 5)),
    splits=st.integers(1, 3),
    metric=st.sampled_from([L2, IP]),
    search=st.sampled_from([AQ.ST_decompress, FLOAT]),
    seed=st.integers(0, 99),
)
def test_inject__additive_of_any_size(
    make: Any, sizes: tuple[int, int, int], splits: int, metric: int, search: int, seed: int
) -> None:
    """Codes are given, not encoded: any codebooks will do."""
    levels, nbits, dsub = sizes
    splits = splits if make in (PRQ, PLSQ) else 1
    d, total = dsub * splits, levels * splits
    rng = np.random.default_rng(seed)
    centroids = rng.standard_normal((total, 2**nbits, d))
    if splits > 1:
        keep = np.kron(np.eye(splits), np.ones((levels, dsub)))
        centroids *= keep[:, None]
    codebooks = Codebooks(centroids, structure="residual")
    shape = (splits, levels) if make in (PRQ, PLSQ) else (levels,)
    index = make(d, *shape, nbits, metric, search)
    inject_codebooks(index, codebooks)
    assert extract_codebooks(index) == codebooks

    built = items(index, codebooks, seed)
    ids = np.ascontiguousarray(built.ids, np.int32)
    codes = np.zeros((N, index.aq.code_size), np.uint8)
    index.aq.pack_codes(N, faiss.swig_ptr(ids), faiss.swig_ptr(codes))
    index.add_sa_codes(codes)
    np.testing.assert_array_equal(index.reconstruct_n(0, N), codebooks.decode(ids))
    check_distances(index, built, rng.standard_normal((6, d), dtype=np.float32))


# -- wrappers, in any order


def wrapped(index: Any, names: tuple[str, ...]) -> Any:
    """The index inside of wrappers, the first one outermost."""
    for name in reversed(names):
        index = WRAPPERS[name](index)
    return index


def pre_transform(index: Any) -> Any:
    """Swaps the halves of the vector; trained and exact."""
    swap = faiss.LinearTransform(index.d, index.d)
    faiss.copy_array_to_vector(
        np.roll(np.eye(index.d, dtype=np.float32), index.d // 2, axis=0).ravel(), swap.A
    )
    swap.is_trained = swap.is_orthonormal = True
    return faiss.IndexPreTransform(swap, index)


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "IDMap": faiss.IndexIDMap,
    "IDMap2": faiss.IndexIDMap2,
    "PreTransform": pre_transform,
    "Refine": lambda index: faiss.IndexRefine(index, faiss.IndexFlat(index.d, index.metric_type)),
    "RefineFlat": faiss.IndexRefineFlat,
}


def through(x: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """What has to be given to the wrapped index, for the inner one to get x."""
    return np.roll(x, (D // 2) * names.count("PreTransform"), axis=1)


NESTS = [
    *((name,) for name in WRAPPERS),
    ("IDMap2", "PreTransform"),
    ("PreTransform", "IDMap"),
    ("Refine", "PreTransform", "PreTransform"),
    ("IDMap", "RefineFlat", "PreTransform"),
]


@both_metrics
@pytest.mark.parametrize("names", NESTS, ids="-".join)
@every_kind
def test_inject__through_wrappers(name: str, names: tuple[str, ...], metric: int) -> None:
    index = wrapped(KINDS[name].make(4, metric), names)
    codebooks = KINDS[name].codebooks(4, 0)
    inject_codebooks(index, codebooks)
    assert extract_codebooks(index) == codebooks
    check_wrapped(index, names, items(index, codebooks))


def check_wrapped(index: Any, names: tuple[str, ...], built: Items) -> None:
    """The nearest of all items are found: an exact refinement leaves the distances exact."""
    x, xq = through(built.x, names), through(queries(), names)
    mapped = any(name.startswith("IDMap") for name in names)
    ids = np.arange(N) * 7 + 100 if mapped else np.arange(N)
    if "Refine" in "".join(names):
        params = faiss.IndexRefineSearchParameters(k_factor=N)
        refined = names[0].startswith("Refine")
    else:
        params, refined = None, False
    if mapped:
        index.add_with_ids(x, ids)
    else:
        index.add(x)
    k = 3
    D_, I = index.search(xq, k, params=params) if refined else index.search(xq, k)  # noqa: E741
    exact = built.distances(queries(), index.metric_type)
    at = np.searchsorted(ids, I)
    np.testing.assert_array_equal(ids[at], I)
    tolerance = 2e-6 * np.abs(exact).max()
    if "FastScan" in type(codebook_index(index)).__name__:
        tolerance += built.bound(queries(), index.metric_type)
    np.testing.assert_allclose(D_, np.take_along_axis(exact, at, 1), rtol=0, atol=tolerance)


@settings(max_examples=40)
@given(
    name=st.sampled_from([name for name in KINDS if "IVF" not in name]),
    nest=st.lists(st.sampled_from(list(WRAPPERS)), max_size=4).map(tuple),
    metric=st.sampled_from([L2, IP]),
    seed=st.integers(0, 99),
)
def test_inject__into_any_nest_of_wrappers(
    name: str, nest: tuple[str, ...], metric: int, seed: int
) -> None:
    index = wrapped(KINDS[name].make(4, metric), nest)
    codebooks = KINDS[name].codebooks(4, seed)
    with pytest.raises(ValueError, match="untrained"):
        extract_codebooks(index)
    inject_codebooks(index, codebooks)
    assert index.is_trained
    assert extract_codebooks(index) == codebooks
    again = faiss.deserialize_index(faiss.serialize_index(index))
    assert extract_codebooks(again) == codebooks


def test_codebook_index__is_the_index_itself_when_nothing_wraps_it() -> None:
    index = faiss.IndexPQ(8, 2, 4)
    assert codebook_index(index) is index


def test_codebook_index__outlives_the_names_of_what_wraps_it() -> None:
    inner = codebook_index(faiss.index_factory(8, "IDMap2,PCA8,IVF4,PQ2x4np,RFlat"))
    junk = [faiss.index_factory(8, "IDMap2,PCA8,IVF4,PQ2x4np") for _ in range(20)]
    del junk
    gc.collect()
    assert (inner.d, inner.nlist, inner.pq.M, inner.pq.nbits) == (8, 4, 2, 4)
    inject_codebooks(inner, Codebooks(np.ones((2, 16, 4))))
    assert faiss.vector_to_array(inner.pq.centroids).tolist() == [1.0] * 128


def _empty_wrapper() -> Any:
    index = faiss.IndexIDMap(faiss.IndexFlatL2(8))
    index.index = None
    return index


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: faiss.IndexIDMap(faiss.IndexFlatL2(8)), "got IndexFlatL2 in IndexIDMap"),
        (lambda: faiss.IndexIVFFlat(faiss.IndexFlatL2(8), 8, 2), "got IndexIVFFlat$"),
        (lambda: faiss.IndexIVFPQR(faiss.IndexFlatL2(8), 8, 4, 2, 4, 2, 4), "got IndexIVFPQR$"),
        (lambda: faiss.IndexIVFResidualQuantizer(faiss.IndexFlatL2(8), 8, 4, 2, 4), "got IndexIVF"),
        (lambda: faiss.IndexResidualQuantizerFastScan(8, 2, 4), "QuantizerFastScan$"),
        (lambda: faiss.IndexHNSWFlat(8, 4), "got IndexHNSWFlat$"),
        (lambda: _empty_wrapper(), "got NoneType in IndexIDMap"),
        (lambda: faiss.IndexBinaryFlat(8), "got IndexBinaryFlat$"),
        (lambda: np.zeros(3), "got ndarray$"),
    ],
)
def test_codebook_index__says_what_it_found(make: Callable[[], Any], found: str) -> None:
    for function in (codebook_index, extract_codebooks, prepare_search):
        with pytest.raises(TypeError, match=found):
            function(make())
    with pytest.raises(TypeError, match=found):
        inject_codebooks(make(), Codebooks(np.ones((2, 16, 4))))
    with pytest.raises(TypeError, match=found):
        train_coarse(make(), np.zeros((9, 8), np.float32))


# -- what is refused, and changes nothing


def state(index: Any) -> tuple[Any, ...]:
    holder = codebook_index(index)
    if hasattr(holder, "storage"):
        holder = faiss.downcast_index(holder.storage)
    derived = [faiss.serialize_index(index).tobytes(), index.is_trained]
    if hasattr(holder, "pq"):
        pq = holder.pq
        derived += [pq.train_type, pq.cp.niter, faiss.vector_to_array(pq.sdc_table).tobytes()]
    if hasattr(holder, "precomputed_table"):
        derived.append(holder.precomputed_table.size())
    return tuple(derived)


def wrong(codebooks: Codebooks) -> dict[str, Any]:
    """Everything that does not fit where `codebooks` fit, and the words that refuse it."""
    c, structure = codebooks.centroids, codebooks.structure
    other = {"product": "residual", "residual": "product"}[structure]
    return {
        "fewer levels": Codebooks(c[:-1], structure=structure),
        "more levels": Codebooks(np.concatenate([c, c[:1]]), structure=structure),
        "nbits": Codebooks(c[:, ::2], structure=structure),
        "more nbits": Codebooks(np.repeat(c, 2, axis=1), structure=structure),
        "dimension": Codebooks(c[:, :, :-1], structure=structure),
        "as many floats": Codebooks(c.reshape(2 * len(c), -1, c.shape[2]), structure=structure),
        "structure": Codebooks(c, structure=other),
    }


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "injected"])
@every_kind
def test_inject__refuses_what_does_not_fit(name: str, fresh: bool) -> None:
    index, codebooks = KINDS[name].make(4, L2), KINDS[name].codebooks(4, 0)
    if not fresh:
        inject_codebooks(index, codebooks)
    before = state(index)
    shape = str(codebooks.centroids.shape).replace("(", r"\(").replace(")", r"\)")
    for bad in wrong(codebooks).values():
        with pytest.raises(ValueError, match=f"expected codebooks of shape {shape}.*got"):
            inject_codebooks(index, bad)
        assert state(index) == before
    for bad in (codebooks.centroids, None, [codebooks]):
        with pytest.raises(TypeError, match="expected Codebooks, got"):
            inject_codebooks(index, bad)  # type: ignore[arg-type]
        assert state(index) == before


@every_kind
def test_inject__refuses_an_index_that_holds_vectors(name: str) -> None:
    for nest in [(), ("IDMap",), ("PreTransform",)]:
        index = wrapped(KINDS[name].make(4, L2), nest)
        codebooks = KINDS[name].codebooks(4, 0)
        inject_codebooks(index, codebooks)
        x = items(index, codebooks).x[:3]
        index.add_with_ids(x, np.arange(3)) if nest == ("IDMap",) else index.add(x)
        before = state(index)
        with pytest.raises(ValueError, match="3 vectors"):
            inject_codebooks(index, KINDS[name].codebooks(4, 1))
        assert state(index) == before


def test_inject__refuses_vectors_that_only_one_level_knows_of() -> None:
    codebooks, inner = product(4, 0), faiss.IndexPQ(D, M, 4)
    inject_codebooks(inner, codebooks)
    outer = faiss.IndexPreTransform(inner)
    inner.add(items(inner, codebooks).x[:3])
    assert outer.ntotal == 0
    with pytest.raises(ValueError, match="3 vectors"):
        inject_codebooks(outer, codebooks)
    outer.ntotal = 3
    inner.reset()
    with pytest.raises(ValueError, match="3 vectors"):
        inject_codebooks(outer, codebooks)


@pytest.mark.parametrize("name", [name for name in KINDS if name[0] in "PIH"][:7])
def test_inject__refuses_another_metric(name: str) -> None:
    index = KINDS[name].make(4, L2)
    index.metric_type = faiss.METRIC_L1
    before = state(index)
    with pytest.raises(ValueError, match="METRIC_L2 or METRIC_INNER_PRODUCT"):
        inject_codebooks(index, KINDS[name].codebooks(4, 0))
    assert state(index) == before


@every_kind
def test_inject__refuses_an_index_whose_parts_disagree(name: str) -> None:
    index = KINDS[name].make(4, L2)
    index.d = D + 4
    with pytest.raises(ValueError, match="expected codebooks"):
        inject_codebooks(index, KINDS[name].codebooks(4, 0))
    assert not index.is_trained


@every_kind
def test_extract__refuses_parts_that_disagree(name: str) -> None:
    index, _ = build(name, 4, L2)
    holder = codebook_index(index)
    if hasattr(holder, "storage"):
        holder = faiss.downcast_index(holder.storage)
    array = holder.pq.centroids if hasattr(holder, "pq") else holder.aq.codebooks
    faiss.copy_array_to_vector(np.ones(7, np.float32), array)
    with pytest.raises(ValueError, match=r"expected \d+ floats of codebooks.* 7 "):
        extract_codebooks(index)


def test_extract__refuses_one_codebook_to_encode_and_another_to_decode() -> None:
    index, built = build("PRQ", 4, L2)
    centroids = built.codebooks.centroids[:2, :, : D // 2] + 1
    faiss.copy_array_to_vector(centroids.ravel(), index.prq.subquantizer(0).codebooks)
    with pytest.raises(ValueError, match="the same to encode and to decode"):
        extract_codebooks(index)


@pytest.mark.parametrize("make", [PRQ, PLSQ])
def test_inject__refuses_codewords_beyond_their_sub_vector(make: Any) -> None:
    index = make(D, 2, M // 2, 4)
    before = state(index)
    with pytest.raises(ValueError, match="zero outside of the sub-vector"):
        inject_codebooks(index, residual(4, 0))
    assert state(index) == before


@pytest.mark.parametrize("make", [PRQ, PLSQ])
def test_inject__refuses_the_search_that_aborts(make: Any) -> None:
    index = make(D, 2, M // 2, 4, L2, LUT)
    with pytest.raises(ValueError, match="ST_norm_from_LUT"):
        inject_codebooks(index, blocks(4, 0))


def test_inject__refuses_levels_of_different_nbits() -> None:
    nbits = faiss.Int64Vector() if not hasattr(faiss, "UInt64Vector") else faiss.UInt64Vector()
    for value in (4, 5):
        nbits.push_back(value)
    index = faiss.IndexResidualQuantizer(8, nbits)
    codebooks = Codebooks(np.ones((2, 16, 8)), structure="residual")
    with pytest.raises(ValueError, match=r"same nbits, got \[4, 5\]"):
        inject_codebooks(index, codebooks)
    index.train(np.random.default_rng(0).standard_normal((500, 8), dtype=np.float32))
    with pytest.raises(ValueError, match=r"same nbits, got \[4, 5\]"):
        extract_codebooks(index)


def test_inject__takes_two_dimensions_at_two_bits_where_faiss_searches_them() -> None:
    codebooks = Codebooks(np.random.default_rng(0).integers(-9, 9, (2, 4, 2)) / 2.0)
    index = faiss.IndexIVFPQ(faiss.IndexFlatL2(4), 4, 1, 2, 2)
    inject_codebooks(index, codebooks)
    with pytest.raises(ValueError, match="dsub=2 with nbits=2"):
        inject_codebooks(faiss.IndexPQ(4, 2, 2), codebooks)
