"""Batch normalisation by the statistics of a batch that several processes share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from faiss_pqvae.model import team


@contextmanager
def synced(model: nn.Module) -> Iterator[None]:
    """Lets a model's normalisations see all of a batch of which a process has its share.

    PyTorch's own `SyncBatchNorm` refuses the CPU.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    norms = norms if team.size() > 1 else []
    for norm in norms:
        norm.forward = MethodType(_forward, norm)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _forward(norm: _BatchNorm, x: Tensor) -> Tensor:
    """(n, channels, ...) float, the own share of a batch, to the like."""
    if not norm.training:
        return type(norm).forward(norm, x)
    dims = [0, *range(2, x.ndim)]
    wide = x.float()
    channels = wide.shape[1]
    values = wide.new_tensor([wide.numel() / channels])
    sums = team.summed(torch.cat([wide.sum(dims), values]))
    n = sums[-1].detach()
    mean, shape = sums[:-1] / n, (1, channels, *[1] * (x.ndim - 2))
    centred = wide - mean.view(shape)
    squares = team.summed(centred.square().sum(dims))
    variance = squares / n
    _follow(norm, mean.detach(), variance.detach() * n / (n - 1).clamp(min=1))
    y = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        y = y * norm.weight.view(shape) + norm.bias.view(shape)
    return y.to(x.dtype)


@torch.no_grad()
def _follow(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Moves the running statistics, as PyTorch does."""
    if norm.running_mean is None or norm.running_var is None:
        return
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked += 1
    momentum = norm.momentum
    if momentum is None:
        momentum = 1 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean, momentum)
    norm.running_var.lerp_(variance, momentum)
