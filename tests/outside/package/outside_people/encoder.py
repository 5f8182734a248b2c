"""Encoders: one that is frozen, one that learns along."""

from typing import Any

import torch
from torch import nn

import faiss_pqvae as fpq


def network(channels: int) -> nn.Module:
    """A network that somebody trained before: the same weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4)
        )


def pools(input_shape: tuple[int, ...], latent_dim: int, *, width: int) -> fpq.Backbone:
    """A frozen encoder of images: its 128 features are what codes are learned of."""
    return fpq.Backbone(network(input_shape[0]), trainable=False, size=16, mean=0.5, deviation=0.25)


def tuned(input_shape: tuple[int, ...], latent_dim: int, *, width: int) -> Any:
    """The same network, learning along."""
    return fpq.Backbone(network(input_shape[0]), lr=1e-4)
