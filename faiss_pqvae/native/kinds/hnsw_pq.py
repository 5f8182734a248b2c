"""IndexHNSWPQ: a graph over codes."""

from __future__ import annotations

from typing import Any

from faiss_pqvae.native import faiss
from faiss_pqvae.native.kinds import graph, plain
from faiss_pqvae.native.kinds.kind import Kind, Parameters, listed
from faiss_pqvae.native.kinds.product import Product, fill_inner_products


def _derive(index: Any) -> None:
    holder = graph.storage(index)
    holder.pq.compute_sdc_table()
    if holder.metric_type == faiss.METRIC_INNER_PRODUCT:
        fill_inner_products(holder.pq)  # the graph is linked by this table


def _parameters(params: Any) -> Parameters:
    names = ("efSearch", "check_relative_distance", "bounded_queue")
    return Parameters(faiss.SearchParametersHNSW, names)


def _settings(bare: Any) -> Any:
    return bare.hnsw


KIND = listed(
    Kind(
        name="IndexHNSWPQ",
        quantizer=Product(holder=graph.storage, derive=_derive),
        grows_only="HNSW",
        quantize=graph.quantize,
        code_size=graph.code_size,
        encode=graph.encode,
        decode=graph.decode,
        add=graph.add,
        add_codes=plain.adds_decoded(graph.decode, graph.add),
        roll_back=plain.nothing,
        parameters=_parameters,
        settings=_settings,
        contents=graph.contents,
        empty=None,
        file="IHNp",
        layout=graph.layout({"IxPq"}),
        agrees=graph.check_graph,
        is_mapped=graph.is_mapped,
    )
)
