"""What FAISS derives from the codebooks of a product quantizer, and what its `train` leaves."""

import pickle
from collections.abc import Callable
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

L2, IP = faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT
D, M, NLIST = 8, 2, 4


def _codebooks(nbits: int, seed: int = 0) -> Codebooks:
    rng = np.random.default_rng(seed)
    return Codebooks(rng.standard_normal((M, 2**nbits, D // M)))


def _vectors(n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, D), dtype=np.float32)


def _table(pq: Any) -> np.ndarray:
    return faiss.vector_to_array(pq.sdc_table).reshape(pq.M, pq.ksub, pq.ksub)


def _inner_products(codebooks: Codebooks) -> np.ndarray:
    c = codebooks.centroids.astype(np.float64)
    return c @ c.swapaxes(1, 2)


def _squared_distances(codebooks: Codebooks) -> np.ndarray:
    c = codebooks.centroids.astype(np.float64)
    return np.square(c[:, :, None] - c[:, None]).sum(-1)


def _pq(index: Any) -> Any:
    index = codebook_index(index)
    return (faiss.downcast_index(index.storage) if hasattr(index, "storage") else index).pq


def _ivf(nbits: int = 4, metric: int = L2) -> Any:
    return faiss.IndexIVFPQ(faiss.IndexFlat(D, metric), D, NLIST, M, nbits, metric)


def _ivf_fast_scan(nbits: int = 4, metric: int = L2) -> Any:
    return faiss.IndexIVFPQFastScan(faiss.IndexFlat(D, metric), D, NLIST, M, nbits, metric)


PRODUCTS = {
    "PQ": lambda nbits: faiss.IndexPQ(D, M, nbits),
    "PQFastScan": lambda nbits: faiss.IndexPQFastScan(D, M, nbits),
    "IVFPQ": _ivf,
    "IVFPQFastScan": _ivf_fast_scan,
    "HNSWPQ": lambda nbits: faiss.IndexHNSWPQ(D, M, 8, nbits),
}
every_product = pytest.mark.parametrize("make", PRODUCTS.values(), ids=PRODUCTS)
both_inverted = pytest.mark.parametrize("make", [_ivf, _ivf_fast_scan], ids=["IVFPQ", "FastScan"])


def _check_table(index: Any, codebooks: Codebooks) -> None:
    coarse = index.quantizer.reconstruct_n(0, NLIST).reshape(NLIST, M, 1, -1).astype(np.float64)
    c = codebooks.centroids.astype(np.float64)
    expected = np.square(c).sum(-1) + 2 * (coarse * c).sum(-1)  # (nlist, M, ksub)
    assert index.use_precomputed_table == 1
    table = index.precomputed_table
    assert table.size() == expected.size
    data = faiss.rev_swig_ptr(table.get(), expected.size)
    np.testing.assert_allclose(data, expected.ravel(), atol=1e-5)


# -- tables


@pytest.mark.parametrize("metric", [L2, IP])
def test_hnsw__is_linked_by_the_metric(metric: int) -> None:
    index = faiss.IndexHNSWPQ(D, M, 8, 4, metric)
    inject_codebooks(index, _codebooks(4, seed=1))
    inject_codebooks(index, _codebooks(4, seed=2))
    table = _squared_distances if metric == L2 else _inner_products
    np.testing.assert_allclose(_table(_pq(index)), table(_codebooks(4, seed=2)), atol=1e-5)


@pytest.mark.parametrize(
    "copied",
    [
        lambda index: faiss.deserialize_index(faiss.serialize_index(index)),
        lambda index: pickle.loads(pickle.dumps(index)),
        lambda index: index if index.train(_vectors(100)) is None else None,
    ],
    ids=["file", "pickle", "train"],
)
def test_prepare_search__inner_products_of_hnsw_after(copied: Callable[[Any], Any]) -> None:
    """In each of these FAISS fills the table with L2, whatever the metric."""
    index = faiss.IndexHNSWPQ(D, M, 8, 4, IP)
    codebooks = _codebooks(4)
    inject_codebooks(index, codebooks)
    again = copied(index)
    np.testing.assert_allclose(_table(_pq(again)), _squared_distances(codebooks), atol=1e-5)
    prepare_search(again)
    np.testing.assert_allclose(_table(_pq(again)), _inner_products(codebooks), atol=1e-5)
    assert extract_codebooks(again) == codebooks


def test_hnsw__links_by_inner_products_find_the_largest() -> None:
    """With FAISS's own table of L2 the overlap is a fraction of this."""
    codebooks = _codebooks(8)
    index = faiss.IndexHNSWPQ(D, M, 16, 8, IP)
    inject_codebooks(index, codebooks)
    # Built from codes, so that the graph alone can err.
    x = codebooks.decode(np.random.default_rng(0).integers(0, 256, (2000, M)))
    index.add(x)
    index.hnsw.efSearch = 32
    xq = _vectors(50, seed=3)
    found = index.search(xq, 10)[1]
    best = np.argsort(-(xq @ x.T), axis=1)[:, :10]
    overlap = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, best, strict=True)])
    assert overlap > 0.9


