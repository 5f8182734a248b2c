"""The paper's fully connected network for MNIST."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from faiss_pqvae.registry import decoders, encoders


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


@encoders.register("mlp")
def mlp_encoder(input_shape: tuple[int, ...], latent_dim: int, *, width: int) -> nn.Module:
    """Two hidden layers of `width` units."""
    return MLP(input_shape, (latent_dim,), width)


@decoders.register("mlp")
def mlp_decoder(input_shape: tuple[int, ...], latent_dim: int, *, width: int) -> nn.Module:
    """The same, the other way."""
    return MLP((latent_dim,), input_shape, width)
