"""Fully connected networks: the paper's for MNIST, and one beside a matrix for features."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from faiss_pqvae.model.networks.linear import Linear
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


class ResidualMLP(nn.Module):
    """A matrix, and what two hidden layers add to it: nothing at the start."""

    def __init__(self, shape_in: Sequence[int], shape_out: Sequence[int], width: int) -> None:
        super().__init__()
        self.matrix = Linear(shape_in, shape_out)
        self.added = MLP(shape_in, shape_out, width)
        last = self.added.layers[-2]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(n, *shape_in) float to (n, *shape_out) float."""
        out: Tensor = self.matrix(x) + self.added(x)
        return out


@encoders.register("mlp")
def mlp_encoder(input_shape: tuple[int, ...], latent_dim: int, *, width: int) -> nn.Module:
    """Two hidden layers of `width` units."""
    return MLP(input_shape, (latent_dim,), width)


@encoders.register("residual-mlp")
def residual_mlp_encoder(input_shape: tuple[int, ...], latent_dim: int, *, width: int) -> nn.Module:
    """A matrix, and two hidden layers of `width` units beside it."""
    return ResidualMLP(input_shape, (latent_dim,), width)


@decoders.register("mlp")
def mlp_decoder(input_shape: tuple[int, ...], latent_dim: int, *, width: int) -> nn.Module:
    """The same, the other way."""
    return MLP((latent_dim,), input_shape, width)
