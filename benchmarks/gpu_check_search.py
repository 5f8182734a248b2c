"""Upload, search and download: what FAISS's kernels and torch's scan find is what the CPU finds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from gpu_check_compare import compare, demand_same, demand_undamaged, everything
from gpu_check_indexes import (
    D_IN,
    copied,
    inverted_index,
    make_model,
    product_index,
    quick,
    some_ids,
    vectors,
)
from gpu_check_part import Check, DiffersError

import faiss_pqvae as fpq
from faiss_pqvae.index import gpu
from faiss_pqvae.index.latent_index import LatentIndex
from faiss_pqvae.native import faiss
from faiss_pqvae.native.gpu_layout import gpu_layout
from faiss_pqvae.native.store.contents import read
from faiss_pqvae.types import CodeArray, FloatArray

SUPPORTED_M = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96)
METRICS = ("l2", "inner_product")
_FLOAT16_M = 49  # from here on FAISS's tables have 11 bits
# M, nbits and dimensions of a codeword: most of them not for FAISS's kernels.
_CODES = ((8, 8, 4), (6, 4, 4), (3, 10, 4), (128, 8, 2), (2, 8, 40))


def search(check: Check) -> None:
    """FAISS's scan on the card finds what the CPU finds, and the codes come back."""
    cases = [(8, nbits, metric) for nbits in (8, 4, *range(1, 8)) for metric in METRICS]
    cases += [(M, 8, metric) for M in SUPPORTED_M for metric in METRICS]
    cases += [(M, 8, "l2") for M in (5, 7, 13, 33, 65, 90)]  # filled up
    for M, nbits, metric in dict.fromkeys(cases):
        product_codes(check, "faiss", M, nbits, metric, 2 if M > 40 else 4)
    for metric in METRICS:
        with check.trying(f"10,000 queries, {metric}"):
            index = product_index(8, 8, metric, n=1000)
            copy = copied(check, index, "faiss")
            copy.batch_size = 10_000  # at a time
            compare(check, index, copy, sizes=((100, 10_000),))
            check.note(f"10,000 queries, {metric}", n=index.ntotal)
    for nlist in (1, 7, 2048):
        with check.trying(f"nlist {nlist}"):
            index = product_index(4, 8)
            compare(check, index, copied(check, index, "faiss", nlist=nlist))
            check.note(f"nlist {nlist}", n=index.ntotal)
    other_kinds(check, "faiss")


def torch_scan(check: Check) -> None:
    """The scan by torch finds what the CPU finds, for every kind of code."""
    for metric in METRICS:
        for M, nbits, dsub in _CODES:
            product_codes(check, "torch", M, nbits, metric, dsub, n=1200)
    for name, index in learned_indexes():
        with check.trying(name):
            copy, queries = copied(check, index, "torch"), vectors(20, D_IN, seed=1)
            # Codewords' lengths are part of the distances: rounding is relative to them.
            reference = index.search(queries, index.ntotal)
            for k in (1, 10, 2048):
                demand_same(copy.search(queries, k), reference, 1e-4)
            demand_undamaged(copy, index)
            check.note(name, scan=copy.scan)
    other_kinds(check, "torch")


def product_codes(
    check: Check, scan: gpu.Scan, M: int, nbits: int, metric: str, dsub: int, n: int = 3000
) -> None:
    """Product codes, searched by ADC and SDC, and what comes back."""
    name = f"PQ{M}x{nbits}, {metric}, codewords of {dsub} dimensions"
    with check.trying(name):
        index = product_index(M, nbits, metric, n=n, dsub=dsub)
        copy = copied(check, index, scan)
        rounded = scan == "faiss" and M >= _FLOAT16_M
        for search_type in ("adc", "sdc"):
            compare(check, index, copy, search_type, tolerance=5e-3 if rounded else 1e-5)
        demand_undamaged(copy, index)
        check.note(name, scan=copy.scan)


def other_kinds(check: Check, scan: gpu.Scan) -> None:
    """Codes of FastScan and of inverted files, a selector, and items that are added."""
    for metric in METRICS:
        fast_scan(check, scan, metric)
        for kind in ("vectors", "residuals"):
            name = f"IVF16 of {kind}, {metric}"
            with check.trying(name):
                index = inverted_index(kind, metric)
                copy = copied(check, index, scan)
                compare(check, index, copy)
                demand_undamaged(copy, index)
                check.note(name, scan=copy.scan)
    selected(check, scan)
    added(check, scan)


