"""The hinge between torch and FAISS: what is injected is what is searched, to the bit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.native import faiss
from faiss_pqvae.native.inject import extract_codebooks, inject_codebooks, new_index_pq

METRICS = [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT]


def _codebooks(M: int = 3, nbits: int = 8, dsub: int = 4, seed: int = 0) -> Codebooks:
    rng = np.random.default_rng(seed)
    return Codebooks(rng.standard_normal((M, 2**nbits, dsub), dtype=np.float32))


def _ids(codebooks: Codebooks, n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, codebooks.ksub, (n, codebooks.M))


def _pack(ids: np.ndarray, nbits: int) -> np.ndarray:
    """(n, M) ids to FAISS's code bytes: nbits each, lowest bit first, without gaps."""
    bits = (ids[..., None] >> np.arange(nbits)) & 1
    return np.packbits(bits.reshape(len(ids), -1).astype(np.uint8), axis=1, bitorder="little")


def _table_sums(codebooks: Codebooks, ids: np.ndarray, xq: np.ndarray, metric: int) -> np.ndarray:
    """(nq, n) float64 distances of queries to codes: a look-up table per query, then its sum."""
    centroids = codebooks.centroids.astype(np.float64)
    q = xq.astype(np.float64).reshape(len(xq), codebooks.M, 1, codebooks.dsub)
    if metric == faiss.METRIC_L2:
        tables = np.square(q - centroids).sum(-1)  # (nq, M, ksub)
    else:
        tables = (q * centroids).sum(-1)
    return sum(tables[:, m, ids[:, m]] for m in range(codebooks.M))


def _check_search(index: Any, codebooks: Codebooks, ids: np.ndarray, xq: np.ndarray) -> None:
    """Distances are right at the ids returned, best first, and none is better than these."""
    k = min(10, len(ids))
    D, I = index.search(xq, k)  # noqa: E741
    metric = index.metric_type
    expected = _table_sums(codebooks, ids, xq, metric)
    # Relative to the size of what is summed, which an inner product can cancel.
    scale = np.abs(expected).max()
    np.testing.assert_allclose(D, np.take_along_axis(expected, I, 1), rtol=2e-6, atol=2e-6 * scale)
    sign = 1 if metric == faiss.METRIC_L2 else -1
    best = sign * np.sort(sign * expected, axis=1)[:, :k]
    np.testing.assert_allclose(D, best, rtol=2e-6, atol=2e-6 * scale)
    assert all(len(set(row)) == k for row in I)


# FAISS has no lookup tables for dsub = 2 with nbits below 3.
SIZES = st.tuples(st.integers(1, 5), st.integers(1, 12), st.integers(1, 4)).filter(
    lambda sizes: sizes[2] != 2 or sizes[1] > 2
)


# -- golden


@settings(max_examples=25)
@given(sizes=SIZES, seed=st.integers(0, 99))
def test_inject__vectors_built_from_codes_encode_and_decode_exactly(
    sizes: tuple[int, int, int], seed: int
) -> None:
    M, nbits, dsub = sizes
    codebooks = _codebooks(M, nbits, dsub, seed)
    index = new_index_pq(codebooks)
    ids = _ids(codebooks, 50, seed)
    x = codebooks.decode(ids)
    codes = index.sa_encode(x)
    np.testing.assert_array_equal(index.sa_decode(codes), x)
    np.testing.assert_array_equal(codes, _pack(ids, nbits))


@settings(max_examples=25)
@given(sizes=SIZES, metric=st.sampled_from(METRICS), seed=st.integers(0, 99))
def test_inject__search_is_the_table_sum(
    sizes: tuple[int, int, int], metric: int, seed: int
) -> None:
    codebooks = _codebooks(*sizes, seed)
    index = new_index_pq(codebooks, metric)
    ids = _ids(codebooks, 60, seed)
    index.add(codebooks.decode(ids))
    xq = np.random.default_rng(seed).standard_normal((7, codebooks.d), dtype=np.float32)
    _check_search(index, codebooks, ids, xq)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("nbits", [1, 4, 6, 8, 12])
def test_inject__search_of_every_kind_of_code(
    nbits: int, metric: int, rng: np.random.Generator
) -> None:
    codebooks = _codebooks(4, nbits, 4)
    index = new_index_pq(codebooks, metric)
    ids = _ids(codebooks, 500)
    index.add(codebooks.decode(ids))
    _check_search(index, codebooks, ids, rng.standard_normal((20, 16), dtype=np.float32))


@settings(max_examples=25)
@given(sizes=SIZES, seed=st.integers(0, 99))
def test_extract__undoes_inject(sizes: tuple[int, int, int], seed: int) -> None:
    codebooks = _codebooks(*sizes, seed)
    extracted = extract_codebooks(new_index_pq(codebooks))
    assert extracted == codebooks
    assert extracted.centroids.tobytes() == codebooks.centroids.tobytes()


