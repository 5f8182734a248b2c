"""Augmented views: what the encoder sees instead of the clean item.

Codes stop describing what the views change: a shift, a rotation, a crop, colours, noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from faiss_pqvae.arguments import check_numbers

Preset = Literal["natural", "digits", "vectors"]


@dataclass(frozen=True)
class Views:
    """Strengths of the random changes; the zeros (and scale 1) leave the item as it is.

    Attributes, of images:
        min_scale: smallest share of the image's area that a crop keeps, in (0, 1].
        shift: largest shift along each axis, as a share of the image's size.
        rotation: largest rotation, degrees.
        flip: probability of a left-right mirror image.
        color: strength of brightness, contrast and (colour images) saturation jitter, in [0, 1].
        hue: largest turn of the colours around grey, as a share of the full circle.
        grayscale: probability of losing all colour.
        blur: largest standard deviation of a Gaussian blur, as a share of the image's size.

    Attributes, of vectors:
        noise: standard deviation of Gaussian noise, in units of each component's own in the batch.
        dropout: probability that a component takes the batch's mean.
        mixing: largest share of another item of the batch that is mixed in, in [0, 0.5].
    """

    min_scale: float = 1.0
    shift: float = 0.0
    rotation: float = 0.0
    flip: float = 0.0
    color: float = 0.0
    hue: float = 0.0
    grayscale: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    dropout: float = 0.0
    mixing: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self)
        if not 0 < self.min_scale <= 1:
            raise ValueError(f"expected min_scale in (0, 1], got {self.min_scale}")
        highest = {"shift": 1, "flip": 1, "color": 1, "hue": 0.5, "grayscale": 1, "blur": 0.25}
        for name, high in {**highest, "dropout": 1, "mixing": 0.5}.items():
            if not 0 <= getattr(self, name) <= high:
                raise ValueError(f"expected {name} in [0, {high}], got {getattr(self, name)}")
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise ValueError(f"expected noise >= 0, got {self.noise}")
        if not 0 <= self.rotation <= 180:
            raise ValueError(f"expected rotation in [0, 180] degrees, got {self.rotation}")

    @property
    def of_images(self) -> bool:
        """Whether any strength is one that only images have."""
        return replace(self, noise=0.0, dropout=0.0, mixing=0.0) != Views()

    @property
    def of_vectors(self) -> bool:
        """Whether any strength is one that only vectors have."""
        return max(self.noise, self.dropout, self.mixing) > 0

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuses strengths that items of a shape cannot have.

        Raises:
            ValueError: views of images for vectors, or of vectors for images.
        """
        image = len(shape) == 3
        if self.of_vectors if image else self.of_images:
            expected, got = ("images", "vectors") if image else ("vectors", "images")
            raise ValueError(
                f"expected views of {expected} for items of shape {shape}, got views of {got}"
            )

    @classmethod
    def for_shape(cls, shape: tuple[int, ...], *, strong: bool = False) -> Views:
        """The default for items of a shape.

        Photographs are cropped, mirrored and recoloured; images of one channel are shifted,
        turned and scaled (a mirrored digit is another digit); vectors stay.

        Args:
            shape: of an item.
            strong: one of `PRESETS`, for codes that tell items apart and may keep whatever two
                views share; vectors are disturbed.
        """
        if strong:
            if len(shape) != 3:
                return PRESETS["vectors"]
            return PRESETS["digits" if shape[0] == 1 else "natural"]
        if len(shape) != 3:
            return cls()
        if shape[0] == 1:
            return cls(min_scale=0.6, shift=0.12, rotation=25)
        return cls(min_scale=0.4, flip=0.5, color=0.4, grayscale=0.1)


# Strong views, by name.
PRESETS: dict[Preset, Views] = {
    "natural": Views(min_scale=0.25, flip=0.5, color=0.4, hue=0.1, grayscale=0.2),
    "digits": Views(min_scale=0.5, shift=0.1, rotation=25, color=0.4),
    "vectors": Views(noise=0.3, dropout=0.2, mixing=0.2),
}


class Draws:
    """Random numbers of the items of a batch.

    Args:
        generator: source of randomness, on the CPU.
        device: where they go.
        n: items of the batch.
        own: those whose numbers are wanted; what is drawn for the others is left out. None: all.
    """

    def __init__(
        self, generator: torch.Generator, device: torch.device, n: int, own: slice | None = None
    ) -> None:
        self.generator, self.device = generator, device
        self.n, self.own = n, own or slice(0, n)

    def uniform(self, low: float, high: float) -> Tensor:
        """A number in [low, high) of every item."""
        draws = torch.rand(self.n, generator=self.generator)[self.own]
        return (draws * (high - low) + low).to(self.device)


class EachItsOwn(Draws):
    """Random numbers of which an item gets the same whatever batch it is in.

    Args:
        generators: one an item, on the CPU.
        device: where the numbers go.
    """

    def __init__(self, generators: Sequence[torch.Generator], device: torch.device) -> None:
        super().__init__(generators[0], device, len(generators))
        self.generators = generators

    def uniform(self, low: float, high: float) -> Tensor:
        """A number in [low, high) of every item."""
        draws = torch.cat([torch.rand(1, generator=generator) for generator in self.generators])
        return (draws * (high - low) + low).to(self.device)


