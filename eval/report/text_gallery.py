"""The report's gallery of texts: queries with what every method finds for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from faiss_pqvae.types import IdArray

from ..data.neighbours import VectorData
from ..data.texts import beginning, ordered_spread
from ..measure.results import Results
from .gallery import SEED, nearest_by_method
from .shown import common_bits

N_QUERIES, N_NEAREST = 8, 5


def text_gallery(results: Results, data: VectorData, out: Path) -> dict[str, Any] | None:
    """Queries with their nearest texts by every method, as JSON values for the page.

    A hit is what is judged to be relevant, or, where nothing was judged, one of the 10 nearest.

    Args:
        results: of a run, with its raw files in `out/raw`.
        data: what was searched.
        out: the folder of the run.

    Returns:
        None without texts, or without raw files of these data.
    """
    if data.texts is None or data.query_texts is None:
        return None
    bits = common_bits(results.rows)
    nearest = nearest_by_method(results, bits, len(data.database), len(data.queries), out)
    if not nearest:
        return None
    queries = []
    for query in ordered_spread(len(data.queries), N_QUERIES, SEED).tolist():
        relevant = _relevant(data, query)
        rows = []
        for name, ids in nearest.items():
            cells = [
                {"text": beginning(data.texts[item]), "hit": item in relevant, "item": item}
                for item in ids[query, :N_NEAREST].tolist()
                if item >= 0
            ]
            rows.append({"method": name, "cells": cells, "hits": sum(c["hit"] for c in cells)})
        queries.append({"text": beginning(data.query_texts[query]), "rows": rows, "query": query})
    judged = "judged to be relevant" if data.qrels is not None else "one of the 10 nearest"
    return {"bits": bits, "seed": SEED, "queries": queries, "texts": True, "hit": judged}


def _relevant(data: VectorData, query: int) -> set[int]:
    if data.qrels is None:
        near: IdArray = data.truth.I[query, :10]
        return set(near.tolist())
    mine = (data.qrels.queries == query) & (data.qrels.grades > 0)
    return set(np.asarray(data.qrels.items)[mine].tolist())
