"""One picture: against arithmetic by hand, and Pillow's own way."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from faiss_pqvae.data.images.decoder import (
    BrokenImageError,
    Decoder,
    OtherSizeError,
    image_size,
    quiet_pillow,
)
from faiss_pqvae.middle import middle

ORIENTATION = 0x0112


def encoded(image: Image.Image, format_: str = "PNG", **options: Any) -> io.BytesIO:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer


def read(image: Image.Image, format_: str = "PNG", mode: Any = "RGB", **options: Any) -> np.ndarray:
    """A picture in its own size, (channels, height, width)."""
    size = (image.height, image.width)
    return Decoder(size, mode, resize=False).image(encoded(image, format_, **options), "x")


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda x: x),
        (2, lambda x: x[:, ::-1]),
        (3, lambda x: x[::-1, ::-1]),
        (4, lambda x: x[::-1]),
        (5, lambda x: x.transpose(1, 0, 2)),
        (6, lambda x: x.transpose(1, 0, 2)[:, ::-1]),
        (7, lambda x: x.transpose(1, 0, 2)[::-1, ::-1]),
        (8, lambda x: x.transpose(1, 0, 2)[::-1]),
    ],
)
@pytest.mark.parametrize("resize", [False, True])
def test_decoder__turns_as_viewers_do(
    pixels: Any, orientation: int, upright: Any, resize: bool
) -> None:
    x = pixels(0)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    buffer = encoded(Image.fromarray(x), exif=exif)
    expected = upright(x)
    size = expected.shape[:2]
    found = Decoder(size, "RGB", resize=resize).image(buffer, "x")
    np.testing.assert_array_equal(found, expected.transpose(2, 0, 1))
    assert image_size(buffer, "x") == size
    as_stored = Decoder((5, 4), "RGB", resize=resize, orient=False).image(buffer, "x")
    np.testing.assert_array_equal(as_stored, x.transpose(2, 0, 1))
    assert image_size(buffer, "x", orient=False) == (5, 4)


@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b""])
def test_decoder__damaged_exif_is_no_orientation(pixels: Any, exif: bytes) -> None:
    with quiet_pillow():
        assert read(Image.fromarray(pixels(0)), "JPEG", exif=exif).shape == (3, 5, 4)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 257, 65535, 40_000]], np.uint16), [0, 1, 255, 156]),
        (np.array([[0, 65535]], np.int32), [0, 255]),
        (np.array([[-100, 0, 100]], np.int32), [0, 128, 255]),  # stretched, not clipped
        (np.array([[7, 7]], np.int32), [0, 0]),
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 17, 254.6]], np.float32), [0, 17, 255]),
        (np.array([[0, 65535]], np.float32), [0, 255]),
        (np.array([[-1, 0, 3]], np.float32), [0, 64, 255]),
        (np.array([[-5, -5]], np.float32), [0, 0]),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_decoder__scales_more_than_8_bits(
    values: np.ndarray, expected: list[int], mode: str
) -> None:
    found = read(Image.fromarray(values), "TIFF", mode)
    assert found[:, 0].tolist() == [expected] * (3 if mode == "RGB" else 1)


def test_decoder__16_bits_in_png_and_ppm() -> None:
    values = np.array([[0, 257 * 200, 65535]], np.uint16)
    assert read(Image.fromarray(values), "PNG", "L").tolist() == [[[0, 200, 255]]]
    content = io.BytesIO(b"P5 3 1 65535\n" + values.astype(">u2").tobytes())
    assert Decoder((1, 3), "L", resize=False).image(content, "x").tolist() == [[[0, 200, 255]]]


def test_decoder__refuses_nan() -> None:
    with pytest.raises(BrokenImageError, match=r"cannot read x as an image: .* NaN or infinity"):
        read(Image.fromarray(np.array([[0, np.nan]], np.float32)), "TIFF")


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (Image.new("RGBA", (2, 2), (255, 0, 0, 51)), {}),
        (Image.new("P", (2, 2), 0), {"transparency": bytes([51])}),
    ],
)
def test_decoder__transparency_goes_over_white(image: Image.Image, options: Any) -> None:
    if image.mode == "P":
        image.putpalette([255, 0, 0])
    assert read(image, **options)[:, 0, 0].tolist() == [255, 204, 204]  # a fifth of red


@pytest.mark.parametrize(
    ("mode", "colour", "options", "expected"),
    [
        ("LA", (0, 51), {}, 204),
        ("L", 7, {"transparency": 7}, 255),  # one grey that is transparent
        ("1", 1, {}, 255),
        ("L", 90, {}, 90),
    ],
)
def test_decoder__grey(mode: str, colour: Any, options: Any, expected: int) -> None:
    image = Image.new(mode, (2, 2), colour)
    assert read(image, mode="L", **options).tolist() == [[[expected] * 2] * 2]
    assert set(read(image, **options).ravel().tolist()) == {expected}


@pytest.mark.parametrize(("mode", "format_"), [("CMYK", "JPEG"), ("CMYK", "TIFF"), ("P", "GIF")])
def test_decoder__other_colours_become_rgb(mode: str, format_: str) -> None:
    red = Image.new("RGB", (16, 16), (254, 0, 0)).convert(mode)
    found = read(red, format_).reshape(3, -1).astype(int)
    assert (np.abs(found - np.array([[254], [0], [0]])) <= 3).all()


def test_decoder__of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("L", (2, 2), value) for value in (10, 200)]
    buffer = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert Decoder((2, 2), "L", resize=False).image(buffer, "x").tolist() == [[[10, 10]] * 2]


def test_decoder__drafts_of_jpeg_look_like_the_whole(pixels: Any) -> None:
    image = Image.fromarray(pixels(0, 6, 8)).resize((800, 600), Image.Resampling.BICUBIC)
    buffer = encoded(image, "JPEG", quality=95)
    found = Decoder((30, 40), "RGB", resize=True).image(buffer, "x").transpose(1, 2, 0)
    with Image.open(buffer) as whole:
        expected = np.asarray(whole.resize((40, 30), Image.Resampling.BILINEAR))
    assert np.abs(found.astype(int) - expected).mean() < 1


def test_decoder__another_size_is_an_error_unless_resized(pixels: Any) -> None:
    buffer = encoded(Image.fromarray(pixels(0)))
    with pytest.raises(OtherSizeError, match=r"expected x of .* \(4, 5\), got \(5, 4\); pass size"):
        Decoder((4, 5), "RGB", resize=False).image(buffer, "x")
    assert Decoder((7, 9), "L", resize=True).image(buffer, "x").shape == (1, 7, 9)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no format that Pillow knows"),
        (b"text", "no format that Pillow knows"),
        (None, "truncated"),
    ],
)
def test_decoder__says_what_is_broken(pixels: Any, content: bytes | None, message: str) -> None:
    whole = encoded(Image.fromarray(pixels(0, 40, 40))).getvalue()
    file = io.BytesIO(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(BrokenImageError, match=f"cannot read x as an image: .*{message}"):
        Decoder((4, 4), "RGB", resize=True).image(file, "x")


def test_decoder__names_a_decompression_bomb_with_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("1", (100, 30)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(BrokenImageError, match=r"cannot read bomb .*3000 pixels.*MAX_IMAGE_PIXELS"):
        Decoder((4, 4), "RGB", resize=True).image(tmp_path / "x.png", "bomb")


@pytest.mark.parametrize("size", [(0, 4), (4, -1), (4, 4, 3)])
def test_decoder__rejects_a_bad_size(size: Any) -> None:
    with pytest.raises(ValueError, match="positive size"):
        Decoder(size, "RGB", resize=True)


def test_decoder__rejects_an_unknown_mode() -> None:
    mode: Any = "CMYK"
    with pytest.raises(ValueError, match=r"mode of \['L', 'RGB'\], got 'CMYK'"):
        Decoder((4, 4), mode, resize=True)


@pytest.mark.parametrize(
    ("size", "wanted", "expected"),
    [
        ((10, 20), (5, 5), (0, 5, 10, 10)),
        ((20, 10), (5, 5), (5, 0, 10, 10)),
        ((10, 20), (5, 10), (0, 0, 10, 20)),
        ((9, 9), (3, 6), (2, 0, 4, 9)),
        ((1, 100), (7, 3), (0, 49, 1, 1)),
    ],
)
def test_middle__is_the_largest_part_of_the_wanted_proportions(size, wanted, expected):
    top, left, height, width = middle(size, wanted)
    assert (top, left, height, width) == expected
    assert 0 <= top <= size[0] - height
    assert 0 <= left <= size[1] - width


def test_decoder__cuts_the_middle_out_of_a_photograph(tmp_path):
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = 200  # the middle third
    path = tmp_path / "wide.png"
    Image.fromarray(pixels).save(path)
    cropped = Decoder((8, 8), "RGB", resize=True, crop=True).image(path, "wide")
    np.testing.assert_array_equal(cropped, np.full((3, 8, 8), 200, np.uint8))
    stretched = Decoder((8, 8), "RGB", resize=True).image(path, "wide")
    assert stretched[:, :, 0].max() < 50
    tall = tmp_path / "tall.png"
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tall)
    again = Decoder((8, 8), "RGB", resize=True, crop=True).image(tall, "tall")
    np.testing.assert_array_equal(again, cropped)
