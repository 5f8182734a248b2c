"""Training of native FAISS indexes as baselines: seeds, and the best that each is able to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from faiss_pqvae.types import CodeArray, FloatArray, IdArray

from ..faiss_library import faiss

BLOCK_ROWS = 65_536  # codes that are decoded at a time


class DecodedSearch:
    """Additive codes (RQ, LSQ, product-residual), compared with queries after decoding.

    Distances are those of FAISS's ST_decompress, which needs no bytes for a norm but decodes every
    code for every query: 15 minutes instead of 10 seconds for 10,000 queries in 50,000 items.
    ST_norm_from_LUT, which adds the products of all pairs of codewords from tables, takes as long
    at 8 codewords, and product-residual quantizers do not have it. Here a block of codes is decoded
    once for all queries of a call, which are compared with it by a product of matrices.

    Args:
        index: an untrained native index with `sa_encode` and `sa_decode`.
    """

    def __init__(self, index: Any) -> None:
        self.index = index
        self.d = int(index.d)
        self._codes: list[CodeArray] = []

    @property
    def is_trained(self) -> bool:
        """Whether `train` has been called."""
        return bool(self.index.is_trained)

    def train(self, x: FloatArray, /) -> None:
        """Trains on x: (n, d) float32."""
        train_native(self.index, x)

    def add(self, x: FloatArray, /) -> None:
        """Appends the codes of x: (n, d) float32."""
        self._codes.append(self.index.sa_encode(x))

    def search(self, xq: FloatArray, k: int, /) -> tuple[FloatArray, IdArray]:
        """Finds the k nearest of every query; fewer codes than k leave ids of -1.

        Args:
            xq: (nq, d) float32.
            k: results per query.

        Returns:
            D: (nq, k) float32, squared distances to the decoded codes; I: (nq, k) int64.
        """
        heap = faiss.ResultHeap(len(xq), k)
        start = 0
        for codes in self._codes:
            for at in range(0, len(codes), BLOCK_ROWS):
                decoded = self.index.sa_decode(codes[at : at + BLOCK_ROWS])
                D, I = faiss.knn(xq, decoded, min(k, len(decoded)))  # noqa: E741
                heap.add_result(D, I + start)
                start += len(decoded)
        heap.finalize()
        return heap.D, heap.I

    def sa_code_size(self) -> int:
        """Bytes per stored vector."""
        return int(self.index.sa_code_size())

    def model_bytes(self) -> int:
        """Bytes of the native index, which holds no codes."""
        return native_bytes(self.index)


def native_bytes(index: Any) -> int:
    """Bytes of a native index as FAISS writes it, items and all; they are counted, not kept."""
    count = 0

    def counted(block: bytes) -> int:
        nonlocal count
        count += len(block)
        return len(block)

    faiss.write_index(index, faiss.PyCallbackIOWriter(counted))
    return count


def train_native(index: Any, xt: FloatArray) -> None:
    """Trains an index on (n, d) float32, with OPQ optimal for the code that follows it.

    FAISS's factory learns OPQ's rotation for 8 bits per sub-quantizer whatever the code has. For
    the code's own nbits it is the better baseline: at 4 bits on MNIST the squared error falls by
    a fifth.
    """
    transforms, base = parts_of(index)
    for clustering in _clusterings(base):
        # Below 39 points a centroid FAISS prints a warning per sub-quantizer, and does the same.
        clustering.min_points_per_centroid = 1
    opq = transforms[-1] if transforms and isinstance(transforms[-1], faiss.OPQMatrix) else None
    if opq is None:
        index.train(xt)
        return
    quantizer = faiss.ProductQuantizer(base.pq.d, base.pq.M, base.pq.nbits)
    quantizer.cp.min_points_per_centroid = 1
    quantizer.cp.seed = base.pq.cp.seed
    opq.pq = quantizer
    try:
        index.train(xt)
    finally:
        opq.pq = None  # a bare pointer, to what dies with this call


def set_seed(index: Any, seed: int) -> None:
    """Gives everything random in an untrained native index a seed of its own."""
    transforms, base = parts_of(index)
    for transform in transforms:
        if isinstance(transform, faiss.OPQMatrix):
            d = max(transform.d_in, transform.d_out)  # fewer inputs are filled up with zeros
            start = faiss.RandomRotationMatrix(d, transform.d_out)
            start.init(seed)
            faiss.copy_array_to_vector(faiss.vector_to_array(start.A), transform.A)
        elif isinstance(transform, faiss.ITQTransform):
            transform.itq.seed = seed
        elif isinstance(transform, faiss.RandomRotationMatrix):
            transform.init(seed)
    for clustering in _clusterings(base):
        clustering.seed = seed
    if isinstance(base, faiss.IndexLSH) and base.rotate_data:
        base.rrot.init(seed)
    elif isinstance(base, faiss.IndexLocalSearchQuantizer):
        base.lsq.random_seed = seed


def set_additive(index: Any, settings: dict[str, int]) -> None:
    """Sets attributes of the additive quantizers of an index; local search gets what few need."""
    _, base = parts_of(index)
    for quantizer in additive_quantizers(base):
        for name, value in settings.items():
            setattr(quantizer, name, value)
        if isinstance(quantizer, faiss.LocalSearchQuantizer):
            quantizer.nperts = min(quantizer.nperts, quantizer.M)  # FAISS throws where it is more


def _clusterings(base: Any) -> Iterator[Any]:
    """The k-means parameters of all quantizers of an index."""
    if isinstance(base, faiss.IndexPQ | faiss.IndexPQFastScan):
        yield base.pq.cp
    elif isinstance(base, faiss.IndexIVFPQ):
        yield from (base.cp, base.pq.cp)
    for quantizer in additive_quantizers(base):
        if isinstance(quantizer, faiss.ResidualQuantizer):
            yield quantizer.cp


def additive_quantizers(base: Any) -> list[Any]:
    """The additive quantizers that encode."""
    if isinstance(base, faiss.IndexResidualQuantizer | faiss.IndexResidualQuantizerFastScan):
        return [base.rq]
    if isinstance(base, faiss.IndexLocalSearchQuantizer | faiss.IndexLocalSearchQuantizerFastScan):
        return [base.lsq]
    if isinstance(base, faiss.IndexProductResidualQuantizer):
        parts = range(base.prq.nsplits)
        return [faiss.downcast_Quantizer(base.prq.subquantizer(i)) for i in parts]
    return []


def parts_of(index: Any) -> tuple[list[Any], Any]:
    """The transforms before an index, and the index behind them."""
    if not isinstance(index, faiss.IndexPreTransform):
        return [], index
    chain: Any = index.chain
    transforms = [faiss.downcast_VectorTransform(chain.at(i)) for i in range(chain.size())]
    return transforms, faiss.downcast_index(index.index)
