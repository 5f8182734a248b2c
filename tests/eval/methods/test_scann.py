"""The row of ScaNN's codes, by a library that does as ScaNN does but codes nothing."""

import sys
import types

import numpy as np
import pytest

from faiss_pqvae.eval import load
from faiss_pqvae.eval.measure.runner import run
from faiss_pqvae.eval.methods.exact import exact
from faiss_pqvae.eval.methods.method import Request
from faiss_pqvae.eval.methods.scann import rows


class Searcher:
    """Exact search by ids that may be anything, as ScaNN's Python layer has them."""

    def __init__(self, db, distance, docids):
        self.items, self.distance = dict(zip(docids, db, strict=True)), distance

    def set_num_threads(self, n):
        assert n >= 1

    def upsert(self, docids, database, batch_size):
        assert len(docids) == len(database) == batch_size
        self.items.update(zip(docids, database, strict=True))

    def delete(self, docids):
        for docid in docids:
            del self.items[docid]

    def search_batched_parallel(self, queries, final_num_neighbors):
        ids, x = list(self.items), np.stack([*self.items.values()])
        if self.distance == "dot_product":
            D = -queries @ x.T
        else:
            D = ((queries[:, None] - x) ** 2).sum(-1)
        order = np.argsort(D, axis=1, kind="stable")[:, :final_num_neighbors]
        found = np.take_along_axis(D, order, 1)
        return [[ids[i] for i in row] for row in order], -found if D.min() < 0 else found


class Builder:
    """What `scann_ops_pybind.builder` returns, with what it was asked for."""

    def __init__(self, db, num_neighbors, distance):
        self.db, self.distance = db, distance

    def set_n_training_threads(self, n):
        return self

    def score_ah(self, dimensions_per_block, *, anisotropic_quantization_threshold):
        assert self.db.shape[1] % dimensions_per_block == 0
        assert anisotropic_quantization_threshold == 0.2
        return self

    def build(self, docids):
        return Searcher(self.db, self.distance, docids)


@pytest.fixture
def library(monkeypatch):
    module = types.ModuleType("scann")
    module.scann_ops_pybind = types.SimpleNamespace(builder=Builder)
    monkeypatch.setitem(sys.modules, "scann", module)


def vectors(n, d, seed):
    return np.random.default_rng(seed).standard_normal((n, d), dtype=np.float32)


@pytest.mark.parametrize("unit", [False, True])
def test_scann__learns_from_other_vectors_than_it_holds(unit, library):
    x, learn, q = vectors(90, 10, 0), vectors(40, 10, 1), vectors(5, 10, 2)
    if unit:
        x, learn, q = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, learn, q))
    (row,) = rows(Request(16, (10,), M=2))
    assert row.config["settings"]["dimensions_per_block"] == 3  # 4 blocks, zeros at the end
    index = row.build((10,))
    index.train(learn)
    index.add(x[:50])
    index.add(x[50:])
    assert index.sa_code_size() == 2
    assert index.model_bytes() == 4 * 16 * 12
    D, ids = index.search(q, 7)
    exact_D = ((q[:, None] - x) ** 2).sum(-1)
    np.testing.assert_array_equal(ids, np.argsort(exact_D, axis=1)[:, :7])
    assert index.faiss_index._searcher.distance == ("dot_product" if unit else "squared_l2")
    assert (np.diff(D, axis=1) * (-1 if unit else 1) >= 0).all()


def test_rows__of_vectors_with_enough_dimensions():
    assert [row.bits for row in rows(Request(64, (16,)))] == [64]
    for bits, shape in ((64, (15,)), (64, (1, 8, 8)), (12, (16,))):
        assert [*rows(Request(bits, shape))] == []


def test_run__without_the_library_the_row_is_left_out(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "scann", None)
    x, q = vectors(30, 8, 0), vectors(3, 8, 1)
    data = load(lambda: {"database": x, "queries": q}, cache=tmp_path)
    results = run(data, [exact(8), *rows(Request(16, (8,), M=2))], tmp_path, k=5)
    assert [row.method for row in results.rows] == ["Exact L2"]
    (left,) = results.left_out
    assert (left.method, left.failed) == ("ScaNN", False)
    assert "it needs a library: pip install scann" in left.reason
