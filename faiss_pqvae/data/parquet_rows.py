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
_BUFFER_BYTES = 1 << 20  # of a column in the file


class ParquetRows:
    """The rows of one file.

    Args:
        path: the file, with one row or more.
        names: of its column of vectors, or of its columns of numbers, see `choose_columns`.
        like: rows of the same kind; None reads the first row to see what it is.

    Raises:
        ValueError: a corrupt file; no vector in its first row, where that is read.

    Attributes:
        shape: (n, d), or (n, ...) of tensors.
        dtype: float32, or uint8 of bytes in tensors.
    """

    def __init__(self, path: Path, names: list[str], like: ParquetRows | None = None) -> None:
        self.path, self.names = path, names
        first: Any = like
        with reading(path), self._open() as table:
            found = table.metadata
            groups = [found.row_group(number).num_rows for number in range(found.num_row_groups)]
            if like is None:
                first = rows_of(next(table.iter_batches(batch_size=1, columns=names)), names)
        self.dtype: np.dtype[Any] = first.dtype
        self.shape = (sum(groups), *first.shape[1:])
        # Row i lies in the row group g with _starts[g] <= i < _starts[g + 1].
        self._starts = np.cumsum([0, *groups])
        self._lock = threading.Lock()
        self._begin_at(0)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: Rows, /) -> npt.NDArray[Any]:
        ids = row_ids(rows, len(self))
        out = np.empty((len(ids), *self.shape[1:]), self.dtype)
        order = np.argsort(ids, kind="stable")
        wanted, at = ids[order], 0
        with self._lock, reading(self.path):
            try:
                while at < len(wanted):
                    start, batch = self._batch_with(int(wanted[at]))
                    end = int(np.searchsorted(wanted, start + len(batch)))
                    out[order[at:end]] = batch[wanted[at:end] - start]
                    at = end
            except BaseException:  # whatever it was: the next reading begins anew
                self._begin_at(0)
                raise
            if len(wanted) and wanted[-1] == len(self) - 1:
                self._begin_at(0)
        return out

    def __getstate__(self) -> tuple[Path, list[str]]:
        return self.path, self.names

    def __setstate__(self, state: tuple[Path, list[str]]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def let_go(self) -> None:
        """Closes the file, and forgets what was decoded of it."""
        with self._lock:
            self._begin_at(0)

    def _begin_at(self, group: int) -> None:
        stream = getattr(self, "_stream", None)
        if stream is not None:
            stream.close()
        self._next, self._stream = int(self._starts[group]), self._from_group(group)
        # Where the last batch starts, and its rows.
        self._last = 0, np.empty((0, *self.shape[1:]), self.dtype)

    def _open(self) -> Any:
        # By itself it reads all that it may need of a row group, and keeps it.
        options = {"pre_buffer": False, "buffer_size": _BUFFER_BYTES}
        return import_extra("pyarrow.parquet").ParquetFile(self.path, **options)

    def _batch_with(self, row: int) -> tuple[int, npt.NDArray[Any]]:
        """The decoded batch that a row is in: its first row's number, and its rows."""
        start, batch = self._last
        if start <= row < start + len(batch):
            return self._last
        group = self._group_of(row)
        if row < self._next or group > self._group_of(self._next):
            self._begin_at(group)
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
