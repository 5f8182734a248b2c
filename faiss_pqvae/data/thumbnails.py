"""Small pictures for a page of HTML, in base64."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae.extras import import_extra


def thumbnail(pixels: npt.NDArray[Any], side: int) -> str:
    """An image as PNG in base64, made smaller when it is large.

    Args:
        pixels: (c, h, w) with 1 or 3 channels, uint8 or floats in [0, 1].
        side: of what comes out at most, in pixels.
    """
    if pixels.dtype != np.uint8:
        pixels = (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)
    channels_last = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    image = import_extra("PIL.Image").fromarray(
        channels_last[:, :, 0] if len(pixels) == 1 else channels_last
    )
    image.thumbnail((side, side))
    return _base64(image, "PNG")


def thumbnail_of_file(path: Path, side: int) -> str | None:
    """As `thumbnail`, of a file, but JPEG, which photographs take less of.

    None where there is no file that can be read as an image.
    """
    pillow, upright = import_extra("PIL.Image"), import_extra("PIL.ImageOps").exif_transpose
    if not path.is_file():
        return None
    try:
        with pillow.open(path) as image:
            image.draft("RGB", (side, side))  # JPEG's own scaling
            image = upright(image)
            shown = image.convert("RGBA" if image.has_transparency_data else "RGB")
            shown.thumbnail((side, side))
            if shown.mode == "RGBA":
                white = pillow.new("RGBA", shown.size, "white")
                shown = pillow.alpha_composite(white, shown).convert("RGB")
            return _base64(shown, "JPEG", quality=85)
    # Pillow's decoders raise OSError, SyntaxError, struct.error and more on damaged files.
    except Exception:
        return None


def _base64(image: Any, form: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, form, optimize=True, **options)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
