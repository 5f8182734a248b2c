"""Encoders and decoders by name.

Every encoder maps normalised inputs (n, *input_shape) to latents (n, latent_dim), every decoder
the other way; any two go together. "conv" is the network of the PQ-VAE paper (section V), "mlp"
its fully connected one for MNIST, "linear" a single matrix each way. "resnet" and "resnet18" are
encoders only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faiss_pqvae.model.resnet import ResNet

Network = Literal["conv", "mlp", "linear"]
Encoder = Literal["conv", "mlp", "linear", "resnet", "resnet18"]


# Size and stride of the first convolution, blocks of every stage.
_RESIDUAL = {"resnet": ((4, 2), (1, 1, 1)), "resnet18": ((3, 1), (2, 2, 2, 2))}


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), batch-normalised: (n, c, h, w) to the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Applies the block."""
        out: Tensor = x + self.layers(x)
        return out


def _stages(height: int, width: int) -> list[tuple[int, int]]:
    """Sizes after each of the conv encoder's three halvings (two strided, one pooled)."""
    sizes = [(height, width)]
    for _ in range(2):
        height, width = height // 2, width // 2
        sizes.append((height, width))
    sizes.append((max(1, height // 2), max(1, width // 2)))
    return sizes


class ConvEncoder(nn.Module):
    """Two strided 4x4 convolutions, one max pooling, two residual blocks, one linear map."""

    def __init__(self, input_shape: tuple[int, int, int], latent_dim: int, width: int) -> None:
        super().__init__()
        channels, height, width_px = input_shape
        size = _stages(height, width_px)[-1]
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.AdaptiveMaxPool2d(size),
            ResidualBlock(2 * width),
            ResidualBlock(2 * width),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * width * math.prod(size), latent_dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) float to (n, latent_dim) float."""
        out: Tensor = self.layers(x)
        return out


class ConvDecoder(nn.Module):
    """The mirror: two residual blocks, a resize, two transposed convolutions with one between."""

    def __init__(self, input_shape: tuple[int, int, int], latent_dim: int, width: int) -> None:
        super().__init__()
        channels, height, width_px = input_shape
        self.sizes = _stages(height, width_px)
        self.start = nn.Sequential(
            nn.Linear(latent_dim, 2 * width * math.prod(self.sizes[-1])),
            nn.Unflatten(1, (2 * width, *self.sizes[-1])),
            ResidualBlock(2 * width),
            ResidualBlock(2 * width),
            nn.ReLU(),
        )
        self.middle = nn.Sequential(
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.end = nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """(n, latent_dim) float to (n, c, h, w) float."""
        x = _resize(self.start(z), self.sizes[2])
        x = _resize(self.middle(x), self.sizes[1])
        return _resize(self.end(x), self.sizes[0])


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="nearest")


class MLP(nn.Module):
    """Two hidden ReLU layers over the flattened input."""

    def __init__(self, shape_in: Sequence[int], shape_out: Sequence[int], width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(shape_in), width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, math.prod(shape_out)),
            nn.Unflatten(1, tuple(shape_out)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, *shape_in) float to (n, *shape_out) float."""
        out: Tensor = self.layers(x)
        return out


class Linear(nn.Module):
    """One matrix and an offset over the flattened input."""

    def __init__(self, shape_in: Sequence[int], shape_out: Sequence[int]) -> None:
        super().__init__()
        self.map = nn.Linear(math.prod(shape_in), math.prod(shape_out))
        self.shape_out = tuple(shape_out)

    def forward(self, x: Tensor) -> Tensor:
        """(n, *shape_in) float to (n, *shape_out) float."""
        out: Tensor = self.map(x.flatten(1))
        return out.view(len(x), *self.shape_out)


def build_encoder(
    name: Encoder, input_shape: tuple[int, ...], latent_dim: int, *, width: int
) -> nn.Module:
    """Builds an encoder.

    Args:
        name: "conv", "mlp" or "linear"; "resnet", a small residual network that two CPU cores can
            train, or "resnet18", ResNet-18 with a 3x3 first convolution, for a GPU.
        input_shape: (c, h, w) for images, (d,) for vectors. "mlp" and "linear" take both, the
            others images of at least 4x4 pixels.
        latent_dim: dimension of the latents.
        width: channels of the first convolution (of those that follow twice as many, and so on)
            or units of a hidden layer; "linear" has none.

    Returns:
        A module from (n, *input_shape) to (n, latent_dim).

    Raises:
        ValueError: an unknown name, or a shape that the network cannot take.
    """
    if name == "conv":
        shape = _image_shape(input_shape)
        return _channels_last(ConvEncoder(shape, latent_dim, width))
    if name in _RESIDUAL:
        shape = _image_shape(input_shape)
        stem, blocks = _RESIDUAL[name]
        return _channels_last(ResNet(shape, latent_dim, width, stem=stem, blocks=blocks))
    if name == "mlp":
        return MLP(input_shape, (latent_dim,), width)
    if name == "linear":
        return Linear(input_shape, (latent_dim,))
    known = ", ".join(repr(other) for other in get_args(Encoder))
    raise ValueError(f"expected an encoder of {known}, got {name!r}")


def build_decoder(
    name: Network, input_shape: tuple[int, ...], latent_dim: int, *, width: int
) -> nn.Module:
    """Builds a decoder, from (n, latent_dim) to (n, *input_shape); see `build_encoder`."""
    if name == "conv":
        shape = _image_shape(input_shape)
        return _channels_last(ConvDecoder(shape, latent_dim, width))
    if name == "mlp":
        return MLP((latent_dim,), input_shape, width)
    if name == "linear":
        return Linear((latent_dim,), input_shape)
    raise ValueError(f"expected a decoder 'conv', 'mlp' or 'linear', got {name!r}")


def _channels_last(network: nn.Module) -> nn.Module:
    """The weights in the memory layout in which convolutions are twice as fast on CPUs."""
    module: nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module


def _image_shape(input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(input_shape) != 3 or min(input_shape[1:]) < 4:
        raise ValueError(
            "expected images (c, h, w) of at least 4x4 pixels for a convolutional network, got "
            f"input_shape={input_shape}; use 'mlp' or 'linear'"
        )
    channels, height, width = input_shape
    return channels, height, width