def test_extract__copies(rng: np.random.Generator) -> None:
    codebooks = _codebooks()
    index = new_index_pq(codebooks)
    extracted = extract_codebooks(index)
    inject_codebooks(index, _codebooks(seed=5))
    assert extracted == codebooks


def test_extract__of_an_index_that_faiss_trained(rng: np.random.Generator) -> None:
    index = faiss.IndexPQ(8, 2, 4)
    index.train(rng.standard_normal((1000, 8), dtype=np.float32))
    codebooks = extract_codebooks(index)
    assert (codebooks.M, codebooks.ksub, codebooks.dsub) == (2, 16, 4)
    assert codebooks.centroids.any()


def test_inject__into_an_index_from_the_factory(rng: np.random.Generator) -> None:
    codebooks = _codebooks(2, 8, 4)
    index = faiss.index_factory(8, "PQ2x8")  # polysemous, which would permute the codes
    inject_codebooks(index, codebooks)
    index.train(rng.standard_normal((1000, 8), dtype=np.float32))
    assert extract_codebooks(index) == codebooks


def test_inject__into_an_index_seen_as_its_base_class() -> None:
    codebooks = _codebooks(2, 8, 4)
    holder = faiss.IndexIDMap(faiss.IndexPQ(8, 2, 8))
    base = holder.index
    inject_codebooks(base, codebooks)
    assert extract_codebooks(base) == codebooks


# -- what FAISS derives from the codebooks


def _sdc_tables(codebooks: Codebooks) -> np.ndarray:
    c = codebooks.centroids.astype(np.float64)
    return np.square(c[:, :, None] - c[:, None]).sum(-1)  # (M, ksub, ksub)


def test_inject__sdc_table_is_not_stale_after_a_second_injection(
    rng: np.random.Generator,
) -> None:
    index = new_index_pq(_codebooks(seed=1))
    codebooks = _codebooks(seed=2)
    inject_codebooks(index, codebooks)
    table = faiss.vector_to_array(index.pq.sdc_table).reshape(3, 256, 256)
    np.testing.assert_allclose(table, _sdc_tables(codebooks), rtol=1e-5, atol=1e-5)

    ids, query_ids = _ids(codebooks, 100), _ids(codebooks, 5, seed=3)
    index.add(codebooks.decode(ids))
    params = faiss.SearchParametersPQ()
    params.search_type = faiss.IndexPQ.ST_SDC
    D, I = index.search(codebooks.decode(query_ids), 4, params=params)  # noqa: E741
    expected = _table_sums(codebooks, ids, codebooks.decode(query_ids), faiss.METRIC_L2)
    np.testing.assert_allclose(D, np.take_along_axis(expected, I, 1), rtol=1e-5, atol=1e-5)


def test_inject__transposed_centroids_are_not_stale(rng: np.random.Generator) -> None:
    index = new_index_pq(_codebooks(seed=1))
    index.pq.sync_transposed_centroids()
    codebooks = _codebooks(seed=2)
    inject_codebooks(index, codebooks)
    ids = _ids(codebooks, 50)
    x = codebooks.decode(ids)
    np.testing.assert_array_equal(index.sa_encode(x), ids)
    assert index.pq.transposed_centroids.size() == codebooks.centroids.size


@pytest.mark.parametrize("nbits", [1, 4, 8, 12])
def test_train__after_an_injection_leaves_the_codebook_bit_for_bit(
    nbits: int, rng: np.random.Generator
) -> None:
    codebooks = _codebooks(2, nbits, 4)
    index = new_index_pq(codebooks)
    index.train(rng.standard_normal((5000, 8), dtype=np.float32))
    assert extract_codebooks(index).centroids.tobytes() == codebooks.centroids.tobytes()
    x = codebooks.decode(_ids(codebooks, 50))
    np.testing.assert_array_equal(index.sa_decode(index.sa_encode(x)), x)


@pytest.mark.parametrize("metric", METRICS)
def test_write_and_read__keep_codebooks_codes_and_results(
    metric: int, tmp_path: Any, rng: np.random.Generator
) -> None:
    codebooks = _codebooks(3, 6, 4)
    index = new_index_pq(codebooks, metric)
    index.add(codebooks.decode(_ids(codebooks, 80)))
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    again = faiss.read_index(str(tmp_path / "index.faiss"))
    assert extract_codebooks(again) == codebooks
    xq = rng.standard_normal((5, 12), dtype=np.float32)
    for a, b in zip(index.search(xq, 7), again.search(xq, 7), strict=True):
        assert a.tobytes() == b.tobytes()


# -- what is refused, and changes nothing


def _state(index: Any) -> tuple[Any, ...]:
    pq = index.pq
    arrays = (pq.centroids, pq.sdc_table, index.codes)
    contents = tuple(faiss.vector_to_array(array).tobytes() for array in arrays)
    return (*contents, index.ntotal, index.is_trained, pq.train_type, pq.cp.niter)


