"""How one encoded picture becomes an array: 8 bits, upright, opaque, in the size that is asked."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from faiss_pqvae.data.images.image_options import CHANNELS, Mode
from faiss_pqvae.extras import import_extra
from faiss_pqvae.middle import middle

# A file, or its content.
Encoded: TypeAlias = Path | io.BytesIO

_ORIENTATION = 0x0112  # EXIF's tag
# What Pillow's transpose undoes it with.
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_SIDEWAYS = frozenset({"TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"})


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Without Pillow's warnings of what is odd in a file, which do not say which file.

    Around threads and not in them: warnings are filtered for the whole process.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


class BrokenImageError(ValueError):
    """A picture that cannot be read."""


class OtherSizeError(ValueError):
    """A picture of another size than the others, where none are resized."""


@dataclass(frozen=True)
class Decoder:
    """How pictures are decoded.

    Attributes:
        size: (height, width) in pixels of every picture that comes out.
        mode: "RGB" or "L".
        crop: whether only the middle is resized, in the proportions of `size`.
        resize: whether pictures of another size are resized (bilinear, antialiased), or refused.
        orient: whether EXIF orientation is applied.
    """

    size: tuple[int, int]
    mode: Mode
    resize: bool
    orient: bool = True
    crop: bool = False

    def __post_init__(self) -> None:
        if self.mode not in CHANNELS:
            raise ValueError(f"expected a mode of {sorted(CHANNELS)}, got {self.mode!r}")
        if len(self.size) != 2 or min(self.size) <= 0:
            raise ValueError(f"expected a positive size (height, width), got {self.size}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return CHANNELS[self.mode], *self.size

    def image(self, file: Encoded, name: str) -> npt.NDArray[np.uint8]:
        """One picture, (channels, height, width) uint8.

        Of an animation the first frame counts; transparency goes over white; more than 8 bits and
        floats are scaled, see `_to_bytes`.

        Raises:
            BrokenImageError: it cannot be read.
            OtherSizeError: it has another size, and is not to be resized.
        """
        pillow = import_extra("PIL.Image")
        try:
            with pillow.open(file) as image:
                turn = _TURNS.get(_orientation(image)) if self.orient else None
                height, width = _turned(self.size, turn)
                if self.resize:
                    # JPEG is decoded at 1/2, 1/4 or 1/8, where that is still twice what is needed.
                    image.draft(None, (2 * width, 2 * height))
                image = _to_mode(image, self.mode)
                if self.resize:
                    box = _box(image, (height, width)) if self.crop else None
                    image = image.resize((width, height), pillow.Resampling.BILINEAR, box=box)
                if turn is not None:
                    image = image.transpose(pillow.Transpose[turn])
                pixels = np.asarray(image)
        except MemoryError:
            raise
        except Exception as error:
            raise _broken(name, error) from error
        if pixels.shape[:2] != self.size:
            raise OtherSizeError(
                f"expected {name} of (height, width) {self.size}, got {pixels.shape[:2]}; "
                "pass size=(height, width), --size HEIGHT WIDTH, to resize"
            )
        return pixels.reshape(*self.size, -1).transpose(2, 0, 1)


def image_size(file: Encoded, name: str, *, orient: bool = True) -> tuple[int, int]:
    """(height, width) as `Decoder` gives it, from the header alone.

    Raises:
        BrokenImageError: it has none.
    """
    pillow = import_extra("PIL.Image")
    try:
        with pillow.open(file) as image:
            width, height = image.size
            turn = _TURNS.get(_orientation(image)) if orient else None
    except Exception as error:
        raise _broken(name, error) from error
    return _turned((height, width), turn)


def _box(image: Any, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The middle of an image, as Pillow has it: left, top, right and bottom."""
    top, left, height, width = middle((image.height, image.width), size)
    return left, top, left + width, top + height


def _turned(size: tuple[int, int], turn: str | None) -> tuple[int, int]:
    return size[::-1] if turn in _SIDEWAYS else size


def _orientation(image: Any) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, struct.error):
        return 1  # damaged notes beside a picture that may be whole: it has no orientation then


def _to_mode(image: Any, mode: Mode) -> Any:
    pillow = import_extra("PIL.Image")
    if image.mode[0] in "IF":
        image = pillow.fromarray(_to_bytes(np.asarray(image)))
    elif image.has_transparency_data:
        white = pillow.new("RGBA", image.size, "white")
        image = pillow.alpha_composite(white, image.convert("RGBA"))
    # A conversion to the same mode is a copy.
    return image if image.mode == mode else image.convert(mode)


def _to_bytes(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Brightness of more than 8 bits, or of floats, from 0 to 255: scaled, and never clipped.

    The white point is that of the format where the values fit: 65535 for integers; 1, 255 or 65535
    for floats, the lowest that is not exceeded. Else the lowest value is black, the highest white.
    """
    whites = (65535.0,) if values.dtype.kind in "iu" else (1.0, 255.0, 65535.0)
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("expected finite brightness, got NaN or infinity")
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= whites[-1]:
        low, high = 0.0, next(white for white in whites if high <= white)
    scaled: npt.NDArray[np.float64] = np.rint((values - low) * 255 / max(high - low, 1e-300))
    return scaled.astype(np.uint8)


def _broken(name: str, error: Exception) -> BrokenImageError:
    # Pillow's decoders raise OSError, SyntaxError, struct.error and more on damaged files.
    pillow = import_extra("PIL")
    if isinstance(error, pillow.UnidentifiedImageError):
        why = "it is in no format that Pillow knows"  # Pillow's own text names it again
    elif isinstance(error, import_extra("PIL.Image").DecompressionBombError):
        why = f"{error} Raise PIL.Image.MAX_IMAGE_PIXELS if it is none"
    else:
        why = str(error) or type(error).__name__
    return BrokenImageError(f"cannot read {name} as an image: {why}")