def test_prepare_search__tables_of_a_pq_that_was_read() -> None:
    codebooks = _codebooks(8)
    index = faiss.IndexPQ(D, M, 8)
    inject_codebooks(index, codebooks)
    again = faiss.deserialize_index(faiss.serialize_index(index))
    assert again.pq.sdc_table.size() == 0
    prepare_search(again)
    np.testing.assert_allclose(_table(again.pq), _squared_distances(codebooks), atol=1e-5)


@pytest.mark.parametrize("nbits", [4, 6, 9])
def test_inject__no_symmetric_table_where_it_cannot_be_searched(nbits: int) -> None:
    index = faiss.IndexPQ(D, M, nbits)
    inject_codebooks(index, _codebooks(nbits))
    assert index.pq.sdc_table.size() == 0


@every_product
def test_inject__transposed_centroids_are_not_stale(make: Callable[[int], Any]) -> None:
    index = make(4)
    inject_codebooks(index, _codebooks(4, seed=1))
    _pq(index).sync_transposed_centroids()
    codebooks = _codebooks(4, seed=2)
    inject_codebooks(index, codebooks)
    transposed = faiss.vector_to_array(_pq(index).transposed_centroids)
    expected = codebooks.centroids.transpose(2, 0, 1)  # (dsub, M, ksub)
    np.testing.assert_array_equal(transposed, expected.ravel())


@both_inverted
def test_inject__precomputed_table_is_not_stale(make: Callable[[], Any]) -> None:
    index = make()
    index.by_residual = True
    inject_codebooks(index, _codebooks(4, seed=1))
    train_coarse(index, _vectors(200))
    inject_codebooks(index, _codebooks(4, seed=2))
    codebooks = _codebooks(4, seed=2)
    assert index.is_trained
    _check_table(index, codebooks)


# -- `train` afterwards


@every_product
def test_train__leaves_the_codebooks_bit_for_bit(make: Callable[[int], Any], capfd: Any) -> None:
    index, codebooks = make(4), _codebooks(4)
    inject_codebooks(index, codebooks)
    for n in (17, 160, 5000):
        index.train(_vectors(n))
        assert index.is_trained
        assert extract_codebooks(index) == codebooks
    # One of the coarse quantizer's 17 vectors; nothing about the codebooks.
    assert capfd.readouterr().err.count("WARNING") <= 1


@both_inverted
def test_train__of_too_few_vectors_is_an_error_that_leaves_the_codebooks(
    make: Callable[[], Any],
) -> None:
    index, codebooks = make(), _codebooks(4)
    inject_codebooks(index, codebooks)
    with pytest.raises(RuntimeError, match="Number of training points"):
        index.train(_vectors(15))
    assert extract_codebooks(index) == codebooks
    assert not index.is_trained


@both_inverted
def test_train__of_exactly_ksub_vectors_takes_them_for_codebooks(make: Callable[[], Any]) -> None:
    """FAISS's corner case that the docstring warns of; train_coarse has none."""
    index, codebooks = make(), _codebooks(4)
    inject_codebooks(index, codebooks)
    train_coarse(index, _vectors(16))
    assert extract_codebooks(index) == codebooks
    index.train(_vectors(16))
    assert extract_codebooks(index) != codebooks


def test_prepare_search__keeps_the_codebooks_of_an_index_that_was_read_in_train() -> None:
    codebooks = _codebooks(4)
    index = _ivf()
    inject_codebooks(index, codebooks)
    again = faiss.deserialize_index(faiss.serialize_index(index))
    assert not again.is_trained
    assert extract_codebooks(again) == codebooks
    prepare_search(again)
    again.train(_vectors(200))
    assert extract_codebooks(again) == codebooks
    assert again.is_trained


def test_prepare_search__refuses_an_index_without_codebooks() -> None:
    for make in (_ivf, _ivf_fast_scan, lambda: faiss.IndexPQ(D, M, 4)):
        index = make()
        for function in (prepare_search, lambda index: train_coarse(index, _vectors(100))):
            with pytest.raises(ValueError, match="no codebooks yet"):
                function(index)
        assert not index.is_trained
        assert codebook_index(index).pq.train_type != faiss.ProductQuantizer.Train_hot_start


