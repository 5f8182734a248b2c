"""IndexProductLocalSearchQuantizer: takes codebooks; `Store` does not take it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from faiss_pqvae.native import faiss
from faiss_pqvae.native.kinds.additive import Additive, Block, limit_perturbations, split
from faiss_pqvae.native.kinds.kind import Kind, listed


def _blocks(index: Any) -> Iterable[Block]:
    return split(index.plsq)


# FAISS ends the process when it searches so.
_ABORTS = (faiss.AdditiveQuantizer.ST_norm_from_LUT,)

KIND = listed(
    Kind(
        name="IndexProductLocalSearchQuantizer",
        quantizer=Additive(_blocks, limit_perturbations, aborts=_ABORTS),
        stores=False,
        empty=None,
    )
)
