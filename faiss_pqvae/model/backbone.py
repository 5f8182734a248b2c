"""Other people's networks: what they want to see, and whether they learn along."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from faiss_pqvae.arguments import number
from faiss_pqvae.middle import middle

_PROBED = 64  # features that tell a network from another one


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
        crop: whether images of other proportions than `size` lose what is beyond these on both
            sides; else they are stretched. So are photographs in files that an index reads.
        mean: what is taken from every channel (or from every dimension) of the floats.
        deviation: what the rest is divided by.
        reference: where it comes from, such as "timm:create_model", for the one who has to make it
            again when an index is read; by default its class.
        arguments: what it is made with, likewise: values that JSON can hold.

    Raises:
        TypeError: no torch module, or crop that is no bool.
        ValueError: sizes or numbers out of their range.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        trainable: bool = True,
        lr: float = 1e-4,
        size: int | tuple[int, int] | None = None,
        crop: bool = False,
        mean: float | Sequence[float] = 0.0,
        deviation: float | Sequence[float] = 1.0,
        reference: str | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise TypeError(f"expected a torch.nn.Module, got {type(module).__name__}")
        sizes = (size, size) if isinstance(size, int) else size
        if sizes is not None and not (
            isinstance(sizes, Sequence)
            and len(sizes) == 2
            and all(type(part) is int and part >= 1 for part in sizes)
        ):
            raise ValueError(f"expected a size (height, width) of at least 1, got {size}")
        try:
            json.dumps(arguments := dict(arguments or {}), sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise TypeError(f"expected arguments that JSON can hold: {error}") from error
        lr = number("lr", lr, 0)
        self.module, self.lr, self._trainable = module, lr, trainable
        self.size = None if sizes is None else (sizes[0], sizes[1])
        if not isinstance(crop, bool):
            raise TypeError(f"expected crop as True or False, got {crop!r}")
        self.crop = crop
        self.mean, self.deviation = _numbers("mean", mean), _numbers("deviation", deviation)
        if min(self.deviation) <= 0:
            raise ValueError(f"expected a deviation > 0, got {deviation}")
        kind = type(module)
        self.is_named = reference is not None
        self.reference = reference or f"{kind.__module__}:{kind.__qualname__}"
        self.arguments = arguments
        self.made_with: dict[str, int] = {}

    @property
    def trainable(self) -> bool:
        """Whether it learns along."""
        return self._trainable

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU where there are none."""
        weights = itertools.chain(self.parameters(), self.buffers())
        return next((weight.device for weight in weights), torch.device("cpu"))

    def with_module(self, module: nn.Module, *, trainable: bool) -> Backbone:
        """Another network that sees items as this one does, under the same name."""
        found = Backbone(
            module,
            trainable=trainable,
            lr=self.lr,
            size=self.size,
            crop=self.crop,
            mean=self.mean,
            deviation=self.deviation,
            reference=self.reference,
            arguments=self.arguments,
        )
        found.made_with = self.made_with
        return found

    def _trial(self) -> Backbone:
        """A copy in evaluation mode, whose runs leave no trace."""
        trial = copy.deepcopy(self)
        trial.module.eval()
        return trial

    def train(self, mode: bool = True) -> Backbone:
        """A frozen network stays in evaluation mode: its running statistics are weights, too."""
        if self.trainable:
            return super().train(mode)
        self.training = False
        return self

    def prepare(self, x: Tensor) -> Tensor:
        """Items (n, *input_shape), uint8 images or floats, as the network wants them: float32."""
        x = x.float() / 255 if x.dtype == torch.uint8 and x.ndim == 4 else x.float()
        if self.size is not None and x.ndim == 4 and self.crop:
            top, left, height, width = middle((x.shape[2], x.shape[3]), self.size)
            x = x[:, :, top : top + height, left : left + width]
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
        return self._maps(x).flatten(1).float()

    def _maps(self, x: Tensor) -> Tensor:
        """Features as the network gives them, (n, ...)."""
        features = self.module(self.prepare(x))
        fits = isinstance(features, Tensor) and features.ndim >= 2 and len(features) == len(x)
        if not fits or not features.numel() or features.is_complex() or features.is_sparse:
            shape = tuple(getattr(features, "shape", ()))
            kind = f"{shape} of {features.dtype}" if shape else type(features).__name__
            raise ValueError(
                f"expected an encoder that gives a tensor ({len(x)}, ...) of real features for "
                f"{len(x)} items, got {kind}"
            )
        found: Tensor = features
        return found

    def features_of(self, input_shape: tuple[int, ...]) -> int:
        """How many features an item of a shape has, see `shape_of`."""
        return math.prod(self.shape_of(input_shape))

    @torch.no_grad()
    def shape_of(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of an item's features, not yet flattened; the network is run once, on zeros.

        Raises:
            ValueError: a network that cannot take such items, with what it said.
        """
        try:
            found = self._trial()._maps(torch.zeros(2, *input_shape, device=self.device))
        except Exception as error:  # whatever somebody's network raises
            raise ValueError(
                f"expected an encoder for items of shape {input_shape}, but {self.reference} "
                f"cannot take them: {type(error).__name__}: {error}"
            ) from error
        return tuple(found.shape[1:])

    @torch.no_grad()
    def probe(self, input_shape: tuple[int, ...]) -> list[float]:
        """What it gives for two made-up items, in part: weights alone do not tell a network.

        Raises:
            ValueError: a network that gives something else for the same items.
        """
        generator = torch.Generator().manual_seed(0)
        items = torch.rand(2, *input_shape, generator=generator).to(self.device)
        trial = self._trial()
        first, second = (trial(items).flatten()[:_PROBED].cpu() for _ in range(2))
        if not alike(first.tolist(), second.tolist()):
            raise ValueError(
                f"expected an encoder that gives the same features for the same items, but "
                f"{self.reference} does not"
            )
        return [float(value) for value in first]

    def fingerprint(self) -> str:
        """A hash of all weights and of what is done to the items, to know the network again."""
        digest = hashlib.sha256(repr((self.size, self.mean, self.deviation)).encode())
        for name, value in sorted(self.module.state_dict().items()):
            if not isinstance(value, Tensor):  # extra state
                digest.update(f"{name} {value!r}".encode())
                continue
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(bytes_of(value))
        return digest.hexdigest()

    def record(self) -> dict[str, Any]:
        """What a bundle keeps of it besides weights: plain values."""
        return {
            "reference": self.reference,
            "arguments": self.arguments,
            "trainable": self.trainable,
            "size": None if self.size is None else list(self.size),
            "crop": self.crop,
            "mean": list(self.mean),
            "deviation": list(self.deviation),
            "made_with": self.made_with,
        }


def bytes_of(value: Tensor) -> bytes:
    """The bytes of a tensor of any dtype."""
    return value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def alike(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two probes are those of one network, on machines that may round otherwise."""
    if len(one) != len(other):
        return False
    a, b = torch.tensor(one, dtype=torch.float64), torch.tensor(other, dtype=torch.float64)
    scale = float(a.abs().mean())
    return bool(torch.allclose(a, b, rtol=1e-2, atol=1e-2 * scale, equal_nan=True))


def _numbers(name: str, values: float | Sequence[float]) -> tuple[float, ...]:
    found = (values,) if isinstance(values, numbers.Real) else tuple(values)  # type: ignore[arg-type]
    if not found or not all(abs(float(value)) < float("inf") for value in found):
        raise ValueError(f"expected finite numbers as {name}, got {values}")
    return tuple(float(value) for value in found)
