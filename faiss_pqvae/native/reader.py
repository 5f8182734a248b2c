"""A native file, followed step by step before FAISS itself reads it."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Mapping, Set
from typing import Any, NamedTuple

import numpy as np

_MAX_PQ_BITS = 16
_MAX_RQ_BITS = 12
_LUT_NONORM = 1  # the search type without norms, in FAISS's files


class LayoutError(Exception):
    """A file that FAISS did not write, or that was altered."""


class Header(NamedTuple):
    """What every index begins with."""

    d: int
    ntotal: int


# What follows the header of an index of one kind.
Layout = Callable[["Reader", Header], None]


class Reader:
    """A file, read up to a place.

    Args:
        content: of the file.
        layouts: by FAISS's four characters, what follows the header of an index.

    Attributes:
        kinds: of what was read.
        allowed: kinds of which the index that is being read had to be one.
    """

    def __init__(self, content: mmap.mmap, layouts: Mapping[str, Layout]) -> None:
        self._content, self._at, self._layouts = content, 0, layouts
        self.kinds: set[str] = set()
        self.allowed: Set[str] = frozenset()

    @property
    def left(self) -> int:
        """Bytes after the place."""
        return len(self._content) - self._at

    def index(self, allowed: Set[str]) -> Header:
        """Follows an index of one of the kinds."""
        kind = self.kind(allowed)
        header = self.header()
        outer, self.allowed = self.allowed, allowed
        self._layouts[kind](self, header)
        self.allowed = outer
        return header

    def bytes_of(self, start: int) -> bytes:
        """What was read since a place."""
        return self._content[start : self._at]

    @property
    def at(self) -> int:
        """The place, in bytes from the beginning."""
        return self._at

    def product_quantizer(self, d: int) -> None:
        """Follows a faiss.ProductQuantizer over d dimensions."""
        pq_d, M, nbits = self.take("QQQ")
        expect_in_file("pq.d", d, pq_d)
        if not (1 <= M <= d and 1 <= nbits <= _MAX_PQ_BITS):
            raise LayoutError(f"expected M from 1 to {d} and nbits to 16, got {M} and {nbits}")
        expect_in_file("number of centroid values", d << nbits, self.vector(4))

    def residual_quantizer(self, d: int) -> None:
        """Follows a faiss.ResidualQuantizer over d dimensions, without norms."""
        rq_d, M = self.take("QQ")
        expect_in_file("rq.d", d, rq_d)
        start = self._at + 8
        expect_in_file("number of levels", M, self.vector(8))
        nbits = set(np.frombuffer(self._content[start : self._at], np.uint64).tolist())
        if len(nbits) != 1 or not 1 <= min(nbits) <= _MAX_RQ_BITS:
            raise LayoutError(
                f"expected levels of the same nbits, 1 to {_MAX_RQ_BITS}, got {sorted(nbits)}"
            )
        self.take("?")  # is_trained
        expect_in_file("number of codebook values", M * d << min(nbits), self.vector(4))
        search_type, _, _ = self.take("iff")  # and the range of norms
        expect_in_file("search_type", _LUT_NONORM, search_type)  # others are followed by tables
        self.take("ii")  # train_type, max_beam_size

    def scalar_quantizer(self, d: int) -> None:
        """Follows a faiss.ScalarQuantizer over d dimensions."""
        _, _, _, sq_d, _ = self.take("iifQQ")  # qtype, rangestat, its argument, code_size
        expect_in_file("sq.d", d, sq_d)
        self.vector(4)

    def header(self) -> Header:
        """Follows what every index begins with."""
        d, ntotal, _, _, _, metric = self.take("iqqqBi")
        if metric not in (0, 1):
            raise LayoutError(f"expected metric_type 0 or 1, got {metric}")
        if d < 1 or ntotal < 0:
            raise LayoutError(f"expected d >= 1 and ntotal >= 0, got {d} and {ntotal}")
        return Header(d, ntotal)

    def kind(self, allowed: Set[str]) -> str:
        """The next four characters, one of those that are allowed."""
        self.skip(4)
        kind = self._content[self._at - 4 : self._at].decode("latin-1")
        if kind not in allowed:
            raise LayoutError(f"expected one of {sorted(allowed)}, got {kind!r}")
        self.kinds.add(kind)
        return kind

    def vector(self, width: int) -> int:
        """Steps over a vector of values of that many bytes; returns how many they are."""
        n: int = self.take("Q")
        self.skip(n * width)
        return n

    def take(self, form: str) -> Any:
        """The next values, without padding, as `struct` calls them; one alone as it is."""
        form = f"={form}"
        start = self._at
        self.skip(struct.calcsize(form))
        values = struct.unpack_from(form, self._content, start)
        return values[0] if len(values) == 1 else values

    def skip(self, n: int) -> None:
        """Steps over n bytes."""
        if n > self.left:
            raise LayoutError(f"expected {n} bytes from {self._at} on, got {self.left}")
        self._at += n


def expect_in_file(what: str, expected: Any, got: Any) -> None:
    """Refuses two values of a file that differ."""
    if expected != got:
        raise LayoutError(f"expected {what} = {expected}, got {got}")
