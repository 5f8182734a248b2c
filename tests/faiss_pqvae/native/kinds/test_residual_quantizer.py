"""Native residual quantizers: encoded greedily, searched by sums of inner products."""

from collections.abc import Iterator
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
    new_index_pq,
    new_residual_index,
    prepare_search,
)
from faiss_pqvae.native.kinds.residual_quantizer import check_residual
from faiss_pqvae.native.scan import kernels
from faiss_pqvae.native.scan.plan import Sizes
from faiss_pqvae.native.scan.scan import Scan
from faiss_pqvae.native.store.contents import codeword_blocks, first_levels
from faiss_pqvae.native.store.store import Store

AQ = faiss.AdditiveQuantizer
IP = faiss.METRIC_INNER_PRODUCT


# Chunks and blocks that a few codes and queries fill, and nothing is left to the index.
SMALL = Sizes(chunk_bytes=64, block_queries=3, few_codes=0, few_distances=0, few_padded=0)


@pytest.fixture(autouse=True, scope="module")
def no_measurement(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """None of this machine's is read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv(kernels.VARIABLE, raising=False)
        patch.setattr(kernels, "_measured", None)
        yield


def _vectors(n: int, d: int, seed: int = 0, *, integers: bool = False) -> np.ndarray:
    """Normal values, or integers: few and small, so that sums are exact and tie."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-2, 3, (n, d)) if integers else rng.standard_normal((n, d))
    return values.astype(np.float32)


def _codebooks(M: int, nbits: int, d: int, seed: int = 0, **how: Any) -> Codebooks:
    centroids = _vectors(M << nbits, d, seed, **how).reshape(M, -1, d)
    return Codebooks(centroids, structure="residual")


def _index(M: int, nbits: int, d: int = 5, *, n: int = 0, seed: int = 0, **how: Any) -> Any:
    index = new_residual_index(d, M, nbits)
    inject_codebooks(index, _codebooks(M, nbits, d, seed, **how))
    if n:
        index.add(_vectors(n, d, seed + 1, **how))
    return index


def _greedy(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Codeword ids (n, M): of each level the nearest to what the levels before left."""
    left, ids = x.astype(np.float64), []
    for level in centroids.astype(np.float64):
        ids.append(np.square(left[:, None] - level).sum(-1).argmin(1))
        left -= level[ids[-1]]
    return np.stack(ids, axis=1)


def _left_after(x: np.ndarray, ids: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """(M, n): squared lengths of what every level of a code leaves."""
    chosen = centroids.astype(np.float64)[np.arange(ids.shape[1]), ids]  # (n, M, d)
    return np.square(x[:, None] - chosen.cumsum(axis=1)).sum(-1).T


# -- the index


@settings(max_examples=40)
@given(
    nbits=st.integers(1, 12),
    M=st.sampled_from([1, 2, 3, 5, 8, 16]),
    d=st.sampled_from([3, 7, 16]),
    seed=st.integers(0, 99),
)
def test_encode__is_greedy(nbits: int, M: int, d: int, seed: int) -> None:
    index = _index(M, nbits, d, seed=seed)
    x = _vectors(20, d, seed + 1)
    codes = index.sa_encode(x)
    assert codes.shape == (20, -(-M * nbits // 8))
    centroids = extract_codebooks(index).centroids
    expected = _greedy(x, centroids)
    ids = faiss.unpack_bitstrings(codes, M, nbits)
    other = (ids != expected).any(axis=1)
    # Where two codewords are as near as float32 can tell, either may be chosen.
    a, b = (_left_after(x[other], each[other], centroids) for each in (ids, expected))
    first = (ids != expected)[other].argmax(axis=1)
    rows = np.arange(other.sum())
    np.testing.assert_allclose(a[first, rows], b[first, rows], atol=1e-4)
    assert other.mean() < 0.1


@pytest.mark.parametrize("nbits", range(1, 13))
def test_encode__of_exact_sums_is_greedy_to_the_bit(nbits: int) -> None:
    # Those of the first level are 32 apart, the second adds 0 to 15: none is as near as another.
    M, d = 2, 3
    rng = np.random.default_rng(nbits)
    digits = np.stack([rng.permutation(16**d)[: 2**nbits] // 16**i % 16 for i in range(d)], axis=1)
    centroids = np.stack([digits * 32, digits]).astype(np.float32)
    index = new_residual_index(d, M, nbits)
    inject_codebooks(index, Codebooks(centroids, structure="residual"))
    ids = rng.integers(0, 2**nbits, (50, M))
    x = centroids[0, ids[:, 0]] + centroids[1, ids[:, 1]]
    codes = index.sa_encode(x)
    np.testing.assert_array_equal(
        codes, faiss.pack_bitstrings(_greedy(x, centroids).astype(np.int32), nbits)
    )
    np.testing.assert_array_equal(index.sa_decode(codes), x)


def test_encode__of_any_number_of_vectors() -> None:
    index = _index(4, 8, 16)
    x = _vectors(3000, 16, 1)
    np.testing.assert_array_equal(index.sa_encode(x)[1000:1010], index.sa_encode(x[1000:1010]))


@pytest.mark.parametrize("nbits", [1, 4, 6, 8, 12])
def test_index__stores_no_norms(nbits: int) -> None:
    index = _index(3, nbits)
    assert index.code_size == index.sa_code_size() == -(-3 * nbits // 8)
    assert (index.metric_type, index.rq.max_beam_size) == (IP, 1)


def test_index__of_large_codebooks_takes_no_memory_for_tables() -> None:
    index = _index(2, 12)
    assert index.rq.codebook_cross_products.size() == 0
    again = faiss.deserialize_index(faiss.serialize_index(index))
    prepare_search(again)
    assert again.rq.codebook_cross_products.size() == 0
    check_residual(again)


def test_inject__keeps_the_tables_of_an_encoder_that_needs_them() -> None:
    for search_type, use_beam_lut in ((AQ.ST_norm_from_LUT, 0), (AQ.ST_LUT_nonorm, 1)):
        index = faiss.IndexResidualQuantizer(5, 2, 4, IP, search_type)
        index.rq.use_beam_LUT = use_beam_lut
        inject_codebooks(index, _codebooks(2, 4, 5))
        assert index.rq.codebook_cross_products.size() > 0


def test_index__can_be_copied_before_it_is_trained() -> None:
    index = faiss.deserialize_index(faiss.serialize_index(new_residual_index(5, 3, 6)))
    assert not index.is_trained
    with pytest.raises(ValueError, match="untrained"):
        extract_codebooks(index)
    inject_codebooks(index, _codebooks(3, 6, 5))
    assert extract_codebooks(index) == _codebooks(3, 6, 5)


def test_index__clones_and_files_encode_alike() -> None:
    index, x = _index(3, 6, n=30), _vectors(20, 5, 7)
    for again in (
        faiss.clone_index(index),
        faiss.deserialize_index(faiss.serialize_index(index)),
    ):
        check_residual(again)
        np.testing.assert_array_equal(again.sa_encode(x), index.sa_encode(x))
        np.testing.assert_array_equal(again.search(x, 4)[1], index.search(x, 4)[1])


@pytest.mark.parametrize("sizes", [(0, 2, 4), (5, 0, 4), (5, 2, 0), (5, 2, 13), (2, 4, 2)])
def test_new_residual_index__refuses_sizes(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"expected d >= 1|cannot search codebooks of dsub=2"):
        new_residual_index(*sizes)


def _other(**changes: Any) -> Any:
    index = _index(2, 4)
    for name, value in changes.items():
        setattr(index if name == "metric_type" else index.rq, name, value)
    return index


@pytest.mark.parametrize(
    "changes",
    [
        {"metric_type": faiss.METRIC_L2},
        {"search_type": AQ.ST_norm_float},
        {"search_type": AQ.ST_decompress},
        {"max_beam_size": 5},
    ],
)
def test_check_residual__refuses_other_searches_and_encoders(changes: dict[str, Any]) -> None:
    index = _other(**changes)
    for refuse in (check_residual, Scan, lambda index: first_levels(index, 1)):
        with pytest.raises(ValueError, match="new_residual_index makes one"):
            refuse(index)


# -- the scan


SIZES = st.tuples(
    st.sampled_from([1, 2, 3, 4, 5, 8, 9, 17]), st.integers(1, 12), st.sampled_from([1, 3, 4, 16])
)


@settings(max_examples=120)
@given(
    sizes=SIZES,
    n=st.integers(0, 70),
    nq=st.integers(0, 7),
    k=st.integers(1, 40),
    mode=st.sampled_from(kernels.MODES),
    sdc=st.booleans(),
    seed=st.integers(0, 99),
)
def test_scan__of_exact_sums_is_the_index_s_to_the_bit(
    sizes: tuple[int, int, int], n: int, nq: int, k: int, mode: str, sdc: bool, seed: int
) -> None:
    index = _index(*sizes, n=n, seed=seed, integers=True)
    z = _vectors(nq, index.d, seed + 2, integers=True)
    found = _scan(mode, index, z, k, sdc=sdc)
    expected = index.search(index.sa_decode(index.sa_encode(z)) if sdc else z, k)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def _scan(mode: str, index: Any, z: np.ndarray, k: int, **how: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(kernels.VARIABLE, mode)
        return Scan(index, SMALL).search(z, k, **how)


@pytest.mark.parametrize("mode", kernels.MODES)
@pytest.mark.parametrize("nbits", range(1, 13))
def test_scan__is_the_sum_of_inner_products(nbits: int, mode: str) -> None:
    index = _index(5, nbits, 16, n=60)
    z = _vectors(4, 16, 9)
    D, I = _scan(mode, index, z, 20)  # noqa: E741
    centroids = extract_codebooks(index).centroids.astype(np.float64)
    tables = np.einsum("qd,mkd->qmk", z, centroids)
    sums = sum(
        tables[:, m, ids] for m, ids in enumerate(np.concatenate([*codeword_blocks(index)]).T)
    )  # (nq, n)
    np.testing.assert_allclose(D, np.take_along_axis(sums, I, 1), atol=2e-5)
    np.testing.assert_allclose(D, -np.sort(-sums, 1)[:, :20], atol=2e-5)
    assert all(len(set(row)) == 20 for row in I)


@pytest.mark.parametrize("mode", kernels.MODES)
@pytest.mark.parametrize("nbits", [1, 3, 4, 6, 8, 11])
def test_scan__with_a_selector_is_brute_force(nbits: int, mode: str) -> None:
    index = _index(5, nbits, n=60)
    z = _vectors(4, 5, 9)
    for sdc in (False, True):
        q = index.sa_decode(index.sa_encode(z)) if sdc else z
        sums = q.astype(np.float64) @ index.reconstruct_n(0, 60).T
        sel = faiss.IDSelectorBatch(np.arange(0, 60, 3))
        D, I = _scan(mode, index, z, 30, sdc=sdc, sel=sel)  # noqa: E741
        assert (np.sort(I[:, :20], axis=1) == np.arange(0, 60, 3)).all()
        assert (I[:, 20:] == -1).all()
        np.testing.assert_allclose(D[:, :20], -np.sort(-sums[:, ::3], 1), atol=2e-5)


@pytest.mark.parametrize(
    ("M", "nbits", "mode", "name"),
    [
        (8, 4, "scalar", "4-bit codes in pairs, scalar kernels"),
        (8, 8, "simd", "8-bit codes, vector kernels"),
        (8, 1, "scalar", "1-bit codes in groups of 8, scalar kernels"),
        (6, 6, "scalar", "6-bit codes, unpacked, scalar kernels"),
        (8, 12, "scalar", "12-bit codes, FAISS's own search"),
        (8, 8, "plain", "8-bit codes, FAISS's own search"),
    ],
)
def test_scan__name_says_which(
    M: int, nbits: int, mode: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(kernels.VARIABLE, mode)
    assert Scan(_index(M, nbits, 1)).name == name


def test_scan__merges_codewords_to_their_sums() -> None:
    """And not to their products, which would take as many times the memory."""
    assert Scan(_index(8, 1, 16))._centroids.shape == (1, 256, 16)


# -- codes


@pytest.mark.parametrize("nbits", [1, 4, 6, 8, 9, 12])
def test_codeword_blocks__are_those_of_the_codes(nbits: int) -> None:
    x = _vectors(20, 5, 1)
    index, wrapped = _index(3, nbits), faiss.IndexIDMap(_index(3, nbits))
    expected = faiss.unpack_bitstrings(index.sa_encode(x), 3, nbits)
    index.add(x)
    wrapped.add_with_ids(x, np.arange(20) + 2**40)
    for each in (index, wrapped):
        np.testing.assert_array_equal(np.concatenate([*codeword_blocks(each)]), expected)


@pytest.mark.parametrize("id_map", [None, faiss.IndexIDMap, faiss.IndexIDMap2])
@pytest.mark.parametrize("nbits", [1, 3, 4, 5, 6, 7, 8, 10, 12])
def test_first_levels__search_as_an_index_of_them(nbits: int, id_map: Any) -> None:
    M, d, n = 5, 6, 40
    x, q, ids = _vectors(n, d, 1), _vectors(4, d, 2), np.arange(n) * 2**40 + 3
    codebooks = _codebooks(M, nbits, d)

    def build(levels: int) -> Any:
        index = new_residual_index(d, levels, nbits)
        part = Codebooks(codebooks.centroids[:levels], structure="residual")
        inject_codebooks(index, part)
        if id_map is None:
            index.add(x)
            return index
        index = id_map(index)
        index.add_with_ids(x, ids)
        return index

    whole = build(M)
    for levels in range(1, M + 1):
        first, expected = first_levels(whole, levels), build(levels)
        assert type(first) is type(expected)
        assert extract_codebooks(first) == extract_codebooks(expected)
        assert first.ntotal == n
        np.testing.assert_array_equal(
            np.concatenate([*codeword_blocks(first)]),
            np.concatenate([*codeword_blocks(whole)])[:, :levels],
        )
        for a, b in zip(first.search(q, n), expected.search(q, n), strict=True):
            np.testing.assert_array_equal(a, b)
        if id_map is faiss.IndexIDMap2:
            np.testing.assert_array_equal(
                first.reconstruct(int(ids[7])), expected.reconstruct(int(ids[7]))
            )
    assert whole.ntotal == n


@pytest.mark.parametrize("id_map", [lambda index: index, faiss.IndexIDMap])
def test_first_levels__of_an_empty_index_takes_vectors(id_map: Any) -> None:
    first = Store(first_levels(id_map(_index(3, 5)), 2))
    assert (first.index.ntotal, first.index.is_trained) == (0, True)
    first.add([_vectors(4, 5)], np.arange(4) if first.has_id_map else None)
    assert first.search(_vectors(1, 5), 4)[1].min() == 0


@pytest.mark.parametrize("n_levels", [0, -1, 4])
def test_first_levels__refuses_numbers_out_of_range(n_levels: int) -> None:
    with pytest.raises(ValueError, match=f"expected n_levels from 1 to 3, got {n_levels}"):
        first_levels(_index(3, 4, n=2), n_levels)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: new_index_pq(Codebooks(np.zeros((2, 16, 3), np.float32))), TypeError),
        (lambda: faiss.IndexFlatL2(4), TypeError),
        (lambda: faiss.IndexRefineFlat(_index(3, 4)), TypeError),
        (lambda: new_residual_index(4, 2, 4), ValueError),
    ],
)
def test_first_levels__refuses_other_indexes(make: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="expected"):
        first_levels(make(), 1)
