"""The layout of FAISS's files, followed to the end before FAISS itself reads them.

FAISS takes memory for what a file says of its lists, follows wrappers as deep as they go, opens
files that lists on disk name, and computes tables from parts whose dimensions it did not compare.
So only the kinds of a bundle are let through, and every size has to fit into the file.
"""

from __future__ import annotations

import mmap
from collections.abc import Set
from pathlib import Path
from typing import Literal

from faiss_pqvae.native.kinds import KINDS
from faiss_pqvae.native.kinds.coarse import FLAT, VECTORS
from faiss_pqvae.native.kinds.graph import layout as graph
from faiss_pqvae.native.reader import Header, Layout, LayoutError, Reader

Role = Literal["index", "transforms", "refine"]

# FAISS's own four characters.
_ID_MAPS = frozenset({"IxMp", "IxM2"})
_CODES = frozenset(kind.file for kind in KINDS.values() if kind.file)
FILES: dict[Role, Set[str]] = {
    "index": _ID_MAPS | _CODES,
    "transforms": {"IxPT"},
    "refine": VECTORS | {"IxM2"},
}
_LINEAR = {"rrot": "", "LTra": "", "Pcam": "ff?i", "Viqm": "ii"}  # what precedes the matrix
_TRANSFORMS = frozenset({*_LINEAR, "RmDT", "VNrm", "VCnt", "Viqt", "HRot"})


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
            reader = Reader(content, LAYOUTS)
            reader.index(FILES[role])
            if reader.left:
                raise LayoutError(f"expected the end of the file, got {reader.left} bytes more")
    return frozenset(reader.kinds)


def _flat(file: Reader, header: Header) -> None:
    file.vector(4)


def _scalar(file: Reader, header: Header) -> None:
    file.scalar_quantizer(header.d)
    file.vector(1)


def _id_map(file: Reader, header: Header) -> None:
    file.index(file.allowed - _ID_MAPS)
    file.vector(8)


def _transformed(file: Reader, header: Header) -> None:
    for _ in range(file.take("i")):
        _transform(file, _TRANSFORMS)
    file.index(FLAT)


def _transform(file: Reader, allowed: Set[str]) -> None:
    kind = file.kind(allowed)
    if kind in _LINEAR:
        file.take(_LINEAR[kind])
        if kind == "Pcam":  # mean, eigenvalues, PCAMat
            for _ in range(3):
                file.vector(4)
        file.take("?")
        file.vector(4)
        file.vector(4)
    elif kind == "Viqt":
        file.vector(4)
        file.take("?")
        _transform(file, {"Viqm"})
        _transform(file, {"LTra"})
    elif kind in ("RmDT", "VCnt"):
        file.vector(4)
    else:  # the norm of VNrm, the seed of HRot
        file.take("i")
    file.take("ii?")  # d_in, d_out, is_trained


# What follows the header of an index: of codes, as their kinds say; and of what else there is.
LAYOUTS: dict[str, Layout] = {
    **{kind.file: kind.layout for kind in KINDS.values() if kind.file},
    **dict.fromkeys(FLAT, _flat),
    "IxSQ": _scalar,
    **dict.fromkeys(_ID_MAPS, _id_map),
    "IxPT": _transformed,
    "IHNf": graph(FLAT),
    "IHNs": graph({"IxSQ"}),
}
