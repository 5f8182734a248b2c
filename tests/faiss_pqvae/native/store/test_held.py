"""An index however it is seen, and what is in it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from faiss_pqvae.native import faiss
from faiss_pqvae.native.inject import new_residual_index
from faiss_pqvae.native.kinds import KINDS
from faiss_pqvae.native.store.held import Held
from faiss_pqvae.native.store.store import Store

D = 8
STORED = ["PQ", "PQfs", "IVF", "IVFfs", "HNSW"]


def _x(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, D), dtype=np.float32)


@pytest.mark.parametrize("id_map", ["", "IDMap", "IDMap2"])
@pytest.mark.parametrize("kind", STORED)
def test_held__is_the_index_and_what_is_in_its_id_map(make_native, kind, id_map):
    index = make_native(kind, 4, faiss.METRIC_L2, id_map)
    held = Held.of(index)
    assert held.index is index
    assert held.in_id_map == bool(id_map)
    assert int(held.bare.this) == int((index.index if id_map else index).this)
    assert held.kind is KINDS[type(held.bare).__name__]


# As FAISS hands it out: a part of another index, and what `extract_index_ivf` finds.
SEEN_AS: dict[str, Callable[[Any], Any]] = {
    "Index": lambda index: faiss.IndexIDMap(index).index,
    "IndexIVF": faiss.extract_index_ivf,
}


@pytest.mark.parametrize("seen_as", SEEN_AS)
@pytest.mark.parametrize("kind", ["IVF", "IVFfs"])
def test_held__of_an_index_that_is_seen_as_its_base_class(make_native, kind, seen_as):
    index = make_native(kind, 4, faiss.METRIC_L2)
    seen = SEEN_AS[seen_as](index)
    assert type(seen).__name__ == seen_as
    store = Store(seen)
    assert type(store.index) is type(store.bare) is type(index)
    ids = np.arange(40) * 2**33 - 7
    store.add_sa_codes([store.sa_encode(_x(40))], ids)
    assert set(store.search(_x(40), 1)[1].ravel()) == set(ids)

    def batches():
        yield _x(5, 1)
        raise OSError("unreadable")

    with pytest.raises(OSError, match="unreadable"):  # under ids that are there already
        store.add(batches(), ids[:10])
    assert index.ntotal == 40
    np.testing.assert_array_equal(np.sort(store.search(_x(1), 99)[1][0, :40]), np.sort(ids))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: faiss.IndexFlatL2(D), "got IndexFlatL2$"),
        (lambda: faiss.IndexIDMap(faiss.IndexFlatL2(D)), "got IndexFlatL2 in IndexIDMap"),
        (lambda: faiss.IndexLocalSearchQuantizer(D, 2, 4), "IDMap, got IndexLocalSearchQuantizer"),
        (lambda: faiss.index_factory(D, "PCA8,PQ4x4np"), "got it inside IndexPreTransform"),
        (lambda: faiss.index_factory(D, "IDMap,PCA8,PQ4x4np"), "got it inside IndexPreTransform"),
        (lambda: faiss.IndexIDMap(faiss.IndexIDMap2(faiss.IndexPQ(D, 4, 4))), "inside IndexIDMap2"),
        (lambda: faiss.IndexRefineFlat(faiss.IndexPQ(D, 4, 4)), "inside IndexRefineFlat"),
    ],
)
def test_held__refuses_what_a_store_is_not_for(make, match):
    with pytest.raises(TypeError, match=match):
        Held.of(make())


def test_held__refuses_a_state_that_is_not_built_on():
    index = new_residual_index(D, 2, 4)
    index.rq.max_beam_size = 5
    with pytest.raises(ValueError, match="new_residual_index makes one"):
        Held.of(faiss.IndexIDMap(index))
