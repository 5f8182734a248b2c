"""Between look-up tables and decoder: candidates of additive codes, ranked by sums of codewords."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from faiss_pqvae.model.additive import Lifted, Tables, lowered
from faiss_pqvae.model.conditional import ConditionalCode
from faiss_pqvae.types import CodeArray, FloatArray, IdArray

_CODES_AT_A_TIME = 2**16  # what is added up for them stays in the cache
_SUMS_BYTES = 2**20  # likewise, of whole sums
_MOST_BYTES = 2**26  # of tables of pairs


class ShortList:
    """Ranks candidates anew, by sums of codewords with their exact lengths.

    Look-up tables know the length of a sum only as a sum of numbers. The exact one needs a table
    for every pair of sub-quantizers, |sum t_m|^2 = sum |t_m|^2 + 2 sum_{m<j} <t_m, t_j>, and not a
    byte an item. These are M (M - 1) / 2 * ksub^2 floats in memory: 7 MB for M = 8. Where they
    would be more than 64 MB, at 8 bits from M = 24 on, the sums themselves are made.

    Args:
        codewords: (M, ksub, d + 1) float32, of the quantizer of an additive code by L2.
        decoder: of the same code.

    Attributes:
        per_candidate: results of the tables that one for the decoder is chosen from.
    """

    per_candidate = 10

    def __init__(self, codewords: torch.Tensor, decoder: ConditionalCode) -> None:
        with torch.no_grad():
            lifted = Lifted(codewords.detach().cpu(), decoder.offset.cpu())
            tables = lowered(lifted, decoder.centre.cpu())
            shrinks = decoder.table_shrinks.cpu()
        M, ksub, _ = tables.codewords.shape
        by_pairs = 4 * M * (M - 1) // 2 * ksub**2 <= _MOST_BYTES
        self._lacking = (lacking_by_pairs if by_pairs else lacking_by_sums)(tables, shrinks)

    def __call__(
        self, D: FloatArray, keys: IdArray, codes: CodeArray, n: int
    ) -> npt.NDArray[np.int64]:
        """The n best candidates of every query.

        Args:
            D: (nq, k) float32, their distances by tables.
            keys: (nq, k) int64, what they are called; -1 where there is none.
            codes: (nq, k, M) uint8.
            n: of them, at most k.

        Returns:
            Their places (nq, n) int64 among the k, best first.
        """
        lacking = self._lacking(codes.reshape(-1, codes.shape[-1]))
        exact = np.where(keys == -1, math.inf, D + lacking.reshape(D.shape))
        best = np.argpartition(exact, n - 1, axis=1)[:, :n]
        order = np.argsort(np.take_along_axis(exact, best, 1), axis=1, kind="stable")
        found: npt.NDArray[np.int64] = np.take_along_axis(best, order, 1)
        return found


Lacking = Callable[[CodeArray], FloatArray]


def lacking_by_pairs(tables: Tables, shrinks: torch.Tensor) -> Lacking:
    """What distances by tables lack, for codes (n, M) uint8, by tables of pairs.

    Args:
        tables: of the code; biases are shrunk already.
        shrinks: scalar, of lengths.
    """
    vectors = tables.codewords
    own = (shrinks * vectors.square().sum(-1) - tables.biases).numpy()
    pairs = [
        (m, j, (2 * shrinks * vectors[m] @ vectors[j].T).flatten().numpy())
        for m in range(len(vectors))
        for j in range(m + 1, len(vectors))
    ]
    return partial(_in_parts, partial(_from_pairs, own, pairs), _CODES_AT_A_TIME)


def lacking_by_sums(tables: Tables, shrinks: torch.Tensor) -> Lacking:
    """The same, by sums of codewords."""
    rows = max(1, _SUMS_BYTES // (4 * tables.codewords.shape[-1]))
    return partial(_in_parts, partial(_from_sums, tables, shrinks), rows)


def _in_parts(lacking: Lacking, rows: int, codes: CodeArray) -> FloatArray:
    parts = [lacking(codes[start : start + rows]) for start in range(0, len(codes), rows)]
    return np.concatenate(parts)


def _from_pairs(
    own: FloatArray, pairs: list[tuple[int, int, FloatArray]], codes: CodeArray
) -> FloatArray:
    ids = np.ascontiguousarray(codes.T, np.int32)
    found = np.zeros(len(codes), np.float32)
    for table, chosen in zip(own, ids, strict=True):
        found += table.take(chosen)
    rows = ids * np.int32(own.shape[1])
    for m, j, table in pairs:
        found += table.take(rows[m] + ids[j])
    return found


def _from_sums(tables: Tables, shrinks: torch.Tensor, codes: CodeArray) -> FloatArray:
    vectors, lengths = tables.sums(torch.from_numpy(codes).long())
    found: FloatArray = (shrinks * vectors.square().sum(1) - lengths).numpy()
    return found
