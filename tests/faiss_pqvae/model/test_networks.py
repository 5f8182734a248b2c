"""Encoders and decoders: any two go together, for any shape."""

import math
import sys

import pytest
import torch
from torch import nn

from faiss_pqvae.model.backbone import Backbone
from faiss_pqvae.model.networks import (
    Headed,
    build_decoder,
    build_encoder,
    is_named_ours,
    resolved_decoder,
    resolved_encoder,
)
from faiss_pqvae.registry import decoders, encoders

IMAGES = [(1, 4, 4), (1, 8, 8), (3, 7, 5), (1, 28, 28), (3, 33, 47)]
VECTORS = [(1,), (10,)]
NAMES = ["conv", "mlp", "linear"]
ENCODERS = [*NAMES, "residual-mlp", "resnet", "resnet18"]


@pytest.mark.parametrize("shape", IMAGES, ids=str)
@pytest.mark.parametrize("decoder", NAMES)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_networks__go_together_on_images(encoder, decoder, shape) -> None:
    x = torch.zeros(2, *shape)
    z = build_encoder(encoder, shape, 6, width=4)(x)
    assert z.shape == (2, 6)
    y = build_decoder(decoder, shape, 6, width=4)(z)
    assert y.shape == x.shape
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("shape", VECTORS, ids=str)
@pytest.mark.parametrize("decoder", ["mlp", "linear"])
@pytest.mark.parametrize("encoder", ["mlp", "linear", "residual-mlp"])
def test_networks__go_together_on_vectors(encoder, decoder, shape) -> None:
    x = torch.zeros(2, *shape)
    z = build_encoder(encoder, shape, 6, width=4)(x)
    assert z.shape == (2, 6)
    assert build_decoder(decoder, shape, 6, width=4)(z).shape == x.shape


@pytest.mark.parametrize("name", NAMES)
def test_networks__every_parameter_learns(name, generator: torch.Generator) -> None:
    shape = (1, 8, 8)
    encoder = build_encoder(name, shape, 4, width=4)
    decoder = build_decoder(name, shape, 4, width=4)
    x = torch.randn(8, *shape, generator=generator)
    (decoder(encoder(x)) - x).square().mean().backward()
    for network in (encoder, decoder):
        for parameter in network.parameters():
            assert parameter.grad is not None
            assert torch.isfinite(parameter.grad).all()


@pytest.mark.parametrize("name", ["resnet", "resnet18"])
def test_resnet__every_parameter_learns(name, generator: torch.Generator) -> None:
    encoder = build_encoder(name, (3, 8, 8), 4, width=4)
    encoder(torch.randn(8, 3, 8, 8, generator=generator)).square().mean().backward()
    for parameter in encoder.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()


def test_residual_mlp__is_a_matrix_at_the_start_and_more_later(generator: torch.Generator) -> None:
    network = build_encoder("residual-mlp", (10,), 4, width=8)
    x = torch.randn(64, 10, generator=generator)
    torch.testing.assert_close(network(x), network.matrix(x))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before = [parameter.clone() for parameter in network.parameters()]
    for _ in range(2):  # the hidden layers learn once the last one is not zero
        optimizer.zero_grad()
        (network(x) - x[:, :4].abs()).square().mean().backward()
        optimizer.step()
    assert not any(torch.equal(*both) for both in zip(before, network.parameters(), strict=True))
    assert not torch.allclose(network(x), network.matrix(x))


def test_resnet18__is_resnet_18_with_a_3x3_first_convolution() -> None:
    encoder = build_encoder("resnet18", (3, 32, 32), 512, width=64)
    convolutions = [m for m in encoder.modules() if isinstance(m, torch.nn.Conv2d)]
    threes = [c for c in convolutions if c.kernel_size == (3, 3)]
    assert (len(threes), len(convolutions)) == (17, 20)  # and the last linear map; 3 shortcuts
    assert [c.out_channels for c in threes] == [64] * 5 + [128] * 4 + [256] * 4 + [512] * 4
    # ResNet-18's 11,176,512 less the 7x7 first convolution, plus this and the map to 512.
    assert sum(p.numel() for p in encoder.parameters()) == 11_168_832 + 512 * 513
    features = torch.nn.Sequential(*list(encoder.layers)[:-3])(torch.zeros(1, 3, 32, 32))
    assert features.shape == (1, 512, 4, 4)


@pytest.mark.parametrize("build", [build_encoder, build_decoder])
@pytest.mark.parametrize("shape", [(10,), (1, 3, 8), (1, 8, 3)], ids=str)
def test_conv__rejects_vectors_and_tiny_images(build, shape) -> None:
    with pytest.raises(ValueError, match="at least 4x4"):
        build("conv", shape, 4, width=4)


