"""Residual encoders (He et al., CVPR 2016), for what has to know objects and not pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from faiss_pqvae.model.networks.images import channels_last, image_shape
from faiss_pqvae.registry import encoders


class BasicBlock(nn.Module):
    """relu(shortcut(x) + conv(relu(conv(x)))), batch-normalised, the first convolution strided."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_convolution(channels_in, channels, 3, stride),
            nn.ReLU(inplace=True),
            *_convolution(channels, channels, 3, 1),
        )
        self.shortcut = (
            nn.Identity()
            if channels_in == channels and stride == 1
            else nn.Sequential(*_convolution(channels_in, channels, 1, stride))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels_in, h, w) to (n, channels, h / stride, w / stride), rounded up."""
        return torch.relu_(self.layers(x) + self.shortcut(x))


class ResNet(nn.Module):
    """A first convolution, stages of blocks of which each but the first halves the size, a mean.

    Args:
        input_shape: (c, h, w) of the images.
        latent_dim: dimension of the latents.
        width: channels of the first stage; every further stage has twice as many.
        stem: size and stride of the first convolution.
        blocks: of each stage.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        latent_dim: int,
        width: int,
        *,
        stem: tuple[int, int],
        blocks: Sequence[int],
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [*_convolution(input_shape[0], width, *stem), nn.ReLU(True)]
        channels = width
        for stage, count in enumerate(blocks):
            for block in range(count):
                halves = stage > 0 and block == 0
                wider = width * 2**stage
                layers.append(BasicBlock(channels, wider, 2 if halves else 1))
                channels = wider
        self.layers = nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, latent_dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) float to (n, latent_dim) float."""
        out: Tensor = self.layers(x)
        return out


def _convolution(channels_in: int, channels: int, size: int, stride: int) -> list[nn.Module]:
    padding = (size - 1) // 2
    convolution = nn.Conv2d(channels_in, channels, size, stride, padding, bias=False)
    return [convolution, nn.BatchNorm2d(channels)]


@encoders.register("resnet")
def resnet(input_shape: tuple[int, ...], latent_dim: int, *, width: int) -> nn.Module:
    """A small residual network that two CPU cores can train."""
    shape = image_shape(input_shape)
    return channels_last(ResNet(shape, latent_dim, width, stem=(4, 2), blocks=(1, 1, 1)))


@encoders.register("resnet18")
def resnet18(input_shape: tuple[int, ...], latent_dim: int, *, width: int) -> nn.Module:
    """ResNet-18 with a 3x3 first convolution, for a GPU."""
    shape = image_shape(input_shape)
    return channels_last(ResNet(shape, latent_dim, width, stem=(3, 1), blocks=(2, 2, 2, 2)))