def _refuses(
    index: Any, codebooks: Any, error: type[Exception], match: str, state: Callable = _state
) -> None:
    before = state(index)
    with pytest.raises(error, match=match):
        inject_codebooks(index, codebooks)
    assert state(index) == before


@pytest.fixture(params=["fresh", "trained"])
def index(request: pytest.FixtureRequest) -> Any:
    """IndexPQ of M = 4, nbits = 8, dsub = 4."""
    if request.param == "fresh":
        return faiss.IndexPQ(16, 4, 8)
    return new_index_pq(_codebooks(4, 8, 4))


def test_inject__rejects_short_codebooks(index: Any) -> None:
    _refuses(index, _codebooks(3, 8, 4), ValueError, r"shape \(4, 256, 4\), got \(3, 256, 4\)")


def test_inject__rejects_long_codebooks(index: Any) -> None:
    _refuses(index, _codebooks(5, 8, 4), ValueError, r"shape \(4, 256, 4\), got \(5, 256, 4\)")


def test_inject__rejects_another_nbits(index: Any) -> None:
    _refuses(index, _codebooks(4, 7, 4), ValueError, r"shape \(4, 256, 4\), got \(4, 128, 4\)")


def test_inject__rejects_another_dsub(index: Any) -> None:
    _refuses(index, _codebooks(4, 8, 2), ValueError, r"shape \(4, 256, 4\), got \(4, 256, 2\)")


def test_inject__rejects_codebooks_of_as_many_floats(index: Any) -> None:
    _refuses(index, _codebooks(8, 8, 2), ValueError, r"shape \(4, 256, 4\), got \(8, 256, 2\)")


def test_inject__rejects_codebooks_that_are_not_finite(index: Any) -> None:
    before = _state(index)
    with pytest.raises(ValueError, match="finite"):
        inject_codebooks(index, Codebooks(np.full((4, 256, 4), np.nan, np.float32)))
    assert _state(index) == before


def test_inject__rejects_a_bare_array(index: Any) -> None:
    _refuses(index, np.zeros((4, 256, 4), np.float32), TypeError, r"Codebooks\(centroids\)")


def test_inject__rejects_an_index_that_holds_vectors() -> None:
    codebooks = _codebooks(4, 8, 4)
    index = new_index_pq(codebooks)
    index.add(codebooks.decode(_ids(codebooks, 3)))
    _refuses(index, codebooks, ValueError, "3 vectors")


def test_inject__rejects_sizes_that_faiss_cannot_search() -> None:
    _refuses(faiss.IndexPQ(4, 2, 2), _codebooks(2, 2, 2), ValueError, "dsub=2 with nbits=2")


def test_inject__rejects_a_metric_that_faiss_would_not_compute() -> None:
    index = faiss.IndexPQ(16, 4, 8, faiss.METRIC_L1)
    _refuses(index, _codebooks(4, 8, 4), ValueError, "METRIC_L2 or METRIC_INNER_PRODUCT")


def test_inject__rejects_an_index_whose_parts_disagree(index: Any) -> None:
    index.d = 20
    _refuses(index, _codebooks(4, 8, 4), ValueError, "expected codebooks")


@pytest.mark.parametrize("make", [lambda: faiss.IndexFlatL2(16), lambda: faiss.IndexLSH(16, 8)])
def test_inject__rejects_another_kind_of_index(make: Callable[[], Any]) -> None:
    other = make()
    _refuses(
        other,
        _codebooks(4, 4, 4),
        TypeError,
        f"IndexPQ .*, got {type(other).__name__}",
        state=lambda index: (index.is_trained, index.ntotal),
    )


@pytest.mark.parametrize("other", [None, "index", 3])
def test_inject__rejects_what_is_no_index(other: Any) -> None:
    with pytest.raises(TypeError, match=f"IndexPQ .*, got {type(other).__name__}"):
        inject_codebooks(other, _codebooks())


def test_extract__rejects_an_untrained_index() -> None:
    with pytest.raises(ValueError, match="untrained"):
        extract_codebooks(faiss.IndexPQ(16, 4, 8))


def test_extract__rejects_another_kind_of_index() -> None:
    with pytest.raises(TypeError, match=r"IndexPQ .*, got IndexFlat"):
        extract_codebooks(faiss.IndexFlatL2(16))


def test_extract__rejects_an_index_whose_parts_disagree() -> None:
    index = new_index_pq(_codebooks(4, 8, 4))
    faiss.copy_array_to_vector(np.zeros(7, np.float32), index.pq.centroids)
    with pytest.raises(ValueError, match="got 7"):
        extract_codebooks(index)


def test_new_index_pq__is_empty_and_trained() -> None:
    index = new_index_pq(_codebooks(4, 6, 4), faiss.METRIC_INNER_PRODUCT)
    assert (index.d, index.pq.M, index.pq.nbits, index.ntotal) == (16, 4, 6, 0)
    assert index.is_trained
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT
