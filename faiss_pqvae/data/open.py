"""Vectors and images on disk, read in chunks behind one small protocol.

Everything here hands out numpy arrays. A memory map is read-only and FAISS ignores that flag, so
rows of a `Source` must be copied before they reach code that writes.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae.data.flat import FLAT_SUFFIXES, Float32Rows, open_flat
from faiss_pqvae.data.images import CHANNELS, IMAGE_SUFFIXES, ImageFolder, Mode, ParquetImages
from faiss_pqvae.data.source import Rows, Source, chunks
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
    "Mode",
    "ParquetImages",
    "Rows",
    "Source",
    "chunks",
    "open_source",
]

ACCEPTED = (
    "a .npy file, a .parquet file or a folder of them, a file of vectors "
    f"({', '.join(sorted(FLAT_SUFFIXES | HDF5_SUFFIXES))}), or a folder of images "
    f"({', '.join(sorted(IMAGE_SUFFIXES))})"
)


def open_source(path: str | Path) -> Source:
    """Opens whatever lies at a path.

    Integers in two dimensions are vectors, not pixels: they come as float32, as they are.

    Args:
        path: a .npy file (mapped, read-only); a .parquet file with an image column or a column of
            vectors, or a folder with such files; a file of vectors (see `faiss_pqvae.data.flat`),
            where FILE/NAME is a data set of an HDF5 file or a column of a .parquet file; or a
            folder of images.

    Returns:
        The items, not yet read (vectors in Parquet are).

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: what is there is not readable as one of these; the message lists them.
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
    if path.is_dir():
        return _open_parquet(path) if any(path.glob("*.parquet")) else ImageFolder(path)
    if suffix == ".npy":
        return _open_npy(path)
    if suffix == ".parquet":
        return _open_parquet(path, part)
    if suffix in HDF5_SUFFIXES:
        return HDF5Vectors(path, part)
    if suffix in FLAT_SUFFIXES:
        return open_flat(path)
    raise ValueError(f"cannot read {path}: expected {ACCEPTED}, got suffix {path.suffix!r}")


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


def _open_parquet(path: Path, column: str | None = None) -> Source:
    """Images where there is a column for them and no other was named, else vectors."""
    columns = parquet_columns(min(path.glob("*.parquet")) if path.is_dir() else path)
    if column is None and ("image" in columns or not any(columns.values())):
        return ParquetImages(path)
    return read_parquet_vectors(path, column)
