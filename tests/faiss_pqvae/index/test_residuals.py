"""Inverted files over vectors code residuals: every operation, against numpy."""

import copy
import functools
import pickle

import numpy as np
import pytest

import faiss_pqvae as fpq
from faiss_pqvae import LatentIndex, Ranking, TrainingConfig, index_factory
from faiss_pqvae.native import faiss
from faiss_pqvae.native.kinds.lists import coarse_centroids
from faiss_pqvae.native.walk import codebook_index

D, N, NLIST = 8, 300, 4
SMALL = Ranking(anchors=8, sample=8, pool=4, rounds=1)
TRAINING = TrainingConfig(epochs=1, batch_size=8, device="cpu", validation_fraction=0.2)


def vectors(n=N, seed=0):
    rng = np.random.default_rng(seed)
    means = 4 * np.random.default_rng(9).standard_normal((NLIST, D))
    return (means[rng.integers(NLIST, size=n)] + rng.standard_normal((n, D))).astype(np.float32)


@functools.cache
def _made(description, metric, dsub):
    model = fpq.ModelConfig(dsub=dsub)
    index = index_factory(D, description, metric, model=model, training=TRAINING, objective=SMALL)
    index.train(vectors(), progress=False)
    if index._store.has_id_map:
        index.add_with_ids(vectors(), np.arange(N) + 2**40)
    else:
        index.add(vectors())
    index.nprobe = NLIST
    return index


def made(description="IVF4,PQVAE2x4", metric="l2", dsub=None):
    return copy.deepcopy(_made(description, metric, dsub))


def decoded(index, z):
    """What codes of latents stand for, and their list: by centroids and codewords alone."""
    centroids = coarse_centroids(codebook_index(index.faiss_index)).astype(np.float64)
    if index.metric_type == faiss.METRIC_L2:
        lists = ((z[:, None] - centroids) ** 2).sum(-1).argmin(1)
    else:
        lists = (z @ centroids.T).argmax(1)
    codewords = index.model.codebooks().centroids.astype(np.float64)  # (M, ksub, dsub)
    parts = (z - centroids[lists]).reshape(len(z), len(codewords), 1, -1)
    codes = ((parts - codewords) ** 2).sum(-1).argmin(-1)
    return centroids[lists] + codewords[np.arange(len(codewords)), codes].reshape(len(z), -1)


