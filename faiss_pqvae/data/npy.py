"""Items in .npy files, mapped and not read, and small arrays. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae.data.flat import FlatVectors, Float32Rows, comes_as_float32
from faiss_pqvae.data.shards import Shards
from faiss_pqvae.data.source import Source
from faiss_pqvae.foreign import how_to_convert


def open_npy(path: Path) -> Source:
    """A file of items (n, ...), n >= 1: a map of it, read-only, wherever its dtype is torch's.

    Integers in two dimensions are vectors, not pixels: they come as float32, as floats of another
    byte order or of more than 8 bytes do.

    Raises:
        ValueError: the file is corrupt, not of numbers, or has no item.
    """
    array = _map(path)
    if array.size == 0:
        raise ValueError(
            f"expected shape (n, ...) with at least one item in {path}, got {array.shape}"
        )
    source: Any = Float32Rows(array) if comes_as_float32(array) else array
    source.parts = [(path, len(source))]  # as in `Shards`
    return source  # type: ignore[no-any-return]


def open_npy_shards(paths: Sequence[Path]) -> Shards:
    """Several files as one source, none of them held in memory; see `open_npy`.

    Raises:
        ValueError: as `open_npy`; items of another shape or dtype in one of them.
    """
    return Shards(paths, [_unmapped(path) for path in paths])


def read_npy(path: Path, what: str) -> npt.NDArray[Any]:
    """A file as an array in memory, of any shape and of any dtype that needs no pickle.

    Args:
        path: the file.
        what: it should hold, for messages.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is corrupt, of another format, or has objects in it.
    """
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"cannot read {path}: expected {what} as .npy; {error}") from error


def _map(path: Path) -> npt.NDArray[Any]:
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
        raise ValueError(
            f"expected numbers in {path}, got dtype {array.dtype}"
            f"{how_to_convert(array.dtype, 'x')} before numpy.save"
        )
    if array.ndim < 2 and array.shape != (0,):  # as numpy writes an empty list
        raise ValueError(
            f"expected shape (n, ...) with at least one item in {path}, got {array.shape}"
        )
    return array


def _unmapped(path: Path) -> Source:
    """Rows that are mapped when they are read only: maps of all files would fill the memory."""
    array = _map(path)
    if not array.flags.c_contiguous or array.size == 0:
        return Float32Rows(array) if comes_as_float32(array) else array
    record = np.dtype([("values", array.dtype, array.shape[1:])])
    dtype = np.dtype(np.float32) if comes_as_float32(array) else array.dtype
    offset: int = array.offset  # type: ignore[attr-defined]
    return FlatVectors(path, record, offset, array.shape, dtype)
