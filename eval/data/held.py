"""What of a source is held in memory, and what stays where it is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from faiss_pqvae.data.flat import Float32Rows
from faiss_pqvae.data.source import Rows, Source
from faiss_pqvae.types import FloatArray, IdArray

HELD_BYTES = 1 << 30  # sources of up to this many bytes are read into memory once


class Taken:
    """Some rows of another source, read on access.

    Attributes:
        shape: (n, ...) of the rows taken.
        dtype: that of the source.
    """

    def __init__(self, source: Source, rows: IdArray) -> None:
        self.source, self.rows = source, rows
        self.shape = (len(rows), *source.shape[1:])
        self.dtype: np.dtype[Any] = source.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Rows, /) -> Any:
        return self.source[self.rows[rows]]


class UnitRows:
    """Another source of vectors, scaled to unit length on access; zeros stay zeros.

    Attributes:
        shape: that of the source.
    """

    dtype: np.dtype[Any] = np.dtype(np.float32)

    def __init__(self, source: Source) -> None:
        self.source = source
        self.shape = tuple(source.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any, /) -> FloatArray:
        x = np.asarray(self.source[rows], np.float32)
        lengths = np.linalg.norm(x, axis=1, keepdims=True)
        scaled: FloatArray = np.divide(x, lengths, out=np.zeros_like(x), where=lengths > 0)
        return scaled


def rows_of(source: Source, rows: IdArray, *, held_bytes: int = HELD_BYTES) -> Source:
    """Rows of a source: read now where they are few, else a view that reads on access."""
    size = len(rows) * math.prod(source.shape[1:]) * source.dtype.itemsize
    return source[rows] if size <= held_bytes else Taken(source, rows)


def held_vectors(source: Source, *, unit: bool = False, held_bytes: int = HELD_BYTES) -> Source:
    """Vectors (n, d) as float32 in memory, where they have at most `held_bytes` there.

    Args:
        source: of numbers.
        unit: scale every vector to unit length.
        held_bytes: what may be held.
    """
    if unit:
        source = UnitRows(source)
    elif source.dtype != np.float32:
        source = Float32Rows(source)
    n, d = source.shape
    return np.ascontiguousarray(source[:]) if 4 * n * d <= held_bytes else source
