"""Vectors: where they start, and that nothing gets worse."""

import functools
import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from blobs import timeless

from faiss_pqvae.model.clustering import kmeans, split
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.training import Ranking, Reconstruction, TrainingConfig, Views, new_model
from faiss_pqvae.training import fit as fit_any
from faiss_pqvae.training.data.items import Items
from faiss_pqvae.training.objectives import linear_start, query_map, ranking
from faiss_pqvae.training.objectives.linear_start import Start

D, M, NBITS = 8, 4, 3
SMALL = Ranking(anchors=64, sample=64, pool=16, rounds=2)
TRAINING = TrainingConfig(epochs=3, batch_size=16, device="cpu")


def vectors(n=400, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, D)) @ np.diag(np.arange(1, D + 1))).astype(np.float32)


def starts(x, kept=None, d_out=D):
    """PQ, and the same code of other dimensions together."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for name, order in (("straight", range(D)), ("mixed", [3, 7, 0, 4, 6, 1, 5, 2])):
        matrix = np.eye(d_out, D, dtype=np.float32)[:, list(order)]
        z_m = split(torch.from_numpy(x @ matrix.T), M)
        found.append(Start(name, matrix, kmeans(z_m, 8, iterations=5, generator=generator).numpy()))
    return found


def straight(x, kept=None):
    return starts(x)[:1]


class Coarse:
    """Two centroids, far from each other in the dimension that varies most."""

    settings = "two"

    def __init__(self):
        self.centroids = np.zeros((2, D), np.float32)
        self.centroids[:, -1] = -8, 8

    def __call__(self):
        return self.centroids


def model(metric=None, **config):
    return new_model((D,), M, NBITS, ModelConfig(**config), objective="ranking", metric=metric)


def fit(net, x, starts, training=TRAINING, settings=SMALL, **options):
    return fit_any(net, x, training, objective=settings, starts=starts, **options)


@pytest.mark.parametrize("lr", [1e-3, 10.0])  # the second one does harm
def test_fit__starts_at_the_best_and_ends_no_lower(lr):
    net, x = model(), vectors()
    start, *epochs, end = fit(net, x, starts, settings=replace(SMALL, lr=lr))
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
    def poor(x, kept):
        return straight(x[:30])

    training = replace(TRAINING, epochs=6, validation_fraction=0.2)
    settings = replace(SMALL, lr=0.03, rounds=0, anchors=512)
    net = model()
    start, *epochs, end = fit(net, vectors(2000), poor, training, settings)
    assert end["best_epoch"] >= 0
    best = epochs[end["best_epoch"]]
    assert best["validation_recall@10"] > start["validation_recall@10"]["straight"] + 0.05
    assert best["gain_in_standard_errors"] >= 2
    assert epochs[-1]["loss"] < epochs[0]["loss"]


def test_fit__same_seed_same_codebooks_whatever_was_before():
    nets = [model(), model(), model()]
    histories = [
        fit(net, vectors(), straight, replace(TRAINING, seed=seed))
        for net, seed in zip(nets, (3, 3, 4), strict=True)
    ]
    assert timeless(histories[0]) == timeless(histories[1])
    assert nets[0].codebooks() == nets[1].codebooks()
    assert nets[0].codebooks() != nets[2].codebooks()
    assert not nets[0].quantizer.codewords.requires_grad


def test_fit__resumes_to_the_same_bits_and_learns_no_start_again(tmp_path):
    settings = replace(TRAINING, epochs=4), replace(SMALL, lr=0.01)
    asked = []

    def counted(x, kept):
        asked.append(len(x))
        return straight(x)

    whole, stopped = model(), model()
    expected = fit(whole, vectors(), counted, *settings)

    def interrupt(event):
        if event["epoch"] == 2:
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt):
        fit(stopped, vectors(), counted, *settings, folder=tmp_path, go_on=interrupt)
    assert not stopped.is_trained
    resumed = model()
    history = fit(resumed, vectors(), counted, *settings, folder=tmp_path)
    assert timeless(history) == timeless(expected)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    assert len(asked) == 2
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == history
    with pytest.raises(ValueError, match="other settings or data"):
        fit(model("inner_product"), vectors(), straight, *settings, folder=tmp_path)


def test_fit__counts_the_seconds_before_an_interruption_of_its_phases(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    def ticking():
        return functools.partial(next, itertools.count(10.0, 10.0))

    expected = fit(model(), vectors(), straight, clock=ticking(), folder=tmp_path / "whole")
    for part in ("_means", "_procrustes"):
        with monkeypatch.context() as patch:
            patch.setattr(linear_start, part, interrupted)
            with pytest.raises(KeyboardInterrupt):
                fit(model(), vectors(), straight, clock=ticking(), folder=tmp_path / "broken")
    history = fit(model(), vectors(), straight, clock=ticking(), folder=tmp_path / "broken")
    assert history[-1]["elapsed_s"] >= expected[-1]["elapsed_s"]


@pytest.mark.parametrize("metric", ["l2", "inner_product"])
@pytest.mark.parametrize(
    "changes", [{"unit_latents": True}, {"dsub": 3}, {"update": "gradient"}], ids=str
)
def test_fit__of_every_kind_of_latents(metric, changes):
    net = model(metric, **changes)
    d_out = net.latent_dim
    history = fit(net, vectors(), lambda x, kept: starts(x, d_out=d_out)[:1])
    assert len(history) == 5
    assert all(math.isfinite(event["loss"]) for event in history[1:-1])
    assert np.isfinite(net.codebooks().centroids).all()


@pytest.mark.parametrize("n", [4, 5, 20])
def test_fit__of_very_few_vectors(n):
    net = model()
    history = fit(net, vectors(n), straight)
    assert history[-1]["event"] == "end"
    assert np.isfinite(net.codebooks().centroids).all()


def test_fit__of_equal_vectors_stays_finite():
    net = model()
    fit(net, np.full((30, D), 3, np.uint8), straight)
    assert all(value.isfinite().all() for value in net.state_dict().values())


def test_fit__nan_in_vectors_raises():
    x = vectors()
    x[17, 3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        fit(model(), x, straight)


def test_fit__without_starts_raises():
    with pytest.raises(ValueError, match="expected starts for the objective 'ranking'"):
        fit(model(), vectors(), None)


def test_fit__starts_for_another_objective_raise():
    net = new_model((D,), M, NBITS, ModelConfig(encoder="mlp"))
    with pytest.raises(ValueError, match="expected no starts for the objective 'reconstruction'"):
        fit(net, vectors(), straight, settings=Reconstruction())


@pytest.mark.parametrize(
    ("shape", "networks"),
    [
        ((D,), {"encoder": "mlp"}),
        ((D,), {"decoder": "mlp"}),
        ((1, 4, 4), {"encoder": "linear"}),
    ],
    ids=str,
)
def test_networks__other_ones_and_images_raise(shape, networks):
    with pytest.raises(ValueError, match="expected vectors and a linear encoder and decoder"):
        Ranking().networks(ModelConfig(**networks), shape)


def test_fit__views_and_a_pretrained_model_raise():
    with pytest.raises(ValueError, match="expected no views for the objective 'ranking'"):
        fit(model(), vectors(), straight, replace(TRAINING, views=Views(noise=0.1)))
    trained = model()
    fit(trained, vectors(), straight)
    with pytest.raises(ValueError, match="expected no pretrained model"):
        fit(model(), vectors(), straight, pretrained=trained)


@pytest.mark.parametrize(
    "wrong",
    [{"items": 1}, {"anchors": 0}, {"rounds": -1}, {"temperature": 0.0}, {"lr": math.nan}],
    ids=str,
)
def test_ranking__rejects(wrong):
    with pytest.raises(ValueError, match="expected"):
        Ranking(**wrong)


# -- behind coarse centroids


@pytest.mark.parametrize(
    ("metric", "config"), [("l2", {}), ("inner_product", {"unit_latents": True})]
)
def test_fit__behind_coarse_centroids_takes_the_best_start_as_it_is(metric, config):
    net, x, coarse = model(metric, **config), vectors(), Coarse()
    start, end = fit(net, x, starts, coarse=coarse)  # no epoch between
    assert net.spec.by_residual
    assert list(start["validation_recall@10"])[:2] == ["straight", "mixed"]
    assert end["step"] == 0
    highest = max(start["validation_recall@10"].values())
    assert end["validation_loss"] == pytest.approx(1 - highest)
    # The recall that chose is the one of centroid and codewords together, among whole vectors.
    fraction, device = TRAINING.validation_fraction, torch.device("cpu")
    items = Items(x, (D,), validation_fraction=fraction, seed=TRAINING.seed, device=device)
    train, held = items.train_rows, items.validation_rows
    if config:
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    with torch.no_grad():
        z = net.encode(torch.from_numpy(x)).numpy()
        centroids = net.encode_centroids(torch.from_numpy(coarse.centroids)).numpy()
    if metric == "l2":
        lists = ((x[:, None] - coarse.centroids) ** 2).sum(-1).argmin(1)
        truth = ((x[held][:, None] - x[train]) ** 2).sum(-1).argmin(1)
    else:
        lists, truth = (x @ coarse.centroids.T).argmax(1), (x[held] @ x[train].T).argmax(1)
    codewords = net.codebooks().centroids
    residuals = (z - centroids[lists]).reshape(len(x), M, 1, -1)
    codes = ((residuals - codewords) ** 2).sum(-1).argmin(-1)
    stored = codewords[np.arange(M), codes].reshape(z.shape) + centroids[lists]
    distances = -z[held] @ stored[train].T
    if metric == "l2":
        distances = ((z[held][:, None] - stored[train]) ** 2).sum(-1)
    own = distances[np.arange(len(held)), truth][:, None]
    rank = (distances < own - 1e-4).sum(1)
    assert highest == pytest.approx((rank < 10).mean(), abs=0.03)  # but for ties


def test_fit__behind_coarse_centroids_codes_less_than_without():
    x, errors = vectors(), []
    for coarse in (Coarse(), None):
        net = model()
        fit(net, x, straight, replace(TRAINING, epochs=1), replace(SMALL, lr=0.0), coarse=coarse)
        taken_off = np.zeros_like(x)
        if coarse is not None:
            lists = ((x[:, None] - coarse.centroids) ** 2).sum(-1).argmin(1)
            taken_off = coarse.centroids[lists]
        with torch.no_grad():
            z = net.encode(torch.from_numpy(x - taken_off))
            errors.append(float(net.quantizer(z).commitment_loss))
    assert errors[0] < errors[1]


def test_fit__behind_coarse_centroids_ends_before_its_budget():
    budget = replace(TRAINING, budget_minutes=1.0)
    *_, end = fit(model(), vectors(), straight, budget, coarse=Coarse())
    assert (end["step"], end["stopped_early"]) == (0, False)
    assert end["elapsed_s"] < 30


def test_fit__other_coarse_centroids_are_refused_in_a_folder(tmp_path):
    fit(model(), vectors(), straight, folder=tmp_path, coarse=Coarse())
    other = Coarse()
    other.settings = "others"
    for wrong in (other, None):
        with pytest.raises(ValueError, match="what is learned from besides the items"):
            fit(model(), vectors(), straight, folder=tmp_path, coarse=wrong)
    assert fit(model(), vectors(), straight, folder=tmp_path, coarse=Coarse())[-1]["step"] == 0


def test_fit__an_objective_of_whole_items_takes_no_coarse_centroids():
    net = new_model((D,), M, NBITS, objective="reconstruction")
    with pytest.raises(ValueError, match="expected no coarse for the objective 'reconstruction'"):
        fit_any(net, vectors(), TRAINING, coarse=Coarse())


def asked(n=120, seed=7):
    """Queries that are not like the items: short, and beside them."""
    return 0.4 * vectors(n, seed) + 6


def few_rounds(monkeypatch, convincing):
    """Learning in few rounds, that many standard errors have to confirm."""
    monkeypatch.setattr(query_map, "_ROUNDS", 2)
    monkeypatch.setattr(query_map, "_CONVINCING", convincing)


@pytest.mark.parametrize("metric", ["l2", "inner_product"])
@pytest.mark.parametrize("unit", [False, True])
def test_fit__queries_change_nothing_of_the_codes(monkeypatch, metric, unit):
    few_rounds(monkeypatch, math.inf)
    nets = [model(metric, unit_latents=unit) for _ in range(2)]
    histories = [
        fit(net, vectors(), straight, queries=queries)
        for net, queries in zip(nets, (None, asked()), strict=True)
    ]
    found = histories[1][-1].pop("queries")
    assert timeless(histories[0]) == timeless(histories[1])
    assert (found["queries"], found["held_out"], found["kept"]) == (84, 36, False)
    for name, value in nets[0].state_dict().items():
        assert torch.equal(nets[1].state_dict()[name], value), name


def test_fit__queries_that_find_more_by_a_map_get_it(monkeypatch):
    few_rounds(monkeypatch, 2.0)
    net = model()
    x, training = vectors(2000), replace(TRAINING, epochs=1)
    found = fit(net, x, straight, training, queries=asked(600))[-1]["queries"]
    assert found["kept"]
    assert found["held_out_recall@10"]["with"] > found["held_out_recall@10"]["without"] + 0.02
    more = torch.from_numpy(asked(500, seed=8))
    stored = net.quantize(torch.from_numpy(x)).z_q
    truth = torch.cdist(more, torch.from_numpy(x)).argmin(1, keepdim=True)

    def recall(z):
        return float((torch.cdist(z, stored).topk(10, largest=False)[1] == truth).float().sum())

    assert recall(net.encode_queries(more)) > recall(net.encode(more)) + 0.02 * len(more)
    fit(net, x[:100], straight, training)  # anew, without queries
    assert net.query_map is None


def test_fit__learns_the_map_of_queries_again_after_an_interruption(monkeypatch, tmp_path):
    few_rounds(monkeypatch, 0.0)

    def train(net, queries=None, **options):
        queries = asked(600) if queries is None else queries
        return fit(net, vectors(1000), straight, queries=queries, **options)

    whole = model()
    expected = train(whole)
    assert whole.query_map is not None

    def interrupted(*_, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ranking, "learn_query_map", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(model(), folder=tmp_path)
    for _ in range(2):  # goes on; reads what is finished
        resumed = model()
        history = train(resumed, folder=tmp_path)
        assert timeless(history) == timeless(expected)
        assert whole.state_dict().keys() == resumed.state_dict().keys()
        for name, value in whole.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], value), name
    with pytest.raises(ValueError, match=r"other settings or data \(what is learned from"):
        train(model(), asked(600, seed=9), folder=tmp_path)
    with pytest.raises(ValueError, match=r"other settings or data \(what is learned from"):
        fit(model(), vectors(1000), straight, folder=tmp_path)


def test_fit__refuses_queries_that_are_none():
    with pytest.raises(ValueError, match="expected at least 40 training queries"):
        fit(model(), vectors(), straight, queries=asked(39))
    with pytest.raises(ValueError, match=r"expected training queries of shape \(n, 8\)"):
        fit(model(), vectors(), straight, queries=asked()[:, 1:])
    queries = asked()
    queries[5] = np.inf
    with pytest.raises(ValueError, match="finite training queries, got NaN or infinity in row 5"):
        fit(model(), vectors(), straight, queries=queries)
    net = new_model((D,), M, NBITS, ModelConfig(encoder="mlp"))
    with pytest.raises(ValueError, match="expected no queries for the objective 'reconstruction'"):
        fit(net, vectors(), None, settings=Reconstruction(), queries=asked())
