"""A linear layer fitted in one step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_RIDGE = 1e-6  # of the mean variance: codes may leave some dimensions unused


@torch.no_grad()
def fit_linear(layer: nn.Linear, x: Tensor, y: Tensor) -> None:
    """Sets weight and bias to those with the least squared error, by the normal equations.

    Args:
        layer: from d_in to d_out dimensions.
        x: (n, d_in) float.
        y: (n, d_out) float, what the layer should make of x.
    """
    centred = x.double()
    mean_in, mean_out = centred.mean(0), y.mean(0, dtype=torch.float64)
    centred = centred - mean_in
    gram = centred.T @ centred
    gram += _RIDGE * gram.diagonal().mean().clamp(min=1e-12) * torch.eye(len(gram)).to(gram)
    weight = torch.linalg.solve(gram, centred.T @ (y.double() - mean_out))  # (d_in, d_out)
    layer.weight.copy_(weight.T)
    layer.bias.copy_(mean_out - mean_in @ weight)
