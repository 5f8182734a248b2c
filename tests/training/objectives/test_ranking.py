"""Vectors: where they start, the ranking that they are trained for, and that nothing gets worse."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from faiss_pqvae.model.clustering import assign, kmeans, look_up, split
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.training import TrainingConfig, fit
from faiss_pqvae.training.config import VectorTraining
from faiss_pqvae.training.objectives.ranking import (
    Ranking,
    adc_distances,
    lookup_tables,
    nearest,
    ranking_loss,
    standard_errors,
)
from faiss_pqvae.training.objectives.start import Start, begin_at, settle

D, M, NBITS = 8, 4, 3
SMALL = VectorTraining(anchors=64, sample=64, pool=16, rounds=2)


def vectors(n=400, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, D)) @ np.diag(np.arange(1, D + 1))).astype(np.float32)


def starts(x, d_out=D):
    """PQ, and the same code of other dimensions together."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for name, order in (("straight", range(D)), ("mixed", [3, 7, 0, 4, 6, 1, 5, 2])):
        matrix = np.eye(d_out, D, dtype=np.float32)[:, list(order)]
        z_m = split(torch.from_numpy(x @ matrix.T), M)
        found.append(Start(name, matrix, kmeans(z_m, 8, iterations=5, generator=generator).numpy()))
    return found


def straight(x):
    return starts(x)[:1]


def model(**config):
    return PQVAE((D,), M, NBITS, ModelConfig(**config))


def config(epochs=3, **settings):
    together = VectorTraining(**{**vars(SMALL), **settings})
    return TrainingConfig(epochs=epochs, batch_size=16, device="cpu", vectors=together)


def timeless(history):
    return [{k: v for k, v in event.items() if k != "elapsed_s"} for event in history]


# -- the pieces


def test_ranking_loss__by_hand():
    distances = torch.tensor([[2.0, 4.0, 6.0], [1.0, math.inf, math.inf]])
    expected = (math.log(1 + math.exp(-1) + math.exp(-2)) + 0) / 2
    assert float(ranking_loss(distances, 2.0)) == pytest.approx(expected)


def test_ranking_loss__pulls_the_neighbour_and_pushes_the_nearest_most():
    distances = torch.tensor([[2.0, 2.5, 6.0]], requires_grad=True)
    ranking_loss(distances, 1.0).backward()
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
def test_nearest__is_exact_and_skips(metric, monkeypatch):
    monkeypatch.setattr(
        "faiss_pqvae.training.objectives.ranking._BLOCK_ELEMENTS", 70
    )  # several blocks
    x = torch.from_numpy(vectors(30))
    exact = torch.cdist(x, x).square() if metric == "l2" else -x @ x.T
    exact.fill_diagonal_(math.inf)
    ids, distances = nearest(x, x, 3, metric=metric, skip=torch.arange(30))
    expected = exact.sort(1)
    torch.testing.assert_close(distances, expected.values[:, :3], rtol=1e-4, atol=1e-2)
    assert torch.equal(ids, expected.indices[:, :3])


def test_begin_at__is_that_start_exactly():
    net = model()
    start = starts(vectors())[1]
    begin_at(net, start)
    net.eval()
    x = torch.from_numpy(vectors(50, 1))
    with torch.no_grad():
        torch.testing.assert_close(net.encode(x), x @ torch.from_numpy(start.matrix).T)
        torch.testing.assert_close(net.decode(net.encode(x)), x)  # a rotation
    np.testing.assert_array_equal(net.codebooks().centroids, start.codewords)


def test_begin_at__refuses_other_networks_and_sizes():
    start = straight(vectors())[0]
    with pytest.raises(ValueError, match="linear encoder and decoder"):
        begin_at(model(encoder="mlp"), start)
    with pytest.raises(ValueError, match="start of the sizes"):
        begin_at(model(dsub=3), start)


def test_settle__never_raises_the_error():
    x = torch.from_numpy(vectors(2000))
    start = straight(vectors(50, 3))[0]

    def error(start):
        matrix, codewords = torch.from_numpy(start.matrix), torch.from_numpy(start.codewords)
        ids = assign(split(x @ matrix.T, M), codewords)
        decoded = look_up(codewords, ids).transpose(0, 1).flatten(1) @ matrix
        return float((x - decoded).square().sum(1).mean())

    errors = [error(settle(start, x, rounds, progress=False)) for rounds in (0, 1, 2, 4, 8)]
    assert errors[0] == error(start)
    assert np.all(np.diff(errors) <= 1e-4)
    assert errors[-1] < 0.95 * errors[0]


def test_hits__counts_and_shares_ties():
    net = PQVAE((1,), 1, 1, ModelConfig(dsub=1))
    items = torch.tensor([[0.0], [0.2], [0.4], [1.0]])
    queries = torch.tensor([[0.05], [0.9]])  # of item 0 and item 3
    generator = torch.Generator().manual_seed(0)
    begin_at(net, Start("s", np.eye(1, dtype="f4"), np.array([[[0.0], [1.0]]], "f4")))
    ranking = Ranking(net, items, queries, SMALL, metric="l2", generator=generator, progress=False)
    ranking.encode()  # codes 0, 0, 0, 1
    assert ranking.truth.flatten().tolist() == [0, 3]
    assert float(ranking.hits(1).mean()) == pytest.approx((1 / 3 + 1) / 2)
    assert float(ranking.hits(2).mean()) == pytest.approx((2 / 3 + 1) / 2)
    assert float(ranking.hits(3).mean()) == 1


