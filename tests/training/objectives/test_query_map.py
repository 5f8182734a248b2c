"""A map of queries: learned where codes mislead them, kept where those held out confirm it."""

import math

import pytest
import torch

from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.training import new_model
from faiss_pqvae.training.data.queries import Queries
from faiss_pqvae.training.objectives import query_map
from faiss_pqvae.training.objectives.query_map import Compared, learn_query_map

D = 6


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(query_map, "_POOL", 30)
    monkeypatch.setattr(query_map, "_STEPS", 12)


@pytest.fixture
def items():
    return torch.randn(500, D, generator=generator(1)) + 3


@pytest.fixture
def queries(items):
    x = items[:300] + 0.1 * torch.randn(300, D, generator=generator(2))
    return Queries(x[:200], x[200:], "key")


@pytest.fixture
def model():
    found = new_model((D,), 3, 4, ModelConfig(), objective="ranking")
    found.mean.fill_(1.0)  # the map is about it
    return found


def learned(model, queries, compared):
    return learn_query_map(model, queries, compared, generator=generator(), progress=False)


def mislead(items):
    """What codes stand for, all of it beside the items, nearer to each other."""
    return 0.8 * (items - 3) + 3.5


@pytest.mark.parametrize("metric", ["l2", "inner_product"])
def test_learn_query_map__finds_what_codes_hide(model, items, queries, metric):
    if metric == "inner_product":
        items = items - 3
        queries = Queries(queries.train - 3, queries.held_out - 3, "key")
        stored = items @ torch.diag(torch.tensor([0.5, 1, 1, 1, 1, 2.0]))
    else:
        stored = mislead(items)
    compared = Compared(items, stored, lambda x: x, metric)
    found = learned(model, queries, compared)
    assert found["kept"]
    assert found["gain_in_standard_errors"] >= 2
    assert (found["queries"], found["held_out"]) == (200, 100)
    truth, _ = compared.nearest_items(queries.held_out, 1)
    with torch.no_grad():  # the model's map is the one that was measured
        hits = compared.found(model.map_queries(queries.held_out), truth).mean(0).tolist()
    for at, hit in zip((1, 10), hits, strict=True):
        recall = found[f"held_out_recall@{at}"]
        assert recall["with"] == pytest.approx(hit, abs=0.011)  # one that rounds otherwise
        assert recall["with"] >= recall["without"]
    assert found["held_out_recall@1"]["with"] > found["held_out_recall@1"]["without"] + 0.04


def test_learn_query_map__that_does_not_help_is_not_kept(model, items, queries):
    found = learned(model, queries, Compared(items, items, lambda x: x, "l2"))
    assert not found["kept"]
    assert model.query_map is None
    assert found["held_out_recall@1"] == {"without": 1.0, "with": 1.0}


def test_learn_query_map__what_only_those_to_learn_from_confirm_is_not_kept(model, items, queries):
    """Those that are held out are like the codes: every map is worse."""
    held_out = items[300:400]
    compared = Compared(
        torch.cat([items, mislead(items)]), torch.cat([items, items]), lambda x: x, "l2"
    )
    found = learned(model, Queries(queries.train + 0.5, held_out, "key"), compared)
    assert not found["kept"]
    assert model.query_map is None


def test_learn_query_map__same_seed_same_map(items, queries):
    maps = []
    for seed in (0, 0, 1):
        model = new_model((D,), 3, 4, ModelConfig(), objective="ranking")
        compared = Compared(items, mislead(items), lambda x: x, "l2")
        learn_query_map(model, queries, compared, generator=generator(seed), progress=False)
        maps.append(model.query_map.weight)
    assert torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[0], maps[2])


@pytest.mark.parametrize("n_items", [2, 12])
def test_learn_query_map__of_few_or_equal_items_stays_finite(model, queries, n_items):
    items = torch.full((n_items, D), 1e3)
    items[1] += 1
    found = learned(model, queries, Compared(items, items, lambda x: x, "l2"))
    assert math.isfinite(found["gain_in_standard_errors"])
    assert not found["kept"]
