"""How codes become those that are scanned, and in which portions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from faiss_pqvae.native import packing
from faiss_pqvae.native.scan import kernels
from faiss_pqvae.types import CodeArray, FloatArray, IdArray


@dataclass(frozen=True)
class Sizes:
    """How much a scan takes at a time, and how little it leaves to the index.

    Attributes:
        chunk_bytes: of codes unpacked at a time, which stay in the cache for all queries.
        block_queries: queries whose look-up tables are in memory at a time.
        select_rows: ids that a selector is asked about at a time.
        few_codes: fewer than these are left to the index.
        few_distances: likewise, distances to compute.
        few_padded: likewise, of codes that sub-quantizers of zeros fill up.
        worth_measuring: look-ups from which on it is measured which loop is the fastest.
    """

    chunk_bytes: int = 2**18
    block_queries: int = 256
    select_rows: int = 2**20
    few_codes: int = 1024
    few_distances: int = 8192
    few_padded: int = 2**18
    worth_measuring: int = kernels.WORTH_MEASURING


MEASURED = Sizes()


@dataclass(frozen=True)
class Plan:
    """How the index's codes become those that a quantizer searches.

    Attributes:
        pq: a faiss.ProductQuantizer.
        width: bytes of a code that `pq` searches.
        bits: of one code in the index, where they are unpacked.
        unpack: whether the index's own bytes are not yet these.
        few: distances to compute, below which the index's own search is faster.
    """

    pq: Any
    width: int
    bits: int
    unpack: bool
    few: int

    def chunks(
        self, packed: CodeArray, positions: IdArray | None, chunk_bytes: int
    ) -> Iterator[tuple[int, CodeArray]]:
        """Codes to search, each with the number of codes before; good until the next.

        Args:
            packed: (n, code_size) uint8, of the index.
            positions: (n',) int64, which of them; None for all.
            chunk_bytes: of codes at a time, where they are copied.
        """
        n = len(packed) if positions is None else len(positions)
        copied = self.unpack or positions is not None
        rows = max(1, chunk_bytes // self.width) if copied else n
        unpack = packing.Unpacker(packed.shape[1], self.bits, self.width) if self.unpack else None
        for start in range(0, n, max(1, rows)):
            stop = start + rows
            codes = packed[start:stop] if positions is None else packed[positions[start:stop]]
            yield start, codes if unpack is None else unpack(codes)


def plan_of(centroids: FloatArray, bits: int, scalar: bool, sizes: Sizes) -> Plan:
    """The plan for codes of at most 8 bits.

    Args:
        centroids: (fields, ksub, dsub) float32, a field being as many codes as fill a byte.
        bits: of a field.
        scalar: whether the plain loop is to scan them.
        sizes: what is left to the index.
    """
    fields = width = len(centroids)
    packed = bits < 8 and fields > 1
    # FAISS unrolls the plain loop for multiples of 4 only: worth more bytes, except one or two.
    if packed or (scalar and fields > 2):
        width = -(-fields // 4) * 4
    padded = np.zeros((width, *centroids.shape[1:]), np.float32)
    padded[:fields] = centroids
    few = sizes.few_distances if packed or width == fields else sizes.few_padded
    pq = kernels.byte_quantizer(padded, scalar=scalar)
    return Plan(pq, width, bits, unpack=packed or width != fields, few=few)
