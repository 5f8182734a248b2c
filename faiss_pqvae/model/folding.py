"""Batch normalisation as part of the convolution before it, for networks that only evaluate."""

from __future__ import annotations

from collections import Counter

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
            One that is used in several places is left alone.
    """
    modules = list(network.modules())
    used = Counter(id(child) for module in modules for child in module._modules.values())
    shared = Counter(id(p) for module in modules for p in module._parameters.values())
    for chain in modules:
        if type(chain) is not nn.Sequential:
            continue
        for place in range(len(chain) - 1):
            convolution, norm = chain[place], chain[place + 1]
            if not isinstance(convolution, nn.Conv2d) or type(convolution) not in convolutions:
                continue
            if not isinstance(norm, nn.BatchNorm2d) or norm.running_var is None:
                continue
            # What something else uses, too, would be changed for that.
            if used[id(convolution)] > 1 or shared[id(convolution.weight)] > 1:
                continue
            factor, offset = _affine(norm)
            weight = convolution.weight.double() * factor.view(-1, 1, 1, 1)
            bias = 0.0 if convolution.bias is None else convolution.bias.double()
            convolution.weight.copy_(weight)
            convolution.bias = nn.Parameter((bias * factor + offset).float())
            chain[place + 1] = nn.Identity()


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What a normalisation multiplies every channel by, and what it adds, in float64."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    factor = 1 / (norm.running_var.double() + norm.eps).sqrt()
    if norm.affine:
        factor = norm.weight.double() * factor
    offset = -norm.running_mean.double() * factor
    return factor, offset + norm.bias.double() if norm.affine else offset
