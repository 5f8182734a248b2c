"""Search parameters as a native index wants them: of its own class, its selector over its keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from faiss_pqvae.native import faiss
from faiss_pqvae.native.kinds import kind_of


def selector_of(params: Any, index: Any, over_keys: Callable[[Any], Any]) -> Any:
    """The selector of search parameters, over keys instead of ids; None without one.

    Args:
        params: a caller's faiss.SearchParameters, or None.
        index: the native index that is searched, without its IDMap.
        over_keys: makes a selector of keys of one of ids.

    Raises:
        TypeError: parameters of another kind of index.
    """
    if params is None:
        return None
    kind, _ = kind_of(index).parameters(params)
    # A selector alone is for every kind.
    if type(params) is not faiss.SearchParameters and (
        kind is faiss.SearchParameters or not isinstance(params, kind)
    ):
        raise TypeError(
            f"expected parameters of type {kind.__name__} for {type(index).__name__}, got "
            f"{type(params).__name__}"
        )
    if params.sel is None:
        return None
    # FAISS hands the selector out as its base class; the one that went in is kept beside.
    sel = getattr(params, "_sp_field_refs", {}).get("sel", params.sel)
    # As in FAISS, one that is translated already is over keys.
    return sel if isinstance(sel, faiss.IDSelectorTranslated) else over_keys(sel)


def native_parameters(params: Any, index: Any, sel: Any) -> Any:
    """Parameters of the class that the index wants, with a selector over keys.

    The caller's own are never changed: another thread may be searching with them.

    Args:
        params: what `selector_of` accepts.
        index: the native index that is searched, without its IDMap.
        sel: what `selector_of` gave.
    """
    if params is None:
        return None
    kind, names = kind_of(index).parameters(params)
    own = kind_of(index).settings(index)
    # A selector alone leaves the rest as the index has it.
    source = own if type(params) is faiss.SearchParameters else params
    native = kind()
    for name in names:
        if hasattr(source, name):
            setattr(native, name, getattr(source, name))
    native.sel = sel
    return native
