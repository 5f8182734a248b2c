"""A toy: the means of 4 x 4 fields of an image, and a matrix."""

from __future__ import annotations

from torch import nn

from faiss_pqvae.model.networks.images import image_shape
from faiss_pqvae.registry import encoders


@encoders.register("pooled")
def pooled(input_shape: tuple[int, ...], latent_dim: int, *, width: int) -> nn.Module:
    """It has no width."""
    channels, _, _ = image_shape(input_shape)
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * channels, latent_dim)
    )
