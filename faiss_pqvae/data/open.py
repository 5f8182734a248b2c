"""Vectors and images on disk, read in chunks behind one small protocol.

Everything here hands out numpy arrays. A memory map is read-only and FAISS ignores that flag, so
rows of a `Source` must be copied before they reach code that writes.
"""

from collections.abc import Sequence
from pathlib import Path

from faiss_pqvae.data.flat import FLAT_SUFFIXES, open_flat
from faiss_pqvae.data.folders import files_in
from faiss_pqvae.data.images import CHANNELS, IMAGE_SUFFIXES, ImageFolder, Mode, ParquetImages
from faiss_pqvae.data.npy import open_npy, open_npy_shards
from faiss_pqvae.data.shards import Shards
from faiss_pqvae.data.source import Rows, Source, chunks
from faiss_pqvae.data.tables import (
    HDF5_SUFFIXES,
    HDF5Vectors,
    open_parquet_vectors,
    parquet_columns,
)

__all__ = [
    "ACCEPTED",
    "CHANNELS",
    "IMAGE_SUFFIXES",
    "ImageFolder",
    "Mode",
    "ParquetImages",
    "Rows",
    "Source",
    "chunks",
    "open_source",
]

ACCEPTED = (
    "a .npy file or a folder of them, a .parquet file or a folder of them at any depth, a file of "
    f"vectors ({', '.join(sorted(FLAT_SUFFIXES | HDF5_SUFFIXES))}), or a folder of images "
    f"({', '.join(sorted(IMAGE_SUFFIXES))})"
)


def open_source(path: str | Path) -> Source:
    """Opens whatever lies at a path.

    Integers in two dimensions are vectors, not pixels: they come as float32, as they are.

    Args:
        path: a .npy file (mapped, read-only); a .parquet file with an image column or vectors (see
            `choose_columns`); a file of vectors (see `faiss_pqvae.data.flat`); where FILE/NAME is
            a data set of an HDF5 file, in groups at any depth, or a column of a .parquet file; or
            a folder: of images, of .npy files or of numbered files of vectors, which are shards of
            one array in natural order, or of .parquet files at any depth.

    Returns:
        The items, not yet read (vectors in Parquet are). What is no folder of images has an
        attribute `parts`: the files in order, each with its number of items.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: what is there is not readable as one of these; the message lists them.
        ImportError: the extra "eval" is needed and not installed.
    """
    path = Path(path)
    part = None
    around = next((folder for folder in path.parents if folder.is_file()), None)
    if around is not None:
        path, part = around, path.relative_to(around).as_posix()
    suffix = path.suffix.lower()
    if part is not None and suffix not in HDF5_SUFFIXES | {".parquet"}:
        raise FileNotFoundError(f"{path / part} does not exist, and {path} is one whole")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; expected {ACCEPTED}")
    if path.is_dir():
        return _open_folder(path)
    if suffix == ".npy":
        return open_npy(path)
    if suffix == ".parquet":
        return _open_parquet([path], part)
    if suffix in HDF5_SUFFIXES:
        return HDF5Vectors(path, part)
    if suffix in FLAT_SUFFIXES:
        return open_flat(path)
    raise ValueError(f"cannot read {path}: expected {ACCEPTED}, got suffix {path.suffix!r}")


def _open_folder(folder: Path) -> Source:
    suffix, paths = files_in(folder)
    if suffix == ".parquet":
        return _open_parquet(paths)
    if suffix == ".npy":
        return open_npy_shards(paths)
    if suffix in FLAT_SUFFIXES:
        return Shards(paths, [open_flat(path) for path in paths])
    return ImageFolder(folder)


def _open_parquet(paths: Sequence[Path], column: str | None = None) -> Source:
    """Images where there is a column for them and no other was named, else vectors."""
    kinds = parquet_columns(paths[0])
    images = [name for name, kind in kinds.items() if kind == "images"]
    if column is None and "image" in images:
        column = "image"
    elif column is None and len(images) == 1 and "vectors" not in kinds.values():
        (column,) = images
    if column in images:
        return ParquetImages(paths, image_column=column)
    return open_parquet_vectors(paths, column)
