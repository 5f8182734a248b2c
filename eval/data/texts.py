"""The text of items and of queries, a line each, which a report shows."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from faiss_pqvae.types import IdArray

_UNREADABLE = (OSError, EOFError, UnicodeDecodeError, zlib.error)


class Lines:
    """The lines of a text file, read at the first access.

    Args:
        path: UTF-8, compressed where it ends in .gz.
        rows: (n,) int64, which lines these are; None takes all.
    """

    def __init__(self, path: Path, rows: IdArray | None = None) -> None:
        self.path, self.rows = path, rows
        self._lines: list[str] | None = None

    def part(self, rows: IdArray) -> Lines:
        """Some of them, (n,) int64 places."""
        return Lines(self.path, rows if self.rows is None else self.rows[rows])

    def check(self, n: int, what: str) -> None:
        """Checks that there are n lines.

        Raises:
            ValueError: there are not.
        """
        found = len(self._all()) if self.rows is None else len(self.rows)
        if found != n:
            raise ValueError(
                f"expected {n:,} lines of text in {self.path}, one {what}, got {found:,}"
            )

    def __getitem__(self, place: int) -> str:
        line = place if self.rows is None else int(self.rows[place])
        return self._all()[line]

    def _all(self) -> list[str]:
        if self._lines is None:
            try:
                content = self.path.read_bytes()
                if self.path.suffix == ".gz":
                    content = gzip.decompress(content)
                self._lines = content.decode("utf-8").removesuffix("\n").split("\n")
            except FileNotFoundError:
                raise
            except _UNREADABLE as error:
                raise ValueError(f"cannot read {self.path} as lines of text: {error}") from error
            if self.rows is not None and self.rows.max(initial=-1) >= len(self._lines):
                raise ValueError(
                    f"expected more than {self.rows.max():,} lines in {self.path}, got "
                    f"{len(self._lines):,}"
                )
        return self._lines


def beginning(text: str, most: int = 160) -> str:
    """A text on one line, cut at a word where it is long."""
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    return line[:most].rsplit(" ", 1)[0] + " …"


def ordered_spread(n: int, most: int, seed: int) -> IdArray:
    """At most that many of n places, drawn at random, rising: (most,) int64."""
    drawn = np.random.default_rng(seed).choice(n, min(n, most), replace=False)
    return np.sort(drawn).astype(np.int64)
