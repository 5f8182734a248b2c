"""A store over a residual quantizer: every operation, against sums of codewords in numpy."""

from typing import Any

import numpy as np
import pytest

from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.native import faiss
from faiss_pqvae.native.inject import extract_codebooks, inject_codebooks, new_residual_index
from faiss_pqvae.native.store.id_map import keys_of
from faiss_pqvae.native.store.store import Store

D, M, N = 6, 3, 50
ID_MAPS = [None, faiss.IndexIDMap, faiss.IndexIDMap2]


def _vectors(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, D), dtype=np.float32)


def _empty(nbits: int = 4, id_map: Any = None, seed: int = 0) -> Store:
    index = new_residual_index(D, M, nbits)
    centroids = _vectors(M << nbits, seed).reshape(M, -1, D)
    inject_codebooks(index, Codebooks(centroids, structure="residual"))
    return Store(index if id_map is None else id_map(index))


def _ids(store: Store, n: int = N, start: int = 0) -> Any:
    return np.arange(start, start + n) * 2**33 + 5 if store.has_id_map else None


@pytest.fixture(params=ID_MAPS)
def store(request: Any) -> Store:
    store = _empty(id_map=request.param)
    store.add([_vectors(20, 1), _vectors(30, 2)], _ids(store))
    return store


@pytest.fixture
def x() -> np.ndarray:
    return np.concatenate([_vectors(20, 1), _vectors(30, 2)])


def _quantized(store: Store, x: np.ndarray) -> np.ndarray:
    centroids = extract_codebooks(store.bare).centroids
    left, total = x.astype(np.float64), np.zeros(x.shape)
    for level in centroids.astype(np.float64):
        nearest = level[np.square(left[:, None] - level).sum(-1).argmin(1)]
        left, total = left - nearest, total + nearest
    return total


def _check(found: tuple[np.ndarray, ...], sums: np.ndarray, allowed: np.ndarray) -> None:
    """D and I are the best of the allowed keys, best first, -1 after them."""
    D_, I_ = found[:2]
    k = min(D_.shape[1], len(allowed))
    assert (I_[:, k:] == -1).all()
    np.testing.assert_allclose(D_[:, :k], -np.sort(-sums[:, allowed], 1)[:, :k], atol=1e-5)
    np.testing.assert_allclose(D_[:, :k], np.take_along_axis(sums, I_[:, :k], 1), atol=1e-5)
    assert np.isin(I_[:, :k], allowed).all()


def _params(store: Store, keys: np.ndarray) -> Any:
    ids = keys if _ids(store) is None else _ids(store)[keys]
    return faiss.SearchParameters(sel=faiss.IDSelectorBatch(ids))