# -- train_coarse


WRAPPED = [
    "IVF4,PQ2x4np",
    "IVF4,PQ2x8np",
    "IVF4,PQ2x4fs",
    "IVF4,PQ2x4fsr",
    "IVF4_HNSW8,PQ2x4np",
    "IDMap,IVF4,PQ2x4np",
    "IDMap2,IVF4,PQ2x4fs",
    "IDMap2,PCAR8,IVF4,PQ2x4np",
    "PCA8,IVF4,PQ2x4np",
    "ITQ8,IVF4,PQ2x4np,RFlat",
    "IVF4,PQ2x4np,Refine(SQ8)",
]


@pytest.mark.parametrize("metric", [L2, IP], ids=["L2", "IP"])
@pytest.mark.parametrize("factory", WRAPPED)
def test_train_coarse__trains_all_but_the_codebooks(factory: str, metric: int, capfd: Any) -> None:
    index = faiss.index_factory(D, factory, metric)
    inner = codebook_index(index)
    codebooks = _codebooks(inner.pq.nbits)
    inject_codebooks(index, codebooks)
    assert not index.is_trained
    assert not inner.is_trained
    train_coarse(index, _vectors(200))
    assert extract_codebooks(index).centroids.tobytes() == codebooks.centroids.tobytes()
    assert inner.quantizer.ntotal == NLIST
    level = index
    while True:
        level = faiss.downcast_index(level)
        assert level.is_trained
        if not hasattr(level, "base_index") and not hasattr(level, "index"):
            break
        level = level.base_index if hasattr(level, "base_index") else level.index
    assert "WARNING" not in capfd.readouterr().err

    x = _vectors(50)
    index.add_with_ids(x, np.arange(50)) if "IDMap" in factory else index.add(x)
    assert index.search(x, 1)[1].min() >= 0


@pytest.mark.parametrize("factory", ["IVF4,PQ2x4np", "PCAR8,IVF4,PQ2x4np", "L2norm,IVF4,PQ2x4fs"])
def test_train_coarse__is_what_faiss_trains(factory: str) -> None:
    """The same coarse centroids that FAISS's own training gives for these vectors."""
    ours, theirs = (faiss.index_factory(D, factory) for _ in range(2))
    inject_codebooks(ours, _codebooks(4))
    train_coarse(ours, _vectors(200))
    theirs.train(_vectors(200))
    a, b = (codebook_index(index).quantizer.reconstruct_n(0, NLIST) for index in (ours, theirs))
    np.testing.assert_array_equal(a, b)


def test_train_coarse__leaves_trained_transforms() -> None:
    index = faiss.index_factory(D, "PCAR8,IVF4,PQ2x4np")
    index.chain.at(0).train(_vectors(100))
    inject_codebooks(index, _codebooks(4))
    before = index.chain.at(0).apply(_vectors(5))
    train_coarse(index, _vectors(200, seed=9))
    np.testing.assert_array_equal(index.chain.at(0).apply(_vectors(5)), before)


@both_inverted
def test_train_coarse__computes_the_table_of_new_coarse_centroids(make: Callable[[], Any]) -> None:
    index = make()
    index.by_residual = True
    inject_codebooks(index, _codebooks(4))
    for seed in (1, 2):
        index.quantizer.reset()
        index.is_trained = False
        train_coarse(index, _vectors(200, seed))
        _check_table(index, _codebooks(4))


@both_inverted
def test_train_coarse__of_a_coarse_quantizer_that_is_filled_by_hand(
    make: Callable[[], Any],
) -> None:
    index = make()
    index.by_residual = True
    inject_codebooks(index, _codebooks(4))
    index.quantizer.add(_vectors(NLIST))
    train_coarse(index, _vectors(1, seed=2))
    assert index.is_trained
    np.testing.assert_array_equal(index.quantizer.reconstruct_n(0, NLIST), _vectors(NLIST))
    _check_table(index, _codebooks(4))


@both_inverted
def test_inject__a_coarse_quantizer_that_is_filled_by_hand(make: Callable[[], Any]) -> None:
    """No table can be there yet, and FAISS must not be told that one is: it would be read."""
    index, codebooks = make(), _codebooks(4)
    index.by_residual, index.nprobe = True, NLIST
    inject_codebooks(index, codebooks)
    assert index.use_precomputed_table == 0
    index.quantizer.add(_vectors(NLIST))
    index.is_trained = True
    index.add(_vectors(50))
    assert index.search(_vectors(5), 3)[1].min() >= 0


