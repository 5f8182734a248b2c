"""What an index finds of items that were held out, and how many lists that takes."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from faiss_pqvae.progress import Progress
from faiss_pqvae.types import FloatArray, IdArray

_LEAST_GAIN = 0.002  # of recall, by twice as many lists: below it more are not worth it


def tuned(
    found: Any, queries: FloatArray, asked: IdArray, truth: IdArray, wanted: float, k: int
) -> dict[str, Any]:
    """Visits as few lists as reach the recall that is wanted, or as many as are worth it.

    Args:
        found: the index; its nprobe is set.
        queries: (nq, d) float32, items themselves.
        asked: (nq,) int64, which.
        truth: (nq, t) int64, the nearest other items: several where they are as near as each other,
            and -2 beside them.
        wanted: share of the queries.
        k: results among which one of these shall be.

    Returns:
        Recall, by nprobe too where there are lists, and queries a second.
    """

    def recall() -> float:
        ids = without_self(found.search(queries, k + 1)[1], asked)
        return float((ids[:, :, None] == truth[:, None, :]).any((1, 2)).mean())

    figures: dict[str, Any] = {"k": k}
    if "IVF" in found.description:
        tried = _recalls_by_nprobe(found, recall, wanted, int(found.faiss_index.nlist))
        nprobe = _worth(tried, wanted)
        found.nprobe = nprobe
        figures |= {"recall": tried[nprobe], "nprobe": nprobe, "recall_by_nprobe": tried}
    else:
        figures["recall"] = recall()
    started = time.perf_counter()
    found.search(queries, k)
    figures["queries_per_s"] = round(len(queries) / (time.perf_counter() - started), 1)
    return figures


def _recalls_by_nprobe(found: Any, recall: Any, wanted: float, nlist: int) -> dict[int, float]:
    tried: dict[int, float] = {}
    nprobe = 1
    with Progress("choosing nprobe") as _:
        while nprobe <= nlist:
            found.nprobe = nprobe
            tried[nprobe] = recall()
            before = tried.get(nprobe // 2, -1.0)
            if tried[nprobe] >= wanted or (nprobe > 8 and tried[nprobe] - before < _LEAST_GAIN):
                break
            nprobe *= 2
    return tried


def _worth(tried: dict[int, float], wanted: float) -> int:
    """The fewest lists that reach what is wanted, or else nearly the best of what was found."""
    best = max(tried.values())
    enough = wanted if best >= wanted else best - _LEAST_GAIN
    return next(nprobe for nprobe, recall in tried.items() if recall >= enough)


def without_self(ids: IdArray, asked: IdArray) -> IdArray:
    """Results (nq, k) but for the query itself, or else the last one: (nq, k - 1)."""
    is_self = ids == asked[:, None]
    is_self[~is_self.any(1), -1] = True
    is_self &= np.cumsum(is_self, 1) == 1
    others: IdArray = ids[~is_self].reshape(len(ids), -1)
    return others
