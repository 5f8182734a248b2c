"""Batch normalisation as part of the convolution before it, for networks that only evaluate."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def fold_norms(network: nn.Module, convolutions: tuple[type[nn.Conv2d], ...]) -> None:
    """Lets convolutions do what the batch normalisation right behind them does with its statistics.

    The network gives what it did in evaluation mode, but for rounding, with fewer passes over what
    is between its layers.

    Args:
        network: with its weights, changed in place; a convolution and its normalisation are found
            where they follow each other in a torch.nn.Sequential.
        convolutions: the classes of those that add their bias to what they convolve, and no others.
    """
    for chain in network.modules():
        if type(chain) is not nn.Sequential:
            continue
        for place in range(len(chain) - 1):
            convolution, norm = chain[place], chain[place + 1]
            if not isinstance(convolution, nn.Conv2d) or type(convolution) not in convolutions:
                continue
            if not isinstance(norm, nn.BatchNorm2d):
                continue
            factor, offset = _affine(norm)
            weight = convolution.weight.double() * factor.view(-1, 1, 1, 1)
            bias = 0.0 if convolution.bias is None else convolution.bias.double()
            convolution.weight.copy_(weight)
            convolution.bias = nn.Parameter((bias * factor + offset).float())
            chain[place + 1] = nn.Identity()


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What a normalisation multiplies every channel by, and what it adds, in float64."""
    if norm.running_var is None or norm.running_mean is None:
        raise ValueError("expected batch normalisation with running statistics, got one without")
    factor = 1 / (norm.running_var.double() + norm.eps).sqrt()
    if norm.affine:
        factor = norm.weight.double() * factor
    offset = -norm.running_mean.double() * factor
    return factor, offset + norm.bias.double() if norm.affine else offset
