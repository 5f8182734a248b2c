"""What FAISS does not compare in an index: sizes, bounds and values that a search relies on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from faiss_pqvae.native import faiss
from faiss_pqvae.native.compare import DisagreementError, expect, require, require_finite
from faiss_pqvae.native.ids import list_ids
from faiss_pqvae.native.kinds import known_kind
from faiss_pqvae.native.kinds.graph import check_graph


def check_index(index: Any) -> None:
    """Compares all sizes and bounds that a search, an addition or a decoding relies on.

    Args:
        index: of a kind that bundles hold; nothing is changed in it.

    Raises:
        DisagreementError: two parts that do not fit together, or another kind.
    """
    require("items in trained indexes only", index.is_trained or not index.ntotal)
    kind, other = known_kind(index), _OTHERS.get(type(index).__name__)
    if kind is not None:
        kind.agrees(index, check_index)
    elif other is not None:
        other(index)
    else:
        codes = isinstance(index, faiss.IndexFlatCodes)
        lists = isinstance(index, faiss.IndexIVF)
        expected = "an index of codes"
        if codes or lists:
            expected = "Flat, SQ or PQ codes" if codes else "inverted lists of PQ codes"
        raise DisagreementError(f"expected {expected}, got {type(index).__name__}")


def _check_flat(index: Any) -> None:
    expect("code_size", 4 * index.d, index.code_size)
    expect("bytes of codes", index.ntotal * index.code_size, index.codes.size())


def _check_scalar(index: Any) -> None:
    expect("sq.d", index.d, index.sq.d)
    expect("code_size", index.sq.code_size, index.code_size)
    trained = faiss.ScalarQuantizer(index.d, index.sq.qtype)
    expect("sq.code_size", trained.code_size, index.sq.code_size)
    require_finite("ranges", index.sq.trained)
    expect("bytes of codes", index.ntotal * index.code_size, index.codes.size())


def _check_linked(index: Any) -> None:
    check_graph(index, check_index)


def _check_id_map(index: Any) -> None:
    inner = faiss.downcast_index(index.index)
    require("an index in the IDMap", inner is not None)
    check_index(inner)
    for name in ("d", "ntotal", "metric_type", "is_trained"):
        expect(f"{name} of the IDMap", getattr(inner, name), getattr(index, name))
    expect("number of ids", inner.ntotal, index.id_map.size())
    kind = known_kind(inner)
    if kind is not None and kind.has_lists:
        _check_places(inner)


def _check_places(index: Any) -> None:
    """Whether the ids in the inverted lists are 0 to ntotal, every one once."""
    found = np.zeros(index.ntotal, bool)
    for number in range(index.nlist):
        places = list_ids(index, number)
        within = not len(places) or (places.min() >= 0 and places.max() < index.ntotal)
        require("inverted lists of places in the IDMap", within)
        found[places] = True
    require("every place of the IDMap in the inverted lists", found.all())


def _check_transforms(index: Any) -> None:
    d = index.d
    chain = [faiss.downcast_VectorTransform(index.chain.at(i)) for i in range(index.chain.size())]
    require("at least one transform", bool(chain))
    for transform in chain:
        expect("dimension into a transform", d, transform.d_in)
        d = transform.d_out
        require("a positive dimension", d >= 1)
        _check_transform(transform)
    check_index(faiss.downcast_index(index.index))
    expect("dimension behind the transforms", d, index.index.d)


def _check_transform(transform: Any) -> None:
    d_in, d_out = transform.d_in, transform.d_out
    require("trained transforms", transform.is_trained)
    if isinstance(transform, faiss.LinearTransform):
        _check_linear(transform)
    elif isinstance(transform, faiss.RemapDimensionsTransform):
        places = faiss.vector_to_array(transform.map)
        expect("dimensions of a map", d_out, len(places))
        require("a map within d_in", bool((places >= -1).all() and (places < d_in).all()))
    elif isinstance(transform, faiss.NormalizationTransform):
        expect("norm", 2.0, transform.norm)  # FAISS knows no other
    elif isinstance(transform, faiss.ITQTransform):
        _check_mean(transform)
        expect("dimension into ITQ", d_in, transform.pca_then_itq.d_in)
        expect("dimension behind ITQ", d_out, transform.pca_then_itq.d_out)
        _check_transform(transform.pca_then_itq)
    elif isinstance(transform, faiss.CenteringTransform):
        _check_mean(transform)


def _check_linear(transform: Any) -> None:
    d_out = transform.d_out
    expect("values of a transform", transform.d_in * d_out, transform.A.size())
    require("an offset of d_out values", not transform.have_bias or transform.b.size() == d_out)
    require_finite("a transform", transform.A)
    require_finite("an offset", transform.b)
    if isinstance(transform, faiss.PCAMatrix):
        _check_mean(transform)


def _check_mean(transform: Any) -> None:
    expect("values of a mean", transform.d_in, transform.mean.size())
    require_finite("a mean", transform.mean)


# What stands around codes, before them, or beside: coarse centroids, items to refine with.
_OTHERS: dict[str, Callable[[Any], None]] = {
    "IndexIDMap": _check_id_map,
    "IndexIDMap2": _check_id_map,
    "IndexPreTransform": _check_transforms,
    "IndexFlat": _check_flat,
    "IndexFlatL2": _check_flat,
    "IndexFlatIP": _check_flat,
    "IndexScalarQuantizer": _check_scalar,
    "IndexHNSWFlat": _check_linked,
    "IndexHNSWSQ": _check_linked,
}
