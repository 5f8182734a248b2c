"""Inverted files made one file, list by list: what memory holds of them is a list."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from faiss_pqvae.files import space_for
from faiss_pqvae.native import faiss
from faiss_pqvae.progress import Progress

_NO_LISTS = b"sprs" + struct.pack("<Q", 0)  # how a file of FAISS's says that all lists are empty


def can_join(index: Any) -> bool:
    """Whether `write_joined` knows the file of such an index: inverted lists of plain codes."""
    return isinstance(index, faiss.IndexIVFPQ) and isinstance(
        faiss.downcast_InvertedLists(index.invlists), faiss.ArrayInvertedLists
    )


def write_joined(index: Any, parts: Sequence[Any], path: Path) -> None:
    """Writes an inverted file with the vectors of several, which lie in files themselves.

    What is read of it is what `index` has when the parts were merged into it, in order.

    Args:
        index: trained, of a kind that `can_join`; without vectors.
        parts: such indexes, of the same lists and codes and with ids of their own.
        path: of the new file.

    Raises:
        OSError: the disk is full or failing.
    """
    sizes = np.empty((len(parts), index.nlist), np.uint64)
    for row, part in zip(sizes, parts, strict=True):
        of_part = (part.invlists.list_size(number) for number in range(index.nlist))
        row[:] = np.fromiter(of_part, np.uint64, index.nlist)
    with space_for(path), path.open("wb") as file:
        file.write(_head(index, int(sizes.sum())))
        per_list = sizes.sum(0, dtype=np.uint64)
        file.write(b"full" + struct.pack("<Q", index.nlist) + per_list.astype("<u8").tobytes())
        with Progress("joining lists", index.nlist, unit="lists") as bar:
            for number in range(index.nlist):
                lists = [
                    (part.invlists, size)
                    for part, size in zip(parts, sizes[:, number].tolist(), strict=True)
                    if size
                ]
                for each, size in lists:
                    _write(file, each.get_codes(number), size * index.code_size)
                for each, size in lists:
                    _write(file, each.get_ids(number), size)
                bar.update(1)


def _write(file: BinaryIO, pointer: Any, n: int) -> None:
    """Writes n numbers from where FAISS has them."""
    file.write(faiss.rev_swig_ptr(pointer, n).data)


def _head(index: Any, ntotal: int) -> bytes:
    """What stands before the sizes of the lists in the file of an index of so many vectors."""
    before = index.ntotal
    try:
        index.ntotal = ntotal
        content: bytes = faiss.serialize_index(index).tobytes()
    finally:
        index.ntotal = before
    assert content.endswith(_NO_LISTS)
    return content[: -len(_NO_LISTS)]
