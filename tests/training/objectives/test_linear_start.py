"""Where vectors start: at a linear code exactly, and at one that all items made better."""

import numpy as np
import pytest
import torch

from faiss_pqvae.model.clustering import assign, kmeans, look_up, split
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.training.objectives.linear_start import Start, begin_at, settle

D, M, NBITS = 8, 4, 3


def vectors(n=400, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, D)) @ np.diag(np.arange(1, D + 1))).astype(np.float32)


def start_of(x, order=range(D)):
    """PQ of dimensions in an order."""
    matrix = np.eye(D, dtype=np.float32)[:, list(order)]
    z_m = split(torch.from_numpy(x @ matrix.T), M)
    generator = torch.Generator().manual_seed(0)
    return Start("PQ", matrix, kmeans(z_m, 8, iterations=5, generator=generator).numpy())


def model(**config):
    return PQVAE((D,), M, NBITS, ModelConfig(**config))


def test_begin_at__is_that_start_exactly():
    net = model()
    start = start_of(vectors(), [3, 7, 0, 4, 6, 1, 5, 2])
    begin_at(net, start)
    net.eval()
    x = torch.from_numpy(vectors(50, 1))
    with torch.no_grad():
        torch.testing.assert_close(net.encode(x), x @ torch.from_numpy(start.matrix).T)
        torch.testing.assert_close(net.decode(net.encode(x)), x)  # a rotation
    np.testing.assert_array_equal(net.codebooks().centroids, start.codewords)


def test_begin_at__refuses_other_networks_and_sizes():
    start = start_of(vectors())
    with pytest.raises(ValueError, match="linear encoder and decoder"):
        begin_at(model(encoder="mlp"), start)
    with pytest.raises(ValueError, match="start of the sizes"):
        begin_at(model(dsub=3), start)


def test_settle__never_raises_the_error():
    x = torch.from_numpy(vectors(2000))
    start = start_of(vectors(50, 3))

    def error(start):
        matrix, codewords = torch.from_numpy(start.matrix), torch.from_numpy(start.codewords)
        ids = assign(split(x @ matrix.T, M), codewords)
        decoded = look_up(codewords, ids).transpose(0, 1).flatten(1) @ matrix
        return float((x - decoded).square().sum(1).mean())

    errors = [error(settle(start, x, rounds, progress=False)) for rounds in (0, 1, 2, 4, 8)]
    assert errors[0] == error(start)
    assert np.all(np.diff(errors) <= 1e-4)
    assert errors[-1] < 0.95 * errors[0]
