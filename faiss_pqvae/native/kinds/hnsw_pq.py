"""IndexHNSWPQ: a graph over codes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from faiss_pqvae.native import faiss
from faiss_pqvae.native.kinds import graph, plain
from faiss_pqvae.native.kinds.kind import Contents, Kind, Parameters
from faiss_pqvae.native.kinds.product import Product, fill_inner_products
from faiss_pqvae.types import CodeArray, FloatArray, IdArray


def storage(index: Any) -> Any:
    """The IndexPQ whose codes the graph links; it keeps the graph alive."""
    inner = faiss.downcast_index(index.storage)
    inner.referenced_objects = [index]
    return inner


def _derive(index: Any) -> None:
    holder = storage(index)
    holder.pq.compute_sdc_table()
    if holder.metric_type == faiss.METRIC_INNER_PRODUCT:
        fill_inner_products(holder.pq)  # the graph is linked by this table


def _quantize(bare: Any, z: FloatArray) -> FloatArray:
    return plain.quantize(storage(bare), z)


def _code_size(bare: Any) -> int:
    return int(storage(bare).pq.code_size)


def _encode(bare: Any, z: FloatArray) -> CodeArray:
    codes: CodeArray = storage(bare).pq.compute_codes(z)
    return codes


def _decode(bare: Any, codes: CodeArray) -> FloatArray:
    latents: FloatArray = storage(bare).pq.decode(codes)
    return latents


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Holds Ctrl-C back while a graph is linked: half of the links would be none."""
    faiss.InterruptCallback.clear_instance()
    try:
        yield
    finally:
        faiss.PythonInterruptCallback.reset()


def _add(index: Any, batches: Iterable[FloatArray], ids: IdArray | None) -> None:
    """All at once: a graph cannot forget what was added before a batch that fails."""
    everything = np.concatenate(list(batches))
    with _uninterrupted():
        plain.add(index, [everything], ids)


def _parameters(params: Any) -> Parameters:
    names = ("efSearch", "check_relative_distance", "bounded_queue")
    return Parameters(faiss.SearchParametersHNSW, names)


def _settings(bare: Any) -> Any:
    return bare.hnsw


def _contents(bare: Any) -> Contents:
    return Contents(*plain.contents(storage(bare)))


def _is_mapped(bare: Any) -> bool:
    return plain.is_mapped(storage(bare))


KIND = Kind(
    name="IndexHNSWPQ",
    quantizer=Product(holder=storage, derive=_derive),
    grows_only="HNSW",
    quantize=_quantize,
    code_size=_code_size,
    encode=_encode,
    decode=_decode,
    add=_add,
    add_codes=plain.adds_decoded(_decode, _add),
    roll_back=plain.nothing,
    parameters=_parameters,
    settings=_settings,
    contents=_contents,
    empty=None,
    file="IHNp",
    layout=graph.layout({"IxPq"}),
    agrees=graph.check_graph,
    is_mapped=_is_mapped,
)
