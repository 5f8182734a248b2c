"""Search parameters as a native index wants them: of its own class, its selector over its keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from faiss_pqvae.arguments import at_least_1, integer
from faiss_pqvae.native import faiss
from faiss_pqvae.native.kinds.graph import MAX_EF
from faiss_pqvae.native.kinds.kind import Kind
from faiss_pqvae.native.store.held import Held


def selector_of(params: Any, kind: Kind, over_keys: Callable[[Any], Any]) -> Any:
    """The selector of search parameters, over keys instead of ids; None without one.

    Args:
        params: a caller's faiss.SearchParameters, or None.
        kind: of the native index that is searched.
        over_keys: makes a selector of keys of one of ids.

    Raises:
        TypeError: parameters of another kind of index.
    """
    if params is None:
        return None
    if type(params) is not faiss.SearchParameters:  # a selector alone is for every kind
        own, _ = kind.parameters(params)
        if own is faiss.SearchParameters or not isinstance(params, own):
            alone = isinstance(params, faiss.IDSelector)
            hint = ": give faiss.SearchParameters(sel=selector)" if alone else ""
            raise TypeError(
                f"expected parameters of type {own.__name__} for {kind.name}, got "
                f"{type(params).__name__}{hint}"
            )
    sel = given_selector(params)
    if sel is None:
        return None
    # As in FAISS, one that is translated already is over keys.
    return sel if isinstance(sel, faiss.IDSelectorTranslated) else over_keys(sel)


def given_selector(params: Any) -> Any:
    """The selector of faiss.SearchParameters as it went in; None without one."""
    # FAISS hands it out as its base class, and keeps the one that went in beside.
    return (
        None if params.sel is None else getattr(params, "_sp_field_refs", {}).get("sel", params.sel)
    )


def native_parameters(params: Any, held: Held, sel: Any) -> Any:
    """Parameters of the class that the index wants, with a selector over keys.

    The caller's own are never changed: another thread may be searching with them.

    Args:
        params: what `selector_of` accepts.
        held: the index that is searched.
        sel: what `selector_of` gave.

    Raises:
        ValueError: no list, or no candidate, to search.
    """
    if params is None:
        return None
    own, names = held.kind.parameters(params)
    # A selector alone leaves the rest as the index has it.
    alone = type(params) is faiss.SearchParameters
    source = held.kind.settings(held.bare) if alone else params
    native = own()
    for name in names:
        if hasattr(source, name):
            setattr(native, name, _settled(name, getattr(source, name), held.bare))
    native.sel = sel
    return native


def _settled(name: str, value: Any, bare: Any) -> Any:
    """A parameter within its limits: FAISS takes memory for as many, and ends in its own errors."""
    if name == "nprobe":
        return min(at_least_1(name, value), bare.nlist)
    if name == "efSearch":
        return integer(name, value, 1, MAX_EF)
    return value
