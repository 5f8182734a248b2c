"""Many strings in two arrays: ten million names take no ten million objects. numpy only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from faiss_pqvae.types import CodeArray, IdArray

# Names of files are bytes, of which not all are text: those come back as they were.
_ENCODING = ("utf-8", "surrogateescape")


@dataclass(frozen=True, eq=False)
class Texts:
    """Strings in order, none of them empty.

    Attributes:
        ends: (m,) int64, where each ends in `data`, and the next begins.
        data: (ends[-1],) uint8, their bytes.
    """

    ends: IdArray
    data: CodeArray

    @classmethod
    def of(cls, strings: Iterable[str]) -> Texts:
        """Those strings.

        Raises:
            ValueError: one that is no text.
        """
        encoded = [string.encode(*_ENCODING) for string in strings]
        ends = np.cumsum([len(one) for one in encoded], dtype=np.int64)
        return cls(ends, np.frombuffer(b"".join(encoded), np.uint8))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, place: int) -> str:
        start = int(self.ends[place - 1]) if place else 0
        return self.data[start : int(self.ends[place])].tobytes().decode(*_ENCODING)

    def take(self, places: IdArray) -> Texts:
        """Those at places (k,) int64, in that order."""
        lengths = np.diff(self.ends, prepend=0)[places]
        ends = np.cumsum(lengths)
        # From a byte of the result to the same byte here.
        shift = np.repeat(self.ends[places] - ends, lengths)
        return Texts(ends, self.data[np.arange(len(shift)) + shift])
