"""How pictures are read: the options that a folder and Parquet have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

Mode: TypeAlias = Literal["RGB", "L"]

CHANNELS = {"RGB": 3, "L": 1}
_MODES: dict[int, Mode] = {3: "RGB", 1: "L"}


@dataclass(frozen=True)
class ImageOptions:
    """How images in a folder or in Parquet are read.

    Attributes:
        size: height and width in pixels that images in a folder, or in Parquet, are resized to; by
            default they have one size already, or get that of the index.
        mode: of images in a folder or in Parquet: RGB for three channels, L for one (grey); by
            default as many as the index has, and RGB in a training.
        orient: turn images as their EXIF orientation says, as every viewer does.
        skip_broken: leave out images that cannot be read, and name them, instead of an error that
            lists them all. Ids, and the rows of --labels, are places among all files.
        column: the column of a Parquet file to read; by default the only one of images, or of
            vectors.
        crop: where they are resized, cut the middle out in the proportions of that size first, in
            place of stretching them; by default where the encoder of the index wants that.
    """

    size: tuple[int, int] | None = None
    mode: Mode | None = None
    orient: bool = True
    skip_broken: bool = False
    column: str | None = None
    crop: bool | None = None

    def like(self, item_shape: tuple[int, ...] | None) -> ImageOptions:
        """With size and mode of an index's items (channels, height, width), where it has such.

        Raises:
            ValueError: size or mode were given, and are others.
        """
        if item_shape is None or len(item_shape) != 3:
            return self
        channels, *size = item_shape
        wanted = replace(self, size=(size[0], size[1]), mode=_MODES.get(channels, self.mode))
        for name in ("size", "mode"):
            given, has = getattr(self, name), getattr(wanted, name)
            if given not in (None, has):
                raise ValueError(
                    f"expected images of {name} {has}, as the index was trained with, got "
                    f"{given}: leave {name} out"
                )
        return wanted

    def arguments(self) -> dict[str, Any]:
        """What `ImageFolder` and `ParquetImages` take."""
        return {
            "size": self.size,
            "crop": bool(self.crop),
            "mode": self.mode or "RGB",
            "orient": self.orient,
            "skip_broken": self.skip_broken,
        }
