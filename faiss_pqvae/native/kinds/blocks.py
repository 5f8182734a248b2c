"""Codes in blocks, as FastScan has them: what FAISS garbles, done here."""

from __future__ import annotations

from typing import Any

from faiss_pqvae.native import faiss
from faiss_pqvae.native.packing import flatten_blocks, pack_blocks
from faiss_pqvae.types import CodeArray

# FAISS's own CodePacker is for blocks of 32 only, and garbles others.


def unpack(raw: CodeArray, n: int, native: Any) -> CodeArray:
    """Codes (n, code_size) as they lie in an index or in one of its lists."""
    return flatten_blocks(raw, native.code_size, native.bbs)[:n]


def pack(codes: CodeArray, native: Any) -> CodeArray:
    """Undoes `unpack`, with zeros up to the end of the last block."""
    return pack_blocks(codes, native.bbs)


def clear_end(pointer: Any, size: int, native: Any) -> None:
    """Makes zeros of what lies behind the last of some codes.

    What FAISS leaves there when it removes or merges codes, it mixes into those that are added
    next.

    Args:
        pointer: to the blocks.
        size: codes in them.
        native: the index.
    """
    full, rest = divmod(int(size), int(native.bbs))
    if rest:
        block_bytes = native.bbs * native.code_size
        raw = faiss.rev_swig_ptr(pointer, (full + 1) * block_bytes)
        block = raw[full * block_bytes :]
        block[:] = pack(unpack(block, rest, native), native).ravel()
