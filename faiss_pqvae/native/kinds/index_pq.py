"""IndexPQ: codes one after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from faiss_pqvae.native import faiss
from faiss_pqvae.native.compare import check_pq, expect
from faiss_pqvae.native.kinds import plain, scanned
from faiss_pqvae.native.kinds.kind import Kind, Parameters, listed
from faiss_pqvae.native.kinds.product import SDC_NBITS, Product, check_searchable
from faiss_pqvae.native.reader import Header, Reader
from faiss_pqvae.types import CodeArray, IdArray


def _searchable(pq: Any) -> None:
    check_searchable(pq.dsub, pq.nbits)


def _derive(index: Any) -> None:
    if index.pq.nbits == SDC_NBITS:
        index.pq.compute_sdc_table()


def _parameters(params: Any) -> Parameters:
    return Parameters(faiss.SearchParametersPQ, ("search_type", "polysemous_ht"))


def _codes_at(bare: Any, keys: IdArray) -> CodeArray:
    plain.check_places(bare, keys)
    codes: CodeArray = faiss.rev_swig_ptr(bare.codes.data(), bare.ntotal * bare.code_size)
    return codes.reshape(bare.ntotal, bare.code_size)[keys]


def _layout(file: Reader, header: Header) -> None:
    file.product_quantizer(header.d)
    file.vector(1)
    file.take("i?i")  # search_type, encode_signs, polysemous_ht


def _agrees(bare: Any, check_inner: Callable[[Any], None]) -> None:
    check_pq(bare.pq, bare.d)
    expect("code_size", bare.pq.code_size, bare.code_size)
    expect("bytes of codes", bare.ntotal * bare.code_size, bare.codes.size())


KIND = listed(
    Kind(
        name="IndexPQ",
        quantizer=Product(searchable=_searchable, derive=_derive),
        scanned=True,
        search=scanned.search,
        codes_at=_codes_at,
        parameters=_parameters,
        file="IxPq",
        layout=_layout,
        agrees=_agrees,
    )
)
