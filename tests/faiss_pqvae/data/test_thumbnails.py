import base64
import io

import numpy as np
import pytest
from PIL import Image

from faiss_pqvae.data.thumbnails import thumbnail, thumbnail_of_file


def _decoded(encoded):
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


@pytest.mark.parametrize(
    ("pixels", "size", "value"),
    [
        (np.full((3, 200, 100), 7, np.uint8), (32, 64), (7, 7, 7)),
        (np.full((1, 8, 8), 9, np.uint8), (8, 8), 9),
        (np.ones((1, 8, 8), np.float32), (8, 8), 255),
    ],
    ids=["large", "grey", "floats"],
)
def test_thumbnail__of_pixels(pixels, size, value):
    image = _decoded(thumbnail(pixels, 64))
    assert image.size == size
    assert image.getpixel((3, 3)) == value


def test_thumbnail_of_file__stands_upright(tmp_path):
    image, exif = Image.new("RGB", (40, 20)), Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    image.save(tmp_path / "a.jpg", exif=exif)
    assert _decoded(thumbnail_of_file(tmp_path / "a.jpg", 10)).size == (5, 10)


def test_thumbnail_of_file__what_is_transparent_lies_on_white(tmp_path):
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(tmp_path / "a.png")
    image = _decoded(thumbnail_of_file(tmp_path / "a.png", 10))
    assert (image.format, image.size, image.getpixel((5, 5))) == ("JPEG", (10, 10), (255,) * 3)


def test_thumbnail_of_file__of_what_is_no_image(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    assert [thumbnail_of_file(tmp_path / name, 10) for name in ("a.jpg", "gone", "")] == [None] * 3