@pytest.mark.parametrize("nbits", [1, 4, 6, 8, 10])
def test_store__of_all_sizes_quantizes_greedily(nbits: int) -> None:
    store, x = _empty(nbits), _vectors(30, 3)
    np.testing.assert_allclose(store.quantize(x), _quantized(store, x), atol=1e-5)
    assert store.sa_code_size() == -(-M * nbits // 8)


@pytest.mark.parametrize("sdc", [False, True])
def test_search__is_brute_force(store: Store, x: np.ndarray, sdc: bool) -> None:
    q, every, some = _vectors(4, 9), np.arange(N), np.arange(0, N, 4)
    sums = (_quantized(store, q) if sdc else q) @ _quantized(store, x).T
    _check(store.search(q, 7, sdc=sdc), sums, every)
    _check(store.search(q, N + 3, sdc=sdc), sums, every)
    _check(store.search(q, 7, sdc=sdc, params=faiss.SearchParameters()), sums, every)
    _check(store.search(q, 20, sdc=sdc, params=_params(store, some)), sums, some)
    D_, I_, R_ = store.search_and_reconstruct(q, 20, sdc=sdc, params=_params(store, some))
    _check((D_, I_), sums, some)
    np.testing.assert_allclose(R_[I_ >= 0], _quantized(store, x)[I_[I_ >= 0]], atol=1e-5)
    assert np.isnan(R_[I_ < 0]).all()


@pytest.mark.parametrize("sdc", [False, True])
def test_range_search__is_brute_force(store: Store, x: np.ndarray, sdc: bool) -> None:
    q, some = _vectors(4, 9), np.arange(0, N, 4)
    sums = (_quantized(store, q) if sdc else q) @ _quantized(store, x).T
    for params, allowed in ((None, np.arange(N)), (_params(store, some), some)):
        lims, D_, I_ = store.range_search(q, 1.5, sdc=sdc, params=params)
        assert lims[-1] == len(D_) > 0
        for i, row in enumerate(sums):
            own = slice(lims[i], lims[i + 1])
            assert set(I_[own]) == set(allowed[row[allowed] > 1.5])
            np.testing.assert_allclose(D_[own], row[I_[own]], atol=1e-5)


def test_range_search__of_an_empty_store_finds_nothing() -> None:
    assert _empty().range_search(_vectors(2, 0), 0.0)[0].tolist() == [0, 0, 0]


def test_reconstruct__gives_the_sums(store: Store, x: np.ndarray) -> None:
    keys = np.array([3, 49, 3, 0])
    ids = keys if _ids(store) is None else _ids(store)[keys]
    np.testing.assert_allclose(store.reconstruct_ids(ids), _quantized(store, x)[keys], atol=1e-5)
    found = store.ids(keys)
    if store.has_id_map:
        found = keys_of(store.index, found)
    np.testing.assert_array_equal(found, keys)
    with pytest.raises(ValueError, match="expected ids"):
        store.reconstruct_ids(np.array([10**6 + 1]))


@pytest.mark.parametrize("id_map", ID_MAPS)
@pytest.mark.parametrize("nbits", [4, 6, 8])
def test_codes__go_in_as_they_come_out(id_map: Any, nbits: int) -> None:
    a, b = _empty(nbits, id_map), _empty(nbits, id_map)
    x, q = _vectors(30, 3), _vectors(4, 9)
    a.add([x], _ids(a, 30))
    codes = b.sa_encode(x)
    assert (codes.shape, codes.dtype) == ((30, b.sa_code_size()), np.uint8)
    b.add_sa_codes([codes], _ids(b, 30))
    np.testing.assert_allclose(b.sa_decode(codes), _quantized(b, x), atol=1e-5)
    for found, expected in zip(b.search(q, 9), a.search(q, 9), strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(b.ids(np.arange(30)), a.ids(np.arange(30)))


def test_remove__leaves_the_others(store: Store, x: np.ndarray) -> None:
    gone = np.arange(0, N, 5)
    ids = gone if _ids(store) is None else _ids(store)[gone]
    assert store.remove(faiss.IDSelectorBatch(ids)) == (10, None)
    kept, q = np.setdiff1d(np.arange(N), gone), _vectors(4, 9)
    _check(store.search(q, 50), q @ _quantized(store, x[kept]).T, np.arange(40))
    if store.has_id_map:
        np.testing.assert_array_equal(store.ids(np.arange(40)), _ids(store)[kept])


@pytest.mark.parametrize("id_map", ID_MAPS)
def test_merge__takes_the_vectors_of_another(id_map: Any) -> None:
    a, b = _empty(id_map=id_map), _empty(id_map=id_map)
    x, y, q = _vectors(20, 1), _vectors(15, 2), _vectors(3, 9)
    a.add([x], _ids(a, 20))
    b.add([y], _ids(b, 15, 20))
    a.check_compatible(b)
    a.merge(b, 0)
    assert (a.bare.ntotal, b.bare.ntotal) == (35, 0)
    both = np.concatenate([x, y])
    _check(a.search(q, 35), q @ _quantized(a, both).T, np.arange(35))
    if id_map is not None:
        np.testing.assert_array_equal(a.ids(np.arange(35)), _ids(a, 35))


def test_merge__refuses_other_codebooks() -> None:
    with pytest.raises(ValueError, match="same codebooks"):
        _empty().check_compatible(_empty(seed=1))


def test_reset__forgets_the_vectors(store: Store) -> None:
    store.reset()
    assert store.index.ntotal == store.bare.ntotal == 0
    assert (store.search(_vectors(2, 0), 3)[1] == -1).all()
    store.add([_vectors(2, 0)], _ids(store, 2))
    assert store.search(_vectors(2, 0), 3)[1].max() == 1


def test_add__is_taken_back_when_a_batch_fails(store: Store, x: np.ndarray) -> None:
    def batches() -> Any:
        yield _vectors(5, 3)
        raise OSError("unreadable")

    with pytest.raises(OSError, match="unreadable"):
        store.add(batches(), _ids(store, 10, N))
    q = _vectors(3, 9)
    assert store.index.ntotal == N
    _check(store.search(q, N), q @ _quantized(store, x).T, np.arange(N))


def test_search__refuses_parameters_of_another_kind(store: Store) -> None:
    with pytest.raises(TypeError, match="expected parameters of type SearchParameters"):
        store.search(_vectors(1, 0), 2, params=faiss.SearchParametersPQ())


def test_scan_name__says_how(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAISS_PQVAE_SCAN", "simd")
    assert store.scan_name == "4-bit codes in pairs, vector kernels"


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_beam_size", 5), ("search_type", faiss.AdditiveQuantizer.ST_norm_float)],
)
def test_store__refuses_another_residual_quantizer(name: str, value: int) -> None:
    index = new_residual_index(D, M, 4)
    setattr(index.rq, name, value)
    for wrap in (lambda index: index, faiss.IndexIDMap2):
        with pytest.raises(ValueError, match="new_residual_index makes one"):
            Store(wrap(index))


def test_store__refuses_other_additive_quantizers() -> None:
    with pytest.raises(TypeError, match="got IndexLocalSearchQuantizer"):
        Store(faiss.IndexLocalSearchQuantizer(D, M, 4))