CASES = [
    ("IVF4,PQVAE2x4", "l2", None),
    ("IVF4,PQVAE2x4", "ip", None),
    ("IVF4,PQVAE2x4", "cosine", None),
    ("IVF4,PQVAE2x4fs", "l2", None),
    ("IVF4_HNSW4,PQVAE2x4", "l2", None),
    ("IDMap2,IVF4,PQVAE2x4", "l2", None),
    ("L2norm,PCA6,IVF4,PQVAE2x4", "l2", None),
    ("IVF4,PQVAE3x4", "l2", None),  # zeros fill up the vectors
    ("IVF4,PQVAE2x4", "cosine", 3),  # a subspace
    ("IVF1,PQVAE2x4", "l2", None),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_index__stores_the_centroid_and_the_codewords(case):
    index = made(*case)
    assert codebook_index(index.faiss_index).by_residual
    assert index.model.spec.by_residual
    x, q = vectors(), vectors(20, seed=1)
    expected = decoded(index, index.encode(x))
    ids = np.arange(N) + (2**40 if "IDMap" in case[0] else 0)
    np.testing.assert_allclose(index.reconstruct_batch(ids), expected, atol=1e-4)
    np.testing.assert_allclose(index.sa_decode(index.sa_encode(x)), expected, atol=1e-4)
    z = index.encode(q)
    for search_type in ("adc", "sdc"):
        index.search_type = search_type
        asked = decoded(index, z) if search_type == "sdc" else z
        exact = asked @ expected.T
        if index.metric_type == faiss.METRIC_L2:
            exact = ((asked[:, None] - expected) ** 2).sum(-1)
        D, I = index.search(q, 5)  # noqa: E741 - FAISS's name
        atol = 0.03 * np.abs(exact).max() if "fs" in case[0] else 1e-3
        np.testing.assert_allclose(D, np.take_along_axis(exact, I % 2**40, 1), atol=atol)
        best = np.sort(exact) if index.metric_type == faiss.METRIC_L2 else -np.sort(-exact)
        np.testing.assert_allclose(D, best[:, :5], atol=2 * atol)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_index__centroids_of_latents_are_those_of_vectors(case):
    index, d = made(*case), None
    centroids = coarse_centroids(codebook_index(index.faiss_index))
    assert centroids.shape == (int(case[0].partition("IVF")[2][0]), index.faiss_index.d)
    if case[2] is None and "norm" not in case[0]:  # a rotation: distances are those of vectors
        x = vectors()
        if case[1] == "cosine":
            x /= np.linalg.norm(x, axis=1, keepdims=True)
        lists = codebook_index(index.faiss_index).quantizer.search(index.encode(x), 1)[1][:, 0]
        d = np.stack([x[lists == i].mean(0) for i in np.unique(lists)])
        if codebook_index(index.faiss_index).cp.spherical:
            d /= np.linalg.norm(d, axis=1, keepdims=True)
        # k-means has converged on these: a centroid is the mean of its own.
        weight = index.model.encoder.map.weight.detach().numpy()
        atol = 0.15 if len(centroids) != NLIST else 0.05  # of the sample that it took
        np.testing.assert_allclose(centroids[np.unique(lists)], d @ weight.T, atol=atol)


@pytest.mark.parametrize(
    "description", ["IVF4,PQVAE2x4", "IVF4,PQVAE2x4fs", "IDMap2,IVF4,PQVAE2x4"]
)
def test_index__finds_the_same_after_every_way_of_copying(description, tmp_path):
    index, q = made(description), vectors(20, seed=1)
    D, I = index.search(q, 5)  # noqa: E741
    fpq.write_index(index, tmp_path / "index")
    twins = [
        copy.deepcopy(index),
        pickle.loads(pickle.dumps(index)),
        fpq.read_index(tmp_path / "index"),
        fpq.deserialize_index(fpq.serialize_index(index)),
    ]
    if "fs" not in description:
        twins.append(fpq.read_index(tmp_path / "index", mmap=True))
    for twin in twins:
        assert twin.model.spec.by_residual
        again = twin.search(q, 5)
        np.testing.assert_array_equal(again[0], D)
        np.testing.assert_array_equal(again[1], I)
    pure = index.to_faiss()
    found = pure.search(q, 5, D=np.zeros((20, 5), np.float32))
    np.testing.assert_allclose(found[0], D, rtol=1e-2 if "fs" in description else 1e-4)


@pytest.mark.parametrize("description", ["IVF4,PQVAE2x4", "IVF4,PQVAE2x4fs"])
def test_index__merges_and_removes(description):
    index, other, q = made(description), made(description), vectors(20, seed=1)
    index.remove_ids(np.arange(100, N))
    other.remove_ids(np.arange(100))
    index.merge_from(other)
    whole = made(description)
    assert (index.ntotal, other.ntotal) == (N, 0)
    np.testing.assert_allclose(index.search(q, 5)[0], whole.search(q, 5)[0], rtol=1e-3)
    other.add(vectors())
    np.testing.assert_allclose(other.search(q, 5)[0], whole.search(q, 5)[0], rtol=1e-3)
    inside = faiss.SearchParametersIVF(sel=faiss.IDSelectorRange(0, 50), nprobe=NLIST)
    assert (index.search(q, 5, params=inside)[1] < 50).all()


def test_index__behind_other_centroids_is_not_merged():
    index, other = made(), made()
    native = other.faiss_index
    shifted = coarse_centroids(native) + 1
    native.quantizer.reset()
    native.quantizer.add(shifted)
    with pytest.raises(ValueError, match="same coarse centroids"):
        index.merge_from(other)


@pytest.mark.parametrize("refine", ["RFlat", "RDecoder", "Refine(SQ8)"])
def test_index__refines_what_it_finds(refine):
    index, q = made(f"IVF4,PQVAE2x4,{refine}"), vectors(20, seed=1)
    index.k_factor = N / 5
    x = vectors()
    if refine == "RDecoder":
        x = index.decode(decoded(index, index.encode(x)).astype(np.float32))
    exact = np.sort(((q[:, None] - x) ** 2).sum(-1))[:, :5]
    rtol = 0.05 if "SQ8" in refine else 1e-3
    np.testing.assert_allclose(index.search(q, 5)[0], exact, rtol=rtol)


def test_train__without_residuals_is_what_it_was():
    index = index_factory(D, "IVF4,PQVAE2x4", training=TRAINING, objective=SMALL)
    flat = index_factory(D, "PQVAE2x4", training=TRAINING, objective=SMALL)
    index.faiss_index.by_residual = False
    for each in (index, flat):
        each.train(vectors(), progress=False)
    assert not index.model.spec.by_residual
    assert index.model.fingerprint() == flat.model.fingerprint()
    index.add(vectors())
    codes = flat.sa_encode(vectors())
    np.testing.assert_array_equal(index.sa_encode(vectors())[:, 1:], codes)


def test_train__again_learns_other_centroids():
    index = made()
    index.reset()
    index.train(vectors(seed=3) + 5, progress=False)
    index.add(vectors(seed=3) + 5)
    x = vectors(seed=3) + 5
    expected = decoded(index, index.encode(x))
    np.testing.assert_allclose(index.reconstruct_batch(np.arange(N)), expected, atol=1e-3)


def _native(by_residual=True, d=D):
    native = faiss.index_factory(d, "IVF4,PQ2x4np")
    native.by_residual = by_residual
    return native


def test_init__a_native_index_decides_whether_residuals_are_coded():
    of_factory = index_factory(D, "PQVAE2x4", training=TRAINING, objective=SMALL)
    for by_residual in (True, False):
        native = _native(by_residual)
        index = LatentIndex(copy.deepcopy(of_factory.model), fit=of_factory.fit, faiss_index=native)
        index.train(vectors(), progress=False)
        index.add(vectors())
        assert (index.model.spec.by_residual, index.faiss_index.by_residual) == (by_residual,) * 2


def test_init__codebooks_of_residuals_want_their_own_centroids():
    index = made()
    for wrong in (None, faiss.IndexPQ(D, 2, 4), _native(), _native(by_residual=False)):
        with pytest.raises(ValueError, match="by_residual=True and the coarse centroids"):
            LatentIndex(index.model, faiss_index=wrong)
    native = _native()
    native.quantizer.add(coarse_centroids(index.faiss_index))
    again = LatentIndex(index.model, faiss_index=native)
    again.add(vectors())
    again.nprobe = NLIST
    q = vectors(20, seed=1)
    np.testing.assert_allclose(again.search(q, 5)[0], index.search(q, 5)[0], rtol=1e-4)


@pytest.mark.parametrize("name", ["reconstruction", "contrastive"])
def test_train__an_objective_that_codes_latents_takes_no_residuals(name):
    index = index_factory(D, "IVF4,PQVAE2x4", objective=name, training=TRAINING)
    assert not index.faiss_index.by_residual
    with pytest.raises(ValueError, match="by_residual=False"):
        LatentIndex(index.model, fit=index.fit, faiss_index=_native(d=index.model.latent_dim))
    index.faiss_index.by_residual = True
    with pytest.raises(ValueError, match="by_residual=False"):
        index.train(vectors(), progress=False)


@pytest.mark.parametrize("niter", [25, 3])
def test_train__takes_the_settings_of_k_means_that_the_index_has(niter):
    index, x = index_factory(D, "IVF4,PQVAE2x4", training=TRAINING, objective=SMALL), vectors()
    cp = codebook_index(index.faiss_index).cp
    assert cp.niter == 25  # unless somebody says otherwise
    cp.niter = niter
    index = copy.deepcopy(index)  # FAISS forgets it
    index.train(x, progress=False)
    native = codebook_index(index.faiss_index)
    assert (native.cp.niter, native.cp.min_points_per_centroid) == (niter, 39)
    clustering = faiss.Clustering(D, NLIST, native.cp)
    clustering.train(x, faiss.IndexFlatL2(D))
    expected = faiss.vector_to_array(clustering.centroids).reshape(NLIST, D)
    found = index.decode(coarse_centroids(native))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_index_factory__only_latents_have_lists_of_directions_for_inner_products():
    metric = faiss.METRIC_INNER_PRODUCT
    for objective, expected in ((SMALL, False), ("reconstruction", True)):
        index = index_factory(D, "IVF4,PQVAE2x4", metric, objective=objective)
        assert bool(codebook_index(index.faiss_index).cp.spherical) is expected
