"""From any FAISS index, through what wraps it, to the index that holds the codebooks."""

from __future__ import annotations

from typing import Any

from faiss_pqvae.native import faiss
from faiss_pqvae.native.kinds import KINDS

INNER = {  # what wraps, and the attribute that is wrapped
    "IndexIDMap": "index",
    "IndexIDMap2": "index",
    "IndexPreTransform": "index",
    "IndexRefine": "base_index",
    "IndexRefineFlat": "base_index",
}


def kind(index: Any) -> str:
    """Name of an index's class: FAISS's own, exact; a subclass holds what we do not know."""
    return type(index).__name__


def levels(index: Any) -> list[Any]:
    """The index and all that it wraps, outermost first; the last one holds the codebooks.

    Every one keeps the one that wraps it alive, for it lives in that one's memory.

    Raises:
        TypeError: something else on the way, or no index at all.
    """
    found: list[Any] = []
    while True:
        if not isinstance(index, faiss.Index):
            raise TypeError(_expected(index, found))
        index = _as_its_own_class(index)
        found.append(index)
        if kind(index) in KINDS:
            return found
        if kind(index) not in INNER:
            raise TypeError(_expected(index, found[:-1]))
        inner = getattr(index, INNER[kind(index)])
        if inner is not None:
            inner.referenced_objects = [index]
        index = inner


def codebook_index(index: Any) -> Any:
    """The index that holds the codebooks, inside IDMap, IDMap2, PreTransform and Refine.

    Args:
        index: any faiss.Index, also one that is seen as its base class.

    Returns:
        That index by its own class, an IndexHNSWPQ included (its quantizer is in its `storage`).
        It keeps `index` alive.

    Raises:
        TypeError: no index of a kind that holds codebooks; the message says what was found.
    """
    return levels(index)[-1]


def follow_training(found: list[Any]) -> None:
    """Makes the wrappers, last to first, as trained as what they wrap (and bring along)."""
    for wrapper, inner in zip(found[-2::-1], found[:0:-1], strict=True):
        trained = bool(inner.is_trained)
        if kind(wrapper) == "IndexPreTransform":
            trained = trained and all(t.is_trained for t in transforms(wrapper))
        elif kind(wrapper).startswith("IndexRefine"):
            trained = trained and bool(wrapper.refine_index.is_trained)
        wrapper.is_trained = trained


def transforms(index: Any) -> list[Any]:
    """The vector transforms of an IndexPreTransform, in the order of their use."""
    return [index.chain.at(i) for i in range(index.chain.size())]


def _as_its_own_class(index: Any) -> Any:
    own = faiss.downcast_index(index)
    if kind(own) == kind(index):
        return index
    own.referenced_objects = [index]
    return own


def _expected(index: Any, outer: list[Any]) -> str:
    names = ", ".join(KINDS)
    where = f" in {kind(outer[-1])}" if outer else ""
    if not isinstance(index, faiss.Index) and hasattr(index, "faiss_index"):
        where += ": give its attribute faiss_index"
    return (
        f"expected a faiss.IndexPQ or another index that holds codebooks ({names}; also inside "
        f"{', '.join(INNER)}), got {kind(index)}{where}"
    )
