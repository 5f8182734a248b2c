"""A network in two: what stays as it is, and its last parts, which learn."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import faiss_pqvae as fpq
from faiss_pqvae.index.front import Front
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.fine_tuned import Parts, in_two, thaw
from faiss_pqvae.model.networks.efficientnet import SamePadded
from faiss_pqvae.training import TrainingConfig

N_PARTS = 4
SHAPE = (3, 8, 8)


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (120, *SHAPE), dtype=np.uint8)


def network() -> nn.Sequential:
    """Three convolutions, one with batch normalisation, and a mean over the picture."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(
            nn.Conv2d(SHAPE[0], 4, 3, padding=1),
            nn.Sequential(nn.Conv2d(4, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU()),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )
        norm = net[1][1]
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return net.eval()


def frozen(net: nn.Module) -> fpq.Backbone:
    return fpq.Backbone(net, trainable=False, mean=0.4, deviation=0.3, lr=1e-2)


def index_of(net, n_learning: int, description: str = "PQVAE4x3", **changes):
    settings = {"epochs": 3, "batch_size": 16, "precision": "float32", **changes}
    return fpq.index_factory(
        SHAPE,
        description,
        encoder=frozen(net),
        model=ModelConfig(fine_tuned=n_learning, dsub=4),
        training=TrainingConfig(**settings),
        objective="contrastive" if description.startswith("PQVAE") else None,
    )


@pytest.mark.parametrize("n_learning", range(2, N_PARTS + 1))
def test_in_two__both_are_the_whole(n_learning: int) -> None:
    whole = frozen(network())
    x = torch.from_numpy(images()[:5])
    first, last = in_two(whole, n_learning, SHAPE)
    assert (first is None) == (n_learning == N_PARTS)
    assert last.trainable
    assert last.lr == whole.lr
    between = x if first is None else first(x)
    torch.testing.assert_close(last(between), whole(x))


def test_in_two__of_another_network_or_of_too_many_parts_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a torch\.nn\.Sequential .* got Linear"):
        in_two(frozen(nn.Linear(3, 3)), 1, (3,))
    with pytest.raises(ValueError, match=r"fine_tuned <= 4, the parts of .*, got 5"):
        in_two(frozen(network()), 5, SHAPE)


