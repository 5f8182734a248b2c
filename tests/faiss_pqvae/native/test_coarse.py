"""Coarse centroids: the ones that FAISS itself would learn, and given to an index afterwards."""

import numpy as np
import pytest

from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.native import faiss
from faiss_pqvae.native.coarse import (
    coarse_settings,
    has_residuals,
    inject_coarse,
    learn_coarse,
    takes_centroids,
)
from faiss_pqvae.native.inject import inject_codebooks
from faiss_pqvae.native.kinds.lists import coarse_centroids, in_lists, list_numbers, nearest_lists

D, L2, IP = 8, faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT


def vectors(n=400, d=D, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d), dtype=np.float32)


def untrained(description="IVF8,PQ4x4np", d=D, metric=L2):
    index = faiss.index_factory(d, description, metric)
    ivf = faiss.extract_index_ivf(index)
    ivf.cp.min_points_per_centroid = 1
    return index, ivf


@pytest.mark.parametrize("metric", [L2, IP])
@pytest.mark.parametrize("coarse", ["IVF8", "IVF8_HNSW4", "IDMap2,IVF8"])
def test_learn_coarse__is_what_faiss_trains_to(coarse: str, metric: int) -> None:
    index, ivf = untrained(f"{coarse},PQ4x4np", metric=metric)
    found = learn_coarse(index, vectors())
    assert not ivf.is_trained
    assert ivf.quantizer.ntotal == 0
    index.train(vectors())
    np.testing.assert_array_equal(found, coarse_centroids(faiss.extract_index_ivf(index)))


def test_learn_coarse__of_vectors_of_another_dimension() -> None:
    index, _ = untrained(d=12)
    own, _ = untrained()
    np.testing.assert_array_equal(learn_coarse(index, vectors()), learn_coarse(own, vectors()))


@pytest.mark.parametrize("change", ["nlist", "metric", "niter"])
def test_coarse_settings__differ_with_what_counts(change: str) -> None:
    before = coarse_settings(untrained()[0])
    assert before == coarse_settings(untrained()[0])
    index, ivf = untrained("IVF9,PQ4x4np" if change == "nlist" else "IVF8,PQ4x4np")
    if change == "metric":
        index, ivf = untrained(metric=IP)
    if change == "niter":
        ivf.cp.niter += 1
    assert coarse_settings(index) != before


@pytest.mark.parametrize("fs", ["", "fs"])
@pytest.mark.parametrize("metric", [L2, IP])
@pytest.mark.parametrize("coarse", ["IVF8", "IVF8_HNSW4", "IVF8(SQ8)"])
def test_inject_coarse__makes_an_index_that_finds_by_its_own_reconstructions(
    coarse: str, metric: int, fs: str
) -> None:
    code = "PQ4x4fsr" if fs else "PQ4x4np"
    index, ivf = untrained(f"IDMap2,{coarse},{code}", metric=metric)
    rng = np.random.default_rng(1)
    codewords = rng.standard_normal((4, 16, 2), dtype=np.float32)
    inject_codebooks(index, Codebooks(codewords))
    for seed in (3, 2):  # the second time over a training before
        centroids = 3 * vectors(8, seed=seed)
        inject_coarse(index, centroids)
    atol = 0.05 if "SQ8" in coarse else 0
    np.testing.assert_allclose(coarse_centroids(ivf), centroids, atol=atol)
    assert index.is_trained
    assert has_residuals(index)
    x, q = vectors(200), vectors(10, seed=5)
    index.add_with_ids(x, np.arange(200))
    ivf.nprobe = 8
    ivf.set_direct_map_type(faiss.DirectMap.Array)
    D, I = index.search(q, 200, D=np.zeros((10, 200), np.float32))  # noqa: E741
    stored = np.stack([index.reconstruct(i) for i in range(200)])
    exact = q @ stored.T if metric == IP else ((q[:, None] - stored) ** 2).sum(-1)
    atol = 0.03 * np.abs(exact).max() if fs else 1e-3  # rounded tables
    np.testing.assert_allclose(D, np.take_along_axis(exact, I, 1), atol=atol)


def test_has_residuals__of_lists_alone() -> None:
    assert has_residuals(untrained()[0])
    index, ivf = untrained()
    ivf.by_residual = False
    assert not has_residuals(index)
    assert not has_residuals(faiss.index_factory(D, "PQ4x4np"))


@pytest.mark.parametrize(
    ("coarse", "takes"),
    [
        *(("IVF8", True), ("IVF8_HNSW4", True), ("IVF8(SQ8)", True), ("IVF8(PQ4x4np)", True)),
        *(("IVF8(RCQ1x3)", False), ("IMI2x2", False), ("IVF8(IVF2,Flat)", False)),
    ],
)
def test_takes_centroids__where_a_quantizer_gives_them_back(coarse: str, takes: bool) -> None:
    assert takes_centroids(faiss.index_factory(D, f"{coarse},PQ4x4np")) == takes


@pytest.mark.parametrize("nbits", [3, 8])
@pytest.mark.parametrize("nlist", [2, 300])
def test_in_lists__gives_the_codes_that_faiss_makes(nbits: int, nlist: int) -> None:
    index, _ = untrained(f"IVF{nlist},PQ4x{nbits}np")
    index.train(vectors())
    x = vectors(50, seed=1)
    codes = index.sa_encode(x)
    numbers, centroids = nearest_lists(index, x)
    np.testing.assert_array_equal(numbers, list_numbers(index, codes))
    np.testing.assert_array_equal(centroids, coarse_centroids(index)[numbers])
    left = index.pq.compute_codes(x - centroids)
    ids = faiss.unpack_bitstrings(left, 4, nbits)
    np.testing.assert_array_equal(in_lists(index, numbers, ids), codes)
    assert in_lists(index, numbers[:0], ids[:0]).shape == (0, index.sa_code_size())
