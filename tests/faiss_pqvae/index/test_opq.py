"""Where vectors start: FAISS's OPQ and PQ, and that an index starts there exactly."""

import numpy as np
import pytest

from faiss_pqvae import ModelConfig, Ranking, TrainingConfig, index_factory
from faiss_pqvae.index import factory
from faiss_pqvae.index.opq import linear_starts
from faiss_pqvae.native import faiss

D, M, NBITS = 12, 4, 4
STAY = Ranking(lr=0.0, rounds=0)  # never better than the start
TRAINING = TrainingConfig(epochs=1, batch_size=64, device="cpu")


def vectors(n=600, seed=0, d=D):
    """Their order means something: neighbouring dimensions belong together."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((n, d)) @ rng.standard_normal((d, d))
    return (mixed + 3 * np.repeat(rng.standard_normal((n, d // 3)), 3, 1)).astype(np.float32)


def _error(start, x):
    z = (x @ start.matrix.T).reshape(len(x), start.codewords.shape[0], 1, -1)
    return float(((z - start.codewords) ** 2).sum(-1).min(-1).sum(-1).mean())


def test_linear_starts__the_first_is_the_opq_of_faiss():
    x = vectors()
    index = faiss.index_factory(D, f"OPQ{M}_{D},PQ{M}x{NBITS}np")
    opq = faiss.downcast_VectorTransform(index.chain.at(0))
    pq = faiss.ProductQuantizer(D, M, NBITS)
    pq.cp.min_points_per_centroid = 1
    opq.pq = pq
    index.train(x)
    opq.pq = None
    starts = linear_starts(x, M=M, nbits=NBITS, d_out=D, progress=False)
    assert [start.name for start in starts] == ["OPQ", "OPQ from the identity", "PQ"]
    matrix = faiss.vector_to_array(opq.A).reshape(D, D)
    np.testing.assert_allclose(starts[0].matrix, matrix, atol=1e-6)
    native = faiss.downcast_index(index.index).pq
    centroids = faiss.vector_to_array(native.centroids).reshape(M, 16, D // M)
    np.testing.assert_allclose(starts[0].codewords, centroids, atol=1e-3)
    np.testing.assert_array_equal(starts[2].matrix, np.eye(D))
    # From the identity on the error only falls.
    assert _error(starts[1], x) < _error(starts[2], x)


@pytest.mark.parametrize(
    ("n", "d", "M", "nbits", "d_out"),
    [(100, 5, 8, 4, 8), (50, 12, 5, 3, 15), (90, 12, 2, 4, 6), (1, 3, 2, 3, 4), (9, 6, 2, 6, 6)],
)
def test_linear_starts__of_any_sizes(n, d, M, nbits, d_out):
    x = vectors(n, d=12)[:, :d]
    starts = linear_starts(x, M=M, nbits=nbits, d_out=d_out, progress=False)
    assert len(starts) == (1 if d_out < d else 3)
    for start in starts:
        assert start.matrix.shape == (d_out, d)
        assert start.codewords.shape == (M, 2**nbits, d_out // M)
        assert np.isfinite(start.codewords).all()
        long, short = max(d, d_out), min(d, d_out)
        product = start.matrix @ start.matrix.T if d_out < d else start.matrix.T @ start.matrix
        np.testing.assert_allclose(product, np.eye(short), atol=1e-4), long
        if n <= 2**nbits and d_out >= d:
            assert _error(start, x) < 0.05 * x.var()  # a codeword for every vector


@pytest.mark.parametrize("metric", [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT])
@pytest.mark.parametrize("d", [12, 10])
def test_index__starts_at_the_better_code_exactly(monkeypatch, metric, d):
    x, queries = vectors()[:, :d], vectors(50, 1)[:, :d]
    found = []

    def caught(*args, **options):
        found.extend(linear_starts(*args, **options))
        return found

    monkeypatch.setattr(factory, "linear_starts", caught)
    index = index_factory(d, f"PQVAE{M}x{NBITS}", metric, training=TRAINING, objective=STAY)
    index.train(x, progress=False)
    assert index.model.latent_dim == D
    assert index.history[-1]["best_epoch"] == -1
    name = index.history[0]["start"]
    start = next(start for start in found if start.name == name)
    native = faiss.IndexPQ(D, M, NBITS, metric)
    faiss.copy_array_to_vector(start.codewords.ravel(), native.pq.centroids)
    native.is_trained = True
    rotation = faiss.LinearTransform(d, D, False)
    faiss.copy_array_to_vector(start.matrix.ravel(), rotation.A)
    rotation.is_trained = True
    expected = faiss.IndexPreTransform(rotation, native)
    for each in (index, expected):
        each.add(x)
    (D1, I1), (D2, I2) = index.search(queries, 10), expected.search(queries, 10)
    np.testing.assert_allclose(D1, D2, rtol=1e-4, atol=1e-2)
    same = I1 == I2
    assert same.mean() > 0.98  # but for what is equally far
    pure = index.to_faiss()
    np.testing.assert_allclose(pure.search(queries, 10)[0], D1, rtol=1e-4, atol=1e-2)


def test_index__decoder_is_the_transpose_and_refines():
    x = vectors()
    index = index_factory(D, "PQVAE4x4,RDecoder", training=TRAINING, objective=STAY)
    index.train(x, progress=False)
    index.add(x)
    index.k_factor = 4
    plain = index_factory(D, "PQVAE4x4", training=TRAINING, objective=STAY)
    plain.train(x, progress=False)
    plain.add(x)
    # A rotation back: what refines has the distances that the codes have.
    D1, D2 = index.search(x[:20], 5)[0], plain.search(x[:20], 5)[0]
    np.testing.assert_allclose(D1, D2, rtol=1e-3, atol=1e-2)


def test_index__of_cosine_learns_from_vectors_of_length_1():
    x = vectors() * np.geomspace(0.1, 10, 600, dtype=np.float32)[:, None]
    index = index_factory(D, "PQVAE4x4", "cosine", training=TRAINING, objective=STAY)
    index.train(x, progress=False)
    norms = np.linalg.norm(index.model.codebooks().decode(np.zeros((1, M), np.int64)))
    assert norms < 1.5
    assert index.history[-1]["validation_loss"] < 0.7


def test_index__of_an_mlp_trains_from_random_weights():
    model = ModelConfig(encoder="mlp", width=8)
    index = index_factory(D, "PQVAE4x4", model=model, training=TrainingConfig(epochs=1))
    index.train(vectors(100), progress=False)
    assert index.model.latent_dim == 4 * 16
    assert "start" not in index.history[0]
