"""The toy kind: operations of a store, against an IndexPQ of the same codebooks."""

import numpy as np
import pytest

from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.native import faiss
from faiss_pqvae.native.inject import extract_codebooks, inject_codebooks, new_index_pq
from faiss_pqvae.native.store.contents import codeword_ids
from faiss_pqvae.native.store.store import Store


def test_store__of_a_graph_that_it_never_saw():
    rng = np.random.default_rng(0)
    codebooks = Codebooks(rng.standard_normal((4, 16, 2), dtype=np.float32))
    x = rng.standard_normal((400, 8), dtype=np.float32)
    index = faiss.IndexNSGPQ(8, 4, 16, 4)
    inject_codebooks(index, codebooks)
    assert extract_codebooks(index) == codebooks
    store, flat = Store(index), new_index_pq(codebooks)
    store.add([x[:150], x[150:]])
    flat.add(x)
    D, keys = store.search(x[:50], 1)
    expected, _ = flat.search(x[:50], 1)
    assert (np.abs(D - expected) < 1e-4).mean() > 0.9  # a graph is no scan
    keys = keys[:, 0]
    np.testing.assert_allclose(store.reconstruct_ids(keys), flat.reconstruct_batch(keys))
    np.testing.assert_array_equal(store.sa_encode(x[:5]), flat.sa_encode(x[:5]))
    assert len(np.unique(codeword_ids(index)[:, 0])) == 16
    with pytest.raises(ValueError, match="an NSG index cannot remove vectors"):
        store.remove(faiss.IDSelectorRange(0, 1))


def test_codes__go_in_as_they_come_out():
    rng = np.random.default_rng(1)
    codebooks = Codebooks(rng.standard_normal((4, 16, 2), dtype=np.float32))
    index = faiss.IndexNSGPQ(8, 4, 16, 4)
    inject_codebooks(index, codebooks)
    store = Store(index)
    codes = store.sa_encode(rng.standard_normal((300, 8), dtype=np.float32))
    store.add_sa_codes(codes, None)
    latents = store.reconstruct(np.arange(300))
    np.testing.assert_array_equal(store.sa_encode(latents), codes)
