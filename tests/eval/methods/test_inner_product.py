"""Every method of the comparison where the nearest items are those of the largest inner product."""

import dataclasses

import numpy as np

from faiss_pqvae import ModelConfig, Ranking, TrainingConfig
from faiss_pqvae.eval.data.load import load
from faiss_pqvae.eval.measure.runner import run
from faiss_pqvae.eval.methods.choice import reference, rows_of
from faiss_pqvae.eval.methods.settings import CodeSettings
from faiss_pqvae.native import faiss


def vectors(metric="inner_product"):
    """Items of very different lengths, where the nearest by distance are others."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((640, 16), dtype=np.float32)
    x[:600] *= rng.uniform(0.2, 3, (600, 1))
    return load(
        lambda: {"database": x[:600], "queries": x[600:], "metric": metric, "description": "some"}
    )


def test_rows_of__all_methods_search_by_inner_product(tmp_path):
    data = vectors()
    names = ("Exact L2", "PQ", "OPQ", "RQ", "LSQ", "Product-residual", "LSH", "IVF")
    rows = rows_of(data, names=names, lengths=(32,), nlist=4)
    results = run(data, rows, tmp_path, k=10)
    found = {(row.method, row.search): row for row in results.rows}
    assert {name for name, _ in found} == {
        *("Exact inner product", "PQ", "OPQ", "RQ", "LSQ", "Product-residual", "LSH"),
        *("IVF4,PQ4", "OPQ4,IVF4,PQ4", "IVF4,RQ4"),
    }
    assert found["Exact inner product", "exact"].metrics["1-recall@1"] == 1
    exact_l2 = faiss.IndexFlatL2(16)
    exact_l2.add(data.database)
    by_l2 = (exact_l2.search(data.queries, 1)[1] == data.truth.I[:, :1]).mean()
    assert by_l2 < 0.5
    for name, search in found:
        if search == "adc" or search == "nprobe=4":
            assert found[name, search].metrics["1-recall@10"] > 0.85, name
    assert not results.left_out


def test_rows_of__learned_codes_search_by_inner_product(tmp_path):
    data = vectors()
    learned = CodeSettings(
        objective=Ranking(epochs=1, rounds=2, anchors=64, sample=256, pool=20),
        folder=tmp_path / "runs",
        model=ModelConfig(),
        training=TrainingConfig(epochs=1),
    )
    rows = rows_of(data, names=("learned",), lengths=(32,), nlist=4, learned=learned)
    results = run(data, rows, tmp_path / "runs", k=10)
    assert not results.left_out
    for row in results.rows:
        if row.search in ("adc", "nprobe=4"):
            assert row.metrics["1-recall@10"] > 0.8, (row.method, row.search)
    other = rows_of(vectors("l2"), names=("learned",), lengths=(32,), learned=learned)
    assert {row.config["factory"] for row in other} <= {row.config["factory"] for row in rows}


def test_load__cosine_is_the_distance_between_scaled_vectors():
    data = vectors("cosine")
    np.testing.assert_allclose(np.linalg.norm(data.database, axis=1), 1, rtol=1e-5)
    similar = data.queries @ data.database.T
    np.testing.assert_array_equal(data.truth.I[:, 0], similar.argmax(axis=1))
    assert data.metric == "l2"
    assert "scaled to unit length" in data.protocol


def test_reference__is_exact_search_by_the_metric():
    assert [row.name for row in reference(vectors())] == ["Exact inner product"]
    assert [row.name for row in reference(vectors("l2"))] == ["Exact L2"]
    changed = dataclasses.replace(vectors(), metric="l2")
    assert [row.name for row in reference(changed)] == ["Exact L2"]
