"""Vectors in a Parquet file that memory need not hold: decoded as far as they are asked for.

Parquet has no fixed places to map. Who reads on where the last rows ended decodes everything once;
who jumps begins at a row group. pyarrow is imported only where a file is read.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae.data.arrow import reading
from faiss_pqvae.data.columns import rows_of
from faiss_pqvae.data.source import Rows, row_ids
from faiss_pqvae.extras import import_extra

_BATCH_BYTES = 8 << 20  # that are decoded at a time


class ParquetRows:
    """The rows of one file.

    Args:
        path: the file, with one row or more.
        names: of its column of vectors, or of its columns of numbers, see `choose_columns`.

    Raises:
        ValueError: a corrupt file; no vector in its first row.

    Attributes:
        shape: (n, d), or (n, ...) of tensors.
        dtype: float32, or uint8 of bytes in tensors.
    """

    def __init__(self, path: Path, names: list[str]) -> None:
        self.path, self.names = path, names
        with reading(path), self._open() as table:
            found = table.metadata
            groups = [found.row_group(number).num_rows for number in range(found.num_row_groups)]
            first = rows_of(next(table.iter_batches(batch_size=1, columns=names)), names)
        self.dtype: np.dtype[Any] = first.dtype
        self.shape = (sum(groups), *first.shape[1:])
        # Row i lies in the row group g with _starts[g] <= i < _starts[g + 1].
        self._starts = np.cumsum([0, *groups])
        self._lock = threading.Lock()
        self._next, self._stream = 0, self._from_group(0)
        self._last = 0, first[:0]  # where it starts, and its rows

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: Rows, /) -> npt.NDArray[Any]:
        ids = row_ids(rows, len(self))
        out = np.empty((len(ids), *self.shape[1:]), self.dtype)
        order = np.argsort(ids, kind="stable")
        wanted, at = ids[order], 0
        with self._lock, reading(self.path):
            while at < len(wanted):
                start, batch = self._batch_with(int(wanted[at]))
                end = int(np.searchsorted(wanted, start + len(batch)))
                out[order[at:end]] = batch[wanted[at:end] - start]
                at = end
        return out

    def __getstate__(self) -> tuple[Path, list[str]]:
        return self.path, self.names

    def __setstate__(self, state: tuple[Path, list[str]]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def _open(self) -> Any:
        return import_extra("pyarrow.parquet").ParquetFile(self.path)

    def _batch_with(self, row: int) -> tuple[int, npt.NDArray[Any]]:
        """The decoded batch that a row is in: its first row's number, and its rows."""
        start, batch = self._last
        if start <= row < start + len(batch):
            return self._last
        group = self._group_of(row)
        if row < self._next or group > self._group_of(self._next):
            self._stream.close()
            self._next, self._stream = int(self._starts[group]), self._from_group(group)
        for found in self._stream:
            start, self._next = self._next, self._next + found.num_rows
            if row < self._next:
                self._last = start, self._checked(rows_of(found, self.names))
                return self._last
        raise ValueError(f"expected {len(self)} rows, got {self._next}")

    def _group_of(self, row: int) -> int:
        return int(np.searchsorted(self._starts, row, side="right")) - 1

    def _from_group(self, group: int) -> Generator[Any, None, None]:
        """All record batches from a row group on; the file is open as long as it is read."""
        size = max(1, _BATCH_BYTES // (math.prod(self.shape[1:]) * self.dtype.itemsize))
        with self._open() as table:
            groups = [*range(group, table.num_row_groups)]
            yield from table.iter_batches(size, row_groups=groups, columns=self.names)

    def _checked(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if rows.shape[1:] != self.shape[1:] or rows.dtype != self.dtype:
            raise ValueError(
                f"expected vectors like the first one, {self.dtype} {self.shape[1:]}, got "
                f"{rows.dtype} {rows.shape[1:]}"
            )
        return rows
