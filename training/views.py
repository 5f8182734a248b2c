"""Augmented views of images: what the encoder sees while the decoder aims at the clean image.

Codes then stop describing what the views change (METHODS: a shift, a rotation, a crop, colours).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Views:
    """Strengths of the random changes; the zeros (and scale 1) leave the image as it is.

    Attributes:
        min_scale: smallest share of the image's area that a crop keeps, in (0, 1].
        shift: largest shift along each axis, as a share of the image's size.
        rotation: largest rotation, degrees.
        flip: probability of a left-right mirror image.
        color: strength of brightness, contrast and (colour images) saturation jitter, in [0, 1].
        grayscale: probability of losing all colour.
    """

    min_scale: float = 1.0
    shift: float = 0.0
    rotation: float = 0.0
    flip: float = 0.0
    color: float = 0.0
    grayscale: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.min_scale <= 1:
            raise ValueError(f"expected min_scale in (0, 1], got {self.min_scale}")
        for name, high in (("flip", 1), ("grayscale", 1), ("color", 1), ("shift", 1)):
            if not 0 <= getattr(self, name) <= high:
                raise ValueError(f"expected {name} in [0, {high}], got {getattr(self, name)}")
        if not 0 <= self.rotation <= 180:
            raise ValueError(f"expected rotation in [0, 180] degrees, got {self.rotation}")

    @classmethod
    def for_shape(cls, shape: tuple[int, ...]) -> Views:
        """The default for items of a shape.

        Photographs are cropped, mirrored and recoloured; images of one channel are shifted,
        turned and scaled (a mirrored digit is another digit); vectors stay.
        """
        if len(shape) != 3:
            return cls()
        if shape[0] == 1:
            return cls(min_scale=0.6, shift=0.12, rotation=25)
        return cls(min_scale=0.4, flip=0.5, color=0.4, grayscale=0.1)


def random_views(x: Tensor, views: Views, generator: torch.Generator) -> Tensor:
    """One view of every image.

    Args:
        x: (n, c, h, w) float in [0, 1].
        views: strengths.
        generator: source of randomness, on the CPU.

    Returns:
        (n, c, h, w) float in [0, 1]; `x` itself when `views` changes nothing.
    """
    if views == Views():
        return x
    x = _warp(x, views, generator)
    return _recolor(x, views, generator) if views.color or views.grayscale else x


def _uniform(n: int, low: float, high: float, generator: torch.Generator, like: Tensor) -> Tensor:
    draws = torch.rand(n, generator=generator) * (high - low) + low
    return draws.to(like.device)


def _warp(x: Tensor, views: Views, generator: torch.Generator) -> Tensor:
    n = len(x)
    area = _uniform(n, views.min_scale, 1, generator, x)
    # Aspect ratios from 3:4 to 4:3, as far as the crop fits into the image.
    stretch = _uniform(n, -1, 1, generator, x) * (0.5 * math.log(4 / 3)) * (views.min_scale < 1)
    width = (area.sqrt() * stretch.exp()).clamp(max=1)
    height = (area.sqrt() / stretch.exp()).clamp(max=1)
    # Grid coordinates run from -1 to 1, so a share s of the size is 2 s.
    left = _uniform(n, -1, 1, generator, x) * (1 - width + 2 * views.shift)
    top = _uniform(n, -1, 1, generator, x) * (1 - height + 2 * views.shift)
    pixels = x.shape[2] / x.shape[3]  # the grid is square, the image need not be: no shear
    angle = _uniform(n, -1, 1, generator, x) * math.radians(views.rotation)
    mirror = 1 - 2 * (_uniform(n, 0, 1, generator, x) < views.flip).float()
    cos, sin = angle.cos(), angle.sin()
    theta = torch.stack(
        [
            mirror * cos * width,
            -sin * height * pixels,
            left,
            mirror * sin * width / pixels,
            cos * height,
            top,
        ],
        1,
    ).view(n, 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _recolor(x: Tensor, views: Views, generator: torch.Generator) -> Tensor:
    n, channels = x.shape[:2]

    def factor() -> Tensor:
        jitter = _uniform(n, 1 - views.color, 1 + views.color, generator, x)
        return jitter.view(n, 1, 1, 1)

    brightness, contrast, saturation = factor(), factor(), factor()
    lost = _uniform(n, 0, 1, generator, x).view(n, 1, 1, 1) < views.grayscale
    saturation = torch.where(lost, torch.zeros_like(saturation), saturation)
    x = x * brightness
    average = x.mean((1, 2, 3), keepdim=True)
    x = average + (x - average) * contrast
    if channels > 1:
        gray = x.mean(1, keepdim=True)
        x = gray + (x - gray) * saturation
    return x.clamp(0, 1)
