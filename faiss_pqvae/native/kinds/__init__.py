"""Native index kinds: one file a kind, one line here. What differs between them is asked here."""

from __future__ import annotations

from typing import Any

from faiss_pqvae.native.kinds import (
    hnsw_pq,
    index_pq,
    ivf_pq,
    ivf_pq_fast_scan,
    local_search_quantizer,
    pq_fast_scan,
    product_local_search_quantizer,
    product_residual_quantizer,
    residual_quantizer,
)
from faiss_pqvae.native.kinds.kind import Kind

# By the name of FAISS's class, exact: a subclass holds what we do not know.
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        index_pq.KIND,
        pq_fast_scan.KIND,
        ivf_pq.KIND,
        ivf_pq_fast_scan.KIND,
        hnsw_pq.KIND,
        residual_quantizer.KIND,
        local_search_quantizer.KIND,
        product_residual_quantizer.KIND,
        product_local_search_quantizer.KIND,
    )
}


def known_kind(index: Any) -> Kind | None:
    """The kind of an index, seen as its own class; None for one that holds no codebooks."""
    return KINDS.get(type(index).__name__)


def kind_of(index: Any) -> Kind:
    """The kind of an index that holds codebooks, seen as its own class.

    Raises:
        TypeError: another one.
    """
    found = known_kind(index)
    if found is None:
        raise TypeError(f"expected one of {', '.join(KINDS)}, got {type(index).__name__}")
    return found
