"""What a training begins with: a device, fresh weights or another model's, a precision."""

import functools

import pytest
import torch
from blobs import SHAPE, images
from torch import nn

from faiss_pqvae.model.backbone import Backbone
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.training import Contrastive, TrainingConfig, Views, fit, new_model
from faiss_pqvae.training.device import choose_device, faster_precision, reset_parameters

NETWORK = {"encoder": "mlp", "width": 16, "dsub": 4}


def model(shape=SHAPE, M=2, **changes):
    settings = ModelConfig(**{**NETWORK, **changes})
    return new_model(shape, M, 3, settings, objective="contrastive")


def config(**changes):
    settings = {"epochs": 4, "batch_size": 16, "precision": "float32", "lr": 0.01}
    return TrainingConfig(**{**settings, "views": Views(shift=0.1, color=0.3), **changes})


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(module, state):
    return all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_choose_device__rejects_what_is_not_there():
    with pytest.raises(ValueError, match="expected a device"):
        choose_device("toaster")
    if not torch.cuda.is_available():
        assert choose_device("auto") == torch.device("cpu")
        with pytest.raises(ValueError, match="no CUDA"):
            choose_device("cuda")


def test_faster_precision__measures_and_changes_nothing():
    net = model()
    reset_parameters(net, 0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert faster_precision(net, torch.from_numpy(images(16))) in ("float32", "bfloat16")
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


# -- fresh weights


def given_network():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6))


@pytest.mark.parametrize("given", ["encoder", "decoder", "both", "neither"])
def test_reset_parameters__keeps_what_was_handed_in_and_draws_ours_anew(given):
    torch.manual_seed(5)
    networks = {
        "encoder": Backbone(given_network()),
        "decoder": nn.Sequential(nn.Linear(8, 64), nn.Unflatten(1, SHAPE)),
    }
    handed_in = {name: value for name, value in networks.items() if given in (name, "both")}
    net = new_model(SHAPE, 2, 3, ModelConfig(**NETWORK), **handed_in)
    net.fitted.fill_(True)
    kept = {name: state_of(network) for name, network in handed_in.items()}
    before = state_of(net)
    reset_parameters(net, 0)
    assert all(same(network, kept[name]) for name, network in handed_in.items())
    ours = [name for name in before if not name.startswith(("quantizer", "latent_norm"))]
    for name in ours:
        if name.endswith("map.weight") or (name.endswith("weight") and given == "neither"):
            assert not torch.equal(net.state_dict()[name], before[name]), name
    assert not net.is_trained
    first = state_of(net)
    reset_parameters(net, 0)
    assert same(net, first)


def test_reset_parameters__leaves_the_global_randomness_alone():
    net = model()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    reset_parameters(net, 7)
    assert torch.equal(torch.rand(3), expected)


# -- another model's weights


@functools.cache
def trained_encoder(temperature=0.5):
    """A model that no test may change."""
    net = model()
    fit(net, images(400), config(epochs=10), objective=Contrastive(temperature=temperature))
    return net


def test_fit__pretrained_encoder_is_where_another_code_length_begins():
    before = trained_encoder()
    longer = model(M=4)
    still = config(epochs=1, lr=0.0, weight_decay=0.0, views=Views(shift=0.1))
    fit(longer, images(400), still, pretrained=before)
    for name, value in before.encoder.state_dict().items():
        same = torch.equal(longer.encoder.state_dict()[name], value)
        last = name.startswith("layers.5")
        assert same != last, name
    assert longer.is_trained


def test_fit__pretrained_learns_faster():
    before, settings = trained_encoder(), config(epochs=1)
    fresh, begun = model(), model()
    losses = [
        fit(net, images(400), settings, pretrained=pretrained)[1]["validation_loss"]
        for net, pretrained in ((fresh, None), (begun, before))
    ]
    assert losses[1] < losses[0]


def test_fit__another_pretrained_model_is_another_training(tmp_path):
    first, second = trained_encoder(), trained_encoder(temperature=0.3)
    settings = config(epochs=1)
    history = fit(model(), images(), settings, folder=tmp_path, pretrained=first)
    again = fit(model(), images(), settings, folder=tmp_path, pretrained=first)
    assert again == history
    for other in (second, None):
        with pytest.raises(ValueError, match="other settings or data"):
            fit(model(), images(), settings, folder=tmp_path, pretrained=other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 8}, "expected a model with width=16 to start from, got 8"),
        ({"encoder": "linear"}, "expected a model with encoder='mlp'"),
        ({"standardize": False}, "expected a model with standardize=True"),
    ],
)
def test_fit__rejects_a_pretrained_model_that_does_not_fit(changes, message):
    other = model(**changes)
    other.fitted.fill_(True)
    with pytest.raises(ValueError, match=message):
        fit(model(), images(), config(), pretrained=other)


def test_fit__rejects_a_pretrained_model_of_other_items_or_none():
    with pytest.raises(ValueError, match="untrained"):
        fit(model(), images(), config(), pretrained=model())
    other = model((1, 9, 9))
    other.fitted.fill_(True)
    with pytest.raises(ValueError, match=r"items of shape \(1, 8, 8\) to start from"):
        fit(model(), images(), config(), pretrained=other)