def test_in_two__of_what_is_more_than_its_parts_is_refused() -> None:
    class Odd(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 100

    hooked = network()
    hooked.register_forward_hook(lambda module, args, out: out + 1)
    for odd in (Odd(*network()), hooked):
        with pytest.raises(ValueError, match="whose forward is one part after another"):
            in_two(frozen(odd), 2, SHAPE)
    with pytest.raises(ValueError, match="expected weights in the last 1 parts of"):
        in_two(frozen(network()), 1, SHAPE)


def test_index__learns_where_nothing_but_the_parts_does() -> None:
    # As many features as latents have dimensions, so that no matrix follows them.
    index = fpq.index_factory(
        SHAPE,
        "DQN2x3",
        encoder=frozen(network()),
        model=ModelConfig(fine_tuned=2, dsub=4),
        training=TrainingConfig(epochs=2, batch_size=16, precision="float32"),
    )
    index.train(images(), np.arange(120) % 3, progress=False)
    assert index.is_trained


@torch.no_grad()
def test_front__follows_weights_that_their_owner_changes() -> None:
    net = nn.Sequential(
        nn.Sequential(SamePadded(3, 4, 3), nn.BatchNorm2d(4)), nn.AdaptiveAvgPool2d(1)
    ).eval()
    front = Front(fpq.Backbone(net, trainable=False), SHAPE)
    x = torch.from_numpy(images()[:5])
    before = front.apply(x)
    net[0][0].weight.mul_(3)
    front.fingerprint()  # as every training asks for
    wanted = fpq.Backbone(net, trainable=False)(x)
    assert not torch.allclose(before, front.apply(x))
    torch.testing.assert_close(front.apply(x), wanted)


def test_front__that_crops_is_another_one() -> None:
    fronts = [
        Front(fpq.Backbone(network(), trainable=False, size=8, crop=crop), (3, 8, 16))
        for crop in (False, True, True)
    ]
    assert fronts[0] != fronts[1]
    assert fronts[1] == fronts[2]
    with pytest.raises(TypeError, match="expected crop as True or False, got 'no'"):
        fpq.Backbone(network(), size=8, crop="no")  # type: ignore[arg-type]


def test_index__refuses_what_cannot_be_fine_tuned() -> None:
    for encoder in (None, "conv"):
        with pytest.raises(ValueError, match=r"others have trained to fine-tune 2 parts of"):
            fpq.index_factory(SHAPE, "PQVAE4", encoder=encoder, model=ModelConfig(fine_tuned=2))
    with pytest.raises(ValueError, match=r"expected a frozen network to fine-tune the last 2"):
        fpq.index_factory(SHAPE, "PQVAE4", encoder=network(), model=ModelConfig(fine_tuned=2))
    with pytest.raises(ValueError, match=r"no transforms between the parts"):
        index_of(network(), 2, "PCA8,PQVAE4x3")
    with pytest.raises(ValueError, match=r"expected fine_tuned >= 0, got -1"):
        ModelConfig(fine_tuned=-1)


def test_thaw__parts_begin_to_learn_from_the_last_one_on() -> None:
    parts = in_two(frozen(network()), 3, SHAPE).learning
    weights = [next(iter(part.parameters()), None) for part in parts.module]

    def learning(share: float) -> list[bool]:
        thaw(parts, share)
        return [weight.requires_grad for weight in weights if weight is not None]

    assert learning(0.0) == [False, False]
    assert learning(0.4) == [False, True]
    assert learning(0.67) == [True, True]
    assert learning(1.0) == [True, True]
    thaw(None, 0.0)
    thaw(frozen(network()), 0.0)  # of no parts: as it was


def test_parts__keep_the_statistics_of_batches() -> None:
    parts = Parts(None, *network())
    before = copy.deepcopy(parts.state_dict())
    parts.train()
    parts(torch.rand(8, *SHAPE))
    assert all(torch.equal(value, before[name]) for name, value in parts.state_dict().items())


@pytest.mark.parametrize("n_learning", [2, 3, N_PARTS])
@pytest.mark.parametrize("description", ["PQVAE4x3", "DQN4x3", "DPQ3x3"])
def test_index__learns_the_last_parts_and_comes_back(tmp_path, description, n_learning) -> None:
    net = network()
    before = copy.deepcopy(net.state_dict())
    index = index_of(net, n_learning, description)
    x = images()
    labels = None if description.startswith("PQVAE") else np.arange(len(x)) % 3
    index.train(x, labels, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    own = index.model.backbone.module
    assert all(parameter.requires_grad for parameter in own.parameters())
    # What learns has moved, where it has weights at all.
    first = N_PARTS - n_learning
    for number, part in enumerate(own):
        for name, value in part.named_parameters():
            assert not torch.equal(value, before[f"{first + number}.{name}"]), name
        for name, value in part.named_buffers():
            assert torch.equal(value, before[f"{first + number}.{name}"]), name
    index.add(x)
    found = index.search(x[:5], 3)
    fpq.write_index(index, tmp_path / "index")
    again = fpq.read_index(tmp_path / "index", encoder=frozen(network()))
    for one, other in zip(again.search(x[:5], 3), found, strict=True):
        np.testing.assert_array_equal(one, other)
    if n_learning == N_PARTS:
        assert index.front is None
        return
    other = network()
    other[0].weight.data += 1
    with pytest.raises(ValueError, match="is not the one that the codes were learned behind"):
        fpq.read_index(tmp_path / "index", encoder=frozen(other))


def test_index__a_learning_rate_of_zero_leaves_the_parts_as_they_are() -> None:
    net = network()
    index = index_of(net, 3, fine_tuning_lr=0.0)
    index.train(images(), progress=False)
    for name, value in index.model.backbone.module.state_dict().items():
        number, rest = name.split(".", 1)
        assert torch.equal(value, net.state_dict()[f"{int(number) + 1}.{rest}"])


def test_index__the_frozen_parts_run_once_and_the_head_learns_alone_at_first(tmp_path) -> None:
    net, seen = network(), []
    net[0].register_forward_hook(lambda module, args, out: seen.append(len(out)))
    index = index_of(net, 3, thawing=1.0, epochs=2)
    index.train(images(), folder=tmp_path, progress=False)
    assert sum(seen) <= len(images()) + 8  # and trials
    # In the first steps nothing of the network moves; by the end the last parts have.
    moved = index.model.backbone.module.state_dict()
    assert torch.equal(moved["0.0.weight"], net.state_dict()["1.0.weight"])
    assert not torch.equal(moved["1.weight"], net.state_dict()["2.weight"])


def test_index__neighbours_are_those_of_the_features_that_learning_begins_with() -> None:
    index = fpq.index_factory(
        SHAPE,
        "PQVAE4x3",
        encoder=frozen(network()),
        model=ModelConfig(fine_tuned=N_PARTS, dsub=4),
        training=TrainingConfig(epochs=2, batch_size=16, precision="float32"),
        objective=fpq.Contrastive(neighbours=3),
    )
    index.train(images(), progress=False)
    assert index.is_trained
