"""Between look-up tables and decoder: candidates of additive codes, ranked by sums of codewords."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from faiss_pqvae.model.additive import Lifted, lowered
from faiss_pqvae.model.conditional import ConditionalCode
from faiss_pqvae.types import CodeArray, FloatArray, IdArray

_CODES_AT_A_TIME = 2**16  # what is added up for them stays in the cache


class ShortList:
    """Ranks candidates anew, by sums of codewords with their exact lengths.

    Look-up tables know the length of a sum only as a sum of numbers. The exact one needs a table
    for every pair of sub-quantizers, |sum t_m|^2 = sum |t_m|^2 + 2 sum_{m<j} <t_m, t_j>, and not a
    byte an item. These are M (M - 1) / 2 * ksub^2 floats in memory: 7 MB for M = 8.

    Args:
        codewords: (M, ksub, d + 1) float32, of the quantizer of an additive code by L2.
        decoder: of the same code.

    Attributes:
        per_candidate: results of the tables that one for the decoder is chosen from.
    """

    per_candidate = 20

    def __init__(self, codewords: torch.Tensor, decoder: ConditionalCode) -> None:
        with torch.no_grad():
            lifted = Lifted(codewords.detach().cpu(), decoder.offset.cpu())
            tables = lowered(lifted, decoder.centre.cpu())
            shrinks = decoder.table_shrinks.cpu()
            vectors = tables.codewords
            # What a table's biases, which are shrunk already, lack.
            own = shrinks * vectors.square().sum(-1) - tables.biases
            self._own: FloatArray = own.numpy()
            self._pairs = [
                (m, j, (2 * shrinks * vectors[m] @ vectors[j].T).flatten().numpy())
                for m in range(len(vectors))
                for j in range(m + 1, len(vectors))
            ]
        self._ksub = vectors.shape[1]

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
            Keys (nq, n) int64, best first.
        """
        lacking = np.concatenate([*self._lacking(codes.reshape(-1, codes.shape[-1]))])
        exact = np.where(keys == -1, math.inf, D + lacking.reshape(D.shape))
        best = np.argpartition(exact, n - 1, axis=1)[:, :n]
        order = np.argsort(np.take_along_axis(exact, best, 1), axis=1, kind="stable")
        best = np.take_along_axis(best, order, 1)
        found: npt.NDArray[np.int64] = np.take_along_axis(keys, best, 1)
        return found

    def _lacking(self, codes: CodeArray) -> Iterator[FloatArray]:
        """What distances by tables lack, for codes (n, M)."""
        for start in range(0, len(codes), _CODES_AT_A_TIME):
            ids = np.ascontiguousarray(codes[start : start + _CODES_AT_A_TIME].T, np.int32)
            found = sum(own.take(chosen) for own, chosen in zip(self._own, ids, strict=True))
            rows = ids * np.int32(self._ksub)
            for m, j, table in self._pairs:
                found += table.take(rows[m] + ids[j])
            yield found
