"""FAISS as a jury: behind an identity encoder a LatentIndex finds what the native index finds.

The behaviours are those that FAISS's own tests demand of its indexes. A native twin holds the same
codebooks and gets the same calls, and answers have to be equal to the bit. Where FAISS refuses
what a LatentIndex can, and besides, brute force over the quantized vectors is the jury.
"""

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pytest

from faiss_pqvae import LatentIndex
from faiss_pqvae.native import faiss

pytestmark = pytest.mark.jury

L2, IP = faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT
D, N, NLIST = 8, 150, 4

# What FAISS cannot do with a kind; in an IDMap over inverted files it gives wrong ids.
REFUSED = {
    ("selector", "PQ"),
    ("selector", "PQfs"),
    ("range_search", "PQfs"),
    ("range_selector", "PQfs"),
    ("search_and_reconstruct", "IVFfs"),
    ("search_and_reconstruct", "IDMap"),
    ("search_and_reconstruct", "IDMap2"),
    ("sa", "HNSW"),
    ("sa", "IDMap"),
    ("sa", "IDMap2"),
    ("add_sa_codes", "HNSW"),
    ("add_sa_codes", "PQfs"),
    ("remove_ids", "HNSW"),
    ("merge_from", "HNSW"),
}

SIZES = [("PQ", 4), ("PQ", 6), ("PQ", 8), ("PQfs", 4), ("IVF", 4), ("IVF", 8)]
SIZES += [("IVFfs", 4), ("HNSW", 4), ("HNSW", 8)]


@dataclass(frozen=True)
class Case:
    """A kind of index."""

    kind: str
    nbits: int
    metric: int = L2
    id_map: str = ""

    def __str__(self) -> str:
        return f"{self.id_map}{self.kind}x{self.nbits}{'' if self.metric == L2 else 'ip'}"

    @property
    def jury(self) -> tuple[str, int, int]:
        """Every kind alone and in every IDMap, and each of the other values once."""
        return f"{self.id_map}{self.kind}", self.nbits, self.metric

    @property
    def takes_ids(self) -> bool:
        return bool(self.id_map) or self.kind.startswith("IVF")


CASES = [
    *(Case(*size, metric) for size, metric in product(SIZES, (L2, IP))),
    *(Case(*size, (L2, IP)[i % 2], "IDMap2") for i, size in enumerate(SIZES)),
    *(Case(*size, (IP, L2)[i % 2], "IDMap") for i, size in enumerate(SIZES)),
]
FEW = [
    Case(*size, metric, id_map)
    for (size, metric), id_map in product(
        [(("PQ", 8), L2), (("PQfs", 4), IP), (("IVF", 8), L2), (("IVFfs", 4), L2)],
        ("", "IDMap", "IDMap2"),
    )
]


class Bench:
    """A LatentIndex, its native twin and the reference, which get the same calls."""

    def __init__(self, case: Case, ours: LatentIndex, twin: Any, reference: Any) -> None:
        self.case, self.ours, self.twin, self.reference = case, ours, twin, reference
        self.ours.batch_size = 64

    def add(self, x: np.ndarray, ids: Any = None) -> None:
        if ids is None:
            self.ours.add(x)
            self.twin.add(x)
        else:
            self.ours.add_with_ids(x, ids)
            self.twin.add_with_ids(x, ids)
        self.reference.add(x, ids)

    def native(self, operation: str, call: Callable[[Any], Any]) -> Any:
        """What the twin answers; None where FAISS cannot."""
        try:
            return call(self.twin)
        except RuntimeError:
            assert {(operation, self.case.kind), (operation, self.case.id_map)} & REFUSED
            return None

    def check_search(self, q: np.ndarray, k: int, params: Any = None, allowed: Any = None) -> None:
        found = self.ours.search(q, k, params=params)
        self.reference.check_search(found, q, k, allowed)
        operation = "search" if params is None else "selector"
        expected = self.native(operation, lambda twin: twin.search(q, k, params=params))
        if expected is not None:
            _assert_same(found, expected)

    def check_range(
        self, q: np.ndarray, thresh: float, params: Any = None, allowed: Any = None
    ) -> None:
        found = self.ours.range_search(q, thresh, params=params)
        self.reference.check_range(found, q, thresh, allowed)
        if self.case.kind == "IVFfs":
            return  # wrong in FAISS, see below
        operation = "range_search" if params is None else "range_selector"
        expected = self.native(operation, lambda twin: twin.range_search(q, thresh, params=params))
        if expected is not None:
            _assert_same(_sorted_by_id(found), _sorted_by_id(expected))

    def check(self, q: np.ndarray) -> None:
        """Everything that is found."""
        self.check_search(q, 10)
        assert self.ours.ntotal == len(self.reference.ids)


