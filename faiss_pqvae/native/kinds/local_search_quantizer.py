"""IndexLocalSearchQuantizer: takes codebooks; `Store` does not take it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from faiss_pqvae.native.kinds.additive import Additive, Block, limit_perturbations, whole
from faiss_pqvae.native.kinds.kind import Kind, listed


def _blocks(index: Any) -> Iterable[Block]:
    return whole(index.lsq)


KIND = listed(
    Kind(
        name="IndexLocalSearchQuantizer",
        quantizer=Additive(_blocks, limit_perturbations),
        stores=False,
        empty=None,
    )
)
