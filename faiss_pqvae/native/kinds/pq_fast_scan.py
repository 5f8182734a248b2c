"""IndexPQFastScan: codes of 4 bits in blocks, scanned with rounded tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from faiss_pqvae.native import faiss
from faiss_pqvae.native.compare import check_fast_scan, expect, round_up
from faiss_pqvae.native.kinds import index_pq, plain
from faiss_pqvae.native.kinds.blocks import clear_end, pack, unpack
from faiss_pqvae.native.kinds.kind import Contents, Found, Kind, Request, listed
from faiss_pqvae.native.kinds.product import Product
from faiss_pqvae.native.reader import Header, Reader
from faiss_pqvae.types import CodeArray, IdArray


def _contents(bare: Any) -> Contents:
    codes = unpack(faiss.vector_to_array(bare.codes), bare.ntotal, bare)
    return Contents(codes, np.arange(bare.ntotal))


def _codes_at(bare: Any, keys: IdArray) -> CodeArray:
    plain.check_places(bare, keys)
    return _contents(bare).codes[keys]


def _fill(bare: Any, contents: Contents) -> None:
    packed = pack(contents.codes, bare)
    faiss.copy_array_to_AlignedTable(packed.ravel(), bare.codes)
    bare.ntotal2 = len(packed) * bare.bbs


def _empty(bare: Any) -> Any:
    return faiss.IndexPQFastScan(bare.d, bare.pq.M, bare.pq.nbits, bare.metric_type, bare.bbs)


def _flat(bare: Any) -> Any:
    """The same as IndexPQ, which is exact, and has a `range_search`."""
    flat = faiss.IndexPQ(bare.d, bare.pq.M, bare.pq.nbits, bare.metric_type)
    index_pq.KIND.quantizer.write(flat, KIND.quantizer.read(bare))
    if bare.ntotal:
        flat.add_sa_codes(np.ascontiguousarray(_contents(bare).codes))
    return flat


def _search(bare: Any, request: Request) -> Found:
    if request.sel is None:
        return plain.search(bare, request)
    z = request.quantized if request.sdc else request.z
    found: Found = request.scan(_flat(bare)).search(z, request.k, sel=request.sel)
    return found


def _tidy(bare: Any) -> None:
    if not bare.ntotal:
        bare.ntotal2 = 0  # a search would read as many codes, which are gone
    clear_end(bare.codes.get(), bare.ntotal, bare)


def _layout(file: Reader, header: Header) -> None:
    file.product_quantizer(header.d)
    file.take("iiiQQ")  # implem, bbs, qbs, ntotal2, M2
    file.vector(1)


def _agrees(bare: Any, check_inner: Callable[[Any], None]) -> None:
    check_fast_scan(bare)
    expect("ntotal2", round_up(bare.ntotal, bare.bbs), bare.ntotal2)
    expect("bytes of codes", bare.ntotal2 * bare.M2 // 2, bare.codes.size())


def _is_mapped(bare: Any) -> bool:
    return False


KIND = listed(
    Kind(
        name="IndexPQFastScan",
        quantizer=Product(),
        search=_search,
        exact=_flat,
        codes_at=_codes_at,
        add_codes=plain.adds_decoded(plain.decode, plain.add),
        tidy=_tidy,
        contents=_contents,
        fill=_fill,
        empty=_empty,
        file="IPfs",
        layout=_layout,
        agrees=_agrees,
        maps=False,
        is_mapped=_is_mapped,
    )
)
