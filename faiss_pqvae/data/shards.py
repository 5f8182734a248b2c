"""Items in several files, one behind the other, as one source. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae.data.source import Parts, Rows, Source, row_ids


class Shards:
    """Sources of items of one shape and dtype, read as if they were one.

    Attributes:
        shape: (n, ...) of all items.
        dtype: of every source.
        parts: the files in order, each with its number of items.
    """

    def __init__(self, paths: Sequence[Path], sources: Sequence[Source]) -> None:
        """Joins sources.

        Args:
            paths: the file of every source.
            sources: at least one; those without items may have any place, shape and dtype.

        Raises:
            ValueError: items of another shape or dtype than those of the first file that has some
                (the message names both), or no item at all.
        """
        known, first = next(
            ((p, s) for p, s in zip(paths, sources, strict=True) if len(s)), (paths[0], sources[0])
        )
        for path, source in zip(paths, sources, strict=True):
            if not len(source):
                continue
            if source.shape[1:] != first.shape[1:] or source.dtype != first.dtype:
                raise ValueError(
                    f"expected items of one shape and dtype in all files, got {first.shape} "
                    f"{first.dtype} in {known} and {source.shape} {source.dtype} in {path}: "
                    "give the files of one kind, or a folder of them"
                )
        self.sources = [*sources]
        self.parts: Parts = [
            (path, len(source)) for path, source in zip(paths, sources, strict=True)
        ]
        # Item i lies in the source s with _starts[s] <= i < _starts[s + 1].
        self._starts = np.cumsum([0] + [len(source) for source in sources])
        self.shape = (int(self._starts[-1]), *first.shape[1:])
        self.dtype: np.dtype[Any] = first.dtype
        self._reading = 0
        if 0 in self.shape:
            raise ValueError(f"no items in {paths[0]}: expected at least one, got {self.shape}")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Rows, /) -> npt.NDArray[Any]:
        if len(self.sources) == 1:
            return self.sources[0][rows]
        ids = row_ids(rows, len(self))
        out = np.empty((len(ids), *self.shape[1:]), self.dtype)
        which = np.searchsorted(self._starts, ids, side="right") - 1
        for number in np.unique(which):
            self._let_go(int(number))
            mine = np.flatnonzero(which == number)
            out[mine] = self.sources[number][_slice_if_run(ids[mine] - self._starts[number])]
        return out

    def _let_go(self, number: int) -> None:
        """Of files that stay open while they are read, one is, which is given next."""
        before, self._reading = self._reading, number
        let_go = getattr(self.sources[before], "let_go", None)
        if before != number and let_go is not None:
            let_go()


def _slice_if_run(ids: npt.NDArray[np.int64]) -> Rows:
    """Rows that follow each other as a slice, which sources read faster."""
    if len(ids) == ids[-1] - ids[0] + 1 and (np.diff(ids) == 1).all():
        return slice(int(ids[0]), int(ids[-1]) + 1)
    return ids
