"""Where additive codes start: FAISS's residual quantizer."""

import numpy as np
import pytest

from faiss_pqvae import ModelConfig, Synthesis, TrainingConfig, index_factory
from faiss_pqvae.index.residual_start import residual_codebooks
from faiss_pqvae.native import faiss


def vectors(n, d=12):
    rng = np.random.default_rng(0)
    return (rng.standard_normal((n, 4)) @ rng.standard_normal((4, d))).astype(np.float32)


def test_residual_codebooks__are_those_of_faiss():
    x = vectors(800)
    quantizer = faiss.ResidualQuantizer(12, 3, 4)
    quantizer.train(x)
    expected = faiss.vector_to_array(quantizer.codebooks).reshape(3, 16, 12)
    found = residual_codebooks(x, M=3, nbits=4)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("n", "d", "M", "nbits"),
    [(1, 3, 2, 3), (5, 12, 3, 4), (40, 1, 2, 2), (300, 6, 1, 8), (20, 9, 4, 1)],
)
def test_residual_codebooks__of_any_sizes(n, d, M, nbits, capfd):
    found = residual_codebooks(vectors(n, d), M=M, nbits=nbits)
    assert found.shape == (M, 2**nbits, d)
    assert np.isfinite(found).all()
    assert capfd.readouterr() == ("", "")


def test_index_factory__starts_there():
    x = vectors(400)
    index = index_factory(
        12,
        "PQVAE3x3,RDecoder",
        model=ModelConfig(width=4),
        training=TrainingConfig(device="cpu", precision="float32"),
        objective=Synthesis(epochs=1, batch_size=64, effort=1, final_effort=1, rounds=1, filled=0),
    )
    index.train(x, progress=False)
    assert index.history[0]["start"] == "RQ"
