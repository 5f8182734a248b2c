"""The layout of FAISS's files, followed to the end before FAISS itself reads them.

FAISS takes memory for what a file says of its lists, follows wrappers as deep as they go, opens
files that lists on disk name, and computes tables from parts whose dimensions it did not compare.
So only the kinds of a bundle are let through, and every size has to fit into the file.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Set
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

Role = Literal["index", "transforms", "refine"]

# FAISS's own four characters.
_FLAT = frozenset({"IxFI", "IxF2", "IxFl"})
_VECTORS = _FLAT | {"IxSQ", "IxPq"}
_COARSE = _VECTORS | {"IHNf", "IHNs"}
_ID_MAPS = frozenset({"IxMp", "IxM2"})
_KINDS: dict[Role, Set[str]] = {
    "index": _ID_MAPS | {"IxPq", "IxRq", "IPfs", "IwPQ", "IwPf", "IHNp"},
    "transforms": {"IxPT"},
    "refine": _VECTORS | {"IxM2"},
}
_LINEAR = {"rrot": "", "LTra": "", "Pcam": "ff?i", "Viqm": "ii"}  # what precedes the matrix
_TRANSFORMS = frozenset({*_LINEAR, "RmDT", "VNrm", "VCnt", "Viqt", "HRot"})
_MAX_PQ_BITS = 16
_MAX_RQ_BITS = 12
_LUT_NONORM = 1  # the search type without norms, in FAISS's files


class LayoutError(Exception):
    """A file that FAISS did not write, or that was altered."""


class _Header(NamedTuple):
    d: int
    ntotal: int


def check_layout(path: Path, role: Role) -> frozenset[str]:
    """Follows a file of FAISS's from its first byte to its last.

    Args:
        path: of the file.
        role: what it is for a bundle, which decides about the kinds that may be in it.

    Returns:
        The kinds of everything that is in it, in FAISS's four characters.

    Raises:
        LayoutError: a size beyond the file's, another kind, parts of different dimensions, bytes
            left over.
    """
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise LayoutError("expected an index, got an empty file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            layout = _Layout(content)
            layout.index(_KINDS[role])
            if layout.left:
                raise LayoutError(f"expected the end of the file, got {layout.left} bytes more")
    return frozenset(layout.kinds)


class _Layout:
    """A file, read up to a place.

    Args:
        content: of the file.

    Attributes:
        kinds: of what was read.
    """

    def __init__(self, content: mmap.mmap) -> None:
        self._content, self._at = content, 0
        self.kinds: set[str] = set()

    @property
    def left(self) -> int:
        """Bytes after the place."""
        return len(self._content) - self._at

    def index(self, allowed: Set[str]) -> _Header:
        """Follows an index of one of the kinds."""
        kind = self._kind(allowed)
        header = self._header()
        if kind in _FLAT:
            self._vector(4)
        elif kind == "IxSQ":
            self._scalar_quantizer(header.d)
            self._vector(1)
        elif kind == "IxPq":
            self._product_quantizer(header.d)
            self._vector(1)
            self._take("i?i")  # search_type, encode_signs, polysemous_ht
        elif kind == "IxRq":
            self._residual_quantizer(header.d)
            self._take("Q")  # code_size
            self._vector(1)
        elif kind == "IPfs":
            self._product_quantizer(header.d)
            self._take("iiiQQ")  # implem, bbs, qbs, ntotal2, M2
            self._vector(1)
        elif kind in _ID_MAPS:
            self.index(allowed - _ID_MAPS)
            self._vector(8)
        elif kind == "IxPT":
            for _ in range(self._take("i")):
                self._transform(_TRANSFORMS)
            self.index(_FLAT)
        elif kind in ("IwPQ", "IwPf"):
            self._inverted_file(kind, header.d)
        else:  # a graph: IHNf, IHNs, IHNp
            self._graph(header, {"IHNf": _FLAT, "IHNs": {"IxSQ"}, "IHNp": {"IxPq"}}[kind])
        return header

    def _inverted_file(self, kind: str, d: int) -> None:
        nlist, _ = self._take("QQ")  # and nprobe
        quantizer = self.index(_COARSE)
        # FAISS computes a table from these while it reads.
        _expect("d of the coarse quantizer", d, quantizer.d)
        _expect("number of coarse centroids", nlist, quantizer.ntotal)
        hashed = self._take("B") == 2
        self._vector(8)  # the direct map
        if hashed:
            self._vector(16)
        self._take("?Q")  # by_residual, code_size
        if kind == "IwPf":
            self._take("iQiQ")  # bbs, M2, implem, qbs2
        self._product_quantizer(d)
        lists = self._kind({"ilar" if kind == "IwPQ" else "ilbl"})
        (self._lists if lists == "ilar" else self._blocks)(nlist)

    def _lists(self, nlist: int) -> None:
        found, code_size = self._take("QQ")
        _expect("number of inverted lists", nlist, found)
        sparse = self._kind({"full", "sprs"}) == "sprs"
        start = self._at
        n = self._vector(8)
        sizes = np.frombuffer(self._content[start + 8 : self._at], np.uint64)
        if sparse:
            sizes = sizes[1::2]
        else:
            _expect("sizes of inverted lists", nlist, n)
        # As floats first, which do not overflow.
        if sizes.sum(dtype=np.float64) > self.left:
            raise LayoutError("expected inverted lists within the file")
        self._skip(int(sizes.sum()) * (code_size + 8))

    def _blocks(self, nlist: int) -> None:
        found, _, _, _ = self._take("QQQQ")  # code_size, n_per_block, block_size
        _expect("number of inverted lists", nlist, found)
        for _ in range(nlist):
            self._vector(8)
            self._vector(1)

    def _graph(self, header: _Header, storage: Set[str]) -> None:
        # assign_probas, cum_nneighbor_per_level, levels, offsets, neighbors
        for width in (8, 4, 4, 8, 4):
            self._vector(width)
        self._take("iiiii")  # entry_point, max_level, efConstruction, efSearch, one unused
        _expect("d and ntotal of the graph", header, self.index(storage))

    def _product_quantizer(self, d: int) -> None:
        pq_d, M, nbits = self._take("QQQ")
        _expect("pq.d", d, pq_d)
        if not (1 <= M <= d and 1 <= nbits <= _MAX_PQ_BITS):
            raise LayoutError(f"expected M from 1 to {d} and nbits to 16, got {M} and {nbits}")
        _expect("number of centroid values", d << nbits, self._vector(4))

    def _residual_quantizer(self, d: int) -> None:
        rq_d, M = self._take("QQ")
        _expect("rq.d", d, rq_d)
        start = self._at + 8
        _expect("number of levels", M, self._vector(8))
        nbits = set(np.frombuffer(self._content[start : self._at], np.uint64).tolist())
        if len(nbits) != 1 or not 1 <= min(nbits) <= _MAX_RQ_BITS:
            raise LayoutError(
                f"expected levels of the same nbits, 1 to {_MAX_RQ_BITS}, got {sorted(nbits)}"
            )
        self._take("?")  # is_trained
        _expect("number of codebook values", M * d << min(nbits), self._vector(4))
        search_type, _, _ = self._take("iff")  # and the range of norms
        _expect("search_type", _LUT_NONORM, search_type)  # others are followed by tables
        self._take("ii")  # train_type, max_beam_size

    def _scalar_quantizer(self, d: int) -> None:
        _, _, _, sq_d, _ = self._take("iifQQ")  # qtype, rangestat, its argument, code_size
        _expect("sq.d", d, sq_d)
        self._vector(4)

    def _transform(self, allowed: Set[str]) -> None:
        kind = self._kind(allowed)
        if kind in _LINEAR:
            self._take(_LINEAR[kind])
            if kind == "Pcam":  # mean, eigenvalues, PCAMat
                for _ in range(3):
                    self._vector(4)
            self._take("?")
            self._vector(4)
            self._vector(4)
        elif kind == "Viqt":
            self._vector(4)
            self._take("?")
            self._transform({"Viqm"})
            self._transform({"LTra"})
        elif kind in ("RmDT", "VCnt"):
            self._vector(4)
        else:  # the norm of VNrm, the seed of HRot
            self._take("i")
        self._take("ii?")  # d_in, d_out, is_trained

    def _header(self) -> _Header:
        d, ntotal, _, _, _, metric = self._take("iqqqBi")
        if metric not in (0, 1):
            raise LayoutError(f"expected metric_type 0 or 1, got {metric}")
        if d < 1 or ntotal < 0:
            raise LayoutError(f"expected d >= 1 and ntotal >= 0, got {d} and {ntotal}")
        return _Header(d, ntotal)

    def _kind(self, allowed: Set[str]) -> str:
        self._skip(4)
        kind = self._content[self._at - 4 : self._at].decode("latin-1")
        if kind not in allowed:
            raise LayoutError(f"expected one of {sorted(allowed)}, got {kind!r}")
        self.kinds.add(kind)
        return kind

    def _vector(self, width: int) -> int:
        """Steps over a vector of values of that many bytes; returns how many they are."""
        n: int = self._take("Q")
        self._skip(n * width)
        return n

    def _take(self, form: str) -> Any:
        """The next values, without padding, as `struct` calls them; one alone as it is."""
        form = f"={form}"
        start = self._at
        self._skip(struct.calcsize(form))
        values = struct.unpack_from(form, self._content, start)
        return values[0] if len(values) == 1 else values

    def _skip(self, n: int) -> None:
        if n > self.left:
            raise LayoutError(f"expected {n} bytes from {self._at} on, got {self.left}")
        self._at += n


def _expect(what: str, expected: Any, got: Any) -> None:
    if expected != got:
        raise LayoutError(f"expected {what} = {expected}, got {got}")