@pytest.mark.parametrize("build", [build_encoder, build_decoder])
def test_networks__reject_an_unknown_name(build) -> None:
    with pytest.raises(ValueError, match=r"'conv', .*'linear', 'mlp'.*, got 'vit'"):
        build("vit", (1, 8, 8), 4, width=4)


# -- networks that are not ours


def make_toy(input_shape, latent_dim, *, width):
    """A function that makes an encoder, as other packages register them."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), width))


def make_toy_decoder(input_shape, latent_dim, *, width):
    """Likewise a decoder."""
    return nn.Sequential(
        nn.Linear(latent_dim, math.prod(input_shape)), nn.Unflatten(1, input_shape)
    )


def make_frozen(input_shape, latent_dim, *, width):
    """A function that says more of its network."""
    return Backbone(make_toy(input_shape, latent_dim, width=width), trainable=False, mean=0.5)


class Toy(nn.Sequential):
    """A class that is made in the same way."""

    def __init__(self, input_shape, latent_dim, *, width):
        super().__init__(*make_toy(input_shape, latent_dim, width=width))


@pytest.fixture
def registered(register) -> None:
    """The toys by name, for one test."""
    for registry, make in ((encoders, make_toy), (decoders, make_toy_decoder)):
        register(registry, "toy", make)


def test_headed__is_a_matrix_behind_the_network(generator: torch.Generator) -> None:
    backbone = Backbone(nn.Linear(5, 3))
    net = Headed(backbone, 3, 7)
    x = torch.randn(4, 5, generator=generator)
    head = net.head.map
    torch.testing.assert_close(net(x), backbone(x) @ head.weight.T + head.bias)
    assert net(x).shape == (4, 7)


@pytest.mark.parametrize(
    ("key", "reference"),
    [
        ("toy", "toy"),
        (f"{__name__}:make_toy", f"{__name__}:make_toy"),
        (make_toy, "torch.nn.modules.container:Sequential"),
        (Toy, f"{__name__}:Toy"),
        (make_toy((5,), 6, width=4), "torch.nn.modules.container:Sequential"),
        (Backbone(nn.Linear(5, 4), reference="a.package:net"), "a.package:net"),
    ],
    ids=["name", "reference", "function", "class", "module", "backbone"],
)
def test_resolved_encoder__of_all_kinds(registered, key, reference) -> None:
    found = resolved_encoder(key, (5,), 6, width=4)
    assert isinstance(found, Backbone)
    assert found.reference == reference
    assert found(torch.zeros(2, 5)).shape == (2, 4)
    if isinstance(key, Backbone):
        assert found is key


def test_resolved_encoder__a_function_may_say_more_of_its_network() -> None:
    found = resolved_encoder(make_frozen, (5,), 6, width=4)
    assert not found.trainable
    assert found.mean == (0.5,)


def test_resolved_decoder__of_all_kinds(registered) -> None:
    module = make_toy_decoder((5,), 6, width=4)
    assert resolved_decoder(module, (5,), 6, width=4) is module
    for key in ("toy", make_toy_decoder):
        assert resolved_decoder(key, (5,), 6, width=4)(torch.zeros(2, 6)).shape == (2, 5)


@pytest.mark.parametrize("resolved", [resolved_encoder, resolved_decoder])
@pytest.mark.parametrize("key", [3, None, lambda *_, width: 3, {"width": 4}])
def test_resolved__what_neither_is_nor_makes_a_module(resolved, key) -> None:
    with pytest.raises(TypeError, match=r"or a torch.nn.Module as (en|de)coder, got"):
        resolved(key, (5,), 6, width=4)


@pytest.mark.parametrize("build", [build_encoder, build_decoder])
def test_build__foreign_names_are_refused_and_nothing_is_imported(
    registered, monkeypatch, build
) -> None:
    monkeypatch.delitem(sys.modules, "antigravity", raising=False)
    for name in ("toy", "antigravity:fly", "torch.nn:Linear"):
        with pytest.raises(ValueError, match=r"is not ours.*index_factory.*read_index"):
            build(name, (5,), 6, width=4)
    assert "antigravity" not in sys.modules


def test_is_named_ours__by_name_alone(registered) -> None:
    assert is_named_ours(encoders, "mlp")
    assert is_named_ours(decoders, "linear")
    for key in ("toy", "resnet50", "torch.nn:Linear", nn.Linear(5, 4), None):
        assert not is_named_ours(encoders, key)
    assert not is_named_ours(decoders, "resnet")
