"""Networks that were handed in: what they see, what they give, and whether they learn along."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from faiss_pqvae.model.backbone import Backbone
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.networks import Headed
from faiss_pqvae.model.pqvae import PQVAE

SHAPE = (3, 8, 8)


class Sees(nn.Module):
    """Keeps what it was called with, and gives it back."""

    def forward(self, x):
        self.seen = x
        return x


class Gives(nn.Module):
    """Gives what it was told to."""

    def __init__(self, give):
        super().__init__()
        self.give = give

    def forward(self, x):
        return self.give(x)


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())


# -- what it sees


def test_prepare__uint8_images_are_floats_in_0_1(make_items) -> None:
    x = torch.from_numpy(make_items(4, SHAPE))
    backbone = Backbone(Sees())
    backbone(x)
    torch.testing.assert_close(backbone.module.seen, x.float() / 255)
    assert torch.equal(backbone.prepare(x.float() / 255), backbone.prepare(x))
    vectors = torch.arange(6, dtype=torch.uint8).view(2, 3)
    assert torch.equal(backbone.prepare(vectors), vectors.float())


def test_prepare__size(make_items) -> None:
    x = torch.from_numpy(make_items(4, SHAPE))
    found = Backbone(Sees(), size=(16, 4)).prepare(x)
    expected = functional.interpolate(
        x.float() / 255, size=(16, 4), mode="bilinear", antialias=True, align_corners=False
    )
    torch.testing.assert_close(found, expected)
    assert Backbone(Sees(), size=5).size == (5, 5)
    assert torch.equal(Backbone(Sees(), size=8).prepare(x), x.float() / 255)


def test_prepare__mean_and_deviation_of_channels_and_of_dimensions(make_items) -> None:
    x = torch.from_numpy(make_items(4, SHAPE))
    found = Backbone(Sees(), mean=(0.1, 0.2, 0.3), deviation=(1, 2, 4)).prepare(x)
    expected = (x.numpy() / 255 - np.array([0.1, 0.2, 0.3]).reshape(3, 1, 1)) / np.array(
        [1, 2, 4]
    ).reshape(3, 1, 1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    vectors = torch.ones(2, 3)
    found = Backbone(Sees(), mean=(0.0, 1.0, 2.0), deviation=2.0).prepare(vectors)
    assert found.tolist() == [[0.5, 0.0, -0.5]] * 2


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"size": 0}, ValueError, "size"),
        ({"size": (3, 4, 5)}, ValueError, "size"),
        ({"lr": -1.0}, ValueError, "lr >= 0"),
        ({"lr": float("nan")}, ValueError, "lr >= 0"),
        ({"mean": float("inf")}, ValueError, "finite numbers as mean"),
        ({"mean": ()}, ValueError, "finite numbers as mean"),
        ({"deviation": 0.0}, ValueError, "deviation > 0"),
        ({"deviation": (1.0, -1.0)}, ValueError, "deviation > 0"),
    ],
    ids=str,
)
def test_backbone__rejects(wrong, error, message) -> None:
    with pytest.raises(error, match=message):
        Backbone(network(), **wrong)


def test_backbone__is_a_module() -> None:
    with pytest.raises(TypeError, match=r"expected a torch.nn.Module, got function"):
        Backbone(lambda x: x)


# -- what it gives


@pytest.mark.parametrize("features", [(7,), (7, 1, 1), (2, 3, 5)], ids=str)
def test_features__of_any_shape_are_flattened(features) -> None:
    backbone = Backbone(Gives(lambda x: torch.ones(len(x), *features, dtype=torch.float64)))
    n = int(np.prod(features))
    assert backbone(torch.zeros(4, *SHAPE)).shape == (4, n)
    assert backbone(torch.zeros(4, *SHAPE)).dtype == torch.float32
    assert backbone.features_of(SHAPE) == n


@pytest.mark.parametrize(
    "give",
    [
        lambda x: x.flatten(),
        lambda x: x[:1],
        lambda x: (x, x),
        lambda x: {"features": x},
        lambda x: None,
    ],
    ids=["one row", "too few rows", "tuple", "dict", "nothing"],
)
def test_features__that_are_no_tensor_with_a_row_an_item(give) -> None:
    with pytest.raises(ValueError, match=r"an encoder that gives a tensor \(2, ...\)"):
        Backbone(Gives(give)).features_of(SHAPE)


def test_features_of__says_what_the_network_said_of_items_that_it_cannot_take() -> None:
    with pytest.raises(ValueError, match=r"items of shape \(1, 8, 8\), but .*Sequential cannot"):
        Backbone(network()).features_of((1, 8, 8))
    with pytest.raises(ValueError, match=r"my.package:net cannot take them"):
        Backbone(nn.Linear(3, 2), reference="my.package:net").features_of((5,))


def test_features_of__leaves_no_trace() -> None:
    backbone = Backbone(network()).train()
    before = backbone.fingerprint()
    assert backbone.features_of(SHAPE) == 4 * 6 * 6
    assert backbone.fingerprint() == before
    assert backbone.training
    assert backbone.module.training


# -- frozen, or learning along


def test_frozen__keeps_the_modes_of_its_owners_network() -> None:
    frozen = Backbone(network().eval(), trainable=False)
    whole = nn.Sequential(frozen, nn.Linear(4 * 6 * 6, 2))
    whole.train()
    assert whole.training
    assert not any(module.training for module in frozen.modules())
    assert all(p.requires_grad for p in frozen.parameters())
    with pytest.raises(AttributeError):
        frozen.trainable = True


def test_trainable__learns_along(make_items) -> None:
    backbone = Backbone(network()).train()
    assert all(module.training for module in backbone.modules())
    backbone(torch.from_numpy(make_items(4, SHAPE))).square().sum().backward()
    assert all(p.grad is not None for p in backbone.parameters())
    assert not any(module.training for module in backbone.eval().modules())


# -- to know it again


def test_fingerprint__changes_with_one_weight_or_another_mean() -> None:
    known = Backbone(network()).fingerprint()
    assert Backbone(network()).fingerprint() == known
    assert Backbone(network(), lr=0.5, trainable=False, reference="a:b").fingerprint() == known
    for changes in ({"mean": 0.1}, {"deviation": 2.0}, {"size": 9}):
        assert Backbone(network(), **changes).fingerprint() != known
    other = network()
    with torch.no_grad():
        other[0].weight[0, 0, 0, 0] += 1e-6
    assert Backbone(other).fingerprint() != known
    counted = network()
    counted[1].num_batches_tracked += 1
    assert Backbone(counted).fingerprint() != known


def test_record__is_plain_and_names_the_class_or_what_it_was_told() -> None:
    record = Backbone(network(), size=9, mean=(0.1, 0.2, 0.3)).record()
    assert json.loads(json.dumps(record)) == record
    assert record["reference"] == "torch.nn.modules.container:Sequential"
    assert (record["size"], record["mean"], record["deviation"]) == ([9, 9], [0.1, 0.2, 0.3], [1.0])
    named = Backbone(network(), reference="timm:create_model", arguments={"name": "vit"}).record()
    assert (named["reference"], named["arguments"]) == ("timm:create_model", {"name": "vit"})


# -- in a model


def test_model__a_matrix_follows_where_features_are_not_latents(make_items) -> None:
    config = ModelConfig(dsub=4, encoder="somebody's")
    model = PQVAE(SHAPE, 2, 4, config, encoder=network())
    assert isinstance(model.encoder, Headed)
    assert model.backbone is model.encoder.backbone
    assert model.handed_in() == [model.backbone]
    assert model.encode(torch.from_numpy(make_items(5, SHAPE))).shape == (5, 8)
    whole = Backbone(nn.Sequential(nn.Flatten(), nn.Linear(192, 8)))
    same = PQVAE(SHAPE, 2, 4, config, encoder=whole)
    assert same.encoder is same.backbone is whole


def test_model__takes_no_frozen_network() -> None:
    with pytest.raises(ValueError, match="expected an encoder that learns along"):
        PQVAE(SHAPE, 2, 4, encoder=Backbone(network(), trainable=False))


def test_model__our_networks_are_not_handed_in() -> None:
    model = PQVAE(SHAPE, 2, 4, ModelConfig(width=4))
    assert model.backbone is None
    assert model.handed_in() == []


def test_model__a_decoder_of_somebodys() -> None:
    decoder = nn.Sequential(nn.Linear(8, 192), nn.Unflatten(1, SHAPE))
    model = PQVAE(SHAPE, 2, 4, ModelConfig(dsub=4, width=4), decoder=decoder)
    assert model.decoder is decoder
    assert model.handed_in() == [decoder]
    assert model.decode(torch.zeros(3, 8)).shape == (3, *SHAPE)


@pytest.mark.parametrize(
    ("decoder", "error", "message"),
    [
        (nn.Linear(8, 7), ValueError, r"a decoder to items of shape \(3, 8, 8\), got \(7,\)"),
        (nn.Linear(9, 192), ValueError, "a decoder of latents with 8 dimensions, but Linear"),
        (Gives(lambda x: (x, x)), ValueError, "a decoder to items of shape"),
        (len, TypeError, "expected a torch.nn.Module as decoder, got builtin"),
    ],
    ids=["other items", "other latents", "no tensor", "no module"],
)
def test_model__rejects_a_decoder_of_other_shapes(decoder, error, message) -> None:
    with pytest.raises(error, match=message):
        PQVAE(SHAPE, 2, 4, ModelConfig(dsub=4, width=4), decoder=decoder)
