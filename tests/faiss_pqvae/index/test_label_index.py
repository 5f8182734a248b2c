"""DQN and DPQ as indexes: from labels to native codes, and DPQ's prefixes."""

import copy
import pickle

import faiss
import numpy as np
import pytest
import torch

import faiss_pqvae as fpq
from faiss_pqvae import DPQ, LabelTraining, ModelConfig, TrainingConfig

D, C, N = 10, 3, 300
MODEL = ModelConfig(width=16, dsub=6)
TRAINING = TrainingConfig(epochs=2, batch_size=32, precision="float32", lr=0.01)


def data(n=N, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, C, n)
    means = np.random.default_rng(99).standard_normal((C, D))
    return (means[y] + 0.7 * rng.standard_normal((n, D))).astype(np.float32), y


def built(description="DPQ4x4", **options):
    x, y = data()
    index = fpq.index_factory(D, description, model=MODEL, training=TRAINING, **options)
    index.train(x, y, progress=False)
    if description.startswith("IDMap"):
        index.add_with_ids(x, 1000 + np.arange(N))
    else:
        index.add(x)
    return index


@pytest.fixture(scope="module")
def dpq():
    return built()


@pytest.fixture(scope="module")
def dqn():
    return built("DQN2x4")


def table_sums(index, queries, ids):
    """Inner products in float64 of queries' latents and the sums of codewords at ids (nq, k)."""
    z = index.encode(queries).astype(np.float64)
    stored = index.reconstruct_batch(np.arange(index.ntotal)).astype(np.float64)
    return np.einsum("qd,qkd->qk", z, stored[ids])


@pytest.mark.parametrize("k", [1, 10, N])
def test_dpq__search_is_the_sum_of_inner_products(dpq, k):
    queries, _ = data(20, seed=1)
    D_, I = dpq.search(queries, k)  # noqa: E741
    np.testing.assert_allclose(D_, table_sums(dpq, queries, I), atol=2e-6)
    z = dpq.encode(queries).astype(np.float64)
    codes = dpq.reconstruct_n().astype(np.float64)
    best = -np.sort(-(z @ codes.T), axis=1)[:, :k]
    np.testing.assert_allclose(D_, best, atol=2e-6)  # ids up to ties


def test_dqn__aqd_is_the_sum_of_table_distances(dqn):
    queries, _ = data(20, seed=1)
    D_, I = dqn.search(queries, 10)  # noqa: E741
    z = dqn.encode(queries).astype(np.float64)
    codes = dqn.reconstruct_n().astype(np.float64)
    squared = ((z[:, None] - codes) ** 2).sum(2)
    np.testing.assert_allclose(D_, np.sort(squared, axis=1)[:, :10], atol=1e-5)
    np.testing.assert_allclose(D_, np.take_along_axis(squared, I, 1), atol=1e-5)


def test_dpq__native_codes_are_those_of_the_training(dpq):
    x, _ = data()
    with torch.no_grad():
        ids = dpq.model.quantizer.choose(dpq.model.encode(torch.from_numpy(x))).numpy()
    codes = faiss.unpack_bitstrings(dpq.sa_encode(x), 4, 4)
    assert (codes == ids).mean() > 0.999  # a tie may be broken otherwise
    assert isinstance(dpq.faiss_index, faiss.IndexResidualQuantizer)
    assert dpq.faiss_index.rq.max_beam_size == 1
    assert dpq.sa_code_size() == 2