def _assert_same(a: tuple[np.ndarray, ...], b: tuple[np.ndarray, ...]) -> None:
    for x, y in zip(a, b, strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def _sorted_by_id(found: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    lims, D, I = found  # noqa: E741
    row = np.repeat(np.arange(len(lims) - 1), np.diff(lims).astype(np.int64))
    order = np.lexsort((D, I, row))
    return lims, D[order], I[order]


def vectors(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, D), dtype=np.float32)


def large_ids(n: int, seed: int = 0) -> np.ndarray:
    """Ids beyond 31, 32 and 40 bits, in no order."""
    rng = np.random.default_rng(1000 + seed)
    steps = np.arange(n) * 7 + rng.integers(0, 7, n)
    return rng.permutation(steps + np.where(np.arange(n) % 2, 2**31 + 5, 2**41 + 3)) + seed * 2**20


@pytest.fixture
def make(make_identity, make_native, make_reference):
    def make(case: Case, n: int = N, ids: Any = None, seed: int = 0) -> Bench:
        key = (case.kind, case.nbits, case.metric, case.id_map)
        bench = Bench(case, make_identity(*key), make_native(*key), make_reference(*key))
        if case.id_map and ids is None:
            ids = large_ids(n, seed)
        if n:
            bench.add(vectors(n, seed), ids)
        return bench

    return make


def _radius(bench: Bench, q: np.ndarray, k: int = 12) -> float:
    """One that some of the queries have many and some have few vectors in."""
    distances = np.sort(bench.reference.distances(q), 1)[:, k]
    return float(np.median(distances)) * (1 if bench.case.metric == L2 else -1)


# -- search and range_search


@pytest.mark.parametrize("case", CASES, ids=str)
def test_search(make, case):
    bench, q = make(case), vectors(70, 1)
    for k in (1, 10, N + 3):
        bench.check_search(q, k)


@pytest.mark.parametrize("case", [c for c in CASES if c.kind == "PQ"], ids=str)
def test_search__of_many_codes(make, case):
    # They are scanned by the fastest loop.
    bench, q = make(case, 2000), vectors(40, 1)
    found = bench.ours.search(q, 20)
    bench.reference.check_search(found, q, 20)
    D, I = bench.twin.search(q, 20)  # noqa: E741
    np.testing.assert_allclose(found[0], D, rtol=1e-5, atol=1e-5)
    assert (found[1] == I).mean() > 0.999


@pytest.mark.parametrize("case", CASES, ids=str)
def test_search__of_an_empty_index(make, case):
    bench, q = make(case, 0), vectors(3, 1)
    found = bench.ours.search(q, 4)
    assert (found[1] == -1).all()
    if case.kind != "HNSW":
        _assert_same(found, bench.twin.search(q, 4))
    lims, D, I = bench.ours.range_search(q, 1.0)  # noqa: E741
    assert lims.tolist() == [0, 0, 0, 0]
    assert len(D) == len(I) == 0


@pytest.mark.parametrize("left", [-np.finfo(np.float32).max, np.finfo(np.float32).max, np.nan])
@pytest.mark.parametrize("case", CASES[:18], ids=str)
def test_search__does_not_depend_on_what_was_in_memory(make, case, left, monkeypatch):
    # FAISS's fast scan reads the array that it writes distances to.
    bench, q = make(case), vectors(20, 1)
    expected = bench.ours.search(q, 10)

    class Memory:
        def __getattr__(self, name: str) -> Any:
            return getattr(np, name)

        def empty(self, shape: Any, dtype: Any = float) -> np.ndarray:
            return np.full(shape, left if np.dtype(dtype) == np.float32 else 7, dtype)

    monkeypatch.setattr(faiss.class_wrappers, "np", Memory())
    _assert_same(bench.ours.search(q, 10), expected)
    if case.kind.endswith("fs") and left == np.finfo(np.float32).max * (-1) ** (case.metric == L2):
        assert (bench.twin.search(q, 10)[1] == -1).all()  # should this fail, FAISS is repaired


@pytest.mark.parametrize("case", CASES, ids=str)
def test_range_search(make, case):
    bench, q = make(case), vectors(70, 1)
    thresh = _radius(bench, q)
    bench.check_range(q, thresh)
    if case.kind == "HNSW":
        return
    # The same as a search for everything, cut at the radius.
    D, I = bench.ours.search(q, N)  # noqa: E741
    lims, D_range, I_range = bench.ours.range_search(q, thresh)
    for i in range(len(q)):
        below = D[i] < thresh if case.metric == L2 else D[i] > thresh
        own = slice(int(lims[i]), int(lims[i + 1]))
        if case.kind.endswith("fs"):  # a range is exact, a search is not
            tol = float(bench.reference.tolerance(q)[i, 0])
            sure = D[i] < thresh - tol if case.metric == L2 else D[i] > thresh + tol
            assert set(I[i][sure]) <= set(I_range[own])
            continue
        assert dict(zip(I[i][below], D[i][below], strict=True)) == pytest.approx(
            dict(zip(I_range[own], D_range[own], strict=True)), rel=1e-5, abs=1e-5
        )


@pytest.mark.parametrize("metric", [L2, IP])
def test_range_search__fails_in_faiss_where_ours_does_not(make, metric):
    # The reason for not asking the twin: should this fail, FAISS can be the jury again.
    bench, q = make(Case("IVFfs", 4, metric)), vectors(20, 1)
    wrong = 0
    for thresh in (-1e9, -100.0, 0.01, 100.0, 1e9):
        bench.reference.check_range(bench.ours.range_search(q, thresh), q, thresh)
        found = bench.twin.range_search(q, thresh)
        expected = (bench.reference.distances(q) < (thresh if metric == L2 else -thresh)).sum()
        wrong += abs(len(found[1]) - expected) > len(q)
    assert wrong


# -- selectors

SELECTORS: dict[str, Callable[[np.ndarray], Any]] = {
    "batch": lambda ids: faiss.IDSelectorBatch(ids),
    "array": lambda ids: faiss.IDSelectorArray(ids),
    "range": lambda ids: faiss.IDSelectorRange(int(ids.min()), int(ids.max()) + 1),
    "not": lambda ids: faiss.IDSelectorNot(faiss.IDSelectorBatch(ids)),
    "and": lambda ids: faiss.IDSelectorAnd(
        faiss.IDSelectorBatch(ids), faiss.IDSelectorBatch(ids[::2].copy())
    ),
    "or": lambda ids: faiss.IDSelectorOr(
        faiss.IDSelectorBatch(ids[::2].copy()), faiss.IDSelectorArray(ids[1::2].copy())
    ),
    "xor": lambda ids: faiss.IDSelectorXOr(
        faiss.IDSelectorBatch(ids), faiss.IDSelectorBatch(ids[: len(ids) // 2].copy())
    ),
    "all": lambda ids: faiss.IDSelectorAll(),
    "callback": lambda ids: faiss.PyCallbackIDSelector(frozenset(ids.tolist()).__contains__),
}


def _members(sel: Any, ids: np.ndarray) -> np.ndarray:
    return np.array([i for i in ids if sel.is_member(int(i))], np.int64)


def _parameters(case: Case, sel: Any) -> Any:
    if case.kind.startswith("IVF"):
        return faiss.SearchParametersIVF(sel=sel, nprobe=NLIST)
    if case.kind == "HNSW":
        return faiss.SearchParametersHNSW(sel=sel)
    return faiss.SearchParameters(sel=sel)


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("case", [*FEW, Case("HNSW", 8, IP, "IDMap2")], ids=str)
def test_selector(make, case, name):
    # A callback gets ids of 32 bits only.
    small = np.random.default_rng(3).permutation(N) if name == "callback" else None
    bench, q = make(case, ids=small if case.takes_ids else None), vectors(20, 1)
    chosen = np.sort(bench.reference.ids)[20:60]
    sel = SELECTORS[name](chosen)
    allowed = _members(sel, bench.reference.ids)
    assert len(allowed) > 0
    params = _parameters(case, sel)
    bench.check_search(q, 10, params, allowed)
    bench.check_search(q, N, params, allowed)
    bench.check_range(q, _radius(bench, q, 40), params, allowed)
    assert params.sel is not None  # the caller's own are as they were


@pytest.mark.parametrize("case", CASES, ids=str)
def test_selector__of_any_kind(make, case):
    bench, q = make(case), vectors(20, 1)
    allowed = bench.reference.ids[::3].copy()
    sel = faiss.IDSelectorBatch(allowed)
    bench.check_search(q, 10, _parameters(case, sel), allowed)
    bench.check_range(q, _radius(bench, q, 30), _parameters(case, sel), allowed)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_selector__alone_leaves_the_rest_as_the_index_has_it(make, case):
    # FAISS demands the parameters of the kind; here a selector is enough.
    bench, q = make(case), vectors(5, 1)
    allowed = bench.reference.ids[::3].copy()
    params = faiss.SearchParameters(sel=faiss.IDSelectorBatch(allowed))
    bench.reference.check_search(bench.ours.search(q, 10, params=params), q, 10, allowed)
    if case.kind.startswith("IVF"):
        bench.ours.nprobe = 1
        some = (bench.ours.search(q, N, params=params)[1] >= 0).sum()
        assert some < len(q) * len(allowed)


@pytest.mark.parametrize("case", FEW, ids=str)
def test_selector__bitmap(make, case):
    ids = np.random.default_rng(3).permutation(N) if case.takes_ids else None
    bench, q = make(case, ids=ids), vectors(20, 1)
    bits = np.random.default_rng(4).random(N) < 0.4
    sel = faiss.IDSelectorBitmap(np.packbits(bits, bitorder="little"))
    params = _parameters(case, sel)
    bench.check_search(q, 10, params, np.flatnonzero(bits))
    bench.check_range(q, _radius(bench, q, 40), params, np.flatnonzero(bits))


@pytest.mark.parametrize("case", FEW, ids=str)
def test_selector__of_nothing(make, case):
    bench, q = make(case), vectors(5, 1)
    params = _parameters(case, faiss.IDSelectorBatch([2**50, N + 1]))
    bench.check_search(q, 3, params, np.empty(0))
    bench.check_range(q, _radius(bench, q), params, np.empty(0))


@pytest.mark.parametrize("kind", ["IVF", "IVFfs"])
def test_selector__sorted_range(make, kind):
    bench, q = make(Case(kind, 4)), vectors(20, 1)
    sel = faiss.IDSelectorRange(30, 80, True)
    bench.check_search(q, 10, faiss.SearchParametersIVF(sel=sel, nprobe=4), np.arange(30, 80))


@pytest.mark.parametrize("case", [c for c in FEW if c.id_map], ids=str)
def test_selector__that_is_translated_already(make, case):
    # FAISS's IDMap translates a selector unless it is an IDSelectorTranslated.
    bench, q = make(case), vectors(20, 1)
    allowed = bench.reference.ids[::3].copy()
    for index, search in ((bench.ours.faiss_index, bench.ours), (bench.twin, bench.twin)):
        sel = faiss.IDSelectorTranslated(index.id_map, faiss.IDSelectorBatch(allowed))
        params = _parameters(case, sel)
        if search is bench.ours or ("selector", case.kind) not in REFUSED:
            found = search.search(q, 10, params=params)
            bench.reference.check_search(found, q, 10, allowed)


# -- parameters


@pytest.mark.parametrize("id_map", ["", "IDMap2"])
@pytest.mark.parametrize("kind", ["IVF", "IVFfs"])
def test_parameters__nprobe(make, kind, id_map):
    bench, q = make(Case(kind, 4, L2, id_map)), vectors(50, 1)
    bench.ours.nprobe = 1
    faiss.extract_index_ivf(bench.twin).nprobe = 1
    few = bench.ours.search(q, 10)
    _assert_same(few, bench.twin.search(q, 10))
    params = faiss.SearchParametersIVF(nprobe=3)
    more = bench.ours.search(q, 10, params=params)
    _assert_same(more, bench.twin.search(q, 10, params=params))
    assert (more[1] != few[1]).any()
    bench.ours.nprobe = 3
    _assert_same(bench.ours.search(q, 10), more)


@pytest.mark.parametrize("kind", ["IVF", "IVFfs"])
@pytest.mark.parametrize(
    "options",
    [{"max_codes": 40}, {"max_codes": 40, "ensure_topk_full": True}, {"max_lists_num": 2},
     {"max_empty_result_buckets": 1}],
    ids=str,
)  # fmt: skip
def test_parameters__of_inverted_lists(make, kind, options):
    if kind == "IVFfs" and "max_empty_result_buckets" in options:
        options = {"nprobe": 2}  # which fast scan does not know
    options = {"nprobe": NLIST, **options}
    bench, q = make(Case(kind, 4)), vectors(50, 1)
    params = faiss.SearchParametersIVF(**options)
    expected = bench.native("search", lambda twin: twin.search(q, 10, params=params))
    _assert_same(bench.ours.search(q, 10, params=params), expected)


def test_parameters__that_a_fast_scan_does_not_know(make):
    bench, q = make(Case("IVFfs", 4)), vectors(3, 1)
    params = faiss.SearchParametersIVF(nprobe=NLIST, max_empty_result_buckets=1)
    with pytest.raises(ValueError, match="cannot search with these parameters"):
        bench.ours.search(q, 5, params=params)


def test_parameters__max_codes_counts(make):
    bench, q = make(Case("IVF", 8)), vectors(50, 1)
    params = faiss.SearchParametersIVF(nprobe=NLIST, max_codes=40)
    assert (bench.ours.search(q, N, params=params)[1] == -1).any()
    assert (bench.ours.search(q, N)[1] >= 0).all()


def test_parameters__of_the_coarse_quantizer(make_identity, make_native):
    ours, twin = make_identity("IVF", 8, L2), make_native("IVF", 8, L2)
    coarse = []
    for index in (ours.faiss_index, twin):
        graph = faiss.IndexHNSWFlat(D, 4)
        graph.add(vectors(64, 5))
        coarse.append(graph)
        new = faiss.IndexIVFPQ(graph, D, 64, 4, 8)
        new.by_residual = False
        faiss.copy_array_to_vector(faiss.vector_to_array(index.pq.centroids), new.pq.centroids)
        new.is_trained = True
        if index is twin:
            twin = new
        else:
            ours = LatentIndex(ours.model, faiss_index=new)
    for index in (ours, twin):
        index.add(vectors(N))
    for ef in (1, 64):
        params = faiss.SearchParametersIVF(
            nprobe=8, quantizer_params=faiss.SearchParametersHNSW(efSearch=ef)
        )
        _assert_same(
            ours.search(vectors(50, 1), 10, params=params),
            twin.search(vectors(50, 1), 10, params=params),
        )


@pytest.mark.parametrize("case", [c for c in CASES if c.kind == "HNSW"], ids=str)
def test_parameters__ef_search(make, case):
    bench, q = make(case, 1000), vectors(50, 1)
    params = faiss.SearchParametersHNSW(efSearch=1)
    few = bench.ours.search(q, 5, params=params)
    _assert_same(few, bench.twin.search(q, 5, params=params))
    many = bench.ours.search(q, 5)
    assert (few[1] != many[1]).any()
    bench.ours.efSearch = 1
    _assert_same(bench.ours.search(q, 5), few)


@pytest.mark.parametrize("id_map", ["", "IDMap2"])
def test_parameters__of_product_quantizers(make, id_map):
    bench, q = make(Case("PQ", 8, L2, id_map)), vectors(20, 1)
    kinds = [faiss.IndexPQ.ST_PQ, faiss.IndexPQ.ST_SDC, faiss.IndexPQ.ST_polysemous]
    for kind in kinds:
        params = faiss.SearchParametersPQ(search_type=kind, polysemous_ht=12)
        _assert_same(
            bench.ours.search(q, 10, params=params), bench.twin.search(q, 10, params=params)
        )
    allowed = bench.reference.ids[::2].copy()
    params = faiss.SearchParametersPQ(sel=faiss.IDSelectorBatch(allowed))
    bench.reference.check_search(bench.ours.search(q, 10, params=params), q, 10, allowed)


WRONG = {
    "PQ": [faiss.SearchParametersIVF, faiss.SearchParametersHNSW],
    "PQfs": [faiss.SearchParametersIVF, faiss.SearchParametersHNSW, faiss.SearchParametersPQ],
    "IVF": [faiss.SearchParametersPQ, faiss.SearchParametersHNSW],
    "IVFfs": [faiss.SearchParametersPQ, faiss.SearchParametersHNSW],
    "HNSW": [faiss.SearchParametersIVF, faiss.SearchParametersPQ],
}


@pytest.mark.parametrize("with_selector", [False, True])
@pytest.mark.parametrize(("kind", "wrong"), [(k, w) for k, v in WRONG.items() for w in v])
def test_parameters__of_another_kind_are_refused(make, kind, wrong, with_selector):
    bench, q = make(Case(kind, 4)), vectors(3, 1)
    params = wrong(sel=faiss.IDSelectorRange(0, 10)) if with_selector else wrong()
    for call in (bench.ours.search, bench.ours.range_search, bench.ours.search_and_reconstruct):
        with pytest.raises(TypeError, match="expected parameters of type"):
            call(q, 3, params=params)


# -- ids


@pytest.mark.parametrize("case", [c for c in CASES if c.takes_ids], ids=str)
def test_add_with_ids(make, case):
    bench, q = make(case, ids=large_ids(N)), vectors(20, 1)
    bench.add(vectors(70, 2), large_ids(70, 2) + 2**42)
    bench.check(q)
    assert (bench.ours.search(q, 10)[1] > 2**31).all()


@pytest.mark.parametrize("case", [c for c in CASES if c.takes_ids], ids=str)
def test_add_with_ids__twice_the_same(make, case):
    bench, q = make(case, ids=large_ids(N)), vectors(20, 1)
    bench.add(vectors(30, 2), large_ids(N)[:30])
    bench.check(q)


@pytest.mark.parametrize("case", [c for c in CASES if not c.takes_ids], ids=str)
def test_add_with_ids__is_refused_by_what_has_none(make, case):
    bench = make(case)
    with pytest.raises(ValueError, match="IDMap2"):
        bench.ours.add_with_ids(vectors(3), np.arange(3))
    with pytest.raises(RuntimeError):
        bench.twin.add_with_ids(vectors(3), np.arange(3))
    assert bench.ours.ntotal == N


@pytest.mark.parametrize("case", [c for c in CASES if c.id_map], ids=str)
def test_add__is_refused_by_an_id_map(make, case):
    bench = make(case)
    with pytest.raises(ValueError, match="add_with_ids"):
        bench.ours.add(vectors(3))
    with pytest.raises(RuntimeError):
        bench.twin.add(vectors(3))
    assert bench.ours.ntotal == N


REMOVERS: dict[str, Callable[[np.ndarray], Any]] = {
    **SELECTORS,
    "ids": lambda ids: ids,
    "ids twice": lambda ids: np.concatenate([ids, ids[:3], [2**60]]),
    "list of ids": lambda ids: ids.tolist(),
    "nothing": lambda ids: np.array([2**60]),
}


@pytest.mark.parametrize("name", REMOVERS)
@pytest.mark.parametrize("case", FEW, ids=str)
def test_remove_ids(make, case, name):
    small = np.random.default_rng(3).permutation(N) if name == "callback" else None
    bench, q = make(case, ids=small if case.takes_ids else None), vectors(20, 1)
    sel = REMOVERS[name](np.sort(bench.reference.ids)[20:60])
    is_selector = isinstance(sel, faiss.IDSelector)
    gone = _members(sel, bench.reference.ids) if is_selector else np.asarray(sel)
    _remove(bench, sel, gone)
    bench.check(q)
    more = large_ids(40, 2) + 2**45 if case.id_map else None
    bench.ours.add(vectors(40, 2)) if more is None else bench.ours.add_with_ids(
        vectors(40, 2), more
    )
    bench.reference.add(vectors(40, 2), more)
    bench.reference.check_search(bench.ours.search(q, 10), q, 10)


@pytest.mark.parametrize("case", [c for c in CASES if c.kind != "HNSW"], ids=str)
def test_remove_ids__of_any_kind(make, case):
    bench, q = make(case), vectors(20, 1)
    for _ in range(2):
        gone = bench.reference.ids[::3].copy()
        _remove(bench, gone, gone)
        bench.check(q)


def _remove(bench: Bench, sel: Any, gone: np.ndarray) -> None:
    removed = bench.reference.remove(gone)
    assert bench.ours.remove_ids(sel) == removed
    if bench.case.id_map and bench.case.kind.startswith("IVF"):
        # FAISS's IDMap moves the ids up and an inverted file leaves its own where they are: start
        # the twin anew.
        bench.twin = _Silent()
    else:
        sel = np.asarray(sel) if isinstance(sel, list) else sel
        assert bench.twin.remove_ids(sel) == removed
    if bench.case.id_map == "IDMap2":
        bench.ours.faiss_index.check_consistency()


class _Silent:
    """A twin that cannot be asked any more: it takes every call and answers none."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **options: None


def test_remove_ids__fails_in_faiss_where_ours_does_not(make):
    # The reason for not asking the twin: should this fail, FAISS can be the jury again.
    bench, q = make(Case("IVF", 8, L2, "IDMap2")), vectors(20, 1)
    gone = bench.reference.ids[:50].copy()
    bench.twin.remove_ids(gone)
    bench.reference.remove(gone)
    with pytest.raises(AssertionError):
        bench.reference.check_search(bench.twin.search(q, 10), q, 10)


@pytest.mark.parametrize("id_map", ["", "IDMap", "IDMap2"])
def test_remove_ids__of_a_graph_is_refused(make, id_map):
    bench = make(Case("HNSW", 8, L2, id_map))
    with pytest.raises(ValueError, match="selector"):
        bench.ours.remove_ids(np.arange(3))
    with pytest.raises(RuntimeError):
        bench.twin.remove_ids(np.arange(3))
    assert bench.ours.ntotal == N


@pytest.mark.parametrize("case", [c for c in FEW if c.takes_ids], ids=str)
def test_remove_ids__removes_all_of_one_id(make, case):
    ids = np.repeat(np.arange(N // 2), 2)
    bench = make(case, ids=ids)
    assert bench.ours.remove_ids(np.array([4, 7])) == 4
    bench.reference.remove(np.array([4, 7]))
    bench.reference.check_search(bench.ours.search(vectors(9, 1), N), vectors(9, 1), N)


# -- merging


@pytest.mark.parametrize("case", [c for c in CASES if c.kind != "HNSW"], ids=str)
@pytest.mark.parametrize("add_id", [0, 2**33])
def test_merge_from(make, case, add_id):
    ours, other = make(case, 83), make(case, 57, seed=2)
    if not case.takes_ids and add_id:
        # FAISS's indexes that number their vectors themselves refuse, ours has no use for it.
        add_id = 0
    elif case.takes_ids and not case.id_map and not add_id:
        add_id = 83
    ours.ours.check_compatible_for_merge(other.ours)
    ours.ours.merge_from(other.ours, add_id)
    ours.reference.merge(other.reference, add_id)
    if case.id_map and case.kind.startswith("IVF"):
        ours.twin = _Silent()  # FAISS gives the keys of the lists twice
    else:
        ours.twin.check_compatible_for_merge(other.twin)
        ours.twin.merge_from(other.twin, add_id)
    assert other.ours.ntotal == 0
    if case.id_map == "IDMap2":
        ours.ours.faiss_index.check_consistency()
        other.ours.faiss_index.check_consistency()
    ours.check(vectors(20, 1))
    # Both go on.
    for bench, seed in ((ours, 5), (other, 6)):
        ids = large_ids(20, seed) + 2**50 if case.id_map else None
        bench.ours.add(vectors(20, seed)) if ids is None else bench.ours.add_with_ids(
            vectors(20, seed), ids
        )
        bench.reference.add(vectors(20, seed), ids)
        q = vectors(20, 1)
        bench.reference.check_search(bench.ours.search(q, 10), q, 10)


@pytest.mark.parametrize("case", FEW, ids=str)
def test_merge_from__then_remove(make, case):
    bench, other = make(case, 83), make(case, 57, seed=2)
    bench.ours.merge_from(other.ours, 83 if not case.id_map and case.takes_ids else 0)
    if case.id_map:
        gone = large_ids(57, 2)
        assert bench.ours.remove_ids(gone) == 57 + np.isin(large_ids(83), gone).sum()
        bench.reference.remove(gone)
    else:
        assert bench.ours.remove_ids(faiss.IDSelectorRange(83, 140)) == 57
    q = vectors(20, 1)
    bench.reference.check_search(bench.ours.search(q, 10), q, 10)


KINDS = ["PQ", "PQfs", "IVF", "IVFfs", "HNSW"]


@pytest.mark.parametrize("a", KINDS)
@pytest.mark.parametrize("b", KINDS)
def test_check_compatible_for_merge__of_two_kinds(make, a, b):
    first, second = make(Case(a, 4)), make(Case(b, 4))
    if a == b and a != "HNSW":
        first.ours.check_compatible_for_merge(second.ours)
        return
    for call in (first.ours.check_compatible_for_merge, first.ours.merge_from):
        with pytest.raises(ValueError, match="merge"):
            call(second.ours)
    assert first.ours.ntotal == second.ours.ntotal == N


def test_check_compatible_for_merge__of_other_weights(make):
    first, second = make(Case("PQ", 8)), make(Case("PQ", 8))
    second.ours.model.encoder.map.bias.data[0] = 1
    with pytest.raises(ValueError, match="same model"):
        first.ours.merge_from(second.ours)
    with pytest.raises(ValueError, match="itself"):
        first.ours.merge_from(first.ours)
    with pytest.raises(TypeError, match="LatentIndex"):
        first.ours.merge_from(second.twin)
    assert first.ours.ntotal == second.ours.ntotal == N


@pytest.mark.parametrize("kind", ["IVF", "IVFfs"])
def test_check_compatible_for_merge__of_other_coarse_centroids(make, kind):
    first, second = make(Case(kind, 4)), make(Case(kind, 4), 0)
    quantizer = second.ours.faiss_index.quantizer
    quantizer.reset()
    quantizer.add(vectors(NLIST, 8))
    with pytest.raises(ValueError, match="coarse"):
        first.ours.merge_from(second.ours)


# -- codes


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sa_codec(make, case):
    bench, x = make(case, 0), vectors(100, 3)
    codes = bench.ours.sa_encode(x)
    assert codes.shape == (100, bench.ours.sa_code_size())
    decoded = bench.ours.sa_decode(codes)
    np.testing.assert_allclose(decoded, bench.reference.quantize(x), rtol=1e-5, atol=1e-6)
    assert bench.ours.ntotal == 0
    expected = bench.native("sa", lambda twin: twin.sa_encode(x))
    if expected is not None:
        assert bench.ours.sa_code_size() == bench.twin.sa_code_size()
        np.testing.assert_array_equal(codes, expected)
        np.testing.assert_array_equal(decoded, bench.twin.sa_decode(codes))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_add_sa_codes(make, case):
    bench, q, x = make(case), vectors(20, 1), vectors(90, 3)
    ids = large_ids(90, 3) + 2**44 if case.takes_ids else None
    codes = bench.ours.sa_encode(x)
    bench.ours.add_sa_codes(codes, ids)
    bench.reference.add(x, ids)
    if case.kind == "PQfs":  # FAISS's neither decode nor take codes: the same by adding
        bench.twin.add(x) if ids is None else bench.twin.add_with_ids(x, ids)
    elif case.kind == "HNSW":
        bench.twin = _Silent()
    elif case.kind == "IVFfs":
        bench.twin = _Silent()  # FAISS garbles them
    else:
        bench.native("add_sa_codes", lambda twin: twin.add_sa_codes(codes, ids))
    bench.check(q)


@pytest.mark.parametrize("kind", ["IVF", "IVFfs"])
def test_add_sa_codes__without_ids_counts_on(make, kind):
    bench, x = make(Case(kind, 4)), vectors(30, 3)
    bench.ours.add_sa_codes(bench.ours.sa_encode(x))
    bench.reference.add(x)
    bench.reference.check_search(bench.ours.search(x, N + 30), x, N + 30)


@pytest.mark.parametrize("kind", ["IVF", "IVFfs"])
def test_add_sa_codes__of_no_list_is_refused(make, kind):
    bench = make(Case(kind, 4))
    codes = bench.ours.sa_encode(vectors(3))
    codes[1, 0] = NLIST
    for call in (bench.ours.add_sa_codes, bench.ours.sa_decode):
        with pytest.raises(ValueError, match=r"inverted lists in \[0, 4\), got 4 in row 1"):
            call(codes)
    bench.check(vectors(9, 1))


# -- stored vectors


@pytest.mark.parametrize("case", CASES, ids=str)
def test_reconstruct(make, case):
    bench = make(case)
    ids, expected = bench.reference.ids, bench.reference.x.astype(np.float32)
    wanted = np.random.default_rng(6).integers(0, N, 40)
    batch = bench.ours.reconstruct_batch(ids[wanted])
    np.testing.assert_allclose(batch, expected[wanted], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(
        bench.ours.reconstruct(int(ids[7])), bench.ours.reconstruct(ids[7])
    )
    for row in (0, 7, N - 1):
        one = bench.ours.reconstruct(int(ids[row]))
        np.testing.assert_allclose(one, expected[row], rtol=1e-5, atol=1e-6)
        if not case.id_map and case.kind.startswith("IVF"):
            bench.twin.make_direct_map()
        if case.id_map != "IDMap" and not (case.id_map and case.kind.startswith("IVF")):
            np.testing.assert_array_equal(one, bench.twin.reconstruct(int(ids[row])))
    for wrong in (-1, N, 2**40 + 77):
        with pytest.raises(ValueError, match="ids"):
            bench.ours.reconstruct(wrong)
        with pytest.raises(ValueError, match="ids"):
            bench.ours.reconstruct_batch([int(ids[0]), wrong])


@pytest.mark.parametrize("case", [c for c in CASES if not c.id_map], ids=str)
def test_reconstruct_n(make, case):
    bench = make(case)
    if case.kind.startswith("IVF"):
        bench.twin.make_direct_map()
    for n0, ni in ((0, -1), (0, N), (30, 20), (N - 1, -1), (5, 0), (N, -1)):
        found = bench.ours.reconstruct_n(n0, ni)
        stop = N if ni == -1 else n0 + ni
        assert found.shape == (stop - n0, D)
        np.testing.assert_allclose(found, bench.reference.x[n0:stop], rtol=1e-5, atol=1e-6)
        if len(found):
            np.testing.assert_array_equal(found, bench.twin.reconstruct_n(n0, ni))
    for n0, ni in ((-1, 3), (0, N + 1), (N, 1), (0, -2)):
        with pytest.raises(ValueError, match="expected"):
            bench.ours.reconstruct_n(n0, ni)


@pytest.mark.parametrize("kind", ["IVF", "IVFfs"])
@pytest.mark.parametrize("make_map", ["make_direct_map", "hash table", "none"])
def test_reconstruct__with_and_without_a_direct_map(make, kind, make_map):
    ids = None if make_map == "make_direct_map" else large_ids(N)
    bench = make(Case(kind, 4), ids=ids)
    if make_map == "hash table":
        bench.ours.faiss_index.set_direct_map_type(faiss.DirectMap.Hashtable)
    elif make_map == "make_direct_map":
        bench.ours.faiss_index.make_direct_map()
    found = bench.ours.reconstruct_batch(bench.reference.ids[::-1])
    np.testing.assert_allclose(found, bench.reference.x[::-1], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="ids"):
        bench.ours.reconstruct(2**55)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_search_and_reconstruct(make, case):
    bench, q = make(case), vectors(70, 1)
    D_, I, R = bench.ours.search_and_reconstruct(q, 12)  # noqa: E741
    bench.reference.check_search((D_, I), q, 12)
    stored = dict(zip(bench.reference.ids.tolist(), bench.reference.x, strict=True))
    expected = np.array([[stored[i] for i in row] for row in I.tolist()])
    np.testing.assert_allclose(R, expected, rtol=1e-5, atol=1e-6)
    twin = bench.native("search_and_reconstruct", lambda t: t.search_and_reconstruct(q, 12))
    if twin is not None:
        _assert_same((D_, I, R), twin)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_search_and_reconstruct__beyond_what_there_is(make, case):
    bench, q = make(case, 5), vectors(3, 1)
    params = _parameters(case, faiss.IDSelectorBatch(bench.reference.ids[:3]))
    for given, n in ((None, 5), (params, 3)):
        _, I, R = bench.ours.search_and_reconstruct(q, 7, params=given)  # noqa: E741
        assert (I[:, n:] == -1).all()
        assert np.isnan(R[:, n:]).all()
        assert np.isfinite(R[:, :n]).all()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_assign(make, case):
    bench, q = make(case), vectors(70, 1)
    np.testing.assert_array_equal(bench.ours.assign(q, 4), bench.twin.assign(q, 4))
    np.testing.assert_array_equal(bench.ours.assign(q), bench.twin.assign(q, 1))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_compute_residual(make, case):
    bench, x = make(case), vectors(20, 4)
    keys = bench.reference.ids[:20]
    many = bench.ours.compute_residual_n(x, keys)
    np.testing.assert_allclose(many, x - bench.reference.x[:20], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(bench.ours.compute_residual(x[3], int(keys[3])), many[3])
    if not case.takes_ids and case.kind != "PQfs":
        residual = np.empty(D, np.float32)
        bench.twin.compute_residual(faiss.swig_ptr(x[3]), faiss.swig_ptr(residual), 3)
        np.testing.assert_array_equal(many[3], residual)
    with pytest.raises(ValueError, match="ids"):
        bench.ours.compute_residual(x[0], 2**55)
    with pytest.raises(ValueError, match=r"shape \(20,\)"):
        bench.ours.compute_residual_n(x, keys[:5])


# -- reset, copies and files


@pytest.mark.parametrize("case", CASES, ids=str)
def test_reset(make, case):
    bench, q = make(case), vectors(20, 1)
    bench.ours.reset()
    bench.twin.reset()
    bench.reference.remove(bench.reference.ids)
    assert bench.ours.ntotal == 0
    assert bench.ours.is_trained
    assert (bench.ours.search(q, 3)[1] == -1).all()
    bench.add(vectors(60, 2), large_ids(60, 2) if case.id_map else None)
    bench.check(q)


@pytest.mark.parametrize(
    ("how", "case"),
    [*product(["write_index"], CASES), *product(["pickle", "deepcopy"], [*FEW, Case("HNSW", 8)])],
    ids=str,
)
def test_io(make, case, how, tmp_path):
    bench, q = make(case), vectors(20, 1)
    if how == "write_index":
        faiss.write_index(bench.ours.faiss_index, str(tmp_path / "index"))
        native = faiss.read_index(str(tmp_path / "index"))
        # FAISS's own: the codes, ids and parameters have to be there without us.
        _assert_same(native.search(q, 10), bench.twin.search(q, 10))
        again = LatentIndex(bench.ours.model, case.metric, faiss_index=native)
    elif how == "pickle":
        again = pickle.loads(pickle.dumps(bench.ours))
    else:
        again = copy.deepcopy(bench.ours)
    before, bench.ours = bench.ours, again
    bench.check(q)
    # It goes on, and the first one does not notice.
    if case.kind == "HNSW":
        bench.twin = _Silent()  # whose random numbers go on, where those of a copy start anew
    bench.add(vectors(60, 2), large_ids(60, 2) + 2**46 if case.id_map else None)
    bench.check(q)
    bench.check_range(q, _radius(bench, q))
    np.testing.assert_allclose(
        bench.ours.reconstruct_batch(bench.reference.ids), bench.reference.x, rtol=1e-5, atol=1e-6
    )
    assert before.ntotal == N


# -- outputs


@pytest.mark.parametrize("case", [*FEW, Case("HNSW", 8)], ids=str)
def test_outputs(make, case):
    bench, q = make(case), vectors(70, 1)
    nan = np.nan
    D_, I, R = np.full((70, 5), nan, np.float32), np.zeros((70, 5), int), None  # noqa: E741
    found = bench.ours.search(q, 5, D=D_, I=I)
    assert found[0] is D_
    assert found[1] is I
    _assert_same(found, bench.twin.search(q, 5))
    D_, I = np.full((70, 5), nan, np.float32), np.zeros((70, 5), int)  # noqa: E741
    R = np.full((70, 5, D), nan, np.float32)
    found = bench.ours.search_and_reconstruct(q, 5, D=D_, I=I, R=R)
    assert [a is b for a, b in zip(found, (D_, I, R), strict=True)] == [True] * 3
    _assert_same(found, bench.ours.search_and_reconstruct(q, 5))
    labels = np.zeros((70, 5), int)
    assert bench.ours.assign(q, 5, labels) is labels
    np.testing.assert_array_equal(labels, I)
    keys = bench.reference.ids
    x = np.full(D, nan, np.float32)
    assert bench.ours.reconstruct(int(keys[3]), x) is not None
    np.testing.assert_array_equal(x, bench.ours.reconstruct(int(keys[3])))
    xs = np.full((9, D), nan, np.float32)
    assert bench.ours.reconstruct_batch(keys[:9], xs) is xs
    np.testing.assert_array_equal(xs, bench.ours.reconstruct_batch(keys[:9]))
    if not case.id_map:
        xs = np.full((9, D), nan, np.float32)
        assert bench.ours.reconstruct_n(4, 9, xs) is xs
        np.testing.assert_array_equal(xs, bench.ours.reconstruct_n(4, 9))
    codes = np.zeros((70, bench.ours.sa_code_size()), np.uint8)
    assert bench.ours.sa_encode(q, codes) is codes
    np.testing.assert_array_equal(codes, bench.ours.sa_encode(q))
    x = np.full((70, D), nan, np.float32)
    assert bench.ours.sa_decode(codes, x) is x
    np.testing.assert_array_equal(x, bench.ours.sa_decode(codes))


@pytest.mark.parametrize(
    ("name", "wrong", "error"),
    [
        ("D", np.empty((9, 4), np.float32), ValueError),
        ("D", np.empty((9, 5), np.float64), TypeError),
        ("I", np.empty((9, 5), np.int32), TypeError),
        ("I", np.empty((5, 9), np.int64), ValueError),
        ("I", [[0] * 5] * 9, TypeError),
    ],
)
def test_outputs__of_another_shape_are_refused(make, name, wrong, error):
    bench = make(Case("PQ", 8))
    with pytest.raises(error, match=f"{name}"):
        bench.ours.search(vectors(9, 1), 5, **{name: wrong})
