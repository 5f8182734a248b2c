"""Which files of a folder are pictures: found by name, or by content where a name says nothing."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any, NamedTuple

from faiss_pqvae.data.images.decoder import quiet_pillow
from faiss_pqvae.extras import import_extra

# The common ones, known without Pillow.
IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tga", ".tif"}
    | {".tiff", ".webp"}
)

# Of what Pillow opens by name: recognised and not decoded, or decoded by another program.
_NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"})
# Whose content begins with a signature that little else begins with.
_SIGNED = (
    *("AVIF", "BMP", "DDS", "GIF", "HEIF", "ICNS", "JPEG", "JPEG2000"),
    *("PNG", "PPM", "PSD", "QOI", "TIFF", "WEBP"),
)


class Found(NamedTuple):
    """What lies in a folder.

    Attributes:
        paths: of the pictures, sorted.
        skipped: of what else is not hidden, sorted: other files, links to nothing, and links to
            folders that are read at another place.
    """

    paths: list[Path]
    skipped: list[Path]


def find_images(root: Path) -> Found:
    """The pictures in a folder, below it, and where links in it lead.

    A file is a picture when Pillow has a decoder for its suffix, or, with any other suffix or
    none, when it opens as one of the common formats. Hidden files and folders are left out. Every
    folder is read once: links to one that is read, or that `root` lies in, are skipped.

    Raises:
        OSError: a folder cannot be read.
        ImportError: Pillow is not installed.
    """
    files, skipped = _walk(root)
    with quiet_pillow():
        pictures = {path for path in files if is_image(path)}
    skipped += [path for path in files if path not in pictures]
    return Found(sorted(pictures), sorted(skipped))


def file_stamp(path: Path) -> str:
    """Text that changes when a file is written anew."""
    status = path.stat()
    return f"{path.absolute()} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Those of all formats that Pillow decodes, lower case, with the dot."""
    pillow: Any = import_extra("PIL.Image")
    known = pillow.registered_extensions().items()  # imports all of its plugins
    return frozenset(
        suffix for suffix, name in known if name in pillow.OPEN and name not in _NOT_DECODED
    )


def _walk(root: Path) -> tuple[list[Path], list[Path]]:
    """All files, and the links that were not followed; folders come before links to folders."""
    files: list[Path] = []
    skipped: list[Path] = []
    seen = {_identity(folder) for folder in root.resolve().parents}
    links = [root]
    while links:
        waiting = [links.pop(0)]
        while waiting:
            folder = waiting.pop()
            if (identity := _identity(folder)) in seen:
                skipped.append(folder)
                continue
            seen.add(identity)
            with os.scandir(folder) as entries:
                shown = [entry for entry in entries if not entry.name.startswith(".")]
            for entry in sorted(shown, key=lambda entry: entry.name):
                path = Path(entry.path)
                is_link = entry.is_symlink()
                if path.is_dir() if is_link else entry.is_dir():
                    (links if is_link else waiting).append(path)
                else:
                    is_file = path.is_file() if is_link else entry.is_file()
                    (files if is_file else skipped).append(path)
    return files, skipped


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116 - of what a link leads to, with its number on Windows
    return status.st_dev, status.st_ino


def is_image(path: Path) -> bool:
    """Whether a file is a picture, see `find_images`."""
    if path.suffix.lower() in image_suffixes():
        return True
    pillow: Any = import_extra("PIL.Image")
    formats = [name for name in _SIGNED if name in pillow.OPEN]
    try:
        with pillow.open(path, formats=formats):
            return True
    except Exception:  # Pillow's plugins raise anything: then it is none, and named as skipped
        return False
