"""A frozen network of somebody else in front of an index."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from faiss_pqvae.model.backbone import Backbone
from faiss_pqvae.model.networks import evaluating_fast


class Front:
    """A frozen backbone at the edge of an index: everything behind it treats features as the items.

    It runs where its weights are, on the CPU or on a GPU, and its copies share them.

    Args:
        backbone: with `trainable=False`.
        input_shape: of one item, (c, h, w) or (d,).
        chunk_bytes: of float32 inputs that the network sees together, whose activations take many
            times their memory. None takes 2 MiB on a CPU, whose caches then hold what is between
            two layers (a third of the time with all at once), and 64 MiB elsewhere.

    Attributes:
        d_out: features of an item.
        learned_behind: the fingerprint that it had when codes were learned behind it.

    Raises:
        TypeError: no Backbone.
        ValueError: one that learns along, or one that cannot take such items.
    """

    def __init__(
        self, backbone: Backbone, input_shape: tuple[int, ...], *, chunk_bytes: int | None = None
    ) -> None:
        if not isinstance(backbone, Backbone):
            raise TypeError(f"expected a Backbone, got {type(backbone).__name__}")
        if backbone.trainable:
            raise ValueError(
                "expected a frozen backbone (trainable=False) in front of an index: one that "
                "learns along is the model's own encoder"
            )
        self.backbone, self.input_shape = backbone, tuple(input_shape)
        self._prepare()
        self.chunk_bytes = chunk_bytes
        self.d_out = backbone.features_of(self.input_shape)
        self.learned_behind: str | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Front:
        return self  # frozen: a copy of an index needs no second network

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Front):
            return NotImplemented
        if self.input_shape != other.input_shape:
            return False
        if self.backbone is other.backbone:
            return True
        return (
            self.backbone.crop == other.backbone.crop and self.fingerprint() == other.fingerprint()
        )

    __hash__ = None  # type: ignore[assignment]  # compared by what they do

    def __repr__(self) -> str:
        return f"Front({self.backbone.reference!r}, {self.input_shape} to {self.d_out})"

    def fingerprint(self) -> str:
        """A hash of all weights and of what is done to items, see `Backbone.fingerprint`."""
        found = self.backbone.fingerprint()
        if self._folded not in (None, found):  # its owner changed it
            self._prepare()
        return found

    def _prepare(self) -> None:
        """Makes what runs: the network, or a copy that is folded, and then says of which weights.

        Others are not hashed for that, which takes a second a gigabyte.
        """
        self._runs = evaluating_fast(self.backbone)
        is_copy = self._runs is not self.backbone
        self._folded = self.backbone.fingerprint() if is_copy else None

    def probe(self) -> list[float]:
        """What it gives for made-up items, see `Backbone.probe`."""
        return self.backbone.probe(self.input_shape)

    def to(self, device: torch.device) -> Front:
        """A copy with a network of its own on a device."""
        other = copy.copy(self)
        other.backbone = copy.deepcopy(self.backbone).to(device)
        other._prepare()
        return other

    @torch.inference_mode()
    def apply(self, items: Tensor) -> Tensor:
        """Items (n, *input_shape), uint8 or float, to features (n, d_out) float32.

        Returns:
            Features on the network's device.

        Raises:
            ValueError: NaN or infinity in them, or another number of them.
        """
        device = self.backbone.device
        with evaluating(self._runs):
            parts = [self._runs(part.to(device)) for part in torch.split(items, self._chunk())]
        features = torch.cat(parts)
        if features.shape[1] != self.d_out:
            raise ValueError(
                f"expected {self.d_out} features an item from {self.backbone.reference}, got "
                f"{features.shape[1]}"
            )
        finite = (4 * features.square().sum(1)).isfinite()
        if not finite.all():
            raise ValueError(
                f"expected finite features below 1e18 from {self.backbone.reference}, got larger "
                f"ones, NaN or infinity for {int((~finite).sum())} of {len(features)} items"
            )
        return features

    def _chunk(self) -> int:
        """Items that the network sees together."""
        shape = self.input_shape
        if self.backbone.size is not None and len(shape) == 3:
            shape = (shape[0], *self.backbone.size)
        chunk_bytes = self.chunk_bytes
        if chunk_bytes is None:
            chunk_bytes = 2**21 if self.backbone.device.type == "cpu" else 2**26
        return max(1, chunk_bytes // (4 * math.prod(shape)))


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """A network in evaluation mode, whatever its owner did; afterwards as it was."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode
