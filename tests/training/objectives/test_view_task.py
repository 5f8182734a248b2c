"""What trainings on views have in common: sizes of views, and which weights learn how fast."""

import pytest
import torch
from blobs import SHAPE, images
from torch import nn

from faiss_pqvae.model.backbone import Backbone
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.training import Contrastive, Reconstruction, TrainingConfig, Views, fit, new_model
from faiss_pqvae.training.objectives.protocol import Way
from faiss_pqvae.training.objectives.view_task import groups_of, view_size

RECONSTRUCTION = Reconstruction(warmup_steps=5)


def model(objective="contrastive", **changes):
    settings = {"encoder": "mlp", "width": 4, "dsub": 4, **changes}
    return new_model(SHAPE, 2, 3, ModelConfig(**settings), objective=objective)


def config(**changes):
    return TrainingConfig(
        **{"epochs": 4, "batch_size": 16, "precision": "float32", "lr": 0.01, **changes}
    )


# -- small views


def test_view_size__is_five_eighths_at_first():
    assert view_size(0.5, (3, 32, 48), Way(0, 10)) == (20, 30)
    assert view_size(0.5, (3, 32, 48), Way(4.9, 10)) == (20, 30)
    assert view_size(0.5, (3, 32, 48), Way(5, 10)) is None
    assert view_size(0.0, (3, 32, 48), Way(0, 10)) is None
    assert view_size(1.0, (1, 1, 1), Way(0, 10)) == (1, 1)


def test_fit__small_views_first_and_the_images_size_after(monkeypatch):
    seen = []
    encode = PQVAE.encode

    def spy(self, x):
        if self.training and torch.is_grad_enabled():
            seen.append(tuple(x.shape[2:]))
        return encode(self, x)

    monkeypatch.setattr(PQVAE, "encode", spy)
    settings = config(views=Views(shift=0.1, color=0.3))
    objective = Contrastive(small_views=0.5)
    history = fit(model(encoder="resnet"), images(), settings, objective=objective)
    assert seen == [(5, 5)] * (len(seen) // 2) + [(8, 8)] * (len(seen) // 2)
    assert history[0]["objective"]["small_views"] == 0.5
    assert history[-1]["best_epoch"] >= 2  # of the four; the first two saw small views


@pytest.mark.parametrize(
    ("encoder", "expected"), [("resnet", 0.7), ("resnet18", 0.7), ("mlp", 0.0), ("conv", 0.0)]
)
def test_settled__small_views_are_for_residual_encoders(encoder, expected):
    net = model(encoder=encoder)
    assert Contrastive().settled(net, config())[0].small_views == expected
    if not expected:
        with pytest.raises(ValueError, match="expected small_views with"):
            Contrastive(small_views=0.5).settled(net, config())


def test_fit__a_reconstruction_has_no_small_views():
    seen = []
    net = model("reconstruction", encoder="resnet")
    net.encoder.register_forward_pre_hook(lambda _, x: seen.append(tuple(x[0].shape[2:])))
    fit(net, images(), config(epochs=1), objective=RECONSTRUCTION)
    assert set(seen) == {(8, 8)}


# -- learning rates


def pretrained(features=6):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, features))


def finetuned(lr, objective=RECONSTRUCTION, features=6):
    """A network before and after a training that it learns along in."""
    network = pretrained(features)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    net = new_model(
        SHAPE, 2, 3, ModelConfig(dsub=4), objective=objective, encoder=Backbone(network, lr=lr)
    )
    history = fit(net, images(), config(), objective=objective)
    return before, net, history


@pytest.mark.parametrize("features", [6, 8], ids=["matrix follows", "as many as the latents have"])
@pytest.mark.parametrize(
    "objective", [RECONSTRUCTION, Contrastive()], ids=lambda o: o.code + o.title
)
def test_fit__a_backbone_that_learns_along_is_close_to_what_it_was(objective, features):
    before, net, history = finetuned(1e-4, objective, features)
    after = net.backbone.module.state_dict()
    for name, value in before.items():
        assert not torch.equal(after[name], value), name
        assert (after[name] - value).abs().max() < 0.01, name
    assert history[-1]["event"] == "end"
    assert net.is_trained


def test_fit__a_backbone_of_lr_0_stays_bit_for_bit():
    before, net, history = finetuned(0.0)
    after = net.backbone.module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert history[-2]["loss"] < history[1]["loss"]  # the matrix behind it learned


def test_fit__what_a_backbone_sees_is_not_standardised():
    seen = []
    network = pretrained()
    net = new_model(SHAPE, 2, 3, ModelConfig(dsub=4), encoder=Backbone(network))
    network.register_forward_pre_hook(lambda _, x: seen.append(x[0].detach()))
    fit(net, images(), config(epochs=1, views=Views()), objective=RECONSTRUCTION)
    everything = torch.cat(seen)
    assert everything.min() >= 0
    assert 0.5 < everything.max() <= 1


def test_groups__a_backbone_has_its_own_rate_and_all_learn_once():
    backbone = Backbone(pretrained(), lr=1e-5)
    net = new_model(SHAPE, 2, 3, ModelConfig(dsub=4), objective="contrastive", encoder=backbone)
    groups = groups_of(net, config(lr=1e-3), own_rate=True)
    rest, codewords, own = groups
    assert "highest" not in rest
    assert [id(p) for p in codewords["params"]] == [id(net.quantizer.codewords)]
    assert codewords["highest"] == pytest.approx(1e-3 * 8**-0.5)
    assert own["highest"] == 1e-5
    assert own["weight_decay"] == 0
    assert {id(p) for p in own["params"]} == {id(p) for p in backbone.parameters()}
    learning = [id(p) for group in groups for p in group["params"]]
    assert len(learning) == len(set(learning))
    assert set(learning) == {id(p) for p in net.parameters()}


def test_groups__frozen_parts_of_a_backbone_are_left_out():
    network = pretrained()
    network[1].requires_grad_(False)
    net = new_model(SHAPE, 2, 3, ModelConfig(dsub=4), encoder=Backbone(network))
    own = groups_of(net, config(lr=1e-3), own_rate=False)[-1]
    assert {id(p) for p in own["params"]} == {id(p) for p in network[3].parameters()}


def test_groups__without_a_backbone_there_is_one():
    net = model("reconstruction")
    (group,) = groups_of(net, config(lr=1e-3), own_rate=False)
    assert {id(p) for p in group["params"]} == {id(p) for p in net.parameters()}


def test_fit__a_decoder_that_was_handed_in_learns_from_its_own_weights():
    decoder = nn.Sequential(nn.Linear(8, 64), nn.Unflatten(1, SHAPE))
    before = decoder[0].weight.detach().clone()
    net = new_model(SHAPE, 2, 3, ModelConfig(encoder="mlp", width=8, dsub=4), decoder=decoder)
    fit(net, images(), config(epochs=1, lr=1e-4), objective=RECONSTRUCTION)
    change = (decoder[0].weight.detach() - before).abs().max()
    assert 0 < change < 0.01
