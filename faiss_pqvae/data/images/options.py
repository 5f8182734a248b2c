"""How pictures are read: the options that a folder and Parquet have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Mode: TypeAlias = Literal["RGB", "L"]

CHANNELS = {"RGB": 3, "L": 1}


@dataclass(frozen=True)
class ImageOptions:
    """How images in a folder or in Parquet are read.

    Attributes:
        size: height and width in pixels that images are resized to; by default all have one size.
        mode: RGB for three channels, L for one (grey); by default RGB, or what an index takes.
        orient: turn images as their EXIF orientation says, as every viewer does.
        skip_broken: leave out what cannot be read, instead of an error that lists it; ids are then
            places among all.
        column: the column of Parquet to read; by default the only one of images, or of vectors.
    """

    size: tuple[int, int] | None = None
    mode: Mode | None = None
    orient: bool = True
    skip_broken: bool = False
    column: str | None = None
