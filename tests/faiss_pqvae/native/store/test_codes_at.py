"""The codes of stored vectors, by their keys."""

import numpy as np
import pytest

from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.native import faiss
from faiss_pqvae.native.inject import inject_codebooks, new_residual_index
from faiss_pqvae.native.kinds import lists
from faiss_pqvae.native.store.store import Store

M, DSUB, N = 5, 2, 300


def filled(kind, nbits):
    rng = np.random.default_rng(0)
    centroids = rng.standard_normal((M, 2**nbits, DSUB)).astype("f4")
    description = {
        "IndexPQ": f"PQ{M}x{nbits}np",
        "IndexPQFastScan": f"PQ{M}x{nbits}fs",
        "IndexIVFPQ": f"IVF7,PQ{M}x{nbits}np",
        "residuals": f"IVF7,PQ{M}x{nbits}np",
        "IndexIVFPQFastScan": f"IVF7,PQ{M}x{nbits}fs",
        "fast residuals": f"IVF7,PQ{M}x{nbits}fs",
    }[kind]
    index = faiss.index_factory(M * DSUB, description)
    if "IVF" in description:
        index.by_residual = "residuals" in kind
        index.quantizer.add(10 * rng.standard_normal((7, M * DSUB)).astype("f4"))
    inject_codebooks(index, Codebooks(centroids))
    store, codes = Store(index), rng.integers(0, 2**nbits, (N, M))
    if "IVF" not in description:
        index.add(centroids[np.arange(M), codes].reshape(N, -1))
        return store, codes, np.arange(N), None
    numbers = rng.integers(0, 7, N)
    ids = rng.permutation(N) * 10 - 50
    ids[ids == -1] = 7
    store.add_sa_codes([lists.in_lists(index, numbers, codes)], ids)
    return store, codes, ids, numbers


KINDS = [
    *((kind, nbits) for kind in ("IndexPQ", "IndexIVFPQ", "residuals") for nbits in (3, 4, 6, 8)),
    *((kind, 4) for kind in ("IndexPQFastScan", "IndexIVFPQFastScan", "fast residuals")),
]


@pytest.mark.parametrize(("kind", "nbits"), KINDS)
def test_codes__of_keys_in_any_order(kind, nbits):
    store, codes, ids, numbers = filled(kind, nbits)
    rows = np.random.default_rng(1).integers(0, N, 1000)
    found = store.codes(ids[rows])
    assert (found.dtype, found.shape) == (np.uint8, (1000, store.sa_code_size()))
    np.testing.assert_allclose(store.sa_decode(found), store.reconstruct(ids[rows]), atol=1e-5)
    of_lists, own = store.split_codes(found)
    np.testing.assert_array_equal(own, codes[rows])
    if numbers is None:
        assert of_lists is None
    else:
        np.testing.assert_array_equal(of_lists, numbers[rows])


def test_codes__are_those_that_are_stored_also_far_from_the_origin():
    rng = np.random.default_rng(0)
    index = faiss.IndexPQFastScan(2 * M, M, 4)
    centroids = (1e6 + rng.standard_normal((M, 16, 2))).astype("f4")
    inject_codebooks(index, Codebooks(centroids))
    index.add((1e6 + rng.standard_normal((N, 2 * M))).astype("f4"))
    found = Store(index).codes(np.arange(N))
    np.testing.assert_array_equal(Store(index).sa_decode(found), index.reconstruct_n(0, N))


@pytest.mark.parametrize("sel", [False, True])
@pytest.mark.parametrize("sdc", [False, True])
@pytest.mark.parametrize(("kind", "nbits"), KINDS)
def test_search_and_return_codes__is_search_and_codes(kind, nbits, sdc, sel):
    store, _, ids, _ = filled(kind, nbits)
    z = np.random.default_rng(2).standard_normal((9, M * DSUB)).astype("f4")
    chosen = faiss.IDSelectorBatch(ids[:100])
    params = faiss.SearchParameters(sel=chosen) if sel else None
    k = N + 5  # more than there is
    D, I, codes = store.search_and_return_codes(z, k, params=params, sdc=sdc)  # noqa: E741
    expected, J = store.search(z, k, params=params, sdc=sdc)
    np.testing.assert_array_equal(I, J)
    np.testing.assert_array_equal(D, expected)
    assert (I == -1).any()
    np.testing.assert_array_equal(codes[I != -1], store.codes(I[I != -1]))


def test_codes__of_keys_in_a_direct_map(monkeypatch):
    store, codes, ids, _ = filled("IndexIVFPQ", 4)
    z = store.reconstruct(ids)
    store.bare.reset()
    store.bare.add(z)  # its ids count from 0, as a direct map needs them
    store.bare.make_direct_map()
    monkeypatch.setattr(lists, "list_ids", None)  # no list is looked through
    rows = np.random.default_rng(1).integers(0, N, 1000)
    np.testing.assert_array_equal(store.split_codes(store.codes(rows))[1], codes[rows])
    monkeypatch.undo()
    for key in (-1, N):
        with pytest.raises(ValueError, match=f"expected ids that are stored, got {key}"):
            store.codes(np.array([0, key]))


@pytest.mark.parametrize(("kind", "nbits"), [(kind, 4) for kind, nbits in KINDS if nbits == 4])
def test_codes__refuses_a_key_that_is_not_there(kind, nbits):
    with pytest.raises(ValueError, match="99999"):
        filled(kind, nbits)[0].codes(np.array([0, 99999]))


def test_codes__are_known_where_they_are_those_of_parts():
    assert filled("IndexPQ", 9)[0].has_codes
    assert not Store(new_residual_index(4, 2, 4)).has_codes
