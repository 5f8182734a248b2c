"""IndexProductLocalSearchQuantizer: takes codebooks; `Store` does not take it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from faiss_pqvae.native.kinds.additive import (
    ABORTS_IN_PRODUCTS,
    Additive,
    Block,
    limit_perturbations,
    split,
)
from faiss_pqvae.native.kinds.kind import Kind, listed


def _blocks(index: Any) -> Iterable[Block]:
    return split(index.plsq)


KIND = listed(
    Kind(
        name="IndexProductLocalSearchQuantizer",
        quantizer=Additive(_blocks, limit_perturbations, aborts=ABORTS_IN_PRODUCTS),
        stores=False,
        empty=None,
    )
)
