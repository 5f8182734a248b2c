"""Search a folder of photographs by photographs, with codes of 8 bytes, and show what was found.

    pip install "faiss-pqvae[cpu,backbone]"
    python examples/search_photos.py PHOTOS --page photos.html

Every photograph is stored as seven windows: its middle, and six parts of it. Some photographs are
kept out and searched for. The page has each of them beside the photographs whose windows are
nearest, and the window that was found. Nothing is trained with but these photographs, without
labels; what they look like is told by a network of ImageNet's.
"""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tyro
from PIL import Image, ImageOps

import faiss_pqvae as fpq

SIDE = 224  # pixels of a window, as the network sees it
WINDOWS = 7  # of a photograph
SHOWN = 140  # pixels of one on the page
FACTORY = "PCA64,PQVAE16x4"  # 16 sub-codewords of 4 bits: 8 bytes a window
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
STYLE = """body{font:15px system-ui,sans-serif;color:#222}
body{max-width:75rem;margin:2rem auto;padding:0 1rem}
.row{display:flex;gap:.6rem;padding:.9rem 0;border-bottom:1px solid #ddd;overflow-x:auto}
figure{margin:0;flex:none;width:140px}
figure:first-child{padding-right:1rem;border-right:3px solid #2a6}
img{display:block;width:140px;height:140px;object-fit:cover;border-radius:4px}
figcaption{font-size:12px;color:#666;overflow-wrap:anywhere;padding-top:.2rem}"""


class Window(NamedTuple):
    """A square of a photograph: its file, and left, top, right and bottom in shares of it."""

    path: Path
    box: tuple[float, float, float, float]


def windows_of(path: Path, size: tuple[int, int]) -> list[Window]:
    """The middle of a photograph (width, height), and six squares side by side."""
    width, height = size
    short = min(size)
    squares = [((width - short) / 2, (height - short) / 2, short)]
    side = 0.6 * short
    across, down = (3, 2) if width >= height else (2, 3)
    for row in range(down):
        for column in range(across):
            left = (width - side) * column / (across - 1)
            squares.append((left, (height - side) * row / (down - 1), side))
    return [
        Window(path, (x / width, y / height, (x + s) / width, (y + s) / height))
        for x, y, s in squares
    ]


def opened(path: Path) -> Image.Image | None:
    """A photograph, upright, in colours, at most 1,024 pixels long; None if it cannot be read."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (1024, 1024))
            picture = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        print(f"left out: {path}: {error}")
        return None
    picture.thumbnail((1024, 1024))
    return picture


def pixels_of(picture: Image.Image, window: Window) -> Image.Image:
    """What a window shows, SIDE x SIDE."""
    sizes = (picture.width, picture.height) * 2
    box = tuple(share * n for share, n in zip(window.box, sizes, strict=True))
    return picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box)


def read(paths: list[Path]) -> tuple[list[Window], npt.NDArray[np.uint8]]:
    """All windows of photographs, and their pixels (n, 3, SIDE, SIDE)."""
    windows: list[Window] = []
    pixels = []
    for path in paths:
        picture = opened(path)
        if picture is None:
            continue
        for window in windows_of(path, picture.size):
            windows.append(window)
            pixels.append(np.asarray(pixels_of(picture, window)).transpose(2, 0, 1))
    return windows, np.stack(pixels) if pixels else np.empty((0, 3, SIDE, SIDE), np.uint8)


def figure(pixels: npt.NDArray[np.uint8], caption: str) -> str:
    """A picture of the page, (3, SIDE, SIDE), and what stands below it."""
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.resize((2 * SHOWN, 2 * SHOWN)).save(buffer, "JPEG", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    text = html.escape(caption)
    shown = f'<img alt="{text}" src="data:image/jpeg;base64,{data}">'
    return f"<figure>{shown}<figcaption>{text}</figcaption></figure>"


def main(
    photos: tyro.conf.Positional[Path],
    /,
    page: Path = Path("photos.html"),
    n_queries: int = 12,
    k: int = 6,
) -> None:
    """Search a folder of photographs by some of its photographs, and write a page.

    Args:
        photos: a folder; photographs in it and below it, 30 or more.
        page: the page to write.
        n_queries: photographs that are kept out and searched for.
        k: photographs found, of each.
    """
    paths = sorted(path for path in photos.rglob("*") if path.suffix.lower() in SUFFIXES)
    if n_queries < 1 or k < 1 or len(paths) < max(30, 2 * n_queries):
        raise SystemExit(
            f"expected 30 photographs or more, twice as many as queries, and k >= 1, got "
            f"{len(paths)} in {photos}, {n_queries} queries and k = {k}"
        )
    asked = set(paths[:: len(paths) // n_queries][:n_queries])
    windows, stored = read([path for path in paths if path not in asked])
    asked_windows, queries = read(sorted(asked))
    asked_windows, queries = asked_windows[::WINDOWS], queries[::WINDOWS]  # the middle ones

    if not len(stored) or not len(queries):
        raise SystemExit(f"none of the photographs in {photos} could be read")
    index = fpq.index_factory((3, SIDE, SIDE), FACTORY, encoder="efficientnet-lite0")
    index.train(stored)
    index.add(stored)
    # Enough results for k photographs, whichever their windows.
    distances, ids = index.search(queries, WINDOWS * k)

    rows = []
    for window, picture, near, far in zip(asked_windows, queries, ids, distances, strict=True):
        best: dict[Path, tuple[int, float]] = {}
        for item, distance in zip(near.tolist(), far.tolist(), strict=True):
            best.setdefault(windows[item].path, (item, distance))
        found = [
            figure(stored[item], f"{where.stem} ({distance:.2f})")
            for where, (item, distance) in list(best.items())[:k]
        ]
        rows.append(f'<div class="row">{figure(picture, window.path.stem)}{"".join(found)}</div>')
    n_photos = len({window.path for window in windows})
    title = f"{len(queries)} photographs, searched for among {n_photos:,} others"
    said = (
        f"{len(windows):,} windows of {index.sa_code_size()} bytes each ({FACTORY}), found by "
        "FAISS's tables. Left what was searched for; the number is the distance."
    )
    page.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width, initial-scale=1"><title>{title}</title>'
        f"<style>{STYLE}</style><h1>{title}</h1><p>{said}</p>{''.join(rows)}</html>",
        encoding="utf-8",
    )
    print(f"{title}: {page}")


if __name__ == "__main__":
    tyro.cli(main)