@pytest.mark.parametrize("n_levels", [1, 2, 3, 4])
def test_prefix__searches_as_an_index_of_the_first_codebooks(dpq, n_levels):
    queries, _ = data(15, seed=2)
    prefix = dpq.prefix(n_levels)
    codebooks = fpq.Codebooks(dpq.model.codebooks().centroids[:n_levels], structure="residual")
    assert fpq.extract_codebooks(prefix.faiss_index) == codebooks
    other = faiss.IndexResidualQuantizer(
        6, n_levels, 4, faiss.METRIC_INNER_PRODUCT, faiss.AdditiveQuantizer.ST_LUT_nonorm
    )
    other.rq.max_beam_size = 1
    fpq.inject_codebooks(other, codebooks)
    other.add(dpq.encode(data()[0]))
    expected, _ = other.search(dpq.encode(queries), 20)
    found, I = prefix.search(queries, 20)  # noqa: E741
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_allclose(found, table_sums(prefix, queries, I), atol=2e-6)
    assert prefix.sa_code_size() == -(-n_levels * 4 // 8)
    assert prefix.ntotal == N
    assert prefix.description == f"DPQ{n_levels}x4"


def test_prefix__is_written_read_and_added_to(dpq, tmp_path):
    queries, _ = data(5, seed=3)
    prefix = dpq.prefix(2)
    fpq.write_index(prefix, tmp_path / "short")
    again = fpq.read_index(tmp_path / "short")
    for found, expected in zip(again.search(queries, 7), prefix.search(queries, 7), strict=True):
        np.testing.assert_array_equal(found, expected)
    again.add(queries)
    assert (again.ntotal, prefix.ntotal, dpq.ntotal) == (N + 5, N, N)


def test_prefix__keeps_ids_and_leaves_refinement():
    x = data()[0][:5]
    index = built("IDMap2,DPQ3x4,RFlat")
    index.items = fpq.Items.of_names(["a"], [1003])
    prefix = index.prefix(2)
    assert prefix.items.names([1003]).tolist() == ["a"]
    assert prefix.description == "IDMap2,DPQ2x4"
    assert prefix.refiner is None
    assert prefix.search(x, 5)[1].min() >= 1000
    np.testing.assert_allclose(
        prefix.reconstruct(1003), prefix.sa_decode(prefix.sa_encode(x[3:4]))[0], atol=1e-6
    )


def test_prefix__of_other_indexes_is_refused(dpq, dqn):
    with pytest.raises(ValueError, match="from 1 to 4"):
        dpq.prefix(5)
    with pytest.raises(ValueError, match="such as DPQ's; got DQN"):
        dqn.prefix(1)
    with pytest.raises(ValueError, match="not trained"):
        fpq.index_factory(D, "DPQ4x4", model=MODEL).prefix(1)


@pytest.mark.parametrize("copies", ["files", "pickle", "deepcopy"])
def test_dpq__copies_search_alike(dpq, tmp_path, copies):
    queries, _ = data(9, seed=4)
    if copies == "files":
        fpq.write_index(dpq, tmp_path / "b")
        again = fpq.read_index(tmp_path / "b")
    else:
        again = pickle.loads(pickle.dumps(dpq)) if copies == "pickle" else copy.deepcopy(dpq)
    for search_type in ("adc", "sdc"):
        dpq.search_type = again.search_type = search_type
        for found, expected in zip(again.search(queries, 9), dpq.search(queries, 9), strict=True):
            np.testing.assert_array_equal(found, expected)
    dpq.search_type = "adc"


@pytest.mark.parametrize("description", ["DPQ2x4,RFlat", "PCA6,DPQ2x4", "DPQ2x4,RDecoder"])
def test_dpq__combines_with_transforms_and_refinement(description):
    index = built(description)
    queries, _ = data(5, seed=5)
    D_, I = index.search(queries, 4)  # noqa: E741
    assert (np.diff(D_, axis=1) <= 1e-6).all()  # inner products, best first
    assert I.min() >= 0


@pytest.mark.parametrize("description", ["IVF4,DQN2x4", "HNSW4,DQN2x4", "IDMap2,DQN2x4fs"])
def test_dqn__is_in_every_index_that_holds_product_codes(description):
    index = built(description)
    queries, _ = data(5, seed=5)
    assert index.search(queries, 4)[1].max() >= 0


def test_train__finds_codes_that_know_the_class(dpq, dqn):
    queries, y = data(100, seed=6)
    _, labels = data()
    for index in (dpq, dqn):
        _, I = index.search(queries, 10)  # noqa: E741
        assert (labels[I] == y[:, None]).mean() > 0.7


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (None, ValueError, "expected labels for the objective 'dpq', got none"),
        (np.zeros(N, int), ValueError, "two classes"),
        (np.zeros(N - 1, int), ValueError, f"{N} items"),
        (np.full(N, np.nan), TypeError, "NaN"),
        (np.zeros(N), TypeError, "float64"),
    ],
    ids=str,
)
def test_train__wrong_labels_leave_the_index_as_it_was(labels, error, message, tmp_path):
    index = fpq.index_factory(D, "PCA6,DPQ2x4", model=MODEL, training=TRAINING)
    with pytest.raises(error, match=message):
        index.train(data()[0], labels, folder=tmp_path / "t", progress=False)
    assert not index.is_trained
    assert not index.transforms.is_trained
    assert not (tmp_path / "t").exists()


