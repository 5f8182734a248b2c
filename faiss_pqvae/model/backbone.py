"""Other people's networks: what they want to see, and whether they learn along."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Backbone(nn.Module):
    """A network that was handed in, pretrained or not; its weights are kept as they came.

    It gets images (n, c, h, w) as floats in [0, 1] or vectors (n, d), brought to the size, the mean
    and the deviation that it wants, and gives features (n, ...), which are flattened.

    Args:
        module: any torch module.
        trainable: whether it learns along. A frozen one is run once over what is trained with, and
            its features are what codes are learned of; it always runs in evaluation mode.
        lr: highest learning rate of its weights, where they learn.
        size: height and width that images are resized to; one number for squares. None leaves them.
        mean: what is taken from every channel (or from every dimension) of the floats.
        deviation: what the rest is divided by.
        reference: where it comes from, such as "timm:create_model", for the one who has to make it
            again when an index is read; by default its class.
        arguments: what it is made with, likewise: values that JSON can hold.

    Raises:
        TypeError: no torch module.
        ValueError: sizes or numbers out of their range.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        trainable: bool = True,
        lr: float = 1e-4,
        size: int | tuple[int, int] | None = None,
        mean: float | Sequence[float] = 0.0,
        deviation: float | Sequence[float] = 1.0,
        reference: str | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise TypeError(f"expected a torch.nn.Module, got {type(module).__name__}")
        sizes = (size, size) if isinstance(size, int) else size
        if sizes is not None and (len(sizes) != 2 or min(sizes) < 1):
            raise ValueError(f"expected a size (height, width) of at least 1, got {size}")
        if not 0 <= lr < float("inf"):
            raise ValueError(f"expected lr >= 0, got {lr}")
        self.module, self.trainable, self.lr = module, trainable, lr
        self.size = None if sizes is None else tuple(sizes)
        self.mean, self.deviation = _numbers("mean", mean), _numbers("deviation", deviation)
        if min(self.deviation) <= 0:
            raise ValueError(f"expected a deviation > 0, got {deviation}")
        kind = type(module)
        self.is_named = reference is not None
        self.reference = reference or f"{kind.__module__}:{kind.__qualname__}"
        self.arguments = dict(arguments or {})
        if not trainable:
            self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Backbone:
        """A frozen network stays in evaluation mode: its running statistics are weights, too."""
        super().train(mode and self.trainable)
        return self

    def prepare(self, x: Tensor) -> Tensor:
        """Items (n, *input_shape), uint8 images or floats, as the network wants them: float32."""
        x = x.float() / 255 if x.dtype == torch.uint8 and x.ndim == 4 else x.float()
        if self.size is not None and x.ndim == 4 and tuple(x.shape[-2:]) != self.size:
            x = functional.interpolate(
                x, size=self.size, mode="bilinear", antialias=True, align_corners=False
            )
        shape = (-1, 1, 1) if x.ndim == 4 else (-1,)
        mean, deviation = (
            x.new_tensor(values).view(shape) for values in (self.mean, self.deviation)
        )
        return (x - mean) / deviation

    def forward(self, x: Tensor) -> Tensor:
        """Features (n, f) float32 of items (n, *input_shape), uint8 images or floats.

        Raises:
            ValueError: a network that gives something else than a tensor with a row an item.
        """
        features = self.module(self.prepare(x))
        if not isinstance(features, Tensor) or features.ndim < 2 or len(features) != len(x):
            found = tuple(getattr(features, "shape", ())) or type(features).__name__
            raise ValueError(
                f"expected an encoder that gives a tensor ({len(x)}, ...) of features for "
                f"{len(x)} items, got {found}"
            )
        return features.flatten(1).float()

    @torch.no_grad()
    def features_of(self, input_shape: tuple[int, ...]) -> int:
        """How many features an item of a shape has; the network is run once, on zeros.

        Raises:
            ValueError: a network that cannot take such items, with what it said.
        """
        trial = copy.deepcopy(self).eval()  # which leaves no trace of the run
        device = next((p.device for p in self.parameters()), torch.device("cpu"))
        try:
            found = trial(torch.zeros(2, *input_shape, device=device))
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise ValueError(
                f"expected an encoder for items of shape {input_shape}, but {self.reference} "
                f"cannot take them: {error}"
            ) from error
        return int(found.shape[1])

    def fingerprint(self) -> str:
        """A hash of all weights and of what is done to the items, to know the network again."""
        digest = hashlib.sha256(repr((self.size, self.mean, self.deviation)).encode())
        for name, value in sorted(self.module.state_dict().items()):
            data = value.detach().cpu().contiguous().view(-1)
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(data.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def record(self) -> dict[str, Any]:
        """What a bundle keeps of it besides weights: plain values."""
        return {
            "reference": self.reference,
            "arguments": self.arguments,
            "trainable": self.trainable,
            "size": None if self.size is None else list(self.size),
            "mean": list(self.mean),
            "deviation": list(self.deviation),
        }


def _numbers(name: str, values: float | Sequence[float]) -> tuple[float, ...]:
    found = (values,) if isinstance(values, int | float) else tuple(values)
    if not found or not all(abs(float(value)) < float("inf") for value in found):
        raise ValueError(f"expected finite numbers as {name}, got {values}")
    return tuple(float(value) for value in found)
