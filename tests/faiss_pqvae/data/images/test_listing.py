"""Which files of a folder are pictures, and what is skipped."""

from pathlib import Path

import pytest
from PIL import Image

from faiss_pqvae.data.images.listing import IMAGE_SUFFIXES, find_images, image_suffixes

SMALL = Image.new("RGB", (3, 2), "red")


def names(paths: list[Path], root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


@pytest.mark.parametrize(
    ("name", "format_"),
    [
        *[(f"x{suffix}", None) for suffix in sorted(IMAGE_SUFFIXES | {".PPM", ".ico", ".pcx"})],
        *[("bare", name) for name in ("JPEG", "PNG", "TIFF", "WEBP", "PPM", "BMP", "GIF")],
        ("photo.jpg_large", "JPEG"),
    ],
)
def test_find_images__whatever_pillow_reads(tmp_path: Path, name: str, format_: str | None) -> None:
    SMALL.save(tmp_path / name, format_)
    assert find_images(tmp_path) == ([tmp_path / name], [])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", b"P6 is a format"),
        ("README", b"BMW"),
        ("empty", b""),
        ("x.npy", b"\x93NUMPY"),
        ("table.csv", b"#define x_width 3"),
        ("x.h5", b"\x89HDF\r\n\x1a\n"),
        ("x.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    ],
)
def test_find_images__names_what_is_none(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert find_images(tmp_path) == ([], [tmp_path / name])


def test_find_images__a_broken_file_with_the_name_of_an_image_is_one(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_text("text")
    assert find_images(tmp_path) == ([tmp_path / "x.jpg"], [])


def test_find_images__hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    (tmp_path / ".cache").mkdir()
    SMALL.save(tmp_path / ".cache" / "a.png")
    SMALL.save(tmp_path / "._a.png", "PNG")
    assert find_images(tmp_path) == ([], [])


def test_find_images__follows_links_once(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "real", outside / "deep"):
        folder.mkdir(parents=True)
        SMALL.save(folder / "a.png")
    (root / "linked").symlink_to(outside)
    (root / "file.png").symlink_to(outside / "deep" / "a.png")
    (root / "again").symlink_to(root / "real")
    (root / "loop").symlink_to(root)
    (root / "above").symlink_to(tmp_path)
    (root / "gone.png").symlink_to("nowhere")
    (root / "itself").symlink_to("itself")
    (outside / "deep" / "back").symlink_to(root / "real")
    paths, skipped = find_images(root)
    assert names(paths, root) == ["file.png", "linked/deep/a.png", "real/a.png"]
    assert names(skipped, root) == [
        "above",
        "again",
        "gone.png",
        "itself",
        "linked/deep/back",
        "loop",
    ]


def test_image_suffixes__holds_the_common_ones() -> None:
    assert image_suffixes() >= IMAGE_SUFFIXES
    assert not image_suffixes() & {".h5", ".pdf", ".eps", ".wmf", ".mpg"}
