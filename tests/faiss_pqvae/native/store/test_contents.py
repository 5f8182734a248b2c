"""What an index holds, read out of it and written into one like it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.native import faiss
from faiss_pqvae.native.inject import extract_codebooks, new_index_pq
from faiss_pqvae.native.kinds import KINDS
from faiss_pqvae.native.store.contents import codeword_blocks, empty_like, flat_codes, read, write

METRICS = [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT]
D, N = 8, 70
COPIED = ["PQ", "PQfs", "IVF", "IVFfs"]


def _x(n: int, d: int = D, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d), dtype=np.float32)


def _index(M: int = 3, nbits: int = 6, n: int = N) -> Any:
    centroids = np.random.default_rng(M).standard_normal((M, 2**nbits, 3))
    index = new_index_pq(Codebooks(centroids))
    if n:
        index.add(_x(n, 3 * M))
    return index


# -- read and write


@pytest.mark.parametrize("n", [0, 1, N])
@pytest.mark.parametrize("id_map", ["", "IDMap", "IDMap2"])
@pytest.mark.parametrize("kind", COPIED)
def test_write__fills_an_empty_index_with_what_was_read(make_native, kind, id_map, n):
    index = make_native(kind, 4, METRICS[1], id_map)
    ids = np.random.default_rng(1).permutation(n) * 2**33 + 5
    if n:
        index.add_with_ids(_x(n), ids) if id_map else index.add(_x(n))
    other = empty_like(index)
    assert type(other) is type(index)
    assert (other.ntotal, other.is_trained) == (0, True)
    assert extract_codebooks(other) == extract_codebooks(index)
    stored = read(index)
    assert (stored.codes.shape, stored.codes.dtype) == ((n, 2), np.uint8)
    assert set(stored.ids) == set(ids if id_map else range(n))
    write(other, stored)
    for found, expected in zip(other.search(_x(9), 5), index.search(_x(9), 5), strict=True):
        np.testing.assert_array_equal(found, expected)
    again = read(other)
    for name in ("codes", "ids", "list_sizes", "inner_ids"):
        np.testing.assert_array_equal(getattr(again, name), getattr(stored, name))


def test_read__refuses_a_kind_that_is_not_written_anew(make_native):
    assert KINDS["IndexHNSWPQ"].empty is None
    with pytest.raises(TypeError, match="alone or in an IDMap, got IndexHNSWPQ"):
        read(make_native("HNSW", 4, METRICS[0]))


@pytest.mark.parametrize("kind", ["IVF", "IVFfs"])
def test_empty_like__codes_residuals_where_the_index_does(make_native, kind):
    index = make_native(kind, 4, METRICS[0], "IDMap2")
    for by_residual in (True, False):
        faiss.downcast_index(index.index).by_residual = by_residual
        assert faiss.downcast_index(empty_like(index).index).by_residual == by_residual


# -- codewords


@pytest.mark.parametrize("id_map", ["", "IDMap"])
@pytest.mark.parametrize("nbits", [4, 6])
@pytest.mark.parametrize("kind", [*COPIED, "HNSW"])
def test_codeword_blocks__of_every_kind(make_native, kind, nbits, id_map, monkeypatch):
    monkeypatch.setattr("faiss_pqvae.native.store.contents._BLOCK", N // 2 - 1)
    nbits = 4 if kind.endswith("fs") else nbits
    index = make_native(kind, nbits, METRICS[0], id_map)
    index.add_with_ids(_x(N), np.arange(N)) if id_map else index.add(_x(N))
    parts = _x(N).reshape(N, 4, 1, 2) - extract_codebooks(index).centroids
    expected = np.square(parts).sum(-1).argmin(-1)  # (N, 4)
    found = np.concatenate([*codeword_blocks(index)])
    assert found.dtype == np.int64
    np.testing.assert_array_equal(np.sort(found, axis=0), np.sort(expected, axis=0))


# -- codes without lists


@settings(max_examples=40)
@given(
    M=st.integers(1, 9),
    n=st.integers(1, 130),
    blocks=st.sampled_from([32, 64, 96]),
    metric=st.sampled_from(METRICS),
)
def test_flat_codes__of_fast_scan(M: int, n: int, blocks: int, metric: int) -> None:
    codebooks = Codebooks(np.random.default_rng(M).standard_normal((M, 16, 3), dtype=np.float32))
    fast = faiss.IndexPQFastScan(3 * M, M, 4, metric, blocks)
    faiss.copy_array_to_vector(codebooks.centroids.ravel(), fast.pq.centroids)
    fast.is_trained = True
    x = _x(n, 3 * M, n)
    fast.add(x)
    np.testing.assert_array_equal(flat_codes(fast), new_index_pq(codebooks).sa_encode(x))


def test_flat_codes__of_an_empty_index() -> None:
    for index in (faiss.IndexPQ(12, 3, 6), faiss.IndexPQFastScan(12, 3, 4)):
        codes = flat_codes(index)
        assert codes.shape == (0, index.code_size)
        assert codes.dtype == np.uint8


def test_flat_codes__is_a_copy() -> None:
    index = _index()
    codes = flat_codes(index)
    np.testing.assert_array_equal(index.sa_decode(codes), index.reconstruct_n(0, N))
    codes[:] = 0
    assert flat_codes(index).any()


def test_flat_codes__refuses_other_indexes() -> None:
    with pytest.raises(TypeError, match="IndexResidualQuantizer, got IndexFlatL2"):
        flat_codes(faiss.IndexFlatL2(8))
