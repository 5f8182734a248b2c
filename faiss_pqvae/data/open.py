"""Vectors and images on disk, read in chunks behind one small protocol.

Everything here hands out numpy arrays. A memory map is read-only and FAISS ignores that flag, so
rows of a `Source` must be copied before they reach code that writes.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae.data.flat import FLAT_SUFFIXES, Float32Rows, open_flat
from faiss_pqvae.data.images import (
    CHANNELS,
    IMAGE_SUFFIXES,
    ImageFolder,
    ImageOptions,
    Mode,
    ParquetImages,
)
from faiss_pqvae.data.images.listing import is_image
from faiss_pqvae.data.images.picture_column import image_columns
from faiss_pqvae.data.source import Rows, Source, chunks, parquet_paths
from faiss_pqvae.data.tables import (
    HDF5_SUFFIXES,
    HDF5Vectors,
    parquet_columns,
    read_parquet_vectors,
)

__all__ = [
    "ACCEPTED",
    "CHANNELS",
    "IMAGE_SUFFIXES",
    "ImageFolder",
    "ImageOptions",
    "Mode",
    "ParquetImages",
    "Rows",
    "Source",
    "chunks",
    "open_source",
]

# Files that need no look at their content.
_OTHERS = frozenset({".npy", ".parquet"}) | FLAT_SUFFIXES | HDF5_SUFFIXES

ACCEPTED = (
    "a .npy file, a .parquet file or a folder of them, a file of vectors "
    f"({', '.join(sorted(FLAT_SUFFIXES | HDF5_SUFFIXES))}), or a folder of images "
    f"({', '.join(sorted(IMAGE_SUFFIXES))}, or others that Pillow reads)"
)


def open_source(
    path: str | Path,
    *,
    images: ImageOptions = ImageOptions(),  # noqa: B008 - frozen
    like: tuple[int, ...] | None = None,
) -> Source:
    """Opens whatever lies at a path.

    Integers in two dimensions are vectors, not pixels: they come as float32, as they are.

    Args:
        path: a .npy file (mapped, read-only); a .parquet file with an image column or a column of
            vectors, or a folder with such files; a file of vectors (see `faiss_pqvae.data.flat`),
            where FILE/NAME is a data set of an HDF5 file or a column of a .parquet file; or a
            folder of images, or one image.
        images: how images in a folder or in Parquet are read; `column` is of vectors, too.
        like: shape of an index's items: images are read in its size and its mode.

    Returns:
        The items, not yet read (vectors in Parquet are).

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: what is there is not readable as one of these; the message lists them. Options
            of images for what is none.
        ImportError: the extra "eval" is needed and not installed.
    """
    path = Path(path)
    part = None
    if not path.exists() and path.parent.is_file():
        path, part = path.parent, path.name
    suffix = path.suffix.lower()
    if part is not None and suffix not in HDF5_SUFFIXES | {".parquet"}:
        raise FileNotFoundError(f"{path / part} does not exist, and {path} is one whole")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected {ACCEPTED}")
    if is_images(path):
        check_used(images, path, column=False)
        return ImageFolder(path, **images.like(like).arguments())
    if path.is_dir() or suffix == ".parquet":
        return _open_parquet(path, part or images.column, images, like)
    check_used(images, path, column=False, of_images=False)
    if suffix == ".npy":
        return _open_npy(path)
    if suffix in HDF5_SUFFIXES:
        return HDF5Vectors(path, part)
    if suffix in FLAT_SUFFIXES:
        return open_flat(path)
    raise ValueError(f"cannot read {path}: expected {ACCEPTED}, got suffix {path.suffix!r}")


def is_images(path: Path) -> bool:
    """Whether a path is a folder of images, or one image."""
    if path.is_dir():
        return not any(path.glob("*.parquet"))
    return path.suffix.lower() not in _OTHERS and is_image(path)


def _open_npy(path: Path) -> Source:
    try:
        # Unlike np.load this never unpickles, and refuses other formats behind the suffix.
        array: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # the header of a corrupt file can fail in any way
        raise ValueError(
            f"cannot read {path}: expected a complete .npy file of numbers; {error}"
        ) from error
    if array.dtype.kind not in "fiu":
        raise ValueError(f"expected numbers in {path}, got dtype {array.dtype}")
    if array.ndim < 2 or array.size == 0:
        raise ValueError(
            f"expected shape (n, ...) with at least one item in {path}, got {array.shape}"
        )
    return Float32Rows(array) if array.ndim == 2 and array.dtype.kind in "iu" else array


def _open_parquet(
    path: Path, column: str | None, images: ImageOptions, like: tuple[int, ...] | None
) -> Source:
    """Images where there is a column for them and no other was named, else vectors."""
    paths = parquet_paths(path)
    columns = parquet_columns(paths[0])
    of_images = image_columns(paths)
    vectors = [name for name, is_vector in columns.items() if is_vector]
    if column is None and "image" not in of_images and of_images and vectors:
        raise ValueError(
            f"expected one column of images or of vectors in {paths[0]}, got images in "
            f"{of_images} and vectors in {vectors}: name one as {paths[0].name}/COLUMN, or by "
            "--column"
        )
    if column in of_images or (column is None and (of_images or not vectors)):
        arguments = images.like(like).arguments()
        return ParquetImages(paths, image_column=column, **arguments)
    check_used(images, path, of_images=False)
    return read_parquet_vectors(paths, column)


def check_used(
    images: ImageOptions, path: Path, *, column: bool = True, of_images: bool = True
) -> None:
    """Refuses options that nothing reads.

    Raises:
        ValueError: a column where there is none, or options of images where there are none.
    """
    if images.column is not None and not column:
        raise ValueError(f"expected no column for {path}, which has none, got {images.column!r}")
    if not of_images and replace(images, column=None) != ImageOptions():
        raise ValueError(
            f"expected options of images (size, mode, orient, skip_broken) for images in a folder "
            f"or in Parquet only, got {replace(images, column=None)} for {path}"
        )
