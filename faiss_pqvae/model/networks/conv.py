"""The network of the PQ-VAE paper (section V): convolutions, and their mirror."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from faiss_pqvae.model.networks.images import channels_last, image_shape
from faiss_pqvae.registry import decoders, encoders


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


@encoders.register("conv")
def conv_encoder(input_shape: tuple[int, ...], latent_dim: int, *, width: int) -> nn.Module:
    """The paper's encoder; `width` channels in the first convolution, then twice as many."""
    return channels_last(ConvEncoder(image_shape(input_shape), latent_dim, width))


@decoders.register("conv")
def conv_decoder(input_shape: tuple[int, ...], latent_dim: int, *, width: int) -> nn.Module:
    """The encoder's mirror."""
    return channels_last(ConvDecoder(image_shape(input_shape), latent_dim, width))
