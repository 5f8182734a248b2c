"""Vectors in flat files: fvecs, bvecs, ivecs, fbin, u8bin, i8bin and ibin. numpy only.

Rows come as float32, whatever the file holds: the bytes of a descriptor are values and not pixels,
so nothing is divided by 255. Of the integers, those beyond 2**24 are rounded; ids have `read_ids`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae.data.source import Parts, Rows, Source
from faiss_pqvae.progress import Progress
from faiss_pqvae.types import FloatArray

# Little endian, on every machine. In the TEXMEX formats every row starts with its dimension, in
# those of big-ann-benchmarks the file starts with the number of rows and the dimension.
_ROW_HEADERS = {".fvecs": "<f4", ".bvecs": "u1", ".ivecs": "<i4"}
_FILE_HEADERS = {".fbin": "<f4", ".u8bin": "u1", ".i8bin": "i1", ".ibin": "<i4"}
FLAT_SUFFIXES = frozenset(_ROW_HEADERS) | frozenset(_FILE_HEADERS)
MAX_D = 1 << 24

_DIMENSION = np.dtype("<i4")
_FLOAT = np.dtype(np.float32)


class Float32Rows:
    """Another source, with its rows converted to float32 on access.

    Attributes:
        shape: that of the source.
        parts: the files that it lies in, where it is of files.
    """

    dtype: np.dtype[Any] = _FLOAT
    parts: Parts

    def __init__(self, source: Source) -> None:
        self.source = source
        self.shape = tuple(source.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Rows, /) -> FloatArray:
        with np.errstate(over="ignore"):  # whoever reads looks for infinity
            return np.array(self.source[rows], dtype=np.float32)


def comes_as_float32(x: Any) -> bool:
    """Whether rows of numpy's numbers have to be converted before torch takes them as they are.

    Integers in two dimensions are vectors, not pixels. Of floats those of another byte order, and
    those of more than 8 bytes.

    Args:
        x: anything with a shape and a dtype of numpy.
    """
    vectors = len(x.shape) == 2 and x.dtype.kind in "iu"
    foreign = x.dtype.kind == "f" and (x.dtype.itemsize > 8 or not x.dtype.isnative)
    return bool(vectors or foreign)


@dataclass(frozen=True)
class FlatVectors:
    """Vectors at fixed places in a file, which is mapped anew at every access.

    So memory holds no more than the rows that were asked for, and a file that shrinks is an error
    instead of a bus error later.

    Attributes:
        path: the file.
        record: of one row, with the values in the field "values".
        offset: bytes before the first row.
        shape: (n, d), or (n, ...) of other items.
        dtype: what rows are converted to.
    """

    path: Path
    record: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any] = _FLOAT

    @property
    def parts(self) -> Parts:
        """The file, with its number of rows."""
        return [(self.path, len(self))]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Rows, /) -> npt.NDArray[Any]:
        # The map is strided; this is the one copy, converted on the way.
        with np.errstate(over="ignore"):  # whoever reads looks for infinity
            return np.array(self.records()["values"][rows], dtype=self.dtype)

    def records(self, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """The rows from start to stop as they lie in the file, (stop - start,) of `record`."""
        stop = len(self) if stop is None else min(stop, len(self))
        offset = self.offset + start * self.record.itemsize
        try:
            return np.asarray(
                np.memmap(self.path, self.record, mode="r", offset=offset, shape=(stop - start,))
            )
        except ValueError as error:
            raise ValueError(f"{self.path} was cut after it was opened: {error}") from error


def open_flat(
    path: str | Path, dtype: npt.DTypeLike = np.float32, *, check_bytes: int = 256 << 20
) -> FlatVectors:
    """Opens a file of one of the flat formats, by its suffix.

    Every row's own dimension is read once (a progress bar shows it when it takes long).

    Args:
        path: ends in .fvecs, .bvecs, .ivecs, .fbin, .u8bin, .i8bin or .ibin.
        dtype: what rows are converted to.
        check_bytes: of the rows whose dimensions are read at a time.

    Returns:
        (n, d) of `dtype`, n >= 1, d >= 1.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another suffix, or a file that is empty, truncated, longer than its header
            says, or has rows of several dimensions.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FLAT_SUFFIXES:
        raise ValueError(f"expected a suffix of {sorted(FLAT_SUFFIXES)}, got {path}")
    size = path.stat().st_size
    if suffix in _ROW_HEADERS:
        source = _with_row_headers(path, size, np.dtype(_ROW_HEADERS[suffix]))
        _check_rows(source, check_bytes)
    else:
        source = _with_file_header(path, size, np.dtype(_FILE_HEADERS[suffix]))
    return FlatVectors(source.path, source.record, source.offset, source.shape, np.dtype(dtype))


def read_ids(path: str | Path) -> npt.NDArray[np.int64]:
    """Reads ids, a ground truth say, from .ivecs or .ibin: (n, k) int64.

    Raises:
        FileNotFoundError, ValueError: as `open_flat`, or another format.
    """
    if Path(path).suffix.lower() not in {".ivecs", ".ibin"}:
        raise ValueError(f"expected ids in a file .ivecs or .ibin, got {path}")
    return open_flat(path, np.int64)[:]


def _with_row_headers(path: Path, size: int, values: np.dtype[Any]) -> FlatVectors:
    if size < _DIMENSION.itemsize:
        raise ValueError(f"expected {path} to start with a dimension of 4 bytes, got {size} bytes")
    d = int(np.fromfile(path, _DIMENSION, 1)[0])
    _check_dimension(path, d)
    record = np.dtype([("d", _DIMENSION), ("values", values, (d,))])
    if size % record.itemsize:
        raise ValueError(
            f"expected {path} as rows of {record.itemsize} bytes, for the {d} dimensions of the "
            f"first, got {size} bytes: it is truncated, or its rows have several dimensions"
        )
    return FlatVectors(path, record, 0, (size // record.itemsize, d))


def _check_rows(source: FlatVectors, check_bytes: int) -> None:
    """Compares the dimension of every row with that of the first."""
    n, d = source.shape
    step = max(1, check_bytes // source.record.itemsize)
    title = f"checking {source.path.name}"
    with Progress(title, n, unit="vectors", inner=True) as bar:
        for start in range(0, n, step):
            found = source.records(start, start + step)["d"]
            wrong = found != d
            if wrong.any():
                row = int(wrong.argmax())
                raise ValueError(
                    f"expected {d} dimensions in every row of {source.path}, as in the first, got "
                    f"{found[row]} in row {start + row}"
                )
            bar.update(len(found))


def _with_file_header(path: Path, size: int, values: np.dtype[Any]) -> FlatVectors:
    header = np.fromfile(path, "<u4", 2)
    if len(header) < 2:
        raise ValueError(
            f"expected {path} to start with the number of vectors and their dimension, 8 bytes, "
            f"got {size} bytes"
        )
    n, d = (int(value) for value in header)
    _check_dimension(path, d)
    record = np.dtype([("values", values, (d,))])
    expected = header.nbytes + n * record.itemsize
    if n == 0 or size != expected:
        raise ValueError(
            f"expected {path} with at least one vector and {expected} bytes, for the {n} vectors "
            f"of {d} dimensions that its header says, got {size} bytes"
        )
    return FlatVectors(path, record, header.nbytes, (n, d))


def _check_dimension(path: Path, d: int) -> None:
    if not 1 <= d <= MAX_D:
        raise ValueError(f"expected a dimension from 1 to {MAX_D} at the start of {path}, got {d}")
