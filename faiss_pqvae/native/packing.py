"""Layouts of product-quantizer codes in memory, as FAISS has them, and from one to another."""

from __future__ import annotations

import numpy as np

from faiss_pqvae.codebooks import Structure
from faiss_pqvae.types import CodeArray, FloatArray, WordArray

_LANES = 8  # codes spread in one 64-bit word, a byte each
# Where FastScan puts each of 16 vectors: 0, 2, ..., 14, 1, 3, ...
_PLACES = np.arange(16).reshape(8, 2).T.ravel()


def merge_codebooks(
    centroids: FloatArray, group: int, structure: Structure = "product"
) -> FloatArray:
    """Codebooks of `group` sub-quantizers at a time: every choice of a codeword of each.

    The packed codes are the same bytes: id = id_0 + id_1 * ksub + ..., the first in the low bits.

    Args:
        centroids: (M, ksub, dsub) float32.
        group: sub-quantizers that become one.
        structure: "product" concatenates the codewords, "residual" adds them.

    Returns:
        (ceil(M / group), ksub**group, group * dsub) float32, or dsub where codewords are added;
        the last group is filled up with zeros, whatever its missing ids are.
    """
    M, ksub, dsub = centroids.shape
    fields = -(-M // group)
    padded = np.zeros((fields * group, ksub, dsub), np.float32)
    padded[:M] = centroids
    parts = np.arange(ksub**group)[:, None] // ksub ** np.arange(group) % ksub  # (K, group)
    merged = padded.reshape(fields, group, ksub, dsub)[:, np.arange(group), parts]
    # (fields, K, group, dsub)
    if structure == "residual":
        return np.asarray(merged.sum(axis=2), np.float32)
    return np.ascontiguousarray(merged.reshape(fields, ksub**group, group * dsub))


class Unpacker:
    """Turns codes of at most 8 bits into bytes, in memory of its own.

    Args:
        code_size: bytes of a packed row.
        bits: of a code, 1 to 8.
        width: codes of an unpacked row, a multiple of 4; those beyond the end of a packed row
            have any value below 2**bits.
    """

    def __init__(self, code_size: int, bits: int, width: int) -> None:
        self.code_size, self.bits, self.width = code_size, bits, width
        self._resize(0)

    def _resize(self, rows: int) -> None:
        self._rows = rows
        self._packed = np.zeros(rows * self.code_size + 8, np.uint8)  # a word may reach beyond
        self._words, self._scratch = np.empty((2, rows), "<u8")
        self._out = np.empty((rows, self.width), np.uint8)

    def __call__(self, packed: CodeArray) -> CodeArray:
        """Unpacks rows.

        Args:
            packed: (n, code_size) uint8, codes without gaps, lowest bit first.

        Returns:
            (n, width) uint8, overwritten by the next call.
        """
        n = len(packed)
        if n > self._rows:
            self._resize(n)
        self._packed[: packed.size] = packed.ravel()
        words, scratch = self._words[:n], self._scratch[:n]
        for lane in range(0, self.width, _LANES):
            # 8 codes are `bits` whole bytes.
            at = lane // _LANES * self.bits
            np.copyto(words, np.ndarray(n, "<u8", self._packed, at, (self.code_size,)))
            if self.bits < _LANES:
                _spread(words, scratch, self.bits)
            word = "<u8" if self.width - lane >= _LANES else "<u4"
            np.ndarray(n, word, self._out, lane, (self.width,))[:] = words
        return self._out[:n]


def unpacked(packed: CodeArray, M: int, nbits: int) -> CodeArray:
    """Packed codes (n, code_size) uint8 of at most 8 bits as (n, M) uint8, a byte each."""
    if nbits == 8:
        return packed
    width = -(-M // 4) * 4
    codes: CodeArray = Unpacker(packed.shape[1], nbits, width)(packed)[:, :M]
    return codes


def _spread(words: WordArray, scratch: WordArray, bits: int) -> None:
    """Spreads the lowest 8 * bits bits of each word to 8 bytes, in place.

    First the halves of the word's codes move apart, then the halves of these, then pairs.

    Args:
        words: (n,) uint64.
        scratch: (n,) uint64.
        bits: of a code.
    """
    for half in (4, 2, 1):
        low = sum(((1 << half * bits) - 1) << at for at in range(0, 64, 16 * half))
        np.left_shift(words, np.uint64(half * (_LANES - bits)), out=scratch)
        np.bitwise_and(scratch, np.uint64(low << 8 * half), out=scratch)
        np.bitwise_and(words, np.uint64(low), out=words)
        np.bitwise_or(words, scratch, out=words)


def flatten_blocks(blocks: CodeArray, pairs: int, block_size: int) -> CodeArray:
    """FastScan's blocks of 4-bit codes as rows.

    Args:
        blocks: uint8, the codes of an IndexPQFastScan. A block is, for each pair of sub-quantizers
            and each 32 vectors, 16 bytes of the first one and 16 of the second; a byte has
            vectors i and i + 16 in its nibbles.
        pairs: of sub-quantizers.
        block_size: vectors in a block, a multiple of 32.

    Returns:
        (number of blocks * block_size, pairs) uint8, as IndexPQ stores codes of 4 bits.
    """
    parts = blocks.reshape(-1, pairs, block_size // 32, 2, 16)[..., _PLACES]
    first, second = parts.transpose(
        3, 0, 2, 4, 1
    )  # (number of blocks, block_size // 32, 16, pairs)
    low, high = (first & 15) | (second << 4), (first >> 4) | (second & 240)
    return np.stack([low, high], axis=2).reshape(-1, pairs)


def pack_blocks(codes: CodeArray, block_size: int) -> CodeArray:
    """Undoes `flatten_blocks`, with zeros up to the end of the last block.

    Args:
        codes: (n, pairs) uint8.
        block_size: as there.

    Returns:
        (number of blocks, pairs, block_size // 32, 2, 16) uint8.
    """
    blocks, pairs = -(-len(codes) // block_size), codes.shape[1]
    filled = np.zeros((blocks * block_size, pairs), np.uint8)
    filled[: len(codes)] = codes
    low, high = filled.reshape(blocks, block_size // 32, 2, 16, pairs).transpose(2, 0, 4, 1, 3)
    packed = np.empty((blocks, pairs, block_size // 32, 2, 16), np.uint8)
    packed[..., 0, _PLACES] = (low & 15) | (high << 4)
    packed[..., 1, _PLACES] = (low >> 4) | (high & 240)
    return packed
