"""Native index kinds: one file a kind, one line here. What differs between them is asked here."""
# ruff: noqa: F401, I001 - importing lists, and the order is wanted

from __future__ import annotations

from typing import Any

from faiss_pqvae.native.kinds import (
    index_pq,
    pq_fast_scan,
    ivf_pq,
    ivf_pq_fast_scan,
    hnsw_pq,
    residual_quantizer,
    local_search_quantizer,
    product_residual_quantizer,
    product_local_search_quantizer,
)
from faiss_pqvae.native.kinds.kind import KINDS, Kind

__all__ = ["KINDS", "kind_of", "known_kind"]


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
