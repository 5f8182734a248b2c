"""A toy: IndexNSGPQ, a graph over codes that takes all its vectors at once."""

from __future__ import annotations

from typing import Any

from faiss_pqvae.native.kinds import graph, plain
from faiss_pqvae.native.kinds.kind import Kind, listed
from faiss_pqvae.native.kinds.product import Product


def _derive(index: Any) -> None:
    graph.storage(index).pq.compute_sdc_table()  # the graph is linked by it


KIND = listed(
    Kind(
        name="IndexNSGPQ",
        quantizer=Product(holder=graph.storage, derive=_derive),
        grows_only="NSG",
        quantize=graph.quantize,
        code_size=graph.code_size,
        encode=graph.encode,
        decode=graph.decode,
        add=graph.add,
        add_codes=plain.adds_decoded(graph.decode, graph.add),
        roll_back=plain.nothing,
        contents=graph.contents,
        empty=None,
        is_mapped=graph.is_mapped,
    )
)
