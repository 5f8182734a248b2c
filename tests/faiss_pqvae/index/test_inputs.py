"""Every entry of an index takes items, ids and labels as people have them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse
import torch
from torch.utils.data import TensorDataset

from faiss_pqvae import LatentIndex
from faiss_pqvae.data.batches import read_sample
from faiss_pqvae.native import faiss

SHAPE = (6,)
X = np.random.default_rng(0).integers(-9, 10, (20, 6)).astype(np.float32)
IDS = np.arange(100, 120)

# As `tests/faiss_pqvae/data/test_given.py` has them all: one of each way that is gone here.
FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "list": list,
    "frame": lambda x: pd.DataFrame(x, dtype="Float32"),
    "series": lambda x: pd.Series([*x]),
    "arrow": lambda x: pa.array(x.tolist()),
    "dataset": lambda x: TensorDataset(torch.from_numpy(x), torch.zeros(len(x))),
    "int32": lambda x: x.astype(np.int32),
    "int8 tensor": lambda x: torch.from_numpy(x).to(torch.int8),
    "big-endian": lambda x: x.astype(">f8"),
}
CALLS: dict[str, Callable[[LatentIndex, Any], Any]] = {
    "add": lambda index, x: (index.add(x), _codes(index))[1],
    "add_with_ids": lambda index, x: (index.add_with_ids(x, IDS), _codes(index))[1],
    "search": lambda index, x: index.search(x, 3),
    "sdc": lambda index, x: (setattr(index, "search_type", "sdc"), index.search(x, 3))[1],
    "range_search": lambda index, x: index.range_search(x, 9.0),
    "search_and_reconstruct": lambda index, x: index.search_and_reconstruct(x, 2),
    "assign": lambda index, x: index.assign(x, 2),
    "encode": lambda index, x: index.encode(x),
    "sa_encode": lambda index, x: index.sa_encode(x),
    "compute_residual_n": lambda index, x: index.compute_residual_n(x, [3] * 20),
}


def _arrays(found: Any) -> tuple[np.ndarray, ...]:
    return found if isinstance(found, tuple) else (found,)


def _codes(index: LatentIndex) -> np.ndarray:
    native = faiss.downcast_index(getattr(index.faiss_index, "index", index.faiss_index))
    return faiss.vector_to_array(native.codes)


@pytest.fixture
def index_for(make_index, make_model):
    def make(call: str) -> LatentIndex:
        if call != "add_with_ids":
            return make_index(SHAPE, n=9)
        index = LatentIndex(
            make_model(SHAPE), faiss_index=faiss.IndexIDMap2(faiss.IndexPQ(8, 2, 8))
        )
        index.add_with_ids(X[:5] + 1, torch.arange(5))
        return index

    return make


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("form", FORMS)
def test_items__of_every_form_are_those_of_the_array(index_for, call: str, form: str) -> None:
    expected = CALLS[call](index_for(call), X)
    found = CALLS[call](index_for(call), FORMS[form](X))
    for one, other in zip(_arrays(found), _arrays(expected), strict=True):
        np.testing.assert_array_equal(one, other)


class Recorded:
    """A fit that keeps what it was given."""

    takes_coarse = False

    def check(self, n: int, **given: Any) -> dict[str, Any]:
        return {}

    def __call__(self, model: Any, x: Any, **given: Any) -> list[dict[str, Any]]:
        self.x = read_sample(x, len(x), "items").numpy()
        model.fitted.fill_(True)
        return []


@pytest.mark.parametrize("form", FORMS)
def test_train__on_items_of_every_form(make_model, form: str) -> None:
    fit = Recorded()
    index = LatentIndex(make_model(SHAPE, trained=False), fit=fit)
    index.train(FORMS[form](X), progress=False)
    assert index.is_trained
    np.testing.assert_array_equal(fit.x, X)


def test_compute_residual__of_one_item_of_any_form(make_index) -> None:
    index = make_index(SHAPE, n=9)
    expected = index.compute_residual(X[0], 3)
    for x in (X[0].tolist(), torch.from_numpy(X[0]).int(), X[0].astype(">f8"), pd.Series(X[0])):
        np.testing.assert_array_equal(index.compute_residual(x, 3), expected)


def test_decode__of_latents_of_any_form(make_index) -> None:
    index = make_index(SHAPE)
    z = index.encode(X)
    expected = index.decode(z)
    for form in ("list", "frame", "arrow", "big-endian"):
        np.testing.assert_array_equal(index.decode(FORMS[form](z)), expected)


IDS_OF = {
    "list": list,
    "tensor": torch.from_numpy,
    "Series": pd.Series,
    "nullable": lambda ids: pd.Series(ids, dtype="Int64"),
    "Index": pd.Index,
    "Arrow": pa.array,
    "big-endian": lambda ids: ids.astype(">i4"),
}


@pytest.mark.parametrize("form", IDS_OF)
def test_ids__of_every_form(index_for, form: str) -> None:
    index, expected = index_for("add_with_ids"), index_for("add_with_ids")
    index.add_with_ids(X, IDS_OF[form](IDS))
    expected.add_with_ids(X, IDS)
    some = np.array([104, 2, 119])
    np.testing.assert_array_equal(
        index.reconstruct_batch(IDS_OF[form](some)), expected.reconstruct_batch(some)
    )
    assert index.remove_ids(IDS_OF[form](some)) == 3
    assert index.ntotal == 22


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (scipy.sparse.csr_array(X), r"write x\.toarray\(\)"),
        (torch.from_numpy(X).to_sparse(), r"write x\.to_dense\(\)"),
        (torch.empty(20, 6, device="meta"), "which has no values"),
        (X > 0, r"write x\.astype\(numpy\.float32\)"),
        (X * 1j, r"x\.real"),
    ],
    ids=["scipy", "sparse", "meta", "bool", "complex"],
)
def test_items__without_a_plain_meaning_change_nothing(index_for, call: str, x, message) -> None:
    index = index_for(call)
    before = index.ntotal
    with pytest.raises(TypeError, match=message):
        CALLS[call](index, x)
    assert index.ntotal == before
