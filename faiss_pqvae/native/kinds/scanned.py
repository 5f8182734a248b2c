"""Search by an exact scan of our own, which several kinds have."""

from __future__ import annotations

from typing import Any

from faiss_pqvae.native import faiss
from faiss_pqvae.native.kinds import plain
from faiss_pqvae.native.kinds.kind import Found, Request

_PQ = faiss.IndexPQ


def search(bare: Any, request: Request) -> Found:
    """By `Scan`, unless the parameters name another search of FAISS's.

    Raises:
        ValueError: a selector with such a search, which FAISS would ignore.
    """
    how = getattr(request.params, "search_type", _PQ.ST_PQ)
    if how in (_PQ.ST_PQ, _PQ.ST_SDC):
        sdc = request.sdc or how == _PQ.ST_SDC
        found: Found = request.scan(bare).search(request.z, request.k, sdc=sdc, sel=request.sel)
        return found
    if request.sel is not None:
        raise ValueError("expected search_type ST_PQ or ST_SDC with a selector")
    return plain.search(bare, request)
