"""Vectors in HDF5 (the layout of ann-benchmarks) and in Parquet. numpy only.

Rows come as float32, as in `faiss_pqvae.data.flat`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae.data.arrow import first_with_rows, read_schema, reading
from faiss_pqvae.data.columns import (
    ColumnKind,
    check_columns,
    choose_columns,
    column_kinds,
    join_rows,
    rows_of,
)
from faiss_pqvae.data.parquet_rows import ParquetRows
from faiss_pqvae.data.shards import Shards
from faiss_pqvae.data.source import Parts, Rows, Source, missing, parquet_paths, row_ids
from faiss_pqvae.extras import import_extra
from faiss_pqvae.types import FloatArray

HDF5_SUFFIXES = frozenset({".hdf5", ".h5"})
IN_MEMORY_BYTES = 1 << 30  # of vectors in Parquet, all of which are read at once


# HDF5 --------------------------------------------------------------------------------------------


class HDF5Vectors:
    """A 2-D data set of numbers in an HDF5 file, opened anew at every access.

    Attributes:
        shape: (n, d), dtype float32.
        attributes: of the file, by name; `distance` in those of ann-benchmarks.
        names: of all 2-D data sets of numbers in the file, sorted.
    """

    dtype: np.dtype[Any] = np.dtype(np.float32)

    def __init__(
        self,
        path: str | Path,
        dataset: str | None = None,
        *,
        run_bytes: int = 32 << 20,
        gap_bytes: int = 64 << 10,
    ) -> None:
        """Reads the file's table of contents.

        Args:
            path: the file.
            dataset: name, in groups as "emb/clip"; by default "train", the vectors to search in of
                ann-benchmarks, or the only one that there is.
            run_bytes: most that is read at a time where rows lie apart.
            gap_bytes: between two rows, beyond which it is jumped over and not read.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no HDF5 file, or has no such data set, 2-D, of numbers and with at
                least one row.
            ImportError: h5py is not installed.
        """
        self.path, self.run_bytes, self.gap_bytes = Path(path), run_bytes, gap_bytes
        if not self.path.is_file():
            raise missing(path, "an HDF5 file")
        shapes, self.attributes = self._contents(dataset)
        self.names = tuple(sorted(shapes))
        if dataset is None:
            dataset = self.names[0] if len(self.names) == 1 else "train"
        if dataset not in shapes or 0 in shapes[dataset]:
            raise ValueError(
                f"expected {path} with a 2-D data set of numbers named {dataset!r} that is not "
                f"empty, got {shapes}; name another one as {self.path.name}/NAME"
            )
        self.dataset = dataset
        self.shape = shapes[dataset]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Rows, /) -> FloatArray:
        return np.asarray(self.read(rows), dtype=np.float32)

    @property
    def parts(self) -> Parts:
        """The file, with its number of rows."""
        return [(self.path, len(self))]

    def read(self, rows: Rows) -> npt.NDArray[Any]:
        """Rows in the dtype of the file, such as ids."""
        ids = row_ids(rows, len(self))
        if len(ids) == 0:
            return np.empty((0, self.shape[1]), np.float32)
        with self._open() as file:
            data = file[self.dataset]
            if isinstance(rows, slice) and rows.step in (None, 1):
                return np.asarray(data[rows])
            wanted, places = np.unique(ids, return_inverse=True)
            out = np.empty((len(wanted), self.shape[1]), data.dtype)
            for run in self._runs(wanted, data.dtype.itemsize * self.shape[1]):
                near = wanted[run]
                out[run] = data[near[0] : near[-1] + 1][near - near[0]]
            return out[places]

    def _runs(self, ids: npt.NDArray[np.int64], row_bytes: int) -> Iterator[slice]:
        """Cuts rising ids where a gap is better jumped over than read, and into bounded pieces.

        A list of single rows is what h5py is slow at.
        """
        blocks = ids // max(1, self.run_bytes // row_bytes)
        cut = (np.diff(ids) * row_bytes > self.gap_bytes) | (np.diff(blocks) != 0)
        edges = [0, *(np.flatnonzero(cut) + 1).tolist(), len(ids)]
        for start, stop in itertools.pairwise(edges):
            yield slice(start, stop)

    def _contents(self, dataset: str | None) -> tuple[dict[str, tuple[int, int]], dict[str, Any]]:
        shapes: dict[str, tuple[int, int]] = {}

        def note(name: str, item: Any) -> None:
            shape, dtype = getattr(item, "shape", None), getattr(item, "dtype", None)
            if shape is not None and dtype is not None and len(shape) == 2 and dtype.kind in "fiu":
                shapes[name] = (int(shape[0]), int(shape[1]))

        with self._open() as file:
            file.visititems(note)
            if dataset is not None and dataset in file:  # a link, which is not visited
                note(dataset, file[dataset])
            return shapes, dict(file.attrs)

    def _open(self) -> _OpenHDF5:
        return _OpenHDF5(self.path)


class _OpenHDF5:
    """An open file; what h5py raises on damage becomes a ValueError with its name."""

    # The errors of the C library come as these, by no rule.
    DAMAGE = (OSError, KeyError, RuntimeError, TypeError, ValueError, EOFError)

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Any:
        h5py = import_extra("h5py")
        try:
            self.file = h5py.File(self.path, "r")
        except self.DAMAGE as error:
            raise ValueError(f"cannot read {self.path} as HDF5: {error}") from error
        return self.file

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.file.close()
        if isinstance(error, self.DAMAGE):
            raise ValueError(f"cannot read {self.path} as HDF5: {error}") from error


# Parquet -----------------------------------------------------------------------------------------


def parquet_columns(path: Path) -> dict[str, ColumnKind]:
    """Every column of a Parquet file by name, and what it holds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is corrupt.
        ImportError: pyarrow is not installed.
    """
    return column_kinds(read_schema(path))


def open_parquet_vectors(
    path: str | Path | Sequence[str | Path],
    column: str | None = None,
    *,
    without: str | None = None,
    in_memory_bytes: int | None = None,
) -> Shards:
    """Reads vectors into memory, file by file; more than a gigabyte stays in the files.

    Of the latter only what is asked for is read, see `ParquetRows`, and rows are looked at then.

    Args:
        path: a file, several in order, or a folder whose *.parquet, at any depth, are taken in
            natural order.
        column: lists, fixed-size lists or fixed-shape tensors of numbers, all of one length; or
            the columns of numbers, one a dimension, that match a pattern such as "dim_*". By
            default what `choose_columns` finds plain.
        without: a column that is not among the vectors, of labels say.
        in_memory_bytes: more than so much stays in the files, instead of a gigabyte.

    Returns:
        (n, d) float32; (n, ...) of tensors with more dimensions, bytes as uint8.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is corrupt, the column is missing or not the only one, values are
            missing, lengths differ (the message names both files), or there is no row.
        ImportError: pyarrow is not installed.
    """
    paths = parquet_paths(path)
    name_one = f"{paths[0].name}/COLUMN, or by --column"
    several = f"{paths[0].name}/dim_*"
    first = first_with_rows(paths)
    schema = read_schema(first)
    with reading(first):
        names = choose_columns(schema, column, without, name_one, several)
    n_rows = [_checked_rows(file, names, first) for file in paths]
    if not any(n_rows):
        raise ValueError(f"no vectors in {path}: expected at least one row")
    like = ParquetRows(first, names)
    item_bytes = math.prod(like.shape[1:]) * like.dtype.itemsize
    most = IN_MEMORY_BYTES if in_memory_bytes is None else in_memory_bytes
    in_files = sum(n_rows) * item_bytes > most
    # Files without rows do not know how many dimensions the vectors of lists have.
    nothing = np.empty((0, *like.shape[1:]), like.dtype)
    opened: list[Source] = []
    for file, n in zip(paths, n_rows, strict=True):
        if not n:
            opened.append(nothing)
        else:
            opened.append(ParquetRows(file, names, like) if in_files else _rows(file, names))
    return Shards(paths, opened)


def _checked_rows(path: Path, names: list[str], first: Path) -> int:
    """How many rows a file has, whose columns are the first one's; of no rows they may be any."""
    schema, parquet = read_schema(path), import_extra("pyarrow.parquet")
    with reading(path):
        n = int(parquet.read_metadata(path).num_rows)
        if n:
            check_columns(schema, names, first)
    return n


def _rows(path: Path, names: list[str]) -> npt.NDArray[Any]:
    """Columns of one file."""
    parquet = import_extra("pyarrow.parquet")
    with reading(path), parquet.ParquetFile(path) as table:
        return join_rows([rows_of(batch, names) for batch in table.iter_batches(columns=names)])
