"""How many items a native index needs to learn from: below, FAISS raises, or ends the process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..faiss_library import faiss
from .method import check_enough
from .native_training import DecodedSearch, additive_quantizers, parts_of


def check_enough_for(index: Any, n: int) -> None:
    """Checks that an untrained native index can learn from n items.

    Raises:
        TooFewItemsError: it cannot; the message has the largest number that it needs.
    """
    native = index.index if isinstance(index, DecodedSearch) else index
    needs = [*_of_transforms(native), *_of_quantizers(native)]
    if needs:
        least, what = max(needs, key=lambda need: need[0])
        check_enough(n, least, what)


def _of_transforms(index: Any) -> Iterator[tuple[int, str]]:
    """What steps before the code need: a number of items, and for what."""
    for step in parts_of(index)[0]:
        if isinstance(step, faiss.OPQMatrix):
            # With fewer FAISS writes beyond its memory.
            yield max(step.d_in, step.d_out), f"OPQ in {max(step.d_in, step.d_out)} dimensions"
        elif isinstance(step, faiss.ITQTransform):
            yield step.d_out, f"ITQ to {step.d_out} bits"
        elif isinstance(step, faiss.PCAMatrix):
            yield step.d_out, f"a PCA to {step.d_out} dimensions"


def _of_quantizers(index: Any) -> Iterator[tuple[int, str]]:
    """What the code needs; local search and codes without training need nothing."""
    base = parts_of(index)[1]
    if isinstance(base, faiss.IndexIVF) and base.quantizer.ntotal != base.nlist:
        yield base.nlist, f"k-means of {base.nlist} inverted lists"
    if isinstance(getattr(base, "pq", None), faiss.ProductQuantizer):
        yield base.pq.ksub, f"k-means of {base.pq.ksub} codewords"
    for quantizer in additive_quantizers(base):
        if isinstance(quantizer, faiss.ResidualQuantizer):
            ksub = 2 ** max(faiss.vector_to_array(quantizer.nbits).tolist())
            yield ksub, f"k-means of {ksub} codewords"
            yield quantizer.d, f"a residual quantizer of {quantizer.d} dimensions"