def random_views(
    x: Tensor,
    views: Views,
    generator: torch.Generator,
    *,
    size: tuple[int, int] | None = None,
    own: slice | None = None,
    n: int | None = None,
) -> Tensor:
    """One view of every item.

    Args:
        x: (n, c, h, w) float in [0, 1], or (n, d) float.
        views: strengths, of images or of vectors.
        generator: source of randomness, on the CPU.
        size: height and width of the views of images; None keeps those of x.
        own: which of a batch of n images x are, whose views are then as those of all would be;
            None: all. Vectors are mixed with each other: they are all there.
        n: images of that batch, with `own`.

    Returns:
        The like of x, images in [0, 1]; `x` itself when `views` changes nothing.
    """
    draws = Draws(generator, x.device, len(x) if n is None else n, own)
    if views.of_vectors:
        x = _disturb(x, views, draws)
    return image_views(x, views, draws, size) if views.of_images else x


def image_views(
    x: Tensor, views: Views, draws: Draws, size: tuple[int, int] | None = None
) -> Tensor:
    """One view of every image, see `random_views`, with numbers that are drawn as one likes."""
    x = _warp(x, views, draws, size or (x.shape[2], x.shape[3]))
    if views.color or views.hue or views.grayscale:
        x = _recolor(x, views, draws)
    return _blur(x, views.blur, draws) if views.blur else x


def _warp(x: Tensor, views: Views, draws: Draws, size: tuple[int, int]) -> Tensor:
    n, channels = x.shape[:2]
    area = draws.uniform(views.min_scale, 1)
    # Aspect ratios from 3:4 to 4:3, as far as the crop fits into the image.
    stretch = draws.uniform(-1, 1) * (0.5 * math.log(4 / 3)) * (views.min_scale < 1)
    width = (area.sqrt() * stretch.exp()).clamp(max=1)
    height = (area.sqrt() / stretch.exp()).clamp(max=1)
    # Grid coordinates run from -1 to 1, so a share s of the size is 2 s.
    left = draws.uniform(-1, 1) * (1 - width + 2 * views.shift)
    top = draws.uniform(-1, 1) * (1 - height + 2 * views.shift)
    pixels = x.shape[2] / x.shape[3]  # the grid is square, the image need not be: no shear
    angle = draws.uniform(-1, 1) * math.radians(views.rotation)
    mirror = 1 - 2 * (draws.uniform(0, 1) < views.flip).float()
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
    grid = F.affine_grid(theta, [n, channels, *size], align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _disturb(x: Tensor, views: Views, draws: Draws) -> Tensor:
    n, generator = len(x), draws.generator
    mean, deviation = x.mean(0), x.std(0, correction=0)
    if views.mixing:
        other = torch.randperm(n, generator=generator).to(x.device)
        share = draws.uniform(0, views.mixing).unsqueeze(1)
        x = torch.lerp(x, x[other], share)
    if views.noise:
        noise = torch.randn(x.shape, generator=generator).to(x)
        x = x + views.noise * deviation * noise
    if views.dropout:
        lost = torch.rand(x.shape, generator=generator) < views.dropout
        x = torch.where(lost.to(x.device), mean, x)
    return x


def _recolor(x: Tensor, views: Views, draws: Draws) -> Tensor:
    n, channels = x.shape[:2]

    def factor() -> Tensor:
        jitter = draws.uniform(1 - views.color, 1 + views.color)
        return jitter.view(n, 1, 1, 1)

    brightness, contrast, saturation = factor(), factor(), factor()
    lost = draws.uniform(0, 1).view(n, 1, 1, 1) < views.grayscale
    saturation = torch.where(lost, torch.zeros_like(saturation), saturation)
    x = x * brightness
    average = x.mean((1, 2, 3), keepdim=True)
    x = average + (x - average) * contrast
    if channels > 1:
        gray = x.mean(1, keepdim=True)
        x = gray + (x - gray) * saturation
    if channels == 3 and views.hue:
        x = _turn_colors(x, views.hue, draws)
    return x.clamp(0, 1)


def _turn_colors(x: Tensor, hue: float, draws: Draws) -> Tensor:
    """Turns every image's colours around the grey axis of RGB, by Rodrigues' formula."""
    angle = draws.uniform(-hue, hue) * (2 * math.pi)
    cos, sin = angle.cos(), angle.sin() / math.sqrt(3)
    same, after, before = (1 + 2 * cos) / 3, (1 - cos) / 3 - sin, (1 - cos) / 3 + sin
    rows = [same, after, before, before, same, after, after, before, same]
    return torch.bmm(torch.stack(rows, 1).view(-1, 3, 3), x.flatten(2)).view_as(x)


def _blur(x: Tensor, strength: float, draws: Draws) -> Tensor:
    """Convolves every image with a Gaussian of its own."""
    n, channels, height, width = x.shape
    sigma = draws.uniform(0, strength) * min(height, width)
    radius = min(math.ceil(3 * strength * min(height, width)), min(height, width) - 1)
    offsets = torch.arange(-radius, radius + 1, device=x.device)
    kernels = (-0.5 * (offsets / sigma.clamp(min=1e-3).unsqueeze(1)).square()).softmax(1)
    flat = x.reshape(1, n * channels, height, width)
    kernels = kernels.repeat_interleave(channels, 0)  # (n c, 2 radius + 1)
    for kernel, padding in (
        (kernels[:, None, :, None], (0, 0, radius, radius)),
        (kernels[:, None, None, :], (radius, radius, 0, 0)),
    ):
        flat = F.conv2d(F.pad(flat, padding, "reflect"), kernel, groups=n * channels)
    return flat.view_as(x)
