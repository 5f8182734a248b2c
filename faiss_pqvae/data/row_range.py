"""Some items of a source that lie side by side, as a source. numpy only."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae.data.source import Rows, Source, row_ids


def rows_of_part(n: int, part: int, n_parts: int) -> slice:
    """Which of n items are those of a part, counted from 0, where the parts are alike in size."""
    return slice(part * n // n_parts, (part + 1) * n // n_parts)


class RowRange:
    """The items of a source from one place to another.

    Args:
        source: of all items.
        rows: a slice of step 1.

    Attributes:
        source: likewise.
    """

    def __init__(self, source: Source, rows: slice) -> None:
        self.source = source
        self._start, self._stop, _ = rows.indices(len(source))
        self.shape = (self._stop - self._start, *source.shape[1:])
        self.dtype: np.dtype[Any] = source.dtype

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, rows: Rows, /) -> npt.NDArray[Any]:
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                return self.source[self._start + start : self._start + max(start, stop)]
        return self.source[self._start + row_ids(rows, len(self))]
