"""Objectives by name, and models for what they shall learn."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from torch import nn

from faiss_pqvae.model.backbone import Backbone
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.spec import CodeSpec
from faiss_pqvae.registry import objectives
from faiss_pqvae.training import DPQ, DQN, Contrastive, Ranking, Reconstruction, fit, new_model
from faiss_pqvae.training.build import checked, objective_for, resolved_objective

LINEAR, MLP = ModelConfig(encoder="linear"), ModelConfig(encoder="mlp")


@dataclass(frozen=True)
class Toy(Reconstruction):
    """Somebody's objective, with a code and a setting of its own."""

    code: ClassVar[str] = "TOY"
    learns_from: ClassVar[tuple[str, ...]] = ("prices",)

    strength: float = 1.0

    def check(self, n, given):
        """Prices, one an item."""
        prices = given.get("prices")
        if prices is None or len(prices) != n:
            raise ValueError(f"expected {n} prices")
        return {"prices": prices}


class Settings:
    """All of an objective but that it is a dataclass."""

    title, code, learns_from = "S", "S", ()
    spec = networks = check = settled = task = None


@pytest.fixture
def toy(register):
    """The toy by name, for one test."""
    register(objectives, "toy", Toy)


# -- resolved_objective


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (None, Reconstruction()),
        ("reconstruction", Reconstruction()),
        ("contrastive", Contrastive()),
        ("ranking", Ranking()),
        ("dqn", DQN()),
        ("dpq", DPQ()),
        (DPQ, DPQ()),
        (Contrastive(temperature=0.3), Contrastive(temperature=0.3)),
        ("faiss_pqvae.training.objectives.dqn:DQN", DQN()),
        (Toy(strength=2.0), Toy(strength=2.0)),
    ],
    ids=str,
)
def test_resolved_objective__takes_names_references_classes_and_objects(key, expected):
    assert resolved_objective(key) == expected


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        ("qqq", ValueError, "'contrastive', 'dpq'.*got 'qqq'|got 'qqq'"),
        ("nowhere.at.all:Thing", ValueError, "nowhere"),
        (3, TypeError, "int lacks title, code"),
        (object, TypeError, "object lacks"),
        (replace, TypeError, "function lacks"),
        (Settings(), TypeError, "a dataclass of its settings, got Settings"),
        (Settings, TypeError, "a dataclass of its settings, got Settings"),
    ],
)
def test_resolved_objective__says_what_is_wrong(key, error, message):
    with pytest.raises(error, match=message):
        resolved_objective(key)


# -- objective_for


@pytest.mark.parametrize(
    ("code", "config", "shape", "name"),
    [
        ("PQVAE", ModelConfig(), (12,), "ranking"),
        ("PQVAE", LINEAR, (12,), "ranking"),
        ("PQVAE", MLP, (12,), "reconstruction"),
        ("PQVAE", ModelConfig(decoder="mlp"), (12,), "reconstruction"),
        ("PQVAE", ModelConfig(), (3, 8, 8), "reconstruction"),
        ("PQVAE", LINEAR, (3, 8, 8), "reconstruction"),
        ("DQN", ModelConfig(), (12,), "dqn"),
        ("DPQ", ModelConfig(), (3, 8, 8), "dpq"),
    ],
)
def test_objective_for__codes_and_items(code, config, shape, name):
    assert objective_for(code, config, shape) == name


@pytest.mark.parametrize(
    ("codes", "config", "shape", "name"),
    [
        ("sums", ModelConfig(), (12,), "additive"),
        ("decoded", ModelConfig(), (12,), "synthesis"),
        ("sums", ModelConfig(dsub=3), (12,), "ranking"),
        ("sums", MLP, (12,), "reconstruction"),
        ("decoded", MLP, (12,), "reconstruction"),
        ("sums", ModelConfig(), (3, 8, 8), "reconstruction"),
    ],
)
def test_objective_for__what_is_stored_of_vectors(codes, config, shape, name):
    assert objective_for("PQVAE", config, shape, codes=codes) == name


def test_objective_for__somebodys_code(toy):
    assert objective_for("TOY", ModelConfig(), (12,)) == "toy"
    with pytest.raises(ValueError, match="no objective has codes that are called QQ"):
        objective_for("QQ", ModelConfig(), (12,))


# -- new_model


@pytest.mark.parametrize("objective", ["reconstruction", "contrastive", "ranking", "dqn", "dpq"])
def test_new_model__records_the_objectives_name_and_has_its_spec(objective):
    model = new_model((12,), 2, 3, objective=objective)
    assert model.config.objective == objective
    found = resolved_objective(objective)
    assert model.spec == found.spec(unit=False, metric=None)
    assert new_model((12,), 2, 3, objective=found).config == model.config
    named = ModelConfig(objective=objective)
    assert new_model((12,), 2, 3, named).config == model.config