# -- the training


@pytest.mark.parametrize("lr", [1e-3, 10.0])  # the second one does harm
def test_fit__starts_at_the_best_and_ends_no_lower(lr):
    net, x = model(), vectors()
    start, *epochs, end = fit(net, x, config(lr=lr), starts=starts)
    recalls = start["validation_recall@10"]
    assert list(recalls)[:2] == ["straight", "mixed"]
    highest = max(recalls.values())
    assert recalls[start["start"]] == highest
    reached = [epoch["validation_recall@10"] for epoch in epochs]
    assert 1 - end["validation_loss"] >= highest - 1e-12
    if lr > 1:
        assert max(reached) < highest
        assert end["best_epoch"] == -1
        with torch.no_grad():  # a rotation still: the start
            z = net.encode(torch.from_numpy(x))
        norms = torch.from_numpy(x).norm(dim=1)
        torch.testing.assert_close(z.norm(dim=1), norms, rtol=1e-4, atol=1e-4)


def test_fit__leaves_a_start_that_the_ranking_improves():
    def poor(x):
        return straight(x[:30])

    settings = replace(config(epochs=6, lr=0.03, rounds=0, anchors=512), validation_fraction=0.2)
    net = model()
    start, *epochs, end = fit(net, vectors(2000), settings, starts=poor)
    assert end["best_epoch"] >= 0
    best = epochs[end["best_epoch"]]
    assert best["validation_recall@10"] > start["validation_recall@10"]["straight"] + 0.05
    assert best["gain_in_standard_errors"] >= 2
    assert epochs[-1]["loss"] < epochs[0]["loss"]


def test_standard_errors__by_hand():
    gains = torch.tensor([1.0, 0.0, -1.0, 1.0])  # mean 1/4, deviation sqrt(11)/4
    assert standard_errors(gains) == pytest.approx(0.25 / (math.sqrt(11) / 4 / 2))
    assert standard_errors(torch.zeros(5)) == 0


def test_fit__same_seed_same_codebooks_whatever_was_before():
    nets = [model(), model(), model()]
    histories = [
        fit(net, vectors(), TrainingConfig(**{**vars(config()), "seed": seed}), starts=straight)
        for net, seed in zip(nets, (3, 3, 4), strict=True)
    ]
    assert timeless(histories[0]) == timeless(histories[1])
    assert nets[0].codebooks() == nets[1].codebooks()
    assert nets[0].codebooks() != nets[2].codebooks()
    assert not nets[0].quantizer.codewords.requires_grad


def test_fit__resumes_to_the_same_bits_and_learns_no_start_again(tmp_path):
    settings = config(epochs=4, lr=0.01)
    asked = []

    def counted(x):
        asked.append(len(x))
        return straight(x)

    whole, stopped = model(), model()
    expected = fit(whole, vectors(), settings, starts=counted)

    def interrupt(event):
        if event["epoch"] == 2:
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt):
        fit(stopped, vectors(), settings, starts=counted, folder=tmp_path, go_on=interrupt)
    assert not stopped.is_trained
    resumed = model()
    history = fit(resumed, vectors(), settings, starts=counted, folder=tmp_path)
    assert timeless(history) == timeless(expected)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    assert len(asked) == 2
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == history
    with pytest.raises(ValueError, match="other settings or data"):
        fit(model(), vectors(), settings, starts=straight, folder=tmp_path, metric="inner_product")


@pytest.mark.parametrize("metric", ["l2", "inner_product"])
@pytest.mark.parametrize(
    "changes", [{"unit_latents": True}, {"dsub": 3}, {"update": "gradient"}], ids=str
)
def test_fit__of_every_kind_of_latents(metric, changes):
    net = model(**changes)
    d_out = net.latent_dim
    history = fit(net, vectors(), config(), metric=metric, starts=lambda x: starts(x, d_out)[:1])
    assert len(history) == 5
    assert all(math.isfinite(event["loss"]) for event in history[1:-1])
    assert np.isfinite(net.codebooks().centroids).all()


@pytest.mark.parametrize("n", [4, 5, 20])
def test_fit__of_very_few_vectors(n):
    net = model()
    history = fit(net, vectors(n), config(), starts=straight)
    assert history[-1]["event"] == "end"
    assert np.isfinite(net.codebooks().centroids).all()


def test_fit__of_equal_vectors_stays_finite():
    net = model()
    fit(net, np.full((30, D), 3, np.uint8), config(), starts=straight)
    assert all(value.isfinite().all() for value in net.state_dict().values())


def test_fit__nan_in_vectors_raises():
    x = vectors()
    x[17, 3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        fit(model(), x, config(), starts=straight)


def test_fit__settings_of_vectors_without_starts_raise():
    with pytest.raises(ValueError, match="expected starts"):
        fit(model(), vectors(), config())


def test_fit__starts_for_an_mlp_raise():
    with pytest.raises(ValueError, match="linear encoder and decoder"):
        fit(model(encoder="mlp"), vectors(), config(), starts=straight)


@pytest.mark.parametrize(
    "wrong",
    [{"items": 1}, {"anchors": 0}, {"rounds": -1}, {"temperature": 0.0}, {"lr": math.nan}],
    ids=str,
)
def test_vector_training__rejects(wrong):
    with pytest.raises(ValueError, match="expected"):
        VectorTraining(**wrong)
