"""Encoders and decoders: any two go together, for any shape."""

import pytest
import torch

from faiss_pqvae.model.networks import build_decoder, build_encoder

IMAGES = [(1, 4, 4), (1, 8, 8), (3, 7, 5), (1, 28, 28), (3, 33, 47)]
VECTORS = [(1,), (10,)]
NAMES = ["conv", "mlp", "linear"]
ENCODERS = [*NAMES, "resnet", "resnet18"]


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
@pytest.mark.parametrize("encoder", ["mlp", "linear"])
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
    with pytest.raises(ValueError, match=r"'conv', 'linear', 'mlp'.*, got 'vit'"):
        build("vit", (1, 8, 8), 4, width=4)
