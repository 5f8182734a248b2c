"""IndexIVFPQ: inverted lists of codes one after another."""

from __future__ import annotations

from typing import Any

import numpy as np

from faiss_pqvae.native import faiss
from faiss_pqvae.native.compare import check_pq, expect
from faiss_pqvae.native.ids import list_ids
from faiss_pqvae.native.kinds import lists, lists_in_files, plain
from faiss_pqvae.native.kinds.kind import Kind, listed
from faiss_pqvae.native.kinds.product import Product
from faiss_pqvae.types import CodeArray, IdArray


def entries(ivf: Any, list_no: int) -> tuple[CodeArray, IdArray]:
    """Codes (m, code_size) and ids (m,) of a list, as copies."""
    return _codes(ivf, list_no).copy(), list_ids(ivf, list_no).copy()


def _codes(ivf: Any, list_no: int) -> CodeArray:
    """Codes (m, code_size) of a list: a view, good until the next change."""
    size = ivf.invlists.list_size(list_no)
    if not size:
        return np.empty((0, ivf.code_size), np.uint8)
    raw: CodeArray = faiss.rev_swig_ptr(ivf.invlists.get_codes(list_no), size * ivf.code_size)
    return raw.reshape(size, ivf.code_size)


def add_entries(ivf: Any, list_no: int, codes: CodeArray, ids: IdArray) -> None:
    """Appends codes (m, code_size) and ids (m,) to a list; `ntotal` is the caller's."""
    if len(ids):
        codes, ids = np.ascontiguousarray(codes), np.ascontiguousarray(ids)
        ivf.invlists.add_entries(list_no, len(ids), faiss.swig_ptr(ids), faiss.swig_ptr(codes))


def _check_lists(bare: Any) -> None:
    check_pq(bare.pq, bare.d)
    expect("code_size", bare.pq.code_size, bare.code_size)
    expect("code_size of the lists", bare.code_size, bare.invlists.code_size)


KIND = listed(
    Kind(
        name="IndexIVFPQ",
        quantizer=Product(derive=lists.derive, is_trained=lists.coarse_is_trained),
        has_lists=True,
        trains_coarse=True,
        search_and_reconstruct=lists.search_and_reconstruct,
        search_and_return_codes=lists.search_and_return_codes,
        quantize=lists.quantize,
        check_keys=plain.nothing,
        reconstruct=lists.reconstruct,
        codes_at=lists.codes_at(_codes),
        check_codes=lists.check_codes,
        add=lists.add,
        add_codes=lists.add_codes,
        mark=lists.mark,
        roll_back=lists.roll_back,
        changing=lists.changing,
        set_aside=lists.set_aside,
        parameters=lists.parameters,
        contents=lists.contents(entries),
        fill=lists.fill(add_entries),
        empty=lists.empty,
        file="IwPQ",
        layout=lists_in_files.layout(
            before="", form="ilar", follow_lists=lists_in_files.array_lists
        ),
        agrees=lists_in_files.agrees(_check_lists),
        is_mapped=lists_in_files.is_mapped,
        renew=lists_in_files.renew,
    )
)
