"""The codes of stored vectors, by their keys."""

import numpy as np
import pytest

from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.native import faiss
from faiss_pqvae.native.inject import inject_codebooks
from faiss_pqvae.native.kinds import lists
from faiss_pqvae.native.store.store import Store

M, DSUB, N = 5, 2, 300


def filled(kind, nbits):
    rng = np.random.default_rng(0)
    centroids = rng.standard_normal((M, 2**nbits, DSUB)).astype("f4")
    if kind == "IndexPQ":
        index = faiss.IndexPQ(M * DSUB, M, nbits)
    else:
        index = faiss.index_factory(M * DSUB, f"IVF7,PQ{M}x{nbits}np")
        index.by_residual = False
        index.quantizer.add(rng.standard_normal((7, M * DSUB)).astype("f4"))
    inject_codebooks(index, Codebooks(centroids))
    codes = rng.integers(0, 2**nbits, (N, M))
    z = centroids[np.arange(M), codes].reshape(N, -1)
    if kind == "IndexPQ":
        index.add(z)
        return Store(index), codes, np.arange(N)
    ids = rng.permutation(N) * 10 - 50
    ids[ids == -1] = 7
    index.add_with_ids(z, ids)
    return Store(index), codes, ids


@pytest.mark.parametrize("nbits", [3, 4, 6, 8])
@pytest.mark.parametrize("kind", ["IndexPQ", "IndexIVFPQ"])
def test_codes__of_keys_in_any_order(kind, nbits):
    store, codes, ids = filled(kind, nbits)
    rows = np.random.default_rng(1).integers(0, N, 1000)
    found = store.codes(ids[rows])
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, codes[rows])


def test_codes__of_keys_in_a_direct_map(monkeypatch):
    store, codes, ids = filled("IndexIVFPQ", 4)
    z = store.reconstruct(ids)
    store.bare.reset()
    store.bare.add(z)  # its ids count from 0, as a direct map needs them
    store.bare.make_direct_map()
    monkeypatch.setattr(lists, "list_ids", None)  # no list is looked through
    rows = np.random.default_rng(1).integers(0, N, 1000)
    np.testing.assert_array_equal(store.codes(rows), codes[rows])
    monkeypatch.undo()
    for key in (-1, N):
        with pytest.raises(ValueError, match=f"expected ids that are stored, got {key}"):
            store.codes(np.array([0, key]))


@pytest.mark.parametrize("kind", ["IndexPQ", "IndexIVFPQ"])
def test_codes__refuses_a_key_that_is_not_there(kind):
    with pytest.raises(ValueError, match="99999"):
        filled(kind, 4)[0].codes(np.array([0, 99999]))


def test_codes__are_not_at_hand_where_a_byte_holds_none():
    assert filled("IndexPQ", 9)[0].codes is None
    index = faiss.IndexPQFastScan(8, 4, 4)
    inject_codebooks(index, Codebooks(np.random.default_rng(0).random((4, 16, 2), "f4")))
    assert Store(index).codes is None
