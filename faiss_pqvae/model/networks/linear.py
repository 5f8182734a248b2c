"""A single matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from faiss_pqvae.registry import decoders, encoders


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


@encoders.register("linear")
def linear_encoder(input_shape: tuple[int, ...], latent_dim: int, *, width: int) -> nn.Module:
    """A matrix over the flattened items; it has no width."""
    return Linear(input_shape, (latent_dim,))


@decoders.register("linear")
def linear_decoder(input_shape: tuple[int, ...], latent_dim: int, *, width: int) -> nn.Module:
    """A matrix to the flattened items; it has no width."""
    return Linear((latent_dim,), input_shape)
