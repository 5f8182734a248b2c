"""The ranking that vectors are trained for, held to its formulas and to brute force."""

import math

import numpy as np
import pytest
import torch

from faiss_pqvae.model.clustering import assign, look_up, split
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.training.kept import Kept
from faiss_pqvae.training.objectives.linear_start import Start, begin_at
from faiss_pqvae.training.objectives.neighbours import (
    Neighbours,
    adc_distances,
    lookup_tables,
    nearest,
    ranking_losses,
    standard_errors,
)
from faiss_pqvae.training.objectives.ranking import Ranking

D, M = 8, 4


def vectors(n=400, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, D)) @ np.diag(np.arange(1, D + 1))).astype(np.float32)


def test_ranking_losses__by_hand():
    distances = torch.tensor([[2.0, 4.0, 6.0], [1.0, math.inf, math.inf]])
    expected = (math.log(1 + math.exp(-1) + math.exp(-2)) + 0) / 2
    assert float(ranking_losses(distances, 2.0).mean()) == pytest.approx(expected)


def test_ranking_losses__pulls_the_neighbour_and_pushes_the_nearest_most():
    distances = torch.tensor([[2.0, 2.5, 6.0]], requires_grad=True)
    ranking_losses(distances, 1.0).mean().backward()
    neighbour, near, far = distances.grad[0].tolist()
    assert neighbour > 0  # descent makes it smaller
    assert near < far < 0
    assert neighbour + near + far == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("metric", ["l2", "inner_product"])
def test_lookup_tables__add_up_to_the_distances_of_decoded_codes(metric):
    x = torch.from_numpy(vectors(20))
    codewords = torch.randn(M, 8, 2, generator=torch.Generator().manual_seed(0))
    ids = assign(split(x, M), codewords)  # (20, M)
    tables = lookup_tables(split(x, M), codewords, metric)  # (M, 20, ksub)
    summed = sum(tables[m][:, ids[:, m]] for m in range(M))
    decoded = look_up(codewords, ids).transpose(0, 1).flatten(1)
    expected = adc_distances(x, decoded, metric)
    if metric == "l2":
        expected = expected + x.square().sum(1, keepdim=True)
        torch.testing.assert_close(expected, torch.cdist(x, decoded).square(), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(summed, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("metric", ["l2", "inner_product"])
def test_nearest__is_exact_and_skips(metric):
    x = torch.from_numpy(vectors(30))
    exact = torch.cdist(x, x).square() if metric == "l2" else -x @ x.T
    exact.fill_diagonal_(math.inf)
    ids, distances = nearest(
        x, x, 3, metric=metric, skip=torch.arange(30), block_elements=70
    )  # several blocks
    expected = exact.sort(1)
    torch.testing.assert_close(distances, expected.values[:, :3], rtol=1e-4, atol=1e-2)
    assert torch.equal(ids, expected.indices[:, :3])


def test_hits__counts_and_shares_ties():
    net = PQVAE((1,), 1, 1, ModelConfig(dsub=1))
    items = torch.tensor([[0.0], [0.2], [0.4], [1.0]])
    queries = torch.tensor([[0.05], [0.9]])  # of item 0 and item 3
    generator = torch.Generator().manual_seed(0)
    begin_at(net, Start("s", np.eye(1, dtype="f4"), np.array([[[0.0], [1.0]]], "f4")))
    settings = Ranking(anchors=64, sample=64, pool=16)
    neighbours = Neighbours(
        net, items, queries, settings, metric="l2", generator=generator, progress=False
    )
    neighbours.find(Kept())
    neighbours.encode()  # codes 0, 0, 0, 1
    assert neighbours.truth.flatten().tolist() == [0, 3]
    assert float(neighbours.hits(1).mean()) == pytest.approx((1 / 3 + 1) / 2)
    assert float(neighbours.hits(2).mean()) == pytest.approx((2 / 3 + 1) / 2)
    assert float(neighbours.hits(3).mean()) == 1


def test_standard_errors__by_hand():
    gains = torch.tensor([1.0, 0.0, -1.0, 1.0])  # mean 1/4, deviation sqrt(11)/4
    assert standard_errors(gains) == pytest.approx(0.25 / (math.sqrt(11) / 4 / 2))
    assert standard_errors(torch.zeros(5)) == 0