def test_train__refuses_what_the_objective_does_not_read():
    index = fpq.index_factory(D, "PQVAE2x4")
    with pytest.raises(ValueError, match="expected no labels for the objective 'ranking'"):
        index.train(*data())
    other = fpq.index_factory(D, "DPQ2x4", model=MODEL, training=TRAINING)
    with pytest.raises(ValueError, match="word vectors"):
        other.train(*data(), word_vectors=np.ones((2, 3)))


def test_train__with_word_vectors():
    index = fpq.index_factory(D, "DPQ2x4", model=MODEL, training=TRAINING)
    index.train(*data(), word_vectors=np.eye(C, 5), progress=False)
    assert index.is_trained


def test_train__settings_of_labels_arrive():
    training = TrainingConfig(epochs=1, batch_size=32, precision="float32")
    objective = DPQ(quantization=0.5, labels=LabelTraining(labelled=0.7))
    index = fpq.index_factory(D, "DPQ2x4", model=MODEL, training=training, objective=objective)
    index.train(*data(), progress=False)
    told = index.history[0]["objective"]
    assert (told["name"], told["quantization"], told["labels"]["labelled"]) == ("dpq", 0.5, 0.7)


@pytest.mark.parametrize(
    ("description", "options", "message"),
    [
        ("DPQ4x8fs", {}, "without fs"),
        ("IVF16,DPQ4x8", {}, "no inverted lists or graph before DPQ"),
        ("HNSW16,DPQ4", {}, "no inverted lists or graph before DPQ"),
        ("DPQ", {}, "expected DPQ.M.*as in DPQ8x8"),
        ("DQN4x", {}, "expected DQN.M"),
        ("xDQN4", {}, "comma before DQN"),
        ("DQN4,PQVAE4", {}, "one learned code"),
        ("DPQ4", {"metric_type": faiss.METRIC_L2}, "METRIC_INNER_PRODUCT for DPQ"),
        ("PQVAE4", {"model": ModelConfig(objective="dqn")}, "DQN.M"),
        ("DPQ4", {"model": ModelConfig(objective="dqn")}, "objective 'dpq'"),
        ("DQN4", {"model": ModelConfig(objective="contrastive")}, "objective 'dqn'"),
    ],
)
def test_index_factory__says_what_is_wrong(description, options, message):
    with pytest.raises(ValueError, match=message):
        fpq.index_factory(D, description, **options)


def test_index_factory__takes_the_objective_from_the_name():
    index = fpq.index_factory((3, 32, 32), "DPQ4x8")
    assert index.model.config.objective == "dpq"
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT
    assert index.sa_code_size() == 4
    assert fpq.index_factory(D, "DPQ4x8", "cosine").metric_type == faiss.METRIC_INNER_PRODUCT
    dqn = fpq.index_factory((3, 32, 32), "DQN4x8")
    assert dqn.model.config.objective == "dqn"
    assert dqn.metric_type == faiss.METRIC_L2


def test_register__faiss_understands_both():
    fpq.register()
    try:
        assert isinstance(faiss.index_factory(D, "DPQ2x4", model=MODEL), fpq.LatentIndex)
        assert isinstance(faiss.index_factory(D, "DQN2x4", model=MODEL), fpq.LatentIndex)
    finally:
        fpq.unregister()