def fast_scan(check: Check, scan: gpu.Scan, metric: str) -> None:
    """Codes that lie in FastScan's blocks on the CPU, whose distances are rounded there."""
    name = f"PQ8x4fs, {metric}"
    with check.trying(name):
        exact = product_index(8, 4, metric)
        native = faiss.IndexPQFastScan(exact.model.latent_dim, 8, 4, exact.metric_type)
        index = fpq.LatentIndex(exact.model, metric, faiss_index=native)
        index.add(vectors(exact.ntotal, D_IN))
        copy = copied(check, index, scan)
        compare(check, exact, copy)
        demand_undamaged(copy, index)
        check.note(name, scan=copy.scan)


def selected(check: Check, scan: gpu.Scan) -> None:
    """A search among some of the items."""
    with check.trying("selector"):
        index, queries = product_index(8, 8, n=1200), vectors(9, D_IN, seed=1)
        copy: Any = copied(check, index, scan)
        D, I = everything(index, np.asarray(copy.encode(queries)))  # noqa: E741
        inside = (I >= 100) & (I < 700)
        some = D[inside].reshape(9, 600), I[inside].reshape(9, 600)
        params = faiss.SearchParameters(sel=faiss.IDSelectorRange(100, 700))
        for k in (1, 10, 1000):
            demand_same(copy.search(queries, k, params=params), some)
        check.note("selector", of=600)


def added(check: Check, scan: gpu.Scan) -> None:
    """What is added to a copy has the codes of what is added to the index, and is found."""
    with check.trying("items added to the copy"):
        # FAISS's kernels add to no other lists.
        index = inverted_index("residuals") if scan == "faiss" else product_index(8, 8)
        copy, more = copied(check, index, scan), vectors(500, D_IN, seed=7)
        for each in (copy, index):
            if scan == "faiss":
                each.add_with_ids(more, some_ids(500, seed=4))
            else:
                each.add(more)
        back = fpq.index_gpu_to_cpu(copy)
        same = float((codes_by_id(back) == codes_by_id(index)).all(1)[-500:].mean())
        # In between two codewords either is nearest.
        if not same > (0.99 if check.on_card else 0.999):
            raise DiffersError(f"{same:.4f} of the codes are the same")
        compare(check, back, copy)
        check.note("items added to the copy", codes_the_same=same)


def codes_by_id(index: LatentIndex) -> CodeArray:
    """Codes (n, code_size), those of the least id first."""
    stored = read(index.faiss_index)
    return stored.codes[np.argsort(stored.ids)]


def learned_indexes() -> Iterator[tuple[str, LatentIndex]]:
    """Indexes of codes that FAISS has nowhere on a card."""
    x = vectors(1500, D_IN)
    sums = fpq.Additive(rounds=1, filled=0, effort=2)
    for description, metric in (
        ("PQVAE4x4", "l2"),
        ("PQVAE4x4", "inner_product"),
        ("IVF8,PQVAE4x4", "l2"),
    ):
        index = fpq.index_factory(D_IN, description, metric, objective=sums, training=quick())
        index.train(x, progress=False)
        index.add(x)
        if description.startswith("IVF"):
            index.faiss_index.nprobe = 8
        yield f"sums of codewords: {description}, {metric}", index
    index = fpq.LatentIndex(make_model((D_IN,), 4, 4, "dpq", encoder="linear", dsub=16))
    index.add(x)
    yield "residual codes: DPQ4x4", index


def layouts(check: Check) -> None:
    """What goes to the card finds, on the CPU, what the index finds."""
    for M, nbits, metric in ((8, 8, "l2"), (8, 8, "inner_product"), (5, 4, "l2"), (7, 3, "l2")):
        name = f"layout searched on the CPU: PQ{M}x{nbits}, {metric}"
        with check.trying(name):
            index = product_index(M, nbits, metric, n=1000)
            z: FloatArray = index.encode(vectors(33, D_IN, seed=1))
            for nlist in (1, 7):
                layout = gpu_layout(index.faiss_index, nlist=nlist)
                padded = np.pad(z, ((0, 0), (0, layout.d - z.shape[1])))
                for k in (1, 100, 1024):
                    demand_same(layout.search(padded, k), everything(index, z))
            check.note(name, M_there=int(layout.pq.M), lists=[1, 7])