def test_new_model__an_objective_goes_before_the_configurations():
    model = new_model((12,), 2, 3, ModelConfig(objective="dpq"), objective="dqn")
    assert model.config.objective == "dqn"
    assert model.spec.name == "DQN"


def test_new_model__a_foreign_objective_is_known_by_its_reference(toy):
    assert new_model((12,), 2, 3, MLP, objective=Toy()).config.objective == "toy"
    model = new_model((12,), 2, 3, MLP, objective=Settled())
    assert model.config.objective == f"{__name__}:Settled"


@dataclass(frozen=True)
class Settled(Reconstruction):
    """An objective without a name."""


@pytest.mark.parametrize(
    ("settings", "metric", "expected"),
    [
        ({}, None, CodeSpec()),
        ({}, "inner_product", CodeSpec(metric="inner_product")),
        ({"unit_latents": True}, None, CodeSpec(latents="unit")),
    ],
    ids=str,
)
def test_new_model__metric_and_length_are_as_wished(settings, metric, expected):
    assert new_model((12,), 2, 3, ModelConfig(**settings), metric=metric).spec == expected


def test_new_model__refuses_what_the_objective_refuses():
    with pytest.raises(ValueError, match="METRIC_INNER_PRODUCT for DPQ"):
        new_model((12,), 2, 3, objective="dpq", metric="l2")
    with pytest.raises(ValueError, match="expected vectors and a linear encoder"):
        new_model((3, 8, 8), 2, 3, objective="ranking")


@pytest.mark.parametrize("objective", ["reconstruction", "contrastive", "dpq"])
def test_new_model__an_encoder_that_was_handed_in_is_none_of_ours(objective):
    network = nn.Linear(12, 5)
    for encoder in (network, Backbone(network)):
        model = new_model((12,), 2, 3, objective=objective, encoder=encoder)
        assert model.config.encoder == "torch.nn.modules.linear:Linear"
        assert model.config.dsub == (128 if objective == "dpq" else 16)
        assert model.backbone.module is network
    named = ModelConfig(encoder="a.package:net")
    assert new_model((12,), 2, 3, named, encoder=network).config.encoder == "a.package:net"
    with pytest.raises(ValueError, match="expected vectors and a linear encoder"):
        new_model((12,), 2, 3, objective="ranking", encoder=network)


# -- checked


def test_checked__refuses_what_is_not_learned_from():
    with pytest.raises(ValueError, match="no word vectors for the objective 'dqn', got some"):
        checked(DQN(), 3, {"labels": [0, 1, 0], "word_vectors": np.eye(2)})
    with pytest.raises(ValueError, match="no labels for the objective 'contrastive', got some"):
        checked(Contrastive(), 3, {"labels": [0, 1, 0]})
    assert checked(Contrastive(), 3, {"labels": None, "word_vectors": None}) == {}


def test_checked__what_it_returned_goes_through_it_unchanged():
    found = checked(DQN(), 3, {"labels": [0, 1, 0], "word_vectors": None})
    assert checked(DQN(), 3, found)["labels"] is found["labels"]


def test_checked__somebodys_own(toy):
    assert checked(Toy(), 2, {"prices": [3, 4], "labels": None}) == {"prices": [3, 4]}
    with pytest.raises(ValueError, match="expected 2 prices"):
        checked(Toy(), 2, {})
    with pytest.raises(ValueError, match="no labels for the objective 'toy'"):
        checked(Toy(), 2, {"prices": [3, 4], "labels": [0, 1]})


# -- a model for one objective, trained with another


@pytest.mark.parametrize(
    ("made_for", "objective", "message"),
    [
        ("reconstruction", Contrastive(), "expected a model of .*unit parts.* training.new_model"),
        ("reconstruction", "dqn", "expected labels"),
        ("contrastive", Reconstruction(), "expected a model of .*latents='free'"),
    ],
)
def test_fit__a_model_of_other_codes_is_refused(make_items, made_for, objective, message):
    model = new_model((1, 8, 8), 2, 3, MLP, objective=made_for)
    with pytest.raises(ValueError, match=message):
        fit(model, make_items(20), objective=objective)


def test_fit__another_objective_of_the_same_codes_is_taken(make_items):
    model = new_model((12,), 2, 3, objective="ranking")
    assert model.spec == Reconstruction().spec(unit=False, metric=None)
    history = fit(model, make_items(40, (12,)), objective=Reconstruction())
    assert history[0]["objective"]["name"] == "reconstruction"