@pytest.mark.parametrize("train", [train_coarse, lambda index, xt: index.train(xt)])
def test_train__of_an_untrained_refinement(train: Any) -> None:
    index = faiss.index_factory(D, "PQ2x4np,Refine(SQ8)")
    inject_codebooks(index, _codebooks(4))
    assert index.base_index.is_trained
    assert not index.is_trained
    train(index, _vectors(200))
    assert index.is_trained
    assert index.refine_index.is_trained
    assert extract_codebooks(index) == _codebooks(4)


@settings(max_examples=20)
@given(
    make=st.sampled_from([_ivf, _ivf_fast_scan]),
    n=st.integers(NLIST, 40),
    metric=st.sampled_from([L2, IP]),
    by_residual=st.booleans(),
)
def test_train_coarse__of_any_number_of_vectors(
    make: Any, n: int, metric: int, by_residual: bool
) -> None:
    index, codebooks = make(4, metric), _codebooks(4)
    index.by_residual = by_residual
    inject_codebooks(index, codebooks)
    train_coarse(index, _vectors(n))
    assert extract_codebooks(index) == codebooks
    assert index.by_residual == by_residual
    index.add(_vectors(n))
    assert index.search(_vectors(3), 1)[1].min() >= 0


def test_train_coarse__leaves_a_trained_quantizer() -> None:
    index = _ivf()
    inject_codebooks(index, _codebooks(4))
    train_coarse(index, _vectors(200))
    before = index.quantizer.reconstruct_n(0, NLIST)
    train_coarse(index, _vectors(3, seed=9))
    np.testing.assert_array_equal(index.quantizer.reconstruct_n(0, NLIST), before)


def _added(levels: int) -> Codebooks:
    rng = np.random.default_rng(0)
    return Codebooks(rng.standard_normal((levels, 16, D)), structure="residual")


UNTRAINED_AROUND = {
    "PCA8,PQ2x4np": _codebooks(4),
    "ITQ8,PQ2x4fs": _codebooks(4),
    "PCA8,RQ2x4": _added(2),
    "PCAR8,LSQ4x4": _added(4),
}


@pytest.mark.parametrize("train", [train_coarse, lambda index, xt: index.train(xt)])
@pytest.mark.parametrize("factory", UNTRAINED_AROUND)
def test_train__of_untrained_transforms_leaves_the_codebooks(factory: str, train: Any) -> None:
    index, codebooks = faiss.index_factory(D, factory), UNTRAINED_AROUND[factory]
    inject_codebooks(index, codebooks)
    assert not index.is_trained
    train(index, _vectors(200))
    assert index.is_trained
    assert index.chain.at(0).is_trained
    assert extract_codebooks(index) == codebooks


@pytest.mark.parametrize("factory", ["PQ2x4np", "IDMap,PQ2x4np", "PQ2x4fs", "HNSW4_PQ2x4np"])
def test_train_coarse__of_an_index_that_has_nothing_to_train(factory: str) -> None:
    index = faiss.index_factory(D, factory)
    inject_codebooks(index, _codebooks(4))
    train_coarse(index, _vectors(1))
    assert index.is_trained
    assert extract_codebooks(index) == _codebooks(4)


@pytest.mark.parametrize(
    ("xt", "match"),
    [
        (_vectors(3), "at least nlist=4 vectors, got 3"),
        (_vectors(9)[:, :7], r"shape \(n, 8\), got \(9, 7\)"),
        (_vectors(9)[0], r"shape \(n, 8\), got \(8,\)"),
        (np.full((9, D), np.nan, np.float32), "finite"),
        (np.full((9, D), np.inf, np.float32), "finite"),
    ],
)
@pytest.mark.parametrize("factory", ["IVF4,PQ2x4np", "IVF4,PQ2x4fs", "IDMap,PCA8,IVF4,PQ2x4np"])
def test_train_coarse__refuses(factory: str, xt: np.ndarray, match: str) -> None:
    index = faiss.index_factory(D, factory)
    inject_codebooks(index, _codebooks(4))
    before = faiss.serialize_index(index).tobytes()
    with pytest.raises(ValueError, match=match):
        train_coarse(index, xt)
    assert faiss.serialize_index(index).tobytes() == before
    assert not index.is_trained


def test_train_coarse__does_not_change_the_callers_array() -> None:
    index = faiss.index_factory(D, "L2norm,IVF4,PQ2x4np")
    inject_codebooks(index, _codebooks(4))
    xt = _vectors(200)
    xt.flags.writeable = False
    before = xt.copy()
    train_coarse(index, xt)
    np.testing.assert_array_equal(xt, before)
