"""The fastest exact scan over codes that are summed up; results as of the index itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from faiss_pqvae.arguments import at_least_1
from faiss_pqvae.native import faiss, packing
from faiss_pqvae.native.faiss_method import faiss_method
from faiss_pqvae.native.ids import selected
from faiss_pqvae.native.inject import check_metric, extract_codebooks
from faiss_pqvae.native.kinds import KINDS, kind_of
from faiss_pqvae.native.kinds.product import SDC_NBITS
from faiss_pqvae.native.scan import kernels
from faiss_pqvae.native.scan.plan import MEASURED, Plan, Sizes, plan_of
from faiss_pqvae.types import CodeArray, FloatArray, IdArray

Results = tuple[FloatArray, IdArray]


class Scan:
    """Searches the codes of an IndexPQ or IndexResidualQuantizer faster than the index does.

    For inner products, the code of a residual quantizer is the code of a product quantizer with
    the same codewords, whose query is the query repeated M times: M look-ups and their sum.

    - Codes of 1, 2 and 4 bits are scanned by the byte: 8, 4 or 2 of them are one code of 8 bits,
      whose codebook is the product of theirs, or of all their sums.
    - Codes of 3, 5, 6 and 7 bits are unpacked to bytes, chunk by chunk (those of 3 in pairs).
    - Bytes are scanned by the loop that was measured to be fastest, see `kernels`.
    - Larger codes, and few of them, are left to the index.

    Ids and distances are the index's; where sums of several look-ups are looked up at once,
    distances differ in the last bits of float32, and so may the order of what is equally far.

    Searches may run in many threads at once, as FAISS's own may. The environment variable
    FAISS_PQVAE_SCAN chooses: auto (measured), scalar, simd, or plain, which is the index's own.

    Args:
        index: a trained faiss.IndexPQ, L2 or inner product, or an IndexResidualQuantizer as
            `new_residual_index` makes it. Codes may be added to it and removed between searches;
            its codebooks must stay.
        sizes: how much is taken at a time, and what is left to the index.

    Raises:
        TypeError: another kind of index.
        ValueError: an untrained index, another metric, another residual quantizer.
    """

    def __init__(self, index: Any, sizes: Sizes = MEASURED) -> None:
        scanned = [name for name, kind in KINDS.items() if kind.scanned]
        if type(index).__name__ not in scanned:
            raise TypeError(
                f"expected an index of {' or '.join(scanned)}, got {type(index).__name__}"
            )
        kind_of(index).check(index)
        check_metric(index.metric_type)
        codebooks = extract_codebooks(index)
        self._index, self._sizes = index, sizes
        self._ip = index.metric_type == faiss.METRIC_INNER_PRODUCT
        self._additive = codebooks.structure == "residual"
        self._centroids = codebooks.centroids
        # As many codes as fill a byte count as one code of `bits` bits.
        nbits = codebooks.nbits
        group = min(8 // nbits, codebooks.M) if nbits <= 4 else 1
        if group > 1:
            self._centroids = packing.merge_codebooks(self._centroids, group, codebooks.structure)
        self._nbits, self._group, self._bits = nbits, group, group * nbits
        self._plans: dict[bool | None, Plan] = {}

    @property
    def name(self) -> str:
        """How a large number of codes is scanned, in words."""
        mode = kernels.scan_mode()
        if mode == "plain" or self._bits > 8:
            return f"{self._nbits}-bit codes, FAISS's own search"
        merged = {1: "", 2: " in pairs"}.get(self._group, f" in groups of {self._group}")
        chosen = self._kernels(mode, self._sizes.worth_measuring)
        unpacked = ", unpacked" if self._plan(chosen).unpack else ""
        used = "scalar" if chosen.scalar else "vector"
        return f"{self._nbits}-bit codes{merged}{unpacked}, {used} kernels"

    def search(self, z: FloatArray, k: int, *, sdc: bool = False, sel: Any = None) -> Results:
        """The k best codes for every query, best first.

        Args:
            z: (n, d) float32, C-contiguous.
            k: results for each query.
            sdc: quantizes the queries first (symmetric distances).
            sel: a faiss.IDSelector of positions; only these are found.

        Returns:
            D (n, k) float32, distances or inner products, and I (n, k) int64, positions in the
            index; -1 with FAISS's largest distance where there are fewer codes than k.

        Raises:
            TypeError: z is no array of float32, k is no integer.
            ValueError: z of another shape or not contiguous, k < 1, an unknown
                FAISS_PQVAE_SCAN.
        """
        k = self._check(z, k)
        index = self._index
        n, positions = int(index.ntotal), None
        if sel is not None:
            positions = selected(sel, n, self._sizes.select_rows)
            n = len(positions)
        chosen = self._choose(n, len(z))
        if positions is None and sdc and self._has_sdc_table() and (chosen is None or chosen.sdc):
            return _index_search(index, z, k, faiss.IndexPQ.ST_SDC)
        if sdc:
            z = faiss_method(index, "sa_decode")(faiss_method(index, "sa_encode")(z))
        if positions is None and chosen is None:
            return _index_search(index, z, k, faiss.IndexPQ.ST_PQ)
        D, I = self._scan(self._plan(chosen), z, k, positions)  # noqa: E741
        if positions is not None and n:
            I = np.where(I < 0, I, positions[I])  # noqa: E741
        return D, I

    def _choose(self, n: int, nq: int) -> kernels.Kernels | None:
        """The kernels for nq queries of n codes; None for FAISS's own search."""
        mode = kernels.scan_mode()
        if mode == "plain" or self._bits > 8 or n < self._sizes.few_codes:
            return None
        chosen = self._kernels(mode, n * nq * len(self._centroids))
        return chosen if n * nq >= self._plan(chosen).few else None

    def _kernels(self, mode: str, lookups: int) -> kernels.Kernels:
        return kernels.choose(mode, lookups, self._sizes.worth_measuring)

    def _check(self, z: FloatArray, k: int) -> int:
        if not isinstance(z, np.ndarray) or z.dtype != np.float32:
            got = z.dtype if isinstance(z, np.ndarray) else type(z).__name__
            raise TypeError(f"expected z to be an array of float32, got {got}")
        if z.ndim != 2 or z.shape[1] != self._index.d:
            raise ValueError(f"expected z of shape (n, {self._index.d}), got {z.shape}")
        if not z.flags.c_contiguous:
            raise ValueError("expected z to be C-contiguous: use numpy.ascontiguousarray")
        return at_least_1("k", k)

    def _has_sdc_table(self) -> bool:
        # IndexPQ's symmetric search is L2, whatever the metric.
        own = self._nbits == SDC_NBITS and not self._ip
        return own and self._index.pq.sdc_table.size() > 0

    def _plan(self, chosen: kernels.Kernels | None) -> Plan:
        scalar = None if chosen is None else chosen.scalar
        if scalar not in self._plans:
            if scalar is None:
                own = int(self._index.code_size)
                self._plans[scalar] = Plan(self._quantizer(), own, self._bits, unpack=False, few=0)
            else:
                self._plans[scalar] = plan_of(self._centroids, self._bits, scalar, self._sizes)
        return self._plans[scalar]

    def _quantizer(self) -> Any:
        """The faiss.ProductQuantizer whose codes the index's are."""
        if not self._additive:
            return self._index.pq
        centroids = extract_codebooks(self._index).centroids
        M, _, d = centroids.shape
        pq = faiss.ProductQuantizer(M * d, M, self._nbits)
        faiss.copy_array_to_vector(centroids.ravel(), pq.centroids)
        return pq

    def _scan(self, plan: Plan, z: FloatArray, k: int, positions: IdArray | None) -> Results:
        copies = plan.pq.d // z.shape[1] if self._additive else 1
        if copies * z.shape[1] != plan.pq.d:  # zeros for sub-quantizers that only fill up
            z = np.pad(z, ((0, 0), (0, plan.pq.d - z.shape[1])))
        D, I = np.empty((len(z), k), np.float32), np.empty((len(z), k), np.int64)  # noqa: E741
        step = self._sizes.block_queries
        blocks = [slice(i, i + step) for i in range(0, len(z), step)]
        heaps = [(z[rows], _heap(D[rows], I[rows], self._ip)) for rows in blocks]
        search = plan.pq.search_ip if self._ip else plan.pq.search
        for _, heap in heaps:
            heap.heapify()
        first = 0
        packed, chunk_bytes = _view_codes(self._index), self._sizes.chunk_bytes
        for start, codes in plan.chunks(packed, positions, chunk_bytes):
            # FAISS counts from the chunk's first code: let the ids found so far do the same.
            I -= start - first  # noqa: E741
            first = start
            address = faiss.swig_ptr(codes)
            for queries, heap in heaps:
                # Not all at once: a query of every level takes M times the memory.
                x = np.tile(queries, (1, copies)) if self._additive else queries
                search(faiss.swig_ptr(x), len(x), address, len(codes), heap, False)
        I += first  # noqa: E741
        for _, heap in heaps:
            heap.reorder()
        return D, I


def _heap(D: FloatArray, I: IdArray, ip: bool) -> Any:  # noqa: E741
    """FAISS's view of results in the making; it keeps no reference to the arrays."""
    heap = faiss.float_minheap_array_t() if ip else faiss.float_maxheap_array_t()
    heap.nh, heap.k = D.shape
    heap.val, heap.ids = faiss.swig_ptr(D), faiss.swig_ptr(I)
    return heap


def _index_search(index: Any, z: FloatArray, k: int, search_type: int) -> Results:
    params = None
    if "search_type" in kind_of(index).parameters(None).names:  # others take none
        params = faiss.SearchParametersPQ()
        params.search_type = search_type
    D, I = faiss_method(index, "search")(z, k, params=params)  # noqa: E741
    return D, I


def _view_codes(index: Any) -> CodeArray:
    """(ntotal, code_size) uint8, good until codes are added or removed."""
    n, code_size = int(index.ntotal), int(index.code_size)
    if not n:
        return np.empty((0, code_size), np.uint8)
    codes: CodeArray = faiss.rev_swig_ptr(index.codes.data(), n * code_size)
    return codes.reshape(n, code_size)
