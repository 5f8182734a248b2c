"""A network that others have trained, in two: what stays as it is, and its last parts, which learn.

What stays runs once over the items of a training; what it makes of them is kept. Learning then
costs what the last parts do.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from faiss_pqvae.model.backbone import Backbone

_CACHED_BYTES = 2**19  # of what the parts take


class InTwo(NamedTuple):
    """The parts of a network.

    Attributes:
        frozen: the first ones, which give their output flattened; None where all learn.
        learning: the last ones, from that to the network's features.
    """

    frozen: Backbone | None
    learning: Backbone


class Parts(nn.Sequential):
    """The last parts of a network, which begin to learn one after another, the last one first.

    Statistics of batch normalisation stay those of the data that the network was trained with: a
    batch has fewer items, and codes are those of single ones.

    Args:
        shape: of what they take, which comes flattened; None takes it as it comes.
        parts: of the network, in its order.
    """

    def __init__(self, shape: tuple[int, ...] | None, *parts: nn.Module) -> None:
        super().__init__(*parts)
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        """Inputs (n, ...) to features (n, f)."""
        if self.shape is not None:
            x = x.view(-1, *self.shape)
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        if torch.is_grad_enabled() or x.device.type != "cpu":
            return self._through(x)
        # So few that what is between two layers stays in the cache.
        at_a_time = max(1, _CACHED_BYTES * len(x) // max(1, x.numel() * x.element_size()))
        return torch.cat([self._through(some) for some in torch.split(x, at_a_time)])

    def _through(self, x: Tensor) -> Tensor:
        for part in self:
            x = part(x)
        return x

    def train(self, mode: bool = True) -> Parts:
        """Weights learn in either mode: what a training changes besides stays as it is."""
        return super().train(False)

    def thaw(self, share: float, *, least: int = 0) -> None:
        """Lets the last parts learn, and no others.

        Args:
            share: of the way until all of them do; in its first piece none does.
            least: of those that have weights learn from the start.
        """
        weights = [[p for p in part.parameters() if p.is_floating_point()] for part in self]
        weights = [of_part for of_part in weights if of_part]
        n_learning = min(len(weights), max(least, int(share * (len(weights) + 1))))
        for number, of_part in enumerate(weights):
            for parameter in of_part:
                parameter.requires_grad_(number >= len(weights) - n_learning)


def in_two(backbone: Backbone, n_learning: int, input_shape: tuple[int, ...]) -> InTwo:
    """The first parts of a network, and the last ones, which share its weights.

    Args:
        backbone: of a torch.nn.Sequential, whose children are the parts.
        n_learning: of them learn; 1 or more, and at most all.
        input_shape: of an item.

    Raises:
        ValueError: a network that is no Sequential, or one of fewer parts.
    """
    module = backbone.module
    plain = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
    if not isinstance(module, nn.Sequential) or not plain or _has_hooks(module):
        raise ValueError(
            "expected a torch.nn.Sequential to fine-tune the last parts of, whose forward is one "
            f"part after another, got {type(module).__name__}: hand in Backbone(network), all of "
            "which learns"
        )
    parts, reference = list(module), backbone.reference
    if n_learning > len(parts):
        raise ValueError(
            f"expected fine_tuned <= {len(parts)}, the parts of {reference}, got {n_learning}"
        )
    if not any(p.is_floating_point() for part in parts[-n_learning:] for p in part.parameters()):
        raise ValueError(
            f"expected weights in the last {n_learning} parts of {reference}, which are to learn, "
            "got none"
        )
    if n_learning == len(parts):
        return InTwo(None, backbone.with_module(Parts(None, *parts), trainable=True))
    first = nn.Sequential(*parts[:-n_learning])
    frozen = backbone.with_module(first, trainable=False)
    shape = frozen.shape_of(input_shape)
    learning = Backbone(Parts(shape, *parts[-n_learning:]), lr=backbone.lr, reference=reference)
    return InTwo(frozen, learning)


def _has_hooks(module: nn.Module) -> bool:
    """Whether something is done to what goes in or comes out, which parts would not know."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def thaw(network: nn.Module | None, share: float, *, least: int = 0) -> None:
    """Lets the last parts of a fine-tuned network learn, see `Parts.thaw`; others are as they are.

    Args:
        network: a model's `Backbone`, or None.
        share: of the way until all parts learn.
        least: parts that learn from the start.
    """
    if isinstance(network, Backbone) and isinstance(network.module, Parts):
        network.module.thaw(share, least=least)
